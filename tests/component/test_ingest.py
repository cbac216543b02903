"""The events artifact: types, times, order, and values as of when they were known."""

import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from components.ingest import step
from feature_repo.card import load_card
from runtime.manifest import Manifest
from tests.component.ingest_cards import (
    INTERACTIONS,
    PRICE,
    TITLE,
    ingest,
    interactions_of,
    make_card,
    rows,
)


def test_artifact_is_as_the_contract_has_it(tmp_path):
    card = make_card(tmp_path, features=[TITLE, {**PRICE, "varies_in_time": True}])
    report, events = ingest(card, tmp_path)
    assert sorted(p.relative_to(events).as_posix() for p in events.rglob("*.*")) == [
        "increment.json",
        "interactions/day=2025-03-01/part-0.parquet",
        "interactions/day=2025-03-02/part-0.parquet",
        "items/static.parquet",
        "items/varying/day=2025-02-28/part-0.parquet",
        "rejected.parquet",
        "report.json",
    ]
    time = pa.timestamp("us", "UTC")
    schema = pq.read_schema(events / "interactions/day=2025-03-01/part-0.parquet")
    assert dict(zip(schema.names, schema.types, strict=True)) == {
        "event_id": pa.string(),
        "user_id": pa.string(),
        "item_id": pa.string(),
        "event_time": time,
        "created_time": time,
        "position": pa.int64(),
        "basket": pa.string(),
        "event_type": pa.string(),
        "origin": pa.string(),
    }
    assert rows(events, "items/static.parquet")[0] == {
        "item_id": "x",
        "event_time": datetime(2025, 2, 28, 10, tzinfo=UTC),
        "created_time": datetime(2025, 2, 28, 10, tzinfo=UTC),
        "title": "Red mug",
    }
    assert json.loads((events / "report.json").read_text()) == report
    assert report["accepted"] == 3
    assert report["first_event"] == "2025-03-01T10:00:00+00:00"


def test_values_are_read_whatever_type_holds_them(tmp_path):
    interactions = pa.table(
        {
            "user_id": [17.0, None, 18.0],
            "item_id": [1, 2, 2],
            "event_time": pa.array([1_740_823_200, 1_740_826_800, 1_740_909_600]),
        }
    )
    items = pa.table(
        {
            "item_id": [1, 2],
            "tags": [["a", " b "], []],
            "joined": ["a| b", ""],
            "style": pa.array([[1.0, 2.0], None], pa.list_(pa.float64(), 2)),
            "brand": [7.0, None],
            "price": pa.array([3, None], pa.int32()),
        }
    )
    features = [
        {"name": "tags", "kind": "multi_categorical"},
        {"name": "joined", "kind": "multi_categorical"},
        {"name": "style", "kind": "embedding", "dimension": 2},
        {"name": "brand", "kind": "categorical"},
        PRICE,
    ]
    report, events = ingest(make_card(tmp_path, interactions, items, suffix=".parquet", features=features), tmp_path)
    assert report["reasons"] == {"missing_user": 1}
    found = interactions_of(events)
    assert [(row["user_id"], row["item_id"]) for row in found] == [("17", "1"), ("18", "2")]
    assert found[0]["event_time"] == datetime(2025, 3, 1, 10, tzinfo=UTC)
    first, second = rows(events, "items/static.parquet")
    assert [first[name] for name in ("tags", "joined", "style", "brand", "price")] == [
        ["a", "b"],
        ["a", "b"],
        [1.0, 2.0],
        "7",
        3.0,
    ]
    assert [second[name] for name in ("tags", "joined", "style", "brand", "price")] == [None] * 5


def test_local_times_become_utc_and_those_the_clocks_skipped_are_set_aside(tmp_path):
    table = {
        "user_id": ["a"] * 6,
        "item_id": ["x"] * 6,
        "event_time": [
            "2025-03-30 00:30:00",
            "2025-03-30 01:30:00",
            "2025-03-30 02:30:00",
            "2025-03-30T01:45:00Z",
            "2025-06-01 10:00:00 UTC",
            "2025-10-26 01:30:00",
        ],
    }
    report, events = ingest(make_card(tmp_path, table, source={"timezone": "Europe/London"}), tmp_path)
    assert report["reasons"] == {"time_in_clock_change": 1}
    assert rows(events, "rejected.parquet")[0]["row"] == 1
    assert [f"{row['event_time']:%m-%d %H:%M}" for row in interactions_of(events)] == [
        "03-30 00:30",
        "03-30 01:30",
        "03-30 01:45",
        "06-01 10:00",
        "10-26 01:30",
    ]


def test_a_price_on_the_items_counts_from_when_it_changed(tmp_path):
    items = {
        "item_id": ["x", "x", "x", "y"],
        "since": ["2025-01-01", "2025-02-01", "2025-03-01", "2025-01-01"],
        "title": ["Red mug", "Red mug", "Red mug XL", "Kettle"],
        "price": ["1", "1", "2", "9"],
    }
    card = make_card(
        tmp_path,
        items=items,
        columns={"event_time": "event_time", "item_available_at": "since"},
        features=[TITLE, {**PRICE, "varies_in_time": True}],
    )
    _, events = ingest(card, tmp_path)
    prices = [(r["item_id"], f"{r['event_time']:%m-%d}", r["price"]) for r in rows(events, "items/varying/*/*.parquet")]
    assert sorted(prices) == [("x", "01-01", 1.0), ("x", "03-01", 2.0), ("y", "01-01", 9.0)]
    titles = [(r["item_id"], f"{r['event_time']:%m-%d}", r["title"]) for r in rows(events, "items/static.parquet")]
    assert sorted(titles) == [("x", "01-01", "Red mug"), ("x", "03-01", "Red mug XL"), ("y", "01-01", "Kettle")]


def test_values_of_both_tables_are_carried_along_without_erasing_each_other(tmp_path):
    interactions = {**INTERACTIONS, "paid": ["5", "7", None]}
    items = {
        "item_id": ["x", "y"],
        "since": ["2025-01-01", "2025-03-01T12:00:00Z"],
        "stock": ["few", None],
        "title": ["a", "b"],
    }
    features = [
        TITLE,
        {"name": "stock", "kind": "categorical", "varies_in_time": True},
        {"name": "paid", "kind": "numeric", "table": "interactions", "varies_in_time": True},
    ]
    columns = {"event_time": "event_time", "item_available_at": "since"}
    _, events = ingest(make_card(tmp_path, interactions, items, columns=columns, features=features), tmp_path)
    found = [
        (r["item_id"], f"{r['event_time']:%d %H}", r["stock"], r["paid"])
        for r in rows(events, "items/varying/*/*.parquet")
    ]
    assert sorted(found) == [("x", "01 00", "few", None), ("x", "01 10", "few", 5.0), ("y", "01 11", None, 7.0)]
    assert [row["paid"] for row in interactions_of(events)] == [5.0, 7.0, None]


def test_order_only_data_gets_synthesised_times_and_says_so(tmp_path):
    table = {"user_id": ["a", "a", "b", "b", "b"], "item_id": list("xyyxx"), "n": ["0", "1", "0", "first", "-1"]}
    columns = {"position": "n"}
    report, events = ingest(make_card(tmp_path, table, columns=columns, split={"by": "order"}), tmp_path)
    assert report["event_time_synthesised"]
    assert any("2000-01-01 plus one day per position" in note for note in report["notes"])
    assert report["reasons"] == {"malformed_position": 2}
    assert [f"{row['event_time']:%Y-%m-%d}" for row in interactions_of(events)] == ["2000-01-01"] * 2 + ["2000-01-02"]


def test_events_are_sorted_and_keep_the_order_of_the_source_among_equal_times(tmp_path):
    table = {
        "user_id": ["a"] * 4,
        "item_id": list("dcba"),
        "event_time": ["2025-03-02", "2025-03-01", "2025-03-01", "2025-03-01"],
    }
    _, events = ingest(make_card(tmp_path, table), tmp_path)
    assert [(row["item_id"], row["position"]) for row in interactions_of(events)] == [
        ("c", 1),
        ("b", 2),
        ("a", 3),
        ("d", 0),
    ]


def test_event_ids_are_unique_and_outlive_growth_of_the_source(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    _, before = ingest(make_card(tmp_path / "1"), tmp_path / "1")
    grown = {name: [value[0], *value] for name, value in INTERACTIONS.items()} | {"user_id": ["new", "a", "b", "a"]}
    _, after = ingest(make_card(tmp_path / "2", grown), tmp_path / "2")
    ids = [row["event_id"] for row in interactions_of(after)]
    assert len(set(ids)) == 4
    assert {row["event_id"] for row in interactions_of(before)} < set(ids)


def test_same_source_gives_the_same_artifact(tmp_path):
    digests = []
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        _, events = ingest(make_card(tmp_path / name), tmp_path / name)
        digests.append(Manifest.seal(events, kind="events").digest)
    assert digests[0] == digests[1]


def test_what_lies_between_as_of_and_now_is_good_data(tmp_path):
    report, _ = ingest(make_card(tmp_path), tmp_path, as_of=datetime(2025, 3, 1, 12, tzinfo=UTC))
    assert report["accepted"] == 3


def test_a_clock_ahead_of_ours_moves_the_future(tmp_path):
    table = {**INTERACTIONS, "event_time": ["2098-01-01", "2099-02-01", "2101-01-01"]}
    report, _ = ingest(make_card(tmp_path, table), tmp_path, as_of=datetime(2100, 1, 1, tzinfo=UTC))
    assert report["reasons"] == {"future_time": 1}


def test_fingerprint_follows_content_and_not_name(tmp_path):
    card = make_card(tmp_path)
    before = step.fingerprint(card)
    assert step.fingerprint(card.model_copy(update={"name": "other"})) == before
    with card.source.interactions.open("a") as file:
        file.write("c,x,2025-03-03\n")
    assert step.fingerprint(card) != before


def test_fingerprint_of_the_marketplace_follows_its_options():
    card = load_card("marketplace")
    other = card.model_copy(update={"source": card.source.model_copy(update={"options": {"seed": 1}})})
    assert step.fingerprint(card) != step.fingerprint(other)
