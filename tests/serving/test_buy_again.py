"""What to buy again: counted from the shopper's own purchases, where the shop has things that are bought again."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from components.package.item_metadata import returns
from events.segments import SegmentSink
from events.writer import EventLogWriter
from experiments.availability import AvailabilityTable
from experiments.database import Database
from experiments.document import ModelVersion, Rollout
from experiments.rules import Rules
from experiments.rules_table import RulesTable
from heterrec.data.prepare import prepare
from serving.gateway.app import make_app
from serving.gateway.placements.returns import FADES, Returns
from serving.torchserve import archive
from tests.serving.open_gateway import PATIENT, rows
from tests.serving.tiny_archive import (
    AGAIN,
    ITEMS,
    RHYTHM,
    write_content,
)

NOW = datetime(2026, 1, 20, tzinfo=UTC)
NOBODY = "http://127.0.0.1:9"
Shop = Callable[..., TestClient]


def bought(*purchases: tuple[str, float]) -> list[dict[str, Any]]:
    """Of items, so many days ago."""
    return [{"item_id": item, "event_time": (NOW - timedelta(days=days)).isoformat()} for item, days in purchases]


OWN = bought(("i3", 40), ("gone", 30), ("i3", 20), ("i2", 2), ("i2", 2), ("i4", 1))


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of a shop where things are bought again, of one where they are not, and of the first before it was counted."""
    root, built = tmp_path_factory.mktemp("again"), {}
    for name in ("again", "once", "before"):
        content = write_content(root / name, repeats=name != "once")
        if name == "before":
            contract = json.loads((content / "serving.json").read_text())
            del contract["rhythm"]
            (content / "serving.json").write_text(json.dumps(contract))
        built[name] = root / f"{name}.mar"
        archive.build(content, built[name], name="shop", version="1.0")
    return built


@pytest.fixture
def open_shop(archives: dict[str, Path], tmp_path: Path) -> Iterator[Shop]:
    with ExitStack() as opened:

        def start(
            name: str = "again", history: Callable[[str], Any] = lambda user: OWN, rules: Any = None
        ) -> TestClient:
            database = Database(f"sqlite:///{tmp_path}/{name}.db")
            opened.callback(database.close)
            table = RulesTable(database, "shop")
            if rules is not None:
                table.propose(Rules.of(rules), who="ann", why="season", expected=0)
            digest = archive.digest(archives[name])
            champion = ModelVersion(
                version="1.0", archive=str(archives[name]), archive_digest=digest, recipe_digest="r", registered=NOW
            )
            app = make_app(
                read_rollout=lambda: Rollout(model="shop", champion=champion, version=1),
                torchserve=NOBODY,  # it needs no model
                history=history,
                log=EventLogWriter(SegmentSink(tmp_path / "log")),
                deadlines=PATIENT,
                clock=lambda: NOW,
                availability=AvailabilityTable(database, "shop"),
                rules=table,
            )
            return opened.enter_context(TestClient(app, raise_server_exceptions=False))

        yield start


def again(client: TestClient, **body: Any) -> dict[str, Any]:
    reply = client.post("/v1/buy-again", json={"user_id": "u1", **body})
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_own_purchases_are_ranked_by_how_many_how_lately_and_how_such_items_come_again(
    open_shop: Shop, tmp_path: Path
) -> None:
    answer = again(open_shop(), explain=True)
    faded = {days: math.exp(-days / (FADES * RHYTHM)) for days in (40, 20, 2, 1)}
    expected = {
        "i3": (faded[40] + faded[20]) * math.sqrt(AGAIN[3]),
        "i2": faded[2] * math.sqrt(AGAIN[2]),  # two of one moment are one purchase
        "i4": faded[1] * math.sqrt(AGAIN[4]),
    }
    assert ids(answer) == sorted(expected, key=lambda item: -expected[item]), "and nothing that is no longer sold"
    for item in answer["items"]:
        assert item["score"] == pytest.approx(expected[item["item_id"]])
        (why,) = item["why"]
        assert (why["by"], why["item_id"], why["share"]) == ("again", item["item_id"], item["score"])
    assert (answer["status"], answer["version"]) == ("ok", "popular")
    (logged,) = rows(tmp_path / "log", "exposures")
    assert (logged["placement"], logged["salt"], logged["stage"], logged["items"]) == ("again", "", None, ids(answer))


def test_a_request_a_rule_and_the_stock_limit_it_as_they_do_everywhere(open_shop: Shop) -> None:
    client = open_shop(rules={"blocks": [{"items": ["i4"]}]})
    assert ids(again(client)) == ["i2", "i3"] or ids(again(client)) == ["i3", "i2"]
    assert ids(again(client, exclude=["i3"])) == ["i2"]
    assert ids(again(client, filters={"shelf": ["low"]})) == ["i3"]
    assert len(ids(again(client, k=1))) == 1
    assert client.put("/v1/availability", json={"withdrawn": ["i2"]}).status_code == 200
    assert ids(again(client)) == ["i3"]
    cart = [{"item_id": "i6", "time": NOW.isoformat()}]
    assert "i6" in ids(again(client, session=cart)), "bought a moment ago"


def test_who_bought_nothing_gets_nothing_and_a_store_that_is_away_is_told(open_shop: Shop, tmp_path: Path) -> None:
    def away(user: str) -> Any:
        raise OSError("no store")

    nobody, broken = again(open_shop(history=lambda user: [])), again(open_shop(history=away))
    assert (nobody["items"], nobody["status"]) == ([], "ok")
    assert (broken["items"], broken["status"]) == ([], "error")
    assert [row["cause"] for row in rows(tmp_path / "log", "exposures")] == [None, "history"]


@pytest.mark.parametrize(
    ("name", "status", "told"), [("once", 422, "`repeats: false`"), ("before", 501, "package it anew")]
)
def test_a_shop_that_has_no_such_thing_says_so(open_shop: Shop, name: str, status: int, told: str) -> None:
    client = open_shop(name)
    reply = client.post("/v1/buy-again", json={"user_id": "u1"})
    assert reply.status_code == status and told in reply.json()["detail"]
    assert client.post("/v1/recommendations", json={"user_id": "u1"}).status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "user_id"), ({"user_id": "u", "k": 51}, "k"), ({"user_id": "u", "items": ["i1"]}, "items"),
     ({"user_id": "u", "filters": {"colour": ["red"]}}, "filters.colour")],
)  # fmt: skip
def test_a_bad_field_is_named(open_shop: Shop, body: dict[str, Any], field: str) -> None:
    reply = open_shop().post("/v1/buy-again", json=body)
    assert reply.status_code == 422 and field in [error["field"] for error in reply.json()["errors"]]


PURCHASES = st.lists(st.tuples(st.sampled_from(ITEMS[:4]), st.integers(0, 400)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(PURCHASES, st.sampled_from(ITEMS[:4]), st.integers(0, 400), st.floats(0.5, 200))
def test_one_more_purchase_never_speaks_against_its_item_nor_for_another(
    purchases: list[tuple[str, int]], item: str, days: int, rhythm: float
) -> None:
    returns = Returns(rhythm=rhythm, share=dict.fromkeys(ITEMS, 0.3))
    before, after = (dict(returns.of(bought(*each), NOW)) for each in (purchases, [*purchases, (item, days)]))
    assert after[item] >= before.get(item, 0.0)
    assert {other: score for other, score in after.items() if other != item} == pytest.approx(
        {other: score for other, score in before.items() if other != item}
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y", "z"]), st.integers(0, 40)), min_size=1))
def test_what_the_archive_tells_is_what_counting_by_hand_gives(events: list[tuple[str, str, int]]) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    users, items, quarters = (list(each) for each in zip(*events, strict=True))
    table = {"user_id": users, "item_id": items, "event_time": [begin + timedelta(hours=6 * n) for n in quarters]}
    kept = prepare(pa.table(table), None, repeats=True, ties="basket")
    rhythm, share = returns(kept)
    gaps: list[float] = []
    came = dict.fromkeys("xyz", 0)
    for user in "abc":
        for item in "xyz":
            times = sorted(n for u, i, n in events if (u, i) == (user, item))
            far = [(later - one) / 4 for one, later in pairwise(times) if later - one > 2]
            gaps += far
            came[item] += len(far)
    if not gaps:
        assert (rhythm, share) == (None, None)
        return
    middle = sorted(gaps)
    assert rhythm == pytest.approx((middle[(len(gaps) - 1) // 2] + middle[len(gaps) // 2]) / 2, abs=1e-3)
    for item, found in zip(kept.catalogue.item_ids, share or (), strict=True):
        expected = (came[item] + 20 * len(gaps) / len(events)) / (items.count(item) + 20)
        assert found == pytest.approx(expected, abs=1e-3)
    assert returns(prepare(pa.table(table), None, repeats=False, ties="basket")) == (None, None)
