"""Where no model answers, who has a history gets what the champion's neighbour tables answer, by every rule."""

import json
import os
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from components.package import step as package
from events.schema import POPULAR, REMEMBERED
from events.segments import SegmentSink
from events.writer import EventLogWriter
from experiments.document import ModelVersion, Rollout
from heterrec import recipes
from heterrec.data.sequences import read_sequences
from heterrec.training.export import save_model, tables_of
from heterrec.training.loop import train
from serving.gateway.app import make_app
from serving.gateway.archive import read_contents
from serving.gateway.archives import ArchiveCache
from serving.gateway.counted import popular
from serving.gateway.recommender import ServingDeadlines
from serving.gateway.tables import NeighbourAnswers, TooLarge
from serving.gateway.wish import Wish
from serving.scoring.scorer import Scorer
from serving.torchserve import archive
from serving.torchserve.client import HttpReply
from serving.torchserve.goldens import differences
from serving.torchserve.server import TorchServe
from tests.component.shop_card import CARD
from tests.serving.open_gateway import (
    PATIENT,
    OpenGateway,
    ask,
    rows,
)
from tests.unit.heterrec.shop import write_shop

NOW = datetime(2026, 1, 5, tzinfo=UTC)
NOBODY = "http://127.0.0.1:9"
"""Where no TorchServe listens."""


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of one shop: a network with its memory, its tables alone, and that network without a memory."""
    root = tmp_path_factory.mktemp("remembered")
    sequences = write_shop(root / "sequences", users=40, items=60)
    tiny = replace(recipes.heterrec(), epochs=1, least_steps=0)
    tiny = replace(tiny, model=replace(tiny.model, width=8, item_layers=1, max_history=10))
    network = train(read_sequences(sequences), tiny)
    tables = tables_of(network.loaded)
    assert tables is not None
    made = {}
    for name, trained in (("network", network), ("tables", tables)):
        for folder in ("model", "archive"):
            (root / name / folder).mkdir(parents=True)
        save_model(trained, root / name / "model")
        card, folder = CARD.model_copy(update={"repeats": False}), root / name / "archive"
        package.run(card=card, sequences=sequences, model=root / name / "model", archive=folder, name="shop")
        made[name] = folder / "shop.mar"
    with zipfile.ZipFile(made["network"]) as packed, zipfile.ZipFile(root / "without.mar", "w") as without:
        for entry in packed.namelist():
            if entry not in ("memory.npz", "neighbours.py"):
                without.writestr(entry, packed.read(entry))
    return {**made, "no memory": root / "without.mar"}


@pytest.fixture(scope="module")
def scorer(archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    """Of the tables alone."""
    content = tmp_path_factory.mktemp("content")
    with zipfile.ZipFile(archives["tables"]) as packed:
        packed.extractall(content)
    yield Scorer.load(content)


def items_of(mar: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(archive.read(mar, "items.json"))
    return found


def serving(mar: Path) -> Rollout:
    name, version = archive.identity(mar)
    champion = ModelVersion(
        version=version, archive=str(mar), archive_digest=archive.digest(mar), recipe_digest="r", registered=NOW
    )
    return Rollout(model=name, champion=champion, version=1)


def bought(*items: str) -> list[dict[str, Any]]:
    return [
        {"item_id": item, "event_time": (NOW + timedelta(hours=n)).isoformat(), "features": {}}
        for n, item in enumerate(items)
    ]


ITEMS = [f"i{number:03d}" for number in range(62)]  # and two that the shop does not have
REQUESTS = st.fixed_dictionaries(
    {
        "history": st.lists(st.sampled_from(ITEMS), max_size=30).map(lambda items: bought(*items)),
        "k": st.integers(1, 60),
    },
    optional={
        "exclude_seen": st.booleans(),
        "exclude": st.lists(st.sampled_from(ITEMS), max_size=40),
        "filters": st.fixed_dictionaries(
            {},
            optional={
                "brand": st.lists(st.sampled_from([f"brand{n}" for n in range(6)]), min_size=1, max_size=3),
                "tags": st.lists(st.sampled_from([f"tag{n}" for n in range(6)]), min_size=1, max_size=2),
                "price": st.floats(0, 30).map(lambda low: {"min": low}),
            },
        ),
    },
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(request=REQUESTS)
def test_the_gateway_answers_what_the_tables_alone_answer_by_every_rule(
    request: dict[str, Any], archives: dict[str, Path], scorer: Scorer
) -> None:
    """Read out of the network's archive, against the scorer of the tables' own: history, k, filters, exclusions."""
    (expected,) = scorer.score([request])
    found = read(archives["network"]).answer(request)
    if "fallback" in expected:
        assert found is None, "the popular items are for who has no known history"
        return
    assert found is not None and len(found) == len(expected["items"])
    golden = {"answer": {**expected, "unknown_items": 0}}
    assert not differences(golden, HttpReply(200, {"items": found, "unknown_items": 0}))
    shown = {item["item_id"] for item in found}
    seen = {event["item_id"] for event in request["history"]}
    assert not shown & set(request.get("exclude", [])) and len(shown) == len(found)
    assert not (request.get("exclude_seen", True) and shown & seen)


_READ: dict[Path, NeighbourAnswers] = {}


def read(mar: Path) -> NeighbourAnswers:
    if mar not in _READ:
        tables = NeighbourAnswers.read(mar)
        assert tables is not None
        _READ[mar] = tables
    return _READ[mar]


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[OpenGateway]:
    """A gateway within the test that no TorchServe stands behind."""
    with ExitStack() as opened:

        def start(rollout: Rollout, history: Callable[[str], Any], torchserve: str = NOBODY) -> TestClient:
            log = EventLogWriter(SegmentSink(tmp_path / "log"))
            asked = {"torchserve": torchserve, "history": history, "deadlines": PATIENT}
            app = make_app(read_rollout=lambda: rollout, log=log, **asked)
            return opened.enter_context(TestClient(app, raise_server_exceptions=False))

        yield start


def away(user: str) -> list[dict[str, Any]]:
    raise ConnectionError("the store is away")


@pytest.mark.parametrize(("name", "history"), [("network", away), ("no memory", lambda user: bought("i003"))])
def test_without_a_history_or_without_tables_popular_items_answer(
    archives: dict[str, Path], gateway: OpenGateway, name: str, history: Callable[[str], Any]
) -> None:
    client = gateway(serving(archives[name]), history)
    answer = ask(client)
    assert (answer["version"], answer["status"], len(answer["items"])) == (POPULAR, "fallback", 3)
    assert client.get("/ready").json()["problems"] == [], "an archive of before there was a memory is no fault"


def damaged(mar: Path, out: Path, damage: Callable[[bytes], bytes], entry: str = "memory.npz") -> Path:
    with zipfile.ZipFile(mar) as packed, zipfile.ZipFile(out, "w") as rebuilt:
        for name in packed.namelist():
            data = packed.read(name)
            rebuilt.writestr(name, damage(data) if name == entry else data)
    return out


DAMAGES: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("memory.npz", lambda data: b""),
    ("memory.npz", lambda data: data[: len(data) // 2]),
    ("memory.npz", lambda data: data[:200] + bytes(byte ^ 255 for byte in data[200:400]) + data[400:]),
    ("neighbours.py", lambda data: b"import nothing_of_ours\n"),
    ("neighbours.py", lambda data: data.replace(b"def ages(", b"def gone(")),
]


@pytest.mark.parametrize(("entry", "damage"), DAMAGES)
def test_damaged_tables_cost_their_answers_alone_and_are_told(
    archives: dict[str, Path],
    gateway: OpenGateway,
    tmp_path: Path,
    entry: str,
    damage: Callable[[bytes], bytes],
) -> None:
    """Found when they are read, or when they are asked."""
    mar = damaged(archives["network"], tmp_path / "damaged.mar", damage, entry)
    client = gateway(serving(mar), lambda user: bought("i003"))
    answer = ask(client)
    assert (answer["version"], answer["status"], len(answer["items"])) == (POPULAR, "fallback", 3)
    told = client.get("/ready").json()["problems"] or client.get("/metrics").text
    assert "popular items do" in str(told) or 'gateway_failures_total{part="tables"} 1.0' in told


def test_tables_that_would_not_fit_are_not_read(archives: dict[str, Path]) -> None:
    with zipfile.ZipFile(archives["network"]) as packed:
        file = packed.getinfo("memory.npz").file_size
    for most in (0, file - 1, file + 1):  # of which the last is more than the file and less than what it unpacks to
        with pytest.raises(TooLarge, match="MiB"):
            NeighbourAnswers.read(archives["network"], most_bytes=most)
    held = ArchiveCache(table_bytes=0)
    held.prepare(serving(archives["network"]))
    assert "popular items do" in held.problems[0]


def test_tables_are_the_champions_alone_and_go_with_it(archives: dict[str, Path]) -> None:
    first, second = serving(archives["network"]), serving(archives["tables"])
    assert first.champion is not None
    held = ArchiveCache()
    held.prepare(replace(second, former=first.champion))
    assert list(held._tables) == [second.champion.archive_digest]
    held.prepare(first)
    assert len(held._tables) == 2, "until the new row is in use"
    held.let_go(first)
    assert list(held._tables) == [first.champion.archive_digest]


def test_what_memory_answers_costs_less_than_a_model(archives: dict[str, Path]) -> None:
    """Loosely, as this machine may be busy: the measured figures are in benchmarks/results/gateway.json."""
    import time

    contents = read_contents(archives["network"], archive.digest(archives["network"]))
    wish = Wish(user_id="u", filters={"price": {"min": 1.0}})
    assert popular(contents, bought("i003"), wish)
    request = {"history": bought(*ITEMS[:50]), "k": 10, "filters": {"price": {"min": 1.0}}}
    tables, seconds = read(archives["network"]), []
    for _ in range(50):
        began = time.perf_counter()
        tables.answer(request)
        seconds.append(time.perf_counter() - began)
    assert np.median(seconds) < ServingDeadlines().champion / 20


def test_when_torchserve_is_killed_shoppers_keep_personal_answers_that_say_what_they_are(
    archives: dict[str, Path], gateway: OpenGateway, tmp_path: Path
) -> None:
    histories = {"ann": bought("i003", "i007"), "bob": bought("i011"), "new": [], "gone": bought("i061")}
    mar = archives["network"]
    with TorchServe(tmp_path / "logs") as server:
        server.register(mar)
        client = gateway(serving(mar), lambda user: histories[user], server.address)
        assert {ask(client, user)["status"] for user in ("ann", "bob")} == {"ok"}
        os.killpg(os.getpgid(server._process.pid), signal.SIGKILL)
        answers = {user: ask(client, user) for user in histories}
    known = read(mar)
    for user in ("ann", "bob"):
        assert (answers[user]["version"], answers[user]["status"]) == (REMEMBERED, "fallback")
        expected = known.answer({"history": histories[user], "k": 3})
        assert answers[user]["items"] == expected
    assert answers["ann"]["items"] != answers["bob"]["items"], "personal"
    assert {answers[user]["version"] for user in ("new", "gone")} == {POPULAR}
    logged = {(row["user_id"], row["model_version"], row["cause"]) for row in rows(tmp_path / "log", "exposures")}
    assert ("ann", REMEMBERED, "model") in logged, "a fault of the model's own call, to the judge"
    served = 'gateway_recommendations_total{status="fallback",variant="champion",version="%s"} 2.0'
    metrics = client.get("/metrics").text
    assert served % REMEMBERED in metrics and served % POPULAR in metrics
