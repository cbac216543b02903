"""The durable event log: what is acknowledged is on disk, and reaches the Parquet partitions of docs/contracts.md once.

A line of JSON an event goes into a segment, flushed to disk before the caller hears of it; callers that wait at the
same time share one flush. A segment that nobody writes any more, also one that a killed gateway left, becomes Parquet.
"""

import asyncio
import fcntl
import json
import os
import queue
import secrets
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = 1
_TIME = pa.timestamp("us", tz="UTC")
_TEXT, _REAL, _COUNT = pa.string(), pa.float64(), pa.int32()
TABLES = {
    "exposures": pa.schema(
        {
            "schema": _COUNT, "request_id": _TEXT, "user_id": _TEXT, "variant": _TEXT, "model_version": _TEXT,
            "stage": _COUNT, "weight": _REAL, "salt": _TEXT, "time": _TIME, "latency_ms": _REAL, "status": _TEXT,
            "n_items": _COUNT, "items": pa.list_(_TEXT), "scores": pa.list_(_REAL), "request": _TEXT, "context": _TEXT,
        }
    ),
    "outcomes": pa.schema(
        {"schema": _COUNT, "request_id": _TEXT, "event_type": _TEXT, "item_id": _TEXT, "time": _TIME}
    ),
}  # fmt: skip


class LogUnavailable(RuntimeError):
    """The event could not be written to disk; it is not in the log."""


class EventLog:
    """`with EventLog(root) as log: await log.append("outcomes", {...})`.

    Several processes may share `root`: each writes segments of its own, which bear a lock while it lives.

    Args:
        roll_seconds: How long a segment is written before it becomes Parquet, where there are events.
    """

    def __init__(self, root: Path, *, roll_seconds: float = 30.0) -> None:
        self.root = root
        self.problem: str | None = None
        """Why events are not written, or not turned into Parquet; None while all is well."""
        self._roll_seconds = roll_seconds
        self._queue: queue.SimpleQueue[tuple[bytes, Future[None]] | None] = queue.SimpleQueue()
        self._segment: BinaryIO | None = None
        self._began = 0.0
        self._thread = threading.Thread(target=self._write_all, name="event-log")

    def __enter__(self) -> "EventLog":
        (self.root / "segments").mkdir(parents=True, exist_ok=True)
        self._compact()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._queue.put(None)
        self._thread.join()

    async def append(self, table: str, event: dict[str, Any]) -> None:
        """Return once the event is on disk. `time` is an ISO 8601 string. Raises `LogUnavailable` where it is not."""
        line = json.dumps({"table": table, "schema": SCHEMA, **event}, separators=(",", ":")).encode() + b"\n"
        written: Future[None] = Future()
        self._queue.put((line, written))
        await asyncio.wrap_future(written)

    def _write_all(self) -> None:
        open_ = True
        while open_:
            batch: list[tuple[bytes, Future[None]]] = []
            try:
                entry = self._queue.get(timeout=1.0)
                while entry is not None:
                    entry[1].set_running_or_notify_cancel()  # written all the same: from here on it cannot be cancelled
                    batch.append(entry)
                    entry = self._queue.get_nowait()
                open_ = False
            except queue.Empty:
                pass
            if batch:
                self._flush(batch)
            if self._segment is not None and (not open_ or time.monotonic() - self._began > self._roll_seconds):
                self._close()
                self._compact()

    def _compact(self) -> None:
        """Segments stay where they are when this fails, and the next time tries them again."""
        try:
            compact(self.root)
            self.problem = None
        except (OSError, ValueError) as error:
            self.problem = str(error)

    def _flush(self, batch: list[tuple[bytes, Future[None]]]) -> None:
        try:
            segment = self._segment or self._open()
            segment.write(b"".join(line for line, _ in batch))
            os.fsync(segment.fileno())
        except OSError as error:
            # A torn line may be at the end of this segment: nothing may be written behind it.
            self._close()
            self.problem = f"{self.root}: {error}"
            for _, written in batch:
                if not written.cancelled():
                    written.set_exception(LogUnavailable(self.problem))
            return
        for _, written in batch:
            if not written.cancelled():
                written.set_result(None)

    def _open(self) -> BinaryIO:
        path = self.root / "segments" / f"{time.time_ns()}-{secrets.token_hex(4)}.jsonl"
        self._segment = path.open("wb", buffering=0)
        fcntl.flock(self._segment, fcntl.LOCK_EX)
        _sync_folder(path.parent)
        self._began = time.monotonic()
        return self._segment

    def _close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None


def compact(root: Path) -> int:
    """Turn every segment that nobody writes into Parquet; how many there were.

    The Parquet file bears the segment's name and is complete before the segment goes, so that being killed in between
    makes the same file again and loses or doubles nothing. Raises `ValueError` for a segment that is damaged within.
    """
    done = 0
    for path in sorted((root / "segments").glob("*.jsonl")):
        try:
            with path.open("rb") as segment:
                fcntl.flock(segment, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for table, rows in _by_table(path, segment.read()).items():
                    _write_days(root / table, path.stem, TABLES[table], rows)
                path.unlink()
        except (BlockingIOError, FileNotFoundError):
            continue  # somebody writes it, or compacted it first
        done += 1
    return done


def _by_table(path: Path, content: bytes) -> dict[str, list[dict[str, Any]]]:
    """The rows of a segment by table. What follows the last line break was never acknowledged."""
    found: dict[str, list[dict[str, Any]]] = {}
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        try:
            row = json.loads(line)
            row["time"] = datetime.fromisoformat(row["time"])
            found.setdefault(row.pop("table"), []).append(row)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: line {number} is no event ({error}). Repair or move the file away.") from error
    return found


def _write_days(folder: Path, name: str, schema: pa.Schema, rows: Iterable[dict[str, Any]]) -> None:
    days: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        days.setdefault(f"day={row['time']:%Y-%m-%d}", []).append(row)
    for day, of_day in days.items():
        (folder / day).mkdir(parents=True, exist_ok=True)
        partial = folder / day / f".{name}.partial"
        with partial.open("wb") as file:
            pq.write_table(pa.Table.from_pylist(of_day, schema=schema), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, folder / day / f"{name}.parquet")
        _sync_folder(folder / day)


def _sync_folder(folder: Path) -> None:
    """A new name is on disk only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
