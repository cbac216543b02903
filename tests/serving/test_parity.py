"""What is served is computed from what is trained on: the same tokens, bit for bit, for any user and moment."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from components.features import step as features
from components.materialise import step as materialise
from components.materialise.histories import histories
from events.consumer.histories import HistoryWriter, UserEvent
from feature_repo.history import HistoryRecord
from feature_repo.online import as_request, online, user_history
from feature_repo.store import connect
from heterrec.data.encoder import FeatureEncoder
from heterrec.data.sequences import (
    NOW,
    Queries,
    Sequences,
    read_sequences,
)
from heterrec.loss.batches import encode_events, histories_of
from serving.scoring.scorer import Scorer
from tests.component.make_events import (
    at,
    change,
    event,
    item,
    make_card,
    write_events,
    write_facts,
)
from tests.redis_server import RedisServer

MAX_HISTORY = 12
ITEMS = [f"i{n}" for n in range(9)]
DERIVED = {"name": "sold", "kind": "numeric", "derive": {"by": "count", "days": 7}, "token": False}


KINDS = {
    "buy": {"predict": True},
    "view": {},
    "wave": {"negative": True, "history": True},
    "scroll": {"history": False},
}


def make_shop(root: Path, rng: random.Random, ties: str, *, typed: bool = False) -> tuple:
    """A shop whose moments collide, and whose values come late, are missing, or change in the instant of a click."""

    def moment() -> datetime:
        return at(rng.randrange(12), us=rng.choice([0, 0, 0, 1, 999_999]))

    said = {"columns": {"event_time": "t", "event_type": "kind"}, "events": KINDS} if typed else {}
    card = make_card(ties=ties, features=[*make_card().model_dump()["features"], DERIVED], **said)
    changes = {}
    for _ in range(160):
        name, time = rng.choice(ITEMS), moment()
        late = timedelta(days=rng.choice([0, 0, 0, 2]))
        price, label = rng.choice([None, 0.0, rng.uniform(0.01, 9)]), rng.choice([None, "", "sale", "Größe"])
        changes[name, time] = {**change(name, time, price, label), "created_time": time + late}
    clicks = [
        event(f"u{rng.randrange(8)}", rng.choice(ITEMS), moment(), basket=rng.choice([None, None, "x", "y"]))
        | ({"event_type": rng.choice(list(KINDS))} if typed else {})
        for _ in range(260)
    ]
    derived = [{"item_id": name, "event_time": at(day), "sold": float(day)} for name in ITEMS for day in range(1, 13)]
    events = write_events(
        root / "events", card, clicks, [item(name) for name in ITEMS], [*changes.values()], derived=derived
    )
    return card, events


def offline(data: Sequences, encoder: FeatureEncoder, user: int, stop: int) -> list[np.ndarray]:
    """What training feeds the model: item, time, values and what is missing of the latest events before `stop`."""
    start = int(data.offsets[user])
    one = {"user": user, "start": start, "stop": stop, "last": stop}
    queries = Queries(**{name: np.array([value], dtype=np.int64) for name, value in one.items()})
    ((_, found),) = histories_of(encode_events(data, encoder), queries, MAX_HISTORY, 10**6)
    return [part.numpy() for part in found[:4]]


def served(encoder: FeatureEncoder, item_ids: list[str], records: list[HistoryRecord]) -> list[np.ndarray]:
    """What the scorer feeds the model for a request made of the online history."""
    contract = {"default_k": 1, "max_k": 1, "max_history": MAX_HISTORY, "exclude_seen": False, "filterable": {}}
    contract["event_types"] = [{"name": each.name, "predict": each.predict} for each in encoder.event_types]
    contract |= {"digests": {}, "width": 2}
    scorer = Scorer(
        program=lambda: None,
        encoder=encoder,
        retrieval=None,
        items={"item_id": item_ids, "events": [0] * len(item_ids), "features": {}},
        contract=contract,
        matrix=torch.zeros(len(item_ids), 2),
    )
    request = scorer._reader.read({"user_id": "u", "history": as_request(records)})
    return [part.numpy()[0] for part in scorer._users.inputs([request])[:4]]


@pytest.fixture(params=["sqlite", "redis"])
def store_of(request, monkeypatch) -> str:
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        monkeypatch.setenv("HETERREC_FEATURE_STORE", "redis")
        monkeypatch.setenv("REDIS_ADDRESS", server.address)
    return request.param


@pytest.mark.parametrize(("ties", "typed"), [("order", False), ("basket", False), ("basket", True)])
def test_tokens_of_the_online_store_equal_those_of_training_at_any_moment(tmp_path, store_of, ties, typed):
    rng = random.Random(f"{store_of} {ties}")
    card, events = make_shop(tmp_path, rng, ties, typed=typed)
    inputs = {"card": card, "events": events, "feast_root": tmp_path / "feast"}
    whole = tmp_path / "whole"
    features.run(**inputs, facts=write_facts(tmp_path / "facts", at(14)), sequences=whole)
    data = read_sequences(whole)
    catalogue = data.catalogue
    encoder = FeatureEncoder.fit(
        catalogue.features, catalogue.columns(NOW), catalogue.item_ids, data.training_counts,
        event_types=catalogue.event_types,
    )  # fmt: skip
    assert [each.name for each in encoder.event_types] == (["buy", "view", "wave"] if typed else [])
    assert [field.name for field in encoder.varying] == ["price", "label"], "a feature that is no token is not encoded"

    # The night's batch knows the first days; the log tells the rest, in pieces, late and more than once.
    night = at(5, us=500_000)
    inputs |= {"facts": write_facts(tmp_path / "night", night), "sequences": tmp_path / "batch"}
    features.run(**inputs)
    materialise.run(**inputs, materialised=tmp_path / "materialised")
    writer = HistoryWriter(connect("tiny", tmp_path / "feast"), clock=lambda: datetime(2026, 6, 1, tzinfo=UTC))
    reader = connect("tiny", tmp_path / "feast")
    told = [UserEvent(user, record) for user, records in histories(card, whole) for record in records]
    compared = 0
    for moment in sorted(rng.sample(range(5, 13), 4)):
        limit = int(at(moment, us=rng.choice([0, 1])).timestamp() * 1e6)
        log = [each for each in told if each.record.event_time <= limit]
        log += rng.sample(log, len(log) // 3)
        rng.shuffle(log)
        for start in range(0, len(log), 40):
            writer.append(log[start : start + 40])
        for user, user_id in enumerate(data.user_ids):
            first, last = data.offsets[user : user + 2]
            stop = int(first + np.searchsorted(data.time[first:last], limit, side="right"))
            if stop == first:
                continue
            expected = offline(data, encoder, user, stop)
            found = served(encoder, catalogue.item_ids, user_history(reader, user_id))
            for one, other in zip(expected, found, strict=True):
                assert one.dtype == other.dtype and one.tobytes() == other.tobytes(), (user_id, moment)
            compared += 1
    assert compared > 20


def test_a_missing_value_is_missing_online_on_every_store(tmp_path, store_of):
    """FACTS: plain writes give '' on Redis and NaN on SQLite where a value is null."""
    card = make_card()
    rows = [item("a", brand=None, tags=None, title=None, weight=None, image=None)]
    events = write_events(tmp_path / "events", card, [event("u", "a", at(1))], rows, [change("a", at(0), None, None)])
    inputs = {
        "card": card, "events": events, "facts": write_facts(tmp_path / "facts", at(1)),
        "sequences": tmp_path / "sequences", "feast_root": tmp_path / "feast",
    }  # fmt: skip
    features.run(**inputs)
    materialise.run(**inputs, materialised=tmp_path / "materialised")
    names = [f"item_static:{name}" for name in ("brand", "tags", "title", "weight", "image")]
    answer = online(connect("tiny", tmp_path / "feast"), [*names, "item_varying:price"], [{"item_id": "a"}])
    assert {name: value for name, (value,) in answer.items() if name != "item_id"} == dict.fromkeys(
        ["brand", "tags", "title", "weight", "image", "price"]
    )


def test_an_older_run_takes_nothing_back_and_a_correction_of_one_moment_arrives(tmp_path, store_of):
    """FACTS: on SQLite an older materialise replaced the newer value; Redis drops a second value of one instant."""
    card = make_card()
    clicks = [event("u", "a", at(day)) for day in (1, 3)]
    changes = [change("a", at(0), 1.0), change("a", at(2), 2.0)]
    events = write_events(tmp_path / "events", card, clicks, [item("a")], changes)

    def run(day: float, events: Path) -> dict:
        inputs = {
            "card": card, "events": events, "facts": write_facts(tmp_path / f"facts{day}", at(day)),
            "sequences": tmp_path / f"sequences{day}{events.name}", "feast_root": tmp_path / "feast",
        }  # fmt: skip
        features.run(**inputs)
        return materialise.run(**inputs, materialised=tmp_path / "materialised")

    def now() -> tuple:
        store = connect("tiny", tmp_path / "feast")
        price = online(store, ["item_varying:price"], [{"item_id": "a"}])["price"][0]
        return price, len(user_history(store, "u"))

    run(3, events)
    assert run(1, events)["kept_newer_items"] and now() == (2.0, 2)
    corrected = write_events(tmp_path / "corrected", card, clicks, [item("a")], [changes[0], change("a", at(2), 5.0)])
    run(3, corrected)
    assert now() == (5.0, 2)
