"""Baskets, splits and slices in SQL against the same said in plain Python, on random timelines with many ties."""

import random
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pytest

from components.features.splits import SLICES, ordered_events, slice_starts
from feature_repo.card import DatasetCard
from tests.component.make_events import at, make_card

AS_OF = at(12)
VALIDATION, TEST = at(6), at(9)
"""Where the windows of three days each open: what lies at the moment itself is before them."""
KINDS = {"buy": {"predict": True}, "view": {}, "wave": {"negative": True, "history": True}}
Row = dict[str, Any]


def card_of(by: str, ties: str, typed: bool) -> DatasetCard:
    split = {"by": by, "validation_days": 3, "test_days": 3} if by == "time" else {"by": by}
    columns = {"event_time": "t"} | ({"event_type": "kind"} if typed else {})
    columns |= {"basket": "b"} if ties == "basket" else {}
    return make_card(split=split, ties=ties, columns=columns, **({"events": KINDS} if typed else {}))


def timeline(seed: int, events: int = 120, users: int = 8) -> list[Row]:
    """At whole days and a microsecond after, so that much is at one moment and much at a bound."""
    rng = random.Random(seed)
    return [
        {"event_id": f"e{rng.randrange(10**6):06d}-{n}", "user_id": f"u{rng.randrange(users) ** 2 // users}",
         "item_id": rng.choice("ab"), "event_time": at(rng.randrange(13), us=rng.choice([0, 0, 1])),
         "position": rng.randrange(3), "basket": rng.choice([None, None, "x", "y"]),
         "event_type": rng.choice(list(KINDS))}
        for n in range(events)
    ]  # fmt: skip


def in_order(row: Row) -> tuple[Any, ...]:
    return row["event_time"], row["position"], row["event_id"]


def baskets(rows: list[Row], ties: str) -> dict[str, int]:
    """The basket of each event of one user: what overlaps in time, ends included, is one."""
    if ties != "basket":
        return {row["event_id"]: number for number, row in enumerate(sorted(rows, key=in_order))}
    spans: dict[str, list[Row]] = {}
    for row in rows:
        spans.setdefault(row["basket"] or row["event_id"], []).append(row)
    found: dict[str, int] = {}
    number, until = -1, None
    for span in sorted(spans.values(), key=lambda span: min(row["event_time"] for row in span)):
        times = [row["event_time"] for row in span]
        number += until is None or min(times) > until
        until = max(times) if until is None else max(until, *times)
        found |= {row["event_id"]: number for row in span}
    return found


def expected(rows: list[Row], card: DatasetCard) -> dict[str, tuple[int, str]]:
    """Basket and split of each event."""
    found = {}
    for user in {row["user_id"] for row in rows}:
        mine = [row for row in rows if row["user_id"] == user]
        basket = baskets(mine, card.ties)
        asked = sorted({basket[row["event_id"]] for row in mine if not card.typed or row["event_type"] == "buy"})
        for row in mine:
            here = basket[row["event_id"]]
            opened = min(each["event_time"] for each in mine if basket[each["event_id"]] == here)
            before = sum(each < here for each in asked)
            if card.split.by == "time":
                split = "test" if opened > TEST else "validation" if opened > VALIDATION else "train"
            elif len(asked) < 3 or before < len(asked) - 2:
                split = "train"
            else:
                split = "validation" if before == len(asked) - 2 else "test"
            found[row["event_id"]] = (here, split)
    return found


def database(rows: list[Row]) -> duckdb.DuckDBPyConnection:
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'; SET threads = 1")
    columns = "event_id TEXT, user_id TEXT, item_id TEXT, event_time TIMESTAMPTZ, position BIGINT, basket TEXT"
    db.execute(f"CREATE TABLE interactions ({columns}, event_type TEXT)")
    db.executemany("INSERT INTO interactions VALUES (?, ?, ?, ?, ?, ?, ?)", [list(row.values()) for row in rows])
    return db


@pytest.mark.parametrize("typed", [False, True], ids=["one kind", "kinds"])
@pytest.mark.parametrize("ties", ["order", "basket"])
@pytest.mark.parametrize("by", ["order", "time"])
def test_baskets_and_splits_are_those_of_a_reading_shopper_by_shopper(by: str, ties: str, typed: bool) -> None:
    card = card_of(by, ties, typed)
    for seed in range(3):
        rows = timeline(seed)
        found = (
            database(rows).execute(f"SELECT event_id, basket, split FROM ({ordered_events(card, AS_OF)})").fetchall()
        )
        assert {name: (basket, split) for name, basket, split in found} == expected(rows, card)
        assert len(found) == len(rows)


def quarters(times: list[datetime]) -> list[datetime]:
    """The first moment, and those by which a quarter, a half and three quarters of the events were."""
    ordered = sorted(times)
    return [next(t for n, t in enumerate(ordered, 1) if n >= part * len(ordered) / SLICES) for part in range(SLICES)]


@pytest.mark.parametrize("by", ["order", "time"])
def test_slices_cut_the_training_events_evenly_and_the_windows_open_their_own(by: str) -> None:
    for seed in range(3):
        rows, card = timeline(seed, events=50 + seed), card_of(by, "order", False)
        db = database(rows)
        db.execute(f"CREATE TABLE events AS SELECT * FROM ({ordered_events(card, AS_OF)})")
        among = [row["event_time"] for row in rows if by == "order" or row["event_time"] <= VALIDATION]
        windows = {VALIDATION, TEST} if by == "time" else set()
        starts = [(moment - at(0)) // timedelta(microseconds=1) for moment in sorted({*quarters(among), *windows})]
        assert slice_starts(card, db, AS_OF) == [int(at(0).timestamp()) * 10**6 + start for start in starts]
