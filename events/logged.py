"""Finds exposures in a log, in the day partitions and in the segments that no consumer has turned into them yet."""

from collections.abc import Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from events.schema import TABLES, LoggedEvent, events
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


def explored(root: Path, count: int) -> list[Exposure]:
    """Up to `count` exposures that left a slot to chance, each once, those of the newest days; of nobody who tests or
    is held out. Others are not held in memory: a day of a large shop has millions."""
    fresh = (row for row in _in_segments(root) if any(draw is not None for draw in row["draws"] or ()))
    found: dict[str, Exposure] = {}
    for row in chain(fresh, chain.from_iterable(map(_drawn, _days(root)))):
        if len(found) == count:
            break
        if not (row["override"] or row["holdout"]):
            found.setdefault(row["request_id"], row)
    return list(found.values())


def rewarded(root: Path, event_type: str, requests: Collection[str]) -> set[tuple[str, str]]:
    """Request and item of every outcome of a type that names its item, to one of `requests`."""
    asked, wanted = set(requests), pa.array(requests, pa.string())
    chosen = (
        (pc.field("event_type") == event_type) & pc.field("item_id").is_valid() & pc.field("request_id").isin(wanted)
    )
    found = set()
    for day in sorted((root / "outcomes").glob("day=*")):
        table = ds.dataset(day, TABLES["outcomes"], format="parquet").to_table(["request_id", "item_id"], chosen)
        found |= {(row["request_id"], row["item_id"]) for row in table.to_pylist()}
    fresh = (row for row in _in_segments(root, "outcomes") if row["request_id"] in asked)
    return found | {
        (row["request_id"], row["item_id"]) for row in fresh if row["event_type"] == event_type and row["item_id"]
    }


def _drawn(day: Path) -> Iterator[Exposure]:
    """Of the partition of a day, batch by batch."""
    for batch in ds.dataset(day, _SCHEMA, format="parquet").to_batches(batch_size=4096, batch_readahead=1):
        draws = batch["draws"]
        rows = pc.list_parent_indices(draws).filter(pc.list_flatten(draws).is_valid())
        yield from batch.take(rows.unique()).to_pylist()


def _days(root: Path) -> list[Path]:
    return sorted((root / "exposures").glob("day=*"), reverse=True)


def _in_segments(root: Path, table: str = "exposures") -> Iterator[dict[str, Any]]:
    for path in segments(root):
        for line in lines(path):
            for _, found in events(split_id(line.content)[1]):  # what is none the consumer sets aside
                if isinstance(found, LoggedEvent) and found.table == table:
                    yield found.row
