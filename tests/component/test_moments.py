"""What counts at the very moment of a change: deletion, availability, the data's clock, and rows that say the same."""

from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.shared.tables import open_events
from components.validate.skew import skew_checks
from feature_repo.forgotten import Forgotten
from tests.component.ingest_cards import (
    INTERACTIONS,
    ITEMS,
    ingest,
    interactions_of,
    make_card,
    rows,
    with_row,
)
from tests.component.make_events import (
    at,
    change,
    event,
    item,
    write_events,
)
from tests.component.make_events import make_card as card_of_events


def test_an_event_in_the_microsecond_of_the_deletion_goes_with_it(tmp_path: Path) -> None:
    """Of the three moments around it only what came after is a new acquaintance."""
    times = [(at(3) + timedelta(microseconds=us)).isoformat() for us in (-1, 0, 1)]
    clicks = {"user_id": ["a"] * 3, "item_id": ["x"] * 3, "event_time": times}
    forgotten = Forgotten(tmp_path / "forgotten.txt")
    forgotten.add(["a"], at(3))
    report, events = ingest(make_card(tmp_path, clicks), tmp_path, forgotten=forgotten)
    assert [row["event_time"] for row in interactions_of(events)] == [at(3, us=1)]
    assert report["forgotten"] == 2


@pytest.mark.parametrize(("us", "seen"), [(-1, 0), (0, 1), (1, 1)])
def test_what_had_happened_but_was_not_known_by_then_is_in_no_frame_of_that_day(
    tmp_path: Path, us: int, seen: int
) -> None:
    """A late row counts from when it was written down: a backfill of the day shows what the day's run saw."""
    card = card_of_events()
    shopping = [event("u", "a", at(1), created_time=at(2)), event("u", "a", at(0.5))]
    prices = [{**change("a", at(1), 9.0), "created_time": at(2)}, change("a", at(0), 1.0)]
    root = write_events(tmp_path / "events", card, shopping, [item("a")], prices)
    with open_events(card, root, at(2, us=us)) as db:
        for table in ("interactions", "varying"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchall() == [(1 + seen,)], table


def test_of_two_rows_that_say_the_same_event_the_first_of_the_source_is_kept(tmp_path: Path) -> None:
    """Both are of one shopper, item and moment and differ elsewhere; the other is set aside with its reason."""
    clicks = {**INTERACTIONS, "note": ["first", "b", "c"]}
    clicks = with_row(clicks, user_id="a", item_id="x", event_time="2025-03-01T10:00:00Z", note="second")
    items = with_row(ITEMS, item_id="x", title="Another mug", price="4")
    report, events = ingest(make_card(tmp_path, clicks, items), tmp_path)
    assert report["reasons"]["duplicate_event"] == 1
    (aside,) = [row for row in rows(events, "rejected.parquet") if row["reasons"] == ["duplicate_event"]]
    assert aside["row"] == 3 and '"note":"second"' in aside["record"]
    kept = {row["item_id"]: row["title"] for row in rows(events, "items/static.parquet")}
    assert kept["x"] == "Red mug"


@pytest.mark.parametrize(("us", "price", "skewed"), [(-1, 1.4, 0), (0, 1.5, 0), (0, 1.4, 1), (1, 1.5, 0), (-1, 1.5, 1)])
def test_what_is_served_at_the_moment_of_a_change_is_the_changed_value(
    tmp_path: Path, us: int, price: float, skewed: int
) -> None:
    """Prices change at midnight of the fifth day, from 1.4 to 1.5 of the first item."""
    card = card_of_events()
    prices = [change("a", at(day), 1.0 + day / 10) for day in (4, 5)]
    root = write_events(tmp_path / "events", card, [event("u", "a", at(4))], [item("a")], prices)
    served = {"item_id": ["a"], "event_time": pa.array([at(5, us=us)], pa.timestamp("us", "UTC")), "price": [price]}
    pq.write_table(pa.table(served), tmp_path / "exposures.parquet")
    with open_events(card, root, at(6)) as db:
        ((check, measure),) = skew_checks(card, db, tmp_path / "exposures.parquet")
    assert (check.name, measure.found) == ("price skew", skewed)
