"""The consumer's state made anew from the log: what was in it lies in the segments, or in the day partitions by now.

Everything is noted again; a history takes an event once, and an interaction that is in the partitions is not written
again.
"""

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from events.consumer.attribution import ATTRIBUTION
from events.partitions import UNREADABLE, files
from events.schema import to_line

RECENT = timedelta(minutes=10)
"""An outcome that was received longer ago than this and has no exposure was set aside."""
_ROWS = 2_000
_logger = logging.getLogger(__name__)


def lines_of_days(log: Path, now: datetime) -> Iterator[list[bytes]]:
    """Exposures of the days for which outcomes may still come, then the outcomes of these days, as lines of the log."""
    for table in ("exposures", "outcomes"):
        for rows in _rows(log / table, now - ATTRIBUTION - timedelta(days=1)):
            yield [to_line(table, _plain(row)).rstrip(b"\n") for row in rows]


def interactions_of_days(log: Path, now: datetime) -> set[str]:
    """Ids of the interactions of these days that are in the partitions."""
    since = now - ATTRIBUTION - timedelta(days=2)
    return {row["event_id"] for rows in _rows(log / "interactions", since, ["event_id"]) for row in rows}


def _rows(folder: Path, since: datetime, columns: list[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """A file that cannot be read is told of and passed over: what it holds is not known any more."""
    for day in sorted(folder.glob("day=*")):
        for path in files(day) if day.name >= f"day={since:%Y-%m-%d}" else ():
            try:
                for batch in pq.ParquetFile(path).iter_batches(_ROWS, columns=columns):
                    yield batch.to_pylist()
            except UNREADABLE as error:
                _logger.error("%s: cannot be read, its rows are not noted again: %s", path, error)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}
