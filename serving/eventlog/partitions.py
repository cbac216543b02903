"""Day partitions: rows by UTC day, in Parquet files that appear whole and can be written again."""

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serving.eventlog.segments import sync_folder


def write_days(folder: Path, name: str, schema: pa.Schema, rows: Iterable[tuple[datetime, dict[str, Any]]]) -> int:
    """Write each row into `folder/day=.../<name>.parquet` of its moment, durable when this returns; how many rows.

    The same name and rows make the same files: what a killed process began is done again and doubles nothing.
    """
    days: dict[str, list[dict[str, Any]]] = {}
    for moment, row in rows:
        days.setdefault(f"day={moment.astimezone(UTC):%Y-%m-%d}", []).append(row)
    for day, of_day in days.items():
        (folder / day).mkdir(parents=True, exist_ok=True)
        partial = folder / day / f".{name}.partial"
        with partial.open("wb") as file:
            pq.write_table(pa.Table.from_pylist(of_day, schema=schema), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, folder / day / f"{name}.parquet")
        sync_folder(folder / day)
        sync_folder(folder)
    return sum(map(len, days.values()))
