"""The features step: joins never look ahead, baskets and splits follow the card."""

import json
import random
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.features import step
from runtime.errors import InputError
from tests.component.make_events import (
    CARD,
    at,
    change,
    event,
    item,
    make_card,
    write_events,
    write_facts,
)

PRICES = [change("a", at(-1), 1.0)]


def run_features(tmp_path: Path, card, interactions, items, varying=PRICES, as_of: datetime | None = None):
    events = write_events(tmp_path / "events", card, interactions, items, varying)
    facts = write_facts(tmp_path / "facts", as_of or max(row["event_time"] for row in interactions))
    sequences = tmp_path / "sequences"
    report = step.run(card=card, events=events, facts=facts, feast_root=tmp_path / "feast", sequences=sequences)
    events_rows = pq.read_table(sequences / "events.parquet").to_pylist()
    return events_rows, pq.read_table(sequences / "catalogue.parquet").to_pylist(), report


def latest(changes, item_id: str, time: datetime, name: str):
    """The brute-force reference: the last change at or before `time` that was written down by then."""

    def written(row):
        return row.get("created_time", row["event_time"])

    known = [row for row in changes if row["item_id"] == item_id and max(row["event_time"], written(row)) <= time]
    return max(known, key=lambda row: (row["event_time"], written(row)))[name] if known else None


def test_future_price_never_joins(tmp_path):
    interactions = [
        event("u", "a", at(1)),
        event("u", "a", at(2)),
        event("v", "a", at(2, us=1)),
        event("v", "b", at(3)),
    ]
    changes = [change("a", at(2, us=1), 20.0), change("a", at(1), 10.0), change("b", at(3, us=1), 5.0)]
    rows, catalogue, _ = run_features(tmp_path, make_card(), interactions, [item("a"), item("b")], changes)
    assert [(row["event_time"], row["price"]) for row in rows] == [
        (at(1), 10.0),  # available at this very instant: counts
        (at(2), 10.0),  # one microsecond before the next price
        (at(2, us=1), 20.0),
        (at(3), None),  # the only price of b comes a microsecond later
    ]
    assert {row["item_id"]: row["price"] for row in catalogue} == {"a": 20.0, "b": None}


@pytest.mark.parametrize("portion", [20, 3_000_000])
def test_join_equals_brute_force_on_random_timelines(tmp_path, monkeypatch, portion):
    monkeypatch.setattr("components.features.join.EVENTS_AT_ONCE", portion)
    rng = random.Random(portion)
    items = [f"i{n}" for n in range(5)]

    def moment() -> datetime:
        return at(rng.randrange(6), us=rng.choice([0, 0, 1, 2, 999_999]))

    taken = {(name, moment()) for name in rng.choices(items, k=40)}
    changes = [
        change(name, time, rng.choice([None, round(rng.uniform(1, 9), 2)]), rng.choice([None, "", "sale"]))
        for name, time in sorted(taken)
    ]
    # The same instant once more, written down later: a correction, which must win from then on and not before.
    changes += [
        {**row, "price": 99.0, "created_time": row["event_time"] + timedelta(days=rng.choice([1, 2, 900]))}
        for row in rng.sample(changes, 12)
    ]
    interactions = [event(f"u{rng.randrange(6)}", rng.choice(items), moment()) for _ in range(120)]
    rows, catalogue, _ = run_features(tmp_path, make_card(), interactions, [item(name) for name in items], changes)
    as_of = max(row["event_time"] for row in interactions)
    assert len(rows) == len(interactions)
    for row in rows:
        for name in ("price", "label"):
            assert row[name] == latest(changes, row["item_id"], row["event_time"], name), row
    for row in catalogue:
        assert row["price"] == latest(changes, row["item_id"], as_of, "price")


def test_catalogue_holds_what_is_known_at_as_of(tmp_path):
    items = [
        item("a", brand="old", tags=["x", "y"], image=[1.0, 2.0, 3.0]),
        item("a", brand="new", event_time=at(2)),
        item("a", brand="later", event_time=at(9)),
        item("unsold", weight=None),
        item("unborn", event_time=at(9)),
    ]
    interactions = [event("u", "a", at(1)), event("u", "orphan", at(3)), event("u", "a", at(8))]
    rows, catalogue, report = run_features(tmp_path, make_card(), interactions, items, as_of=at(5))
    by_item = {row["item_id"]: row for row in catalogue}
    assert list(by_item) == ["a", "orphan", "unsold"] and report["items"] == 3
    assert by_item["a"]["brand"] == "new" and by_item["a"]["available_at"] == at(-10)
    assert by_item["unsold"]["weight"] is None
    assert by_item["orphan"] == {**dict.fromkeys(by_item["a"]), "item_id": "orphan", "available_at": at(3)}
    assert list(by_item["a"])[2:] == ["brand", "tags", "title", "weight", "image", "price", "label"]
    assert [row["event_time"] for row in rows] == [at(1), at(3)]


def test_time_split_holds_out_the_last_days(tmp_path):
    interactions = [event("u", "a", at(day)) for day in (0, 5, 6, 7, 8, 10)] + [event("new", "a", at(9))]
    rows, _, report = run_features(tmp_path, make_card(), interactions, [item("a")])
    splits = {(row["user_id"], row["event_time"]): row["split"] for row in rows}
    assert [splits["u", at(day)] for day in (0, 5, 6, 7, 8, 10)] == [
        "train", "train", "train", "validation", "validation", "test",
    ]  # fmt: skip
    assert splits["new", at(9)] == "test"
    assert report["queries"] == {"validation": 1, "test": 1}
    assert report["users_without_history"] == {"validation": 0, "test": 1}
    assert report["split_events"] == {"train": 3, "validation": 2, "test": 2}


def test_order_split_holds_out_the_last_events_of_each_user(tmp_path):
    card = make_card(split={"by": "order"})
    interactions = [event("long", "a", at(n)) for n in range(4)] + [event("short", "a", at(n)) for n in range(2)]
    rows, _, report = run_features(tmp_path, card, interactions, [item("a")])
    assert [row["split"] for row in rows if row["user_id"] == "long"] == ["train", "train", "validation", "test"]
    assert [row["split"] for row in rows if row["user_id"] == "short"] == ["train", "train"]
    assert report["queries"] == {"validation": 1, "test": 1}


def test_baskets_gather_same_times_ids_and_what_overlaps(tmp_path):
    card = make_card(ties="basket")
    interactions = [
        event("u", "a", at(1)),
        event("u", "b", at(1)),  # same instant, no id
        event("u", "a", at(2), basket="x"),
        event("u", "b", at(2.5), basket="y"),  # lies inside x
        event("u", "c", at(3), basket="x"),
        event("u", "a", at(4), basket="y2"),
        event("v", "a", at(1)),
    ]
    rows, _, _ = run_features(tmp_path, card, interactions, [item(name) for name in "abc"])
    assert [row["basket"] for row in rows] == [0, 0, 1, 1, 1, 2, 0]


def test_a_basket_lies_in_one_split(tmp_path):
    card = make_card(ties="basket")
    interactions = [event("u", "a", at(0)), event("u", "a", at(7.9), basket="x"), event("u", "b", at(8.1), basket="x")]
    rows, _, _ = run_features(tmp_path, card, [*interactions, event("v", "a", at(10))], [item("a"), item("b")])
    assert [row["split"] for row in rows if row["basket"] == 1] == ["validation", "validation"]


def test_equal_times_keep_the_order_of_the_source(tmp_path):
    interactions = [event("u", name, at(1)) for name in "cab"]
    rows, _, _ = run_features(tmp_path, make_card(), interactions, [item(name) for name in "abc"])
    assert [(row["item_id"], row["basket"]) for row in rows] == [("c", 0), ("a", 1), ("b", 2)]


def test_features_json_repeats_the_card(tmp_path):
    run_features(tmp_path, make_card(), [event("u", "a", at(1))], [item("a")])
    described = json.loads((tmp_path / "sequences" / "features.json").read_text())
    assert described["features"][4] == {"name": "image", "kind": "embedding", "varies_in_time": False, "dimension": 3}
    assert (described["title"], described["repeats"], described["dataset"]) == ("title", False, "tiny")
    assert datetime.fromisoformat(described["as_of"]) == at(1)
    date = {"name": "released", "kind": "numeric", "date": True, "token": False}
    dated = make_card(features=[date], title=None, source=CARD["source"] | {"timezone": "Europe/Berlin"})
    assert step._description(dated, "")["others"] == [
        {"name": "released", "kind": "numeric", "varies_in_time": False, "dimension": None, "date": "Europe/Berlin"}
    ]


@pytest.mark.parametrize("features", [[], [{"name": "price", "kind": "numeric", "varies_in_time": True}]])
def test_cards_without_static_features_work(tmp_path, features):
    card = make_card(features=features, title=None)
    changes = [{"item_id": "a", "event_time": at(0), "price": 3.0}]
    rows, catalogue, _ = run_features(tmp_path, card, [event("u", "a", at(1))], [item("a")], changes)
    assert [row.get("price") for row in rows] == ([3.0] if features else [None])
    assert [row["item_id"] for row in catalogue] == ["a"]


def test_same_input_gives_the_same_bytes(tmp_path):
    interactions = [event("u", name, at(1)) for name in "cab"]
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run_features(tmp_path / name, make_card(), interactions, [item(name) for name in "abc"])
    for path in (tmp_path / "one" / "sequences").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "sequences" / path.name).read_bytes(), path.name


def test_no_event_by_as_of_is_told(tmp_path):
    with pytest.raises(InputError, match=r"no interaction at or before 2025"):
        run_features(tmp_path, make_card(), [event("u", "a", at(1))], [item("a")], as_of=at(-30))


def test_missing_column_is_told_by_name(tmp_path):
    card = make_card()
    without = make_card(features=make_card().model_dump()["features"][1:])
    events = write_events(tmp_path / "events", without, [event("u", "a", at(1))], [item("a")], PRICES)
    with pytest.raises(InputError, match=r"items\.brand: found none, expected string"):
        step.run(
            card=card,
            events=events,
            facts=write_facts(tmp_path / "facts", at(1)),
            feast_root=tmp_path / "feast",
            sequences=tmp_path / "sequences",
        )


@pytest.mark.parametrize("by", ["order", "time"])
@pytest.mark.parametrize("ties", ["order", "basket"])
def test_what_is_held_out_is_counted_by_what_is_predicted(tmp_path, by, ties):
    """Against a reading shopper by shopper; a kind that is no history is not there at all."""
    kinds = {"buy": {"predict": True}, "view": {}, "wave": {"negative": True, "history": True}}
    basket = {"basket": "b"} if ties == "basket" else {}
    card = make_card(
        columns={"event_time": "t", "event_type": "kind", **basket},
        events={**kinds, "scroll": {"history": False}},
        split={"by": by, "validation_days": 3, "test_days": 3} if by == "time" else {"by": by},
        ties=ties,
        features=[{"name": "brand", "kind": "categorical"}], title=None,
    )  # fmt: skip
    rng = random.Random(0)
    clicks = [
        event(f"u{rng.randrange(9)}", rng.choice("ab"), at(rng.randrange(12), us=rng.choice([0, 0, 1])),
              event_type=rng.choice([*kinds, "scroll"]), basket=rng.choice([None, "x"]))
        for _ in range(160)
    ]  # fmt: skip
    rows, _, report = run_features(tmp_path, card, clicks, [item("a"), item("b")], [], as_of=at(12))
    assert len(rows) == sum(click["event_type"] != "scroll" for click in clicks)
    asked = {"validation": 0, "test": 0}
    for user in {row["user_id"] for row in rows}:
        mine = [row for row in rows if row["user_id"] == user]
        bought = sorted({row["basket"] for row in mine if row["event_type"] == "buy"})
        for row in mine:
            before = sum(basket < row["basket"] for basket in bought)
            opened = min(each["event_time"] for each in mine if each["basket"] == row["basket"])
            if by == "time":
                expected = "test" if opened > at(9) else "validation" if opened > at(6) else "train"
            elif len(bought) < 3 or before < len(bought) - 2:
                expected = "train"
            else:
                expected = "validation" if before == len(bought) - 2 else "test"
            assert row["split"] == expected, (user, row)
        for split in asked:
            own = [row["basket"] for row in mine if row["split"] == split and row["event_type"] == "buy"]
            asked[split] += bool(own) and min(own) > 0
    assert report["queries"] == asked
    told = json.loads((tmp_path / "sequences" / "features.json").read_text())["event_types"]
    assert [(each["name"], each["predict"], each["negative"]) for each in told] == [
        ("buy", True, False), ("view", False, False), ("wave", False, True)
    ]  # fmt: skip
