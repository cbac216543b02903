"""The library's door and the features step are two programs of one rule: on any table they give the same sequences."""

import random
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.features import step
from components.features.splits import ORDER, ordered_events
from heterrec.data.prepare import prepare
from heterrec.data.sequences import SPLITS, read_sequences
from tests.component.make_events import (
    at,
    event,
    item,
    make_card,
    write_events,
    write_facts,
)

MOMENTS = st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.5, 6.0, 9.0])
ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), MOMENTS, st.sampled_from([None, None, "p", "q"])),
    min_size=1,
    max_size=25,
)
SPLIT = {"order": {"by": "order"}, "time": {"by": "time", "validation_days": 1, "test_days": 1}}


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, by=st.sampled_from(["order", "time"]), ties=st.sampled_from(["order", "basket"]))
def test_baskets_and_splits_are_those_of_the_features_step(rows, by, ties):
    import duckdb

    events = [{**event(user, name, at(day)), "basket": basket} for user, name, day, basket in rows]
    now = max(row["event_time"] for row in events)
    if by == "time" and not any(now - row["event_time"] >= timedelta(days=2) for row in events):
        return  # all is held out, which the door refuses
    card = make_card(split=SPLIT[by], ties=ties)
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.execute(
            "CREATE TABLE interactions (event_id VARCHAR, user_id VARCHAR, item_id VARCHAR, event_time TIMESTAMPTZ, "
            "position BIGINT, basket VARCHAR)"
        )
        listed = [
            (f"e{n:03d}", row["user_id"], row["item_id"], row["event_time"], n, row["basket"])
            for n, row in enumerate(events)
        ]
        db.executemany("INSERT INTO interactions VALUES (?, ?, ?, ?, ?, ?)", listed)
        ordered = f"SELECT user_id, item_id, basket, split FROM ({ordered_events(card, now)}) ORDER BY user_id, {ORDER}"
        expected = db.execute(ordered).fetchall()
    columns = {name: [row[name] for row in events] for name in ("user_id", "item_id", "event_time", "basket")}
    days = {name: value for name, value in SPLIT[by].items() if name != "by"}
    try:
        found = prepare(columns, split=by, ties=ties, basket="basket" if ties == "basket" else None, **days)
    except ValueError as error:
        assert "are held out" in str(error) and {split for *_, split in expected}.isdisjoint({"train"})
        return
    owner = np.repeat(found.user_ids, np.diff(found.offsets)).tolist()
    items = [found.catalogue.item_ids[row] for row in found.row]
    split = [SPLITS[number] for number in found.split]
    # A basket has no order within: both sides by what they are.
    assert sorted(zip(owner, items, found.basket.tolist(), split, strict=True)) == sorted(expected)
    if ties == "order":
        assert list(zip(owner, items, found.basket.tolist(), split, strict=True)) == expected


@pytest.mark.parametrize(("by", "ties"), [("order", "order"), ("time", "basket")])
def test_the_door_gives_the_artifact_of_the_pipeline(tmp_path, by, ties):
    rng = random.Random(by)
    features = [each for each in make_card().model_dump()["features"] if not each["varies_in_time"]]
    card = make_card(features=features, split=SPLIT[by], ties=ties)
    rows = [event(f"u{rng.randrange(5)}", rng.choice("abcdx"), at(rng.choice([0, 1, 1.5, 2, 4, 6]))) for _ in range(60)]
    listed = [
        item(name, brand=rng.choice(["acme", None]), weight=rng.random(), event_time=at(rng.choice([-1, 3])))
        for name in "abcde"
    ]
    events = write_events(tmp_path / "events", card, rows, listed)
    facts = write_facts(tmp_path / "facts", max(row["event_time"] for row in rows))
    step.run(card=card, events=events, facts=facts, feast_root=tmp_path / "feast", sequences=tmp_path / "sequences")
    theirs = read_sequences(tmp_path / "sequences")
    table = {name: [row[name] for row in rows] for name in ("user_id", "item_id", "event_time")}
    items = {name: [each[name] for each in listed] for name in listed[0]}
    days = {name: value for name, value in SPLIT[by].items() if name != "by"}
    kinds = {"title": "text"}
    ours = prepare(table, items, available_at="event_time", kinds=kinds, title="title", split=by, ties=ties, **days)
    for name in ("offsets", "row", "time", "basket", "split"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    assert (ours.user_ids, ours.repeats, ours.varying) == (theirs.user_ids, theirs.repeats, theirs.varying)
    np.testing.assert_array_equal(ours.catalogue.available_at, theirs.catalogue.available_at)
    assert ours.catalogue.item_ids == theirs.catalogue.item_ids
    assert ours.catalogue.fixed == theirs.catalogue.fixed
    assert ours.catalogue.features == theirs.catalogue.features
