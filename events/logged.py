"""Finds exposures in a log, in the day partitions and in the segments that no consumer has turned into them yet."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds

from events.schema import TABLES, Event, events
from events.segments import lines, segments
from events.stream import split_id

Exposure = dict[str, Any]
_SCHEMA = TABLES["exposures"]


def exposure(root: Path, request_id: str) -> Exposure | None:
    """The exposure of one request in the log below `root`, newest days first; None where it is not in it."""
    wanted = pc.field("request_id") == request_id
    for day in _days(root):
        found: list[Exposure] = ds.dataset(day, _SCHEMA, format="parquet").to_table(filter=wanted).to_pylist()
        if found:
            return found[0]
    return next((row for row in _in_segments(root) if row["request_id"] == request_id), None)


def latest(root: Path, count: int) -> list[Exposure]:
    """The latest `count` exposures, newest first, each once."""
    found = {row["request_id"]: row for row in _in_segments(root)}
    for day in _days(root):
        if len(found) >= count:
            break
        for row in ds.dataset(day, _SCHEMA, format="parquet").to_table().to_pylist():
            found.setdefault(row["request_id"], row)
    return sorted(found.values(), key=lambda row: (row["time"], row["request_id"]), reverse=True)[:count]


def rewarded(root: Path, event_type: str) -> set[tuple[str, str]]:
    """Request and item of every outcome of a type that names its item."""
    days = sorted((root / "outcomes").glob("day=*"))
    tables = [ds.dataset(day, TABLES["outcomes"], format="parquet").to_table().to_pylist() for day in days]
    rows = [*(row for table in tables for row in table), *_in_segments(root, "outcomes")]
    return {(row["request_id"], row["item_id"]) for row in rows if row["event_type"] == event_type and row["item_id"]}


def _days(root: Path) -> list[Path]:
    return sorted((root / "exposures").glob("day=*"), reverse=True)


def _in_segments(root: Path, table: str = "exposures") -> Iterator[dict[str, Any]]:
    for path in segments(root):
        for line in lines(path):
            for _, found in events(split_id(line.content)[1]):  # what is none the consumer sets aside
                if isinstance(found, Event) and found.table == table:
                    yield found.row
