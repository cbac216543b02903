"""Day partitions: rows by UTC day, in Parquet files that appear whole and can be written again.

A file that stands for others (`events/compaction.py`) says so in its own metadata, so that it takes their place
in the moment in which it appears.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from events.durable import appearing, sync_folder

MERGED = "merged-"
"""How the name of a file begins that stands for others."""
INSTEAD_OF, DIGEST = b"heterrec.instead_of", b"heterrec.digest"
"""Metadata of such a file: the names of the others, and what `digest` said of the day before."""
UNREADABLE = (pa.ArrowException, OSError)
"""What reading a damaged file raises; see `of_the_disk`."""
_logger = logging.getLogger(__name__)


def write_days(folder: Path, name: str, schema: pa.Schema, rows: Iterable[tuple[datetime, dict[str, Any]]]) -> int:
    """Write each row into `folder/day=.../<name>.parquet` of its moment, durable when this returns; how many rows.

    The same name and rows make the same files: what a killed process began is done again and doubles nothing.
    """
    days: dict[str, list[dict[str, Any]]] = {}
    for moment, row in rows:
        days.setdefault(f"day={moment.astimezone(UTC):%Y-%m-%d}", []).append(row)
    for day, of_day in days.items():
        (folder / day).mkdir(parents=True, exist_ok=True)
        write(folder / day / f"{name}.parquet", pa.Table.from_pylist(of_day, schema=schema))
        sync_folder(folder)
    return sum(map(len, days.values()))


def write(path: Path, table: pa.Table) -> None:
    """Let the file at `path` hold `table`, in one moment and durably: a reader has the file before or this one."""
    with appearing(path) as file:
        pq.write_table(table, file)


def files(day: Path) -> list[Path]:
    """The files of a day that hold its rows, each row once: without those that a merged file stands for."""
    present = sorted(day.glob("*.parquet"))
    gone = superseded(present)
    return [path for path in present if path.name not in gone]


def merged_name(names: bytes) -> str:
    """Of the file that stands for others, whose names are given as its metadata has them."""
    return f"{MERGED}{hashlib.sha256(names).hexdigest()[:16]}.parquet"


def superseded(present: Iterable[Path]) -> set[str]:
    """Names of files of one day that another one of them stands for; a damaged one stands for none, and is told."""
    found: set[str] = set()
    for path in present:
        if path.name.startswith(MERGED):
            try:
                names = _said(path, INSTEAD_OF) or b""
                if merged_name(names) != path.name:
                    raise ValueError("it does not say what it stands for")
                found.update(json.loads(names))
            except (ValueError, *UNREADABLE) as error:
                if of_the_disk(error):
                    raise
                _logger.error("%s: is damaged, the files that it stands for count where they are: %s", path, error)
    return found


def of_the_disk(error: Exception) -> bool:
    """Whether it is no fault of the file's content: Arrow tells of some damage as of an `OSError`, without a number."""
    return isinstance(error, OSError) and error.errno is not None


def digest(day: Sequence[Path]) -> str:
    """What changes whenever rows come to `files` of a day or go from it, and not when these files are merged."""
    if len(day) == 1 and day[0].name.startswith(MERGED) and (known := _said(day[0], DIGEST)):
        return known.decode()
    found = {}
    for path in day:
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _said(path: Path, key: bytes) -> bytes | None:
    said: bytes | None = (pq.read_metadata(path).metadata or {}).get(key)
    return said
