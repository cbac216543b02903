"""Ingest takes over what is unchanged, and late rows change no frame of an earlier day."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.features import step as features
from components.ingest import step
from components.ingest.latest import Latest
from feature_repo.card import DatasetCard
from feature_repo.forgotten import Forgotten
from runtime.manifest import Manifest
from tests.component.ingest_cards import (
    PRICE,
    TITLE,
    interactions_of,
    rows,
    write,
)
from tests.component.make_events import write_facts

SOLD = {"name": "sold_2d", "kind": "numeric", "token": False, "derive": {"by": "count", "days": 2}}
DAY = datetime(2025, 3, 1, tzinfo=UTC)


def part(folder: Path, name: str, *events: tuple[str, str, float]) -> None:
    """Clicks (user, item, day from the first) as one file of the source."""
    users, items, days = zip(*events, strict=True)
    times = pa.array([DAY + timedelta(days=day) for day in days], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"user_id": users, "item_id": items, "event_time": times}), folder / f"{name}.parquet")


class Shop:
    """A source that grows, and its ingests one after the other."""

    def __init__(self, root: Path, **more) -> None:
        self.root, self.clicks = root, root / "clicks"
        self.clicks.mkdir(parents=True)
        self.prices = [("x", 0.0, 1.0), ("y", 0.0, 2.0)]
        self.more, self.made, self.previous = more, 0, None

    @property
    def card(self) -> DatasetCard:
        items = {
            "item_id": [item for item, _, _ in self.prices],
            "since": [(DAY + timedelta(days=day)).isoformat() for _, day, _ in self.prices],
            "title": [f"Item {item}" for item, _, _ in self.prices],
            "price": [price for _, _, price in self.prices],
        }
        return DatasetCard.model_validate(
            {
                "name": "tiny",
                "description": "A few rows.",
                "source": {"adapter": "files", "interactions": self.clicks, "items": write(self.root / "i.csv", items)},
                "columns": {"event_time": "event_time", "item_available_at": "since"},
                "features": [TITLE, {**PRICE, "varies_in_time": True}, SOLD],
                "split": {"by": "time", "validation_days": 1, "test_days": 1},
                **self.more,
            }
        )  # fmt: skip

    def ingest(self, *, anew: bool = False, **more) -> tuple[Path, dict]:
        self.made += 1
        events = self.root / f"events{self.made}"
        events.mkdir()
        report = step.run(card=self.card, events=events, previous=None if anew else self.previous, **more)
        Manifest.seal(events, kind="events")
        if not anew:
            self.previous = events
        return events, report

    def frame(self, events: Path, day: float) -> tuple[list[dict], list[dict]]:
        """The training frame as of `day`: events with their values, and the catalogue."""
        facts = write_facts(self.root / "facts", DAY + timedelta(days=day))
        out = self.root / f"{events.name}-frame-{day}"
        features.run(
            card=self.card, events=events, facts=facts, feast_root=self.root / f"feast{out.name}", sequences=out
        )
        return pq.read_table(out / "events.parquet").to_pylist(), pq.read_table(out / "catalogue.parquet").to_pylist()


def shop_of_two_days(root: Path, **more) -> Shop:
    shop = Shop(root, **more)
    part(shop.clicks, "a", ("u", "x", 0.1), ("v", "y", 0.2), ("v", "y", 1.2))
    part(shop.clicks, "b", ("u", "y", 1.5), ("w", "x", 1.6))
    return shop


def without_created(found: list[dict]) -> list[dict]:
    return [{name: value for name, value in row.items() if name != "created_time"} for row in found]


def inodes(events: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_ino for path in events.glob("interactions/*/*.parquet")}


def test_only_new_parts_are_read_and_only_their_days_written(tmp_path, monkeypatch):
    shop = shop_of_two_days(tmp_path)
    before, _ = shop.ingest()
    part(shop.clicks, "c", ("u", "x", 2.5), ("w", "y", 3.5))
    asked = []
    load = step.SOURCES["files"].load
    monkeypatch.setattr(
        step.SOURCES["files"], "load", lambda card, db, only: asked.append(only) or load(card, db, only)
    )
    after, report = shop.ingest()
    assert asked == [["c.parquet"]]
    old, new = inodes(before), inodes(after)
    assert {day for day in new if old.get(day) == new[day]} == {"day=2025-03-01", "day=2025-03-02"}
    assert (report["rows"], report["accepted"], report["users"]) == (7, 7, 3)
    anew, whole = shop.ingest(anew=True)
    assert whole == report
    assert interactions_of(after) == interactions_of(anew)
    assert rows(after, "items/derived/*/*.parquet") == rows(anew, "items/derived/*/*.parquet")


def test_a_changed_part_takes_its_old_rows_away(tmp_path):
    shop = shop_of_two_days(tmp_path)
    shop.ingest()
    part(shop.clicks, "b", ("u", "y", 1.5), ("w", "y", 0.7), ("bad", None, 0.9))
    after, report = shop.ingest()
    anew, whole = shop.ingest(anew=True)
    assert whole == report and report["reasons"] == {"missing_item": 1}
    assert without_created(interactions_of(after)) == without_created(interactions_of(anew))
    assert rows(after, "rejected.parquet") == rows(anew, "rejected.parquet")
    part(shop.clicks, "c", ("z", "x", 2.0))
    later, _ = shop.ingest()
    assert rows(later, "rejected.parquet") == rows(anew, "rejected.parquet"), "taken over with its part"


def test_an_event_that_another_part_has_already_is_set_aside(tmp_path):
    shop = shop_of_two_days(tmp_path)
    shop.ingest()
    part(shop.clicks, "c", ("u", "x", 0.1), ("u", "x", 2.5))
    after, report = shop.ingest()
    assert report["reasons"] == {"duplicate_event": 1}
    assert len(interactions_of(after)) == 6


def test_days_that_the_source_lost_and_has_again_count_without_waiting_for_the_next_event(tmp_path):
    shop = shop_of_two_days(tmp_path)
    shop.prices.append(("x", 1.4, 3.0))
    whole, _ = shop.ingest()
    last = 1.6
    lost = (shop.clicks / "b.parquet").read_bytes()
    (shop.clicks / "b.parquet").unlink()
    taken = shop.prices.pop()
    short, report = shop.ingest()
    assert report["last_event"] == (DAY + timedelta(days=1.2)).isoformat()
    (shop.clicks / "b.parquet").write_bytes(lost)
    shop.prices.append(taken)
    again, _ = shop.ingest()
    assert len(shop.frame(short, 1.2)[0]) == 3
    assert len(shop.frame(again, last)[0]) == len(shop.frame(whole, last)[0]) == 5
    assert {row["item_id"]: row["price"] for row in shop.frame(again, last)[1]} == {"x": 3.0, "y": 2.0}
    assert shop.frame(again, 1.2)[0] == shop.frame(short, 1.2)[0], "no earlier frame changes"

    # From then on what comes late is late again, also where nothing newer comes with it.
    part(shop.clicks, "c", ("z", "x", 1.3))
    late, _ = shop.ingest()
    assert len(shop.frame(late, last)[0]) == 5


def test_the_same_source_twice_changes_nothing(tmp_path):
    shop = shop_of_two_days(tmp_path)
    before, _ = shop.ingest()
    after, _ = shop.ingest()
    assert Manifest.read(before).digest == Manifest.read(after).digest


def test_a_training_frame_is_the_same_whenever_it_is_made(tmp_path):
    shop = shop_of_two_days(tmp_path)
    before, _ = shop.ingest()
    frame = shop.frame(before, 1.6)
    # A late click, a late price, a price that makes a later one redundant, and what is simply new.
    part(shop.clicks, "c", ("late", "x", 0.15), ("u", "y", 3.2), ("w", "x", 4.0))
    shop.prices += [("x", 0.05, 7.0), ("y", 3.0, 5.0), ("z", 0.0, 9.0)]
    after, _ = shop.ingest()
    late = [row for row in interactions_of(after) if row["user_id"] == "late"]
    assert [row["created_time"] for row in late] == [DAY + timedelta(days=4)]
    assert shop.frame(after, 1.6) == frame
    events, catalogue = shop.frame(after, 4.0)
    assert len(events) == 8 and {row["item_id"]: row["price"] for row in catalogue} == {"x": 7.0, "y": 5.0, "z": 9.0}
    assert shop.frame(shop.ingest()[0], 1.6) == frame


def test_a_source_that_was_rewritten_counts_from_its_own_times(tmp_path):
    shop = shop_of_two_days(tmp_path)
    shop.ingest()
    # The same clicks, of shoppers and items with other ids.
    shop.prices = [("x1", 0.0, 1.0), ("y1", 0.0, 2.0)]
    part(shop.clicks, "a", ("u1", "x1", 0.1), ("v1", "y1", 0.2), ("v1", "y1", 1.2))
    part(shop.clicks, "b", ("u1", "y1", 1.5), ("w1", "x1", 1.6))
    after, _ = shop.ingest()
    anew, _ = shop.ingest(anew=True)
    assert interactions_of(after) == interactions_of(anew)
    assert rows(after, "items/*.parquet") == rows(anew, "items/*.parquet")
    assert shop.frame(after, 1.6) == shop.frame(anew, 1.6)
    # Where fewer than half are others, these were corrected and are late.
    part(shop.clicks, "b", ("u2", "y1", 1.5), ("w1", "x1", 1.6))
    assert len(shop.frame(shop.ingest()[0], 1.6)[0]) == 4


def test_a_price_taken_back_is_still_there_for_earlier_days(tmp_path):
    shop = shop_of_two_days(tmp_path)
    shop.prices.append(("x", 1.0, 3.0))
    before, _ = shop.ingest()
    frame = shop.frame(before, 1.6)
    shop.prices[-1] = ("x", 1.0, 4.0)
    part(shop.clicks, "c", ("u", "x", 2.5))
    after, _ = shop.ingest()
    assert shop.frame(after, 1.6) == frame
    assert [row["price"] for row in shop.frame(after, 2.5)[1] if row["item_id"] == "x"] == [4.0]


def test_when_a_row_was_written_down_may_be_a_column_of_the_source(tmp_path):
    clicks = {
        "user_id": ["u", "v"], "item_id": ["x", "x"], "event_time": ["2025-03-01", "2025-03-02"],
        "seen": ["2025-03-03", None],
    }  # fmt: skip
    card = Shop(tmp_path / "s").card
    source = card.source.model_copy(update={"interactions": write(tmp_path / "clicks.csv", clicks)})
    columns = card.columns.model_copy(update={"created_time": "seen"})
    card = card.model_copy(update={"source": source, "columns": columns})
    (tmp_path / "events").mkdir()
    step.run(card=card, events=tmp_path / "events")
    assert [row["created_time"].day for row in interactions_of(tmp_path / "events")] == [3, 2]


def test_deleted_users_leave_no_trace_and_old_events_go(tmp_path):
    shop = shop_of_two_days(tmp_path, limits={"retention_days": 1.0})
    part(shop.clicks, "b", ("u", "y", 1.5), ("w", "x", 1.6), ("v", None, 1.0))
    forgotten = Forgotten(tmp_path / "forgotten.txt")
    forgotten.add(["v"], DAY + timedelta(days=1.1))
    events, report = shop.ingest(forgotten=forgotten)
    assert [(row["user_id"], row["item_id"]) for row in interactions_of(events)] == [("v", "y"), ("u", "y"), ("w", "x")]
    assert (report["forgotten"], report["expired"], report["rejected"]) == (2, 1, 0)
    assert rows(events, "rejected.parquet") == []


def test_what_is_taken_over_is_forgotten_and_grows_too_old_as_well(tmp_path):
    shop = shop_of_two_days(tmp_path, limits={"retention_days": 2.0})
    part(shop.clicks, "b", ("u", "y", 1.5), ("w", "x", 1.6), ("v", None, 1.0))
    shop.ingest()
    part(shop.clicks, "c", ("u", "x", 3.3))
    forgotten = Forgotten(tmp_path / "forgotten.txt")
    forgotten.add(["v"], DAY + timedelta(days=9))
    events, _ = shop.ingest(forgotten=forgotten)
    assert [(row["user_id"], row["item_id"]) for row in interactions_of(events)] == [("u", "y"), ("w", "x"), ("u", "x")]
    assert rows(events, "rejected.parquet") == []
    assert sorted(inodes(events)) == ["day=2025-03-02", "day=2025-03-04"]


@pytest.mark.parametrize("taken_over", [False, True])
def test_a_deletion_takes_its_own_microsecond_with_it_and_what_is_as_old_as_retention_stays(
    taken_over: bool, tmp_path: Path
) -> None:
    """Whether an event is read in this ingest or was taken over from the one before: each by SQL of its own."""
    us, bought, oldest = timedelta(microseconds=1), timedelta(days=1.5), timedelta(days=1.2)
    shop = shop_of_two_days(tmp_path, limits={"retention_days": 2.0})
    part(shop.clicks, "c", *((f"old {n:+}", "x", (oldest + n * us) / timedelta(days=1)) for n in (-1, 0, 1)))
    part(shop.clicks, "d", *((f"deleted {n:+}", "x", 1.5) for n in (-1, 0, 1)))
    if taken_over:
        shop.ingest()
    part(shop.clicks, "e", ("newest", "x", 3.2))
    forgotten = Forgotten(tmp_path / "forgotten.txt")
    for n in (-1, 0, 1):
        forgotten.add([f"deleted {n:+}"], DAY + bought + n * us)
    events, _ = shop.ingest(forgotten=forgotten)
    left = {row["user_id"] for row in interactions_of(events)} - {"u", "v", "w", "newest"}
    assert left == {"old +0", "old +1", "deleted -1"}


def test_a_shop_of_one_day_has_its_derived_columns_without_a_value(tmp_path):
    shop = Shop(tmp_path)
    shop.prices = [("x", 0.05, 1.0), ("y", 0.05, 2.0)]
    part(shop.clicks, "a", ("u", "x", 0.1), ("u", "y", 0.2))
    events, _ = shop.ingest()
    assert [row["sold_2d"] for row in shop.frame(events, 0.2)[0]] == [None, None]


def test_the_pointer_gives_the_same_key_until_the_source_changes_and_then_another(tmp_path):
    shop = shop_of_two_days(tmp_path)
    events, _ = shop.ingest()
    path = tmp_path / "latest" / "tiny.json"

    def ask(source: str) -> tuple[Latest, dict]:
        latest = Latest(path)
        return latest, latest.basis({"source": source})

    latest, first = ask("one")
    latest.point_to(events)
    again, same = ask("one")
    assert (same, again.artifact) == (first, None)
    again.point_to(events)
    grown, other = ask("two")
    assert grown.artifact == events and other["previous"] == Manifest.read(events).digest
    half = next(events.glob("interactions/*/*.parquet"))
    os.truncate(half, half.stat().st_size // 2)
    broken, anew = ask("two")
    assert (broken.artifact, anew["previous"]) == (None, ""), "a partition that is half written is not taken over"


def test_another_card_or_an_older_artifact_is_not_taken_over(tmp_path):
    shop = shop_of_two_days(tmp_path)
    events, _ = shop.ingest()
    state = json.loads((events / "increment.json").read_text())
    (events / "increment.json").write_text(json.dumps({**state, "schema": 0}))
    after, _ = shop.ingest()
    assert set(inodes(after).values()).isdisjoint(inodes(events).values())


def test_a_shop_without_a_usable_row_is_no_base_that_the_next_ingest_stumbles_over(tmp_path: Path):
    shop = Shop(tmp_path / "shop")
    times = pa.array([None], pa.timestamp("us", "UTC"))
    pq.write_table(pa.table({"user_id": ["a"], "item_id": ["x"], "event_time": times}), shop.clicks / "p1.parquet")
    _, report = shop.ingest()
    assert report["accepted"] == 0
    part(shop.clicks, "p2", ("a", "x", 0.5))
    events, report = shop.ingest()
    assert [row["item_id"] for row in interactions_of(events)] == ["x"] and report["accepted"] == 1
