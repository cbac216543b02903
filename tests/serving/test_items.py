"""What a shop adds or changes is recommended by its features, by every replica and arm, within 5 s of the answer."""

import json
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from fastapi.testclient import TestClient

from experiments import item_log
from experiments.availability import AvailabilityTable
from experiments.database import Database
from experiments.document import ModelVersion, Rollout
from experiments.item_log import ItemLog, ItemLogFull, KnownUpserts, Upsert
from experiments.rules import Rules
from experiments.rules_table import RulesTable
from serving.gateway.access import Access
from serving.gateway.after.upserts import ItemChanges
from serving.gateway.archive import Contents, contents_in
from serving.replay import replay
from serving.scoring import item_tower
from tests.serving.open_gateway import HISTORY, OpenGateway, ask, rows
from tests.serving.test_api import SHOP, bearer, tokens
from tests.serving.test_availability import put_back, shown, withdraw
from tests.serving.test_server import within
from tests.serving.tiny_archive import AS_OF, ITEMS, write_content

SECONDS = 5.0
"""What is promised."""
LAMP = {"price": 7.5, "shelf": "top", "tags": ["odd"], "released": "2026-01-04", "title": "Lamp"}


def put(client: TestClient, **items: dict[str, Any] | None) -> dict[str, Any]:
    told = [{"item_id": item, "features": features} for item, features in items.items()]
    reply = client.put("/v1/items", json={"items": told})
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(f"sqlite:///{tmp_path}/items.db")
    yield found
    found.close()


def alone(rollout: Rollout, arm: str) -> Rollout:
    if arm == "champion":
        return replace(rollout, challenger=None, stage=None, weight=0.0)
    return replace(rollout, weight=1.0)


@pytest.mark.parametrize("arm", ["champion", "challenger"])
def test_a_new_item_is_recommended_by_its_features_within_five_seconds_and_withdrawn_within_two(
    open_gateway: OpenGateway, rollout: Rollout, arms: dict[str, ModelVersion], tmp_path: Path, arm: str
) -> None:
    row = alone(rollout, arm)
    client, other = open_gateway(row), open_gateway(row)
    before = shown(client, k=8, exclude_seen=False)
    assert put(client, new=LAMP, dear={**LAMP, "price": 900.0}) == {"number": 1, "waiting": []}
    told = time.monotonic()
    here = ask(client, k=10, exclude_seen=False)["items"]
    assert within(20, lambda: "new" in shown(other, k=10, exclude_seen=False))
    assert time.monotonic() - told < SECONDS
    scores = {item["item_id"]: item["score"] for item in here}
    assert scores["dear"] / scores["new"] > 1.2, "the same shelf, the price lengthens it: by their features"
    assert {item["item_id"]: item["title"] for item in here}["new"] == "Lamp"
    assert [item for item in scores if item not in ("new", "dear")] == before[: len(scores) - 2]
    for wanted, filters in ((True, {"shelf": ["top"]}), (False, {"shelf": ["low"]}), (True, {"price": {"max": 7.6}}),
                            (True, {"released": {"min": "2026-01-04", "max": "2026-01-04"}})):  # fmt: skip
        assert ("new" in shown(other, k=10, exclude_seen=False, filters=filters)) == wanted, filters
    ranked = other.post("/v1/rankings", json={"user_id": "u1", "items": ["i1", "new", "none"]}).json()
    assert {item["item_id"] for item in ranked["items"]} == {"i1", "new"} and ranked["unknown_items"] == ["none"]
    newest = other.post("/v1/popular", json={"kind": "new", "k": 3}).json()["items"]
    assert {item["item_id"] for item in newest[:2]} == {"new", "dear"}
    alike = other.post("/v1/similar-items", json={"items": ["new"], "k": 3}).json()
    assert alike["status"] == "ok" and alike["items"][0] == {**alike["items"][0], "item_id": "dear", "title": "Lamp"}
    assert alike["items"][0]["score"] == pytest.approx(1.0, abs=1e-3), "the same shelf, a longer vector"
    assert withdraw(client, "new") == 200 and "new" not in shown(client, k=10, exclude_seen=False)
    gone = time.monotonic()
    assert within(20, lambda: "new" not in shown(other, k=10, exclude_seen=False))
    assert time.monotonic() - gone < 2
    assert put_back(client, "new") == 200 and "new" in shown(client, k=10, exclude_seen=False)
    assert put(client, dear=None)["waiting"] == [] and "dear" not in shown(client, k=10, exclude_seen=False)
    logged = [each for each in rows(tmp_path / "log", "exposures") if "new" in each["items"]]
    assert logged, "what was shown is in the log"
    done = replay([each for each in rows(tmp_path / "log", "exposures") if each["placement"] == "for_you"], arms)
    assert done.same > 5 and not done.differing, "the request that was logged brings the items along"


def test_a_changed_item_is_scored_and_filtered_as_it_is_now_by_whoever_answers(
    open_gateway: OpenGateway, rollout: Rollout
) -> None:
    client = open_gateway(alone(rollout, "champion"))
    moved = shown(client, k=10, exclude_seen=False, filters={"shelf": ["top"]})[0]
    put(client, **{moved: {**LAMP, "shelf": "low"}})
    assert moved in shown(client, k=10, exclude_seen=False, filters={"shelf": ["low"]})
    assert moved not in shown(client, k=10, exclude_seen=False, filters={"shelf": ["top"]})
    assert shown(client, k=10, exclude_seen=False).count(moved) == 1
    broken = open_gateway(alone(rollout, "champion"), torchserve="http://127.0.0.1:9")
    assert shown(broken, k=10, filters={"shelf": ["low"]}) == ["i7"], "popular, before"
    put(broken, i7={**LAMP, "shelf": "top"})
    assert shown(broken, k=10, filters={"shelf": ["low"]}) == [], "popular items are filtered by what they are now"


def test_rules_hold_for_what_was_put_as_for_all_else(
    open_gateway: OpenGateway, rollout: Rollout, database: Database
) -> None:
    availability, rules = AvailabilityTable(database, "shop"), RulesTable(database, "shop")
    items = ItemLog(database, "shop", availability)
    client = open_gateway(alone(rollout, "champion"), availability=availability, rules=rules, items=items)
    put(client, one={**LAMP, "price": 900.0}, two={**LAMP, "price": 950.0}, i3={**LAMP, "shelf": "cellar"})
    every = shown(client, k=10, exclude_seen=False)
    assert {"one", "two"} <= {*every}
    document = {"blocks": [{"where": {"price": {"min": 940}}}], "pins": [{"item": "i3", "slot": 1}],
                "diversity": {"caps": {"shelf": 2}}}  # fmt: skip
    rules.propose(Rules.of(document), who="t", why="t", expected=0)
    assert within(20, lambda: shown(client, k=5, exclude_seen=False)[0] == "i3")
    now = shown(client, k=10, exclude_seen=False)
    assert "two" not in now, "blocked by its price"
    assert sum(item in ("one", *ITEMS[0:12:2]) for item in now) <= 2, "the new one counts as one of its shelf"


def test_an_arm_that_takes_no_items_is_named_and_sent_none(
    open_gateway: OpenGateway, rollout: Rollout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_gateway(rollout)
    contents = client.app.state.service.recommender.archives  # type: ignore[attr-defined]
    second = contents._contents[rollout.challenger.archive_digest]  # type: ignore[union-attr]
    monkeypatch.setitem(
        contents._contents,
        rollout.challenger.archive_digest,
        replace(second, item_program=False),  # type: ignore[union-attr]
    )
    assert put(client, new=LAMP)["waiting"] == ["2.0"]
    for number in range(12):
        ask(client, f"u{number}")
    by_version = {each["model_version"]: json.loads(each["request"]) for each in rows(tmp_path / "log", "exposures")}
    assert "upserts" in by_version["1.0"] and "upserts" not in by_version["2.0"]


def test_what_a_model_is_asked_is_as_before_where_nothing_was_put(
    open_gateway: OpenGateway, rollout: Rollout, tmp_path: Path
) -> None:
    client = open_gateway(alone(rollout, "champion"))
    ask(client)
    (row,) = rows(tmp_path / "log", "exposures")
    assert json.loads(row["request"]) == {"user_id": "u1", "k": 3, "history": HISTORY}


BAD = [
    ({"price": "dear"}, "price", "expected a number or null"),
    ({"shelf": None}, "shelf", "expected a string"),
    ({"tags": "odd"}, "tags", "expected a list of strings or null"),
    ({"tags": ["\ud800"]}, "tags", "expected a list of strings or null"),
    ({"released": "soon"}, "released", "expected a date (2026-01-31) or a time (2026-01-31T12:00:00Z)"),
    ({"colour": "red"}, "colour", "no such feature; there are price, shelf, tags, released, title, bought"),
    ({"title": ["Lamp"]}, "title", "expected a string or null"),
]


def test_a_bad_item_is_refused_by_its_field_and_nothing_is_put(open_gateway: OpenGateway, rollout: Rollout) -> None:
    client = open_gateway(rollout)

    def refused(content: str) -> list[tuple[str, str]]:
        reply = client.put("/v1/items", content=content, headers={"Content-Type": "application/json"})
        assert reply.status_code == 422, reply.text
        return [(fault["field"], fault["message"]) for fault in reply.json()["errors"]]

    good = {"item_id": "good", "features": LAMP}
    for wrong, name, why in BAD:
        bad = {"item_id": "bad", "features": {**LAMP, **wrong}}
        assert refused(json.dumps({"items": [good, bad]})) == [(f"items.1.features.{name}", why)]
    for number in ("NaN", "Infinity", "-1e999"):
        (fault,) = refused(json.dumps({"items": [good]}).replace("7.5", number))
        assert fault == ("items.0.features.price", "expected a number or null")
    without = {name: value for name, value in LAMP.items() if name != "shelf"}
    assert refused(json.dumps({"items": [{"item_id": "x", "features": without}]})) == [
        ("items.0.features.shelf", "is not said: expected a string")
    ]
    assert refused(json.dumps({"items": [{**good, "item_id": "x" * 201}]}))[0][0] == "items.0.item_id"
    assert refused(json.dumps({"items": [{**good, "item_id": str(n)} for n in range(101)]}))[0][0] == "items"
    assert "named twice" in refused(json.dumps({"items": [good, {**good, "item_id": " good "}]}))[0][1]
    assert "good" not in shown(client, k=10) and client.put("/v1/items", json={"items": [good]}).json()["number"] == 1


def test_who_puts_items_needs_a_token(
    open_gateway: OpenGateway, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_gateway(rollout, access=Access(tokens(monkeypatch, SHOP)))
    told = {"items": [{"item_id": "../a\n/b", "features": LAMP}]}
    statuses = [client.put("/v1/items", json=told, headers=each).status_code
                for each in ({}, bearer("not-the-token-of-it"), bearer(SHOP))]  # fmt: skip
    assert statuses == [401, 401, 200], "an id may have any character"


def test_numbers_of_any_length_are_taken(open_gateway: OpenGateway, rollout: Rollout) -> None:
    client = open_gateway(alone(rollout, "champion"))
    put(client, long={**LAMP, "price": 2**70})
    assert "long" in shown(client, k=10)


def test_there_is_room_for_so_many_until_a_catalogue_knows_them(
    open_gateway: OpenGateway, rollout: Rollout, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_log, "MOST", 3)
    past = datetime.fromisoformat(AS_OF) - timedelta(days=1)
    availability = AvailabilityTable(database, "shop")
    ItemLog(database, "shop", availability, clock=lambda: past).put({"i3": LAMP, "unknown": LAMP})
    items = ItemLog(database, "shop", availability)
    client = open_gateway(rollout, availability=availability, rules=None, items=items)
    put(client, i4=LAMP, i5=LAMP)
    kept = {each.item_id for each in items.read(KnownUpserts()).items}
    assert kept == {"unknown", "i4", "i5"}, "what the catalogue knows as of a later moment makes room"
    full = client.put("/v1/items", json={"items": [{"item_id": "i6", "features": LAMP}]})
    assert full.status_code == 409 and "send the rest after the next refresh" in full.json()["detail"]
    put(client, i4={**LAMP, "price": 1.0})
    assert "gateway_put_items 3.0" in client.get("/metrics").text


def test_the_log_is_bounded_by_its_bytes_too_and_a_full_one_is_left_as_it_was(database: Database) -> None:
    log = ItemLog(database, "shop", AvailabilityTable(database, "shop"))
    assert item_log.MOST <= item_tower.MOST
    log.put({"a": {"title": "t" * 200_000}})
    before = log.read(KnownUpserts())
    with pytest.raises(ItemLogFull, match=r"2 items of 391 KiB .* of 256 of 256 KiB at most"):
        log.put({"b": {"title": "t" * 200_000}})
    assert log.read(before) is before
    log.put({"a": {"title": "short"}, "b": {"title": "t" * 200_000}})


def test_numbers_are_those_of_the_stock_and_what_is_said_again_changes_nothing(database: Database) -> None:
    availability = AvailabilityTable(database, "shop")
    log, other = (
        ItemLog(database, "shop", availability),
        ItemLog(database, "other", AvailabilityTable(database, "other")),
    )
    assert [log.put({"a": LAMP}), availability.record({"a": False}), log.put({"a": dict(reversed(LAMP.items()))}),
            log.put({"a": {**LAMP, "price": 8.0}, "b": LAMP})] == [1, 2, 2, 3]  # fmt: skip
    read = log.read(KnownUpserts())
    assert [(each.item_id, each.number, each.features["price"]) for each in read.items] == [
        ("a", 3, 8.0),
        ("b", 3, 7.5),
    ]
    assert log.read(read) is read and not other.read(KnownUpserts()).items
    availability.record({"a": True})
    assert log.read(read) is read, "a change of the stock is none of the items"
    assert [log.put({"a": None}), log.put({"a": None, "none": None})] == [5, 5], "taken back, and nothing left to take"
    left = log.read(read)
    assert [each.item_id for each in left.items] == ["b"]
    assert log.put({"b": None, "c": LAMP}) == 6 and [each.item_id for each in log.read(left).items] == ["c"]


def test_a_replica_that_is_cut_off_goes_on_with_what_was_put(
    open_gateway: OpenGateway, rollout: Rollout, tmp_path: Path
) -> None:
    client = open_gateway(alone(rollout, "champion"))
    put(client, new=LAMP)
    with sqlite3.connect(tmp_path / "news.db") as connection:
        connection.execute("ALTER TABLE item_upsert RENAME TO away")
    connection.close()
    assert within(20, lambda: "no such table" in str(client.get("/ready").json()["problems"]))
    assert "new" in shown(client, k=10, exclude_seen=False)
    refused = client.put("/v1/items", json={"items": [{"item_id": "x", "features": LAMP}]})
    assert refused.status_code == 503 and refused.json()["detail"] == "the change could not be written; send it again"
    with sqlite3.connect(tmp_path / "news.db") as connection:
        connection.execute("ALTER TABLE away RENAME TO item_upsert")
    connection.close()
    assert within(20, lambda: client.get("/ready").json()["status"] == "ready")


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """Of before there was an item side."""
    return contents_in(write_content(tmp_path_factory.mktemp("former") / "c", item_side=False))


def test_an_archive_is_sent_what_its_catalogue_does_not_know_and_what_it_can_read(
    content: Path, former: Contents
) -> None:
    contents, as_of = contents_in(content), datetime.fromisoformat(AS_OF)
    later, days = as_of + timedelta(seconds=1), (as_of - datetime(1970, 1, 1, tzinfo=UTC)).days

    def upserts(**changes: tuple[datetime, dict[str, Any]]) -> KnownUpserts:
        items = [Upsert(item_id=item, features=each, number=1, at=at) for item, (at, each) in changes.items()]
        return KnownUpserts(("e", 1, 1), tuple(items))

    told = upserts(
        i1=(as_of, {"price": 1.0}), i2=(later, {"price": 1.0, "colour": "red"}), new=(as_of, {"price": 2.0}),
        odd=(later, {"price": "dear"}),
    )  # fmt: skip
    changes = ItemChanges()
    sent = changes.sent(told, contents)
    entries = json.loads(orjson.dumps(sent))
    assert [each["item_id"] for each in entries] == ["i2", "new"]
    assert entries[0]["features"] == {"price": 1.0}, "what the archive does not know is no fault"
    assert entries[1]["since"] == days
    assert changes.sent(told, contents) is sent, "made once"
    assert changes.sent(told, former) is None and changes.sent(KnownUpserts(), contents) is None
    assert changes.catalogue(KnownUpserts(), contents) is contents.catalogue
    catalogue = changes.catalogue(told, contents)
    assert catalogue.ids[-2:] == ["i2", "new"] and changes.catalogue(told, former) is former.catalogue
    assert changes.sent(upserts(i3=(later, {})), contents) is not sent
    assert catalogue is changes.catalogue(told, contents), "made once, though another reading is in use too"
    assert {catalogue.ids[row] for row in (~catalogue.forbidden({"price": {"max": 1.5}})).nonzero()[0]} == {"i0", "i2"}
    assert catalogue.row["i2"] == len(ITEMS) and catalogue.forbidden({}).nonzero()[0].tolist() == [2]


def test_the_log_has_the_items_that_the_model_was_sent_though_others_came_meanwhile(
    open_gateway: OpenGateway, rollout: Rollout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_gateway(alone(rollout, "champion"))
    put(client, new=LAMP)
    recommender = client.app.state.service.recommender  # type: ignore[attr-defined]
    news, ask_model = recommender.after.news, recommender._models.ask

    async def slowly(*args: Any, **named: Any) -> Any:
        items = await ask_model(*args, **named)
        news.upserts = KnownUpserts(("e", 9, 2), (*news.upserts.items, replace(news.upserts.items[0], item_id="later")))
        return items

    monkeypatch.setattr(recommender._models, "ask", slowly)
    ask(client)
    (row,) = rows(tmp_path / "log", "exposures")
    assert [each["item_id"] for each in json.loads(row["request"])["upserts"]] == ["new"]
