"""Ingest night after night: what stays as it is is written once, and who was deleted is in no file in any spelling."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_repo.card import DatasetCard
from feature_repo.forgotten import Forgotten
from tests.component.ingest_cards import (
    ITEMS,
    TITLE,
    ingest,
    make_card,
    rows,
)

GONE = "7531864"
NAME = 'the "user"'


def test_items_without_a_date_are_written_once_however_the_source_moves_on(tmp_path):
    """A shop exports its last days: the first of them is another one every night, and the catalogue the same."""
    events, counts = None, []
    for night in range(4):
        (folder := tmp_path / str(night)).mkdir()
        days = [f"2025-01-{day:02d}T10:00:00Z" for day in range(1 + night, 8 + night)]
        table = {"user_id": [f"u{day}" for day in days], "item_id": ["x"] * 7, "event_time": days}
        items = {**ITEMS, "price": ["3.5", "20" if night < 3 else "21"]}
        varying = {"name": "price", "kind": "numeric", "varies_in_time": True}
        card = make_card(folder, table, items, features=[TITLE, varying])
        _, events = ingest(card, folder, previous=events)
        counts.append((len(rows(events, "items/static.parquet")), len(rows(events, "items/varying/*/*.parquet"))))
    assert counts == [(2, 2), (2, 2), (2, 2), (2, 3)]
    newest = max(rows(events, "items/varying/*/*.parquet"), key=lambda row: row["created_time"])
    assert (newest["item_id"], newest["price"]) == ("y", 21)


def as_csv(folder: Path) -> DatasetCard:
    """Marks that nobody sees, bad rows, and lines that are no rows."""
    good = [f"{user},x,2025-01-0{n}T10:00:00Z" for n, user in enumerate([GONE, f"\ufeff{GONE}", f" {GONE}\t", "18"], 1)]
    bad = [f"{GONE},x,soon", f"{GONE},,2025-01-08T10:00:00Z", f'"{GONE},x,2025-01-09T10:00:00Z', f"{GONE};x"]
    card = make_card(folder, columns={"user_id": NAME, "event_time": "event_time"})
    card.source.interactions.write_text("\n".join(['"the ""user""",item_id,event_time', *good, *bad, ""]), "utf-8")
    return card


def as_doubles(folder: Path) -> DatasetCard:
    """A folder, of which parts are taken over."""
    gone = float(GONE)
    for number, users in enumerate(([gone, gone, 18.0], [gone, gone, 18.0])):
        times = [f"2025-01-0{number + 1}", "soon", f"2025-01-0{number + 1}"]
        (folder / "parts").mkdir(exist_ok=True)
        pq.write_table(
            pa.table({NAME: users, "item_id": ["x"] * 3, "event_time": times}), folder / f"parts/{number}.parquet"
        )
    card = make_card(folder, columns={"user_id": NAME, "event_time": "event_time"})
    return card.model_copy(update={"source": card.source.model_copy(update={"interactions": folder / "parts"})})


@pytest.mark.parametrize("make", [as_csv, as_doubles])
@pytest.mark.parametrize("given", [GONE, f" {GONE}\u200b"])
def test_no_spelling_of_a_deleted_user_stays_in_any_file(tmp_path, make, given):
    card = make(tmp_path)
    forgotten = Forgotten(tmp_path / "forgotten.txt")
    (before := tmp_path / "before").mkdir()
    _, events = ingest(card, before)
    assert GONE in str(rows(events, "rejected.parquet"))
    forgotten.add([given], datetime.now(UTC))
    (after := tmp_path / "after").mkdir()
    report, events = ingest(card, after, previous=events, forgotten=forgotten)
    assert report["users"] == 1
    for path in events.rglob("*"):
        if path.is_file():
            shown = rows(events, str(path.relative_to(events))) if path.suffix == ".parquet" else path.read_text()
            assert GONE not in str(shown), path
            assert GONE.encode() not in path.read_bytes(), path


def test_a_row_is_counted_alike_in_one_go_and_in_two(tmp_path):
    """A part that is taken over keeps its events and not how they were written: rows repeat each other within a part
    alone, and what stands in two parts is one event."""
    again = {"user_id": ["a", "a", "b"], "item_id": ["x"] * 3, "event_time": ["2025-01-01T10:00:00Z"] * 3}
    (tmp_path / "parts").mkdir()
    card = make_card(tmp_path)
    card = card.model_copy(update={"source": card.source.model_copy(update={"interactions": tmp_path / "parts"})})
    counts, before = [], None
    for name, written in (("before", [0]), ("in_two", [1]), ("in_one", [])):
        for number in written:
            pq.write_table(pa.table(again), tmp_path / f"parts/{number}.parquet")
        (folder := tmp_path / name).mkdir()
        report, events = ingest(card, folder, previous=before if name == "in_two" else None)
        counts.append((report["rows"], report["accepted"], report["reasons"]))
        before = events
    assert counts[0] == (3, 2, {"duplicate_row": 1})
    assert counts[1] == counts[2] == (6, 2, {"duplicate_event": 2, "duplicate_row": 2})
