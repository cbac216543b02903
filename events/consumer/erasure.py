"""Deleted users leave the event log: the consumer obeys the list of deletions, and says when nothing is left.

From the moment at which a deletion is on the list nothing of before it is noted any more. Once the segments and the
Redis stream of that time are gone, its state and the day partitions are rewritten without the user, and `erased.json`
says so. All of it may be killed and is done again until then.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from events.consumer.state import State, moment
from events.durable import appearing
from events.partitions import (
    DIGEST,
    UNREADABLE,
    of_the_disk,
    write,
)
from events.segments import segments
from feature_repo.forgotten import Forgotten, digest, microseconds
from runtime import checksum
from runtime.checksum import Damaged, unseal

NAME = "erased.json"
"""In the root of a log: digest of a user to the moment (microseconds since 1970) up to which nothing is left of it."""
LATE = timedelta(seconds=5)
"""So much later than its own time an event may be written: a segment or a stream is of that time up to then."""
_logger = logging.getLogger(__name__)


class Erasure:
    """Of the users on the list `forgotten` from the log below `log`, the values `served`, and `state`."""

    def __init__(self, log: Path, served: Path, state: State, forgotten: Forgotten | None) -> None:
        self._log, self._served, self._state, self._forgotten = log, served, state, forgotten
        self._done = erased(log)
        self._clean: dict[str, int] | None = None
        """The list that was last found carried out."""

    def outstanding(self) -> datetime | None:
        """The latest moment of a deletion that is on the list and not carried out; None where there is none."""
        until = self._list()
        if until is not self._clean:  # the same object as long as the list is the same
            left = [at for user, at in until.items() if self._done.get(user, -1) < at]
            if left:
                return moment(max(left))
            self._clean = until
        return None

    def covers(self, user_id: str, time: datetime) -> bool:
        """Whether what a user did at that time was deleted."""
        return self._forgotten is not None and self._forgotten.covers(user_id, microseconds(time))

    def covers_exposure(self, row: dict[str, Any]) -> bool:
        """Whether an exposure (a row of the log) is of before its user's deletion, or was answered from what was."""
        until = self._list()
        if not until or (last := until.get(digest(row["user_id"]))) is None:
            return False
        history = json.loads(row.get("request") or "{}").get("history", [])
        # A request may have read the history before it was deleted, and be logged after it.
        times = [row["time"], *(datetime.fromisoformat(event["event_time"]) for event in history)]
        return any(microseconds(time) <= last for time in times)

    def covers_line(self, line: bytes | str, position: int) -> bool:
        """Whether a line that was set aside is of a deleted user, or cannot be told to be of another one."""
        until = self._list()
        if not until:
            return False
        written = position // 1000
        content = line.encode() if isinstance(line, str) else line
        try:
            row = json.loads(content if content.startswith(b"{") else unseal(content))
            user, request = row.get("user_id"), row.get("request_id")
        except (ValueError, AttributeError, Damaged):
            return written <= max(until.values()) + LATE // timedelta(microseconds=1)
        if isinstance(request, str) and self._state.is_erased(request):
            return True
        with suppress(KeyError, TypeError, ValueError):
            written = microseconds(datetime.fromisoformat(row["time"]))
        return isinstance(user, str) and written <= until.get(digest(user), -1)

    def carry_out(self) -> None:
        """Rewrite state and partitions without the deleted users, where no segment of their time is left.

        Blocks while it does. Raises `OSError`; what was done is done again the next time.
        """
        latest = self.outstanding()
        if latest is None or self._any_of(latest):
            return
        until = dict(self._list())
        with self._state.transaction():
            self._state.add_erased(self._requests(), datetime.now(UTC))
        self._state.purge(covers=self.covered, line=self.covers_line, row=self._row_gone)
        requests = pa.array(sorted(self._state.erased()), pa.string())
        # Exposures first: an outcome without one counts for nothing, while one without its outcome counts as a failure.
        folders = [self._log / name for name in ("exposures", "outcomes", "interactions", "set_aside")]
        for path in (path for folder in (*folders, self._served) for path in _owned(folder)):
            with _telling(path):
                self._rewrite(path, requests)
        with appearing(self._log / NAME) as file:
            file.write(checksum.to_file(until))
        newly = sum(self._done.get(user, -1) < at for user, at in until.items())
        _logger.warning("%s: nothing is left of %d deleted users", self._log, newly)
        self._done = until

    def _list(self) -> dict[str, int]:
        return {} if self._forgotten is None else self._forgotten.until()

    def _any_of(self, latest: datetime) -> bool:
        """Whether a segment is left that may hold events of up to `latest`."""
        began = [int(path.name.partition("-")[0]) // 1000 for path in segments(self._log)]
        return any(moment <= microseconds(latest + LATE) for moment in began)

    def _requests(self) -> set[str]:
        """Requests of the deleted, in the partitions."""
        found: set[str] = set()
        for path in _owned(self._log / "exposures"):
            with _telling(path):
                if pc.any(self._is_deleted(_read(path, {"user_id"}))).as_py():
                    rows = _read(path, {"request_id", "user_id", "time", "request"})
                    deleted = rows.filter(self._is_deleted(rows)).to_pylist()
                    found.update(row["request_id"] for row in deleted if self.covers_exposure(row))
        return found

    def _is_deleted(self, table: pa.Table) -> pa.ChunkedArray:
        """Of each row whether its user is on the list at all."""
        until = self._list()
        users = [user for user in table["user_id"].unique().to_pylist() if user is not None and digest(user) in until]
        return pc.is_in(table["user_id"], value_set=pa.array(users, pa.string()))

    def covered(self, user_id: str, time: int) -> bool:
        """`covers` of microseconds since 1970."""
        return self._forgotten is not None and self._forgotten.covers(user_id, time)

    def _row_gone(self, table: str, row: dict[str, Any]) -> bool:
        if table == "set_aside":
            return self.covers_line(row["line"], row["position"])
        return self._state.is_erased(row["request_id"]) or self.covers(
            row["user_id"], datetime.fromisoformat(row["time"])
        )

    def _rewrite(self, path: Path, requests: pa.Array) -> None:
        """A file of which no row is left stays, without rows: a day that is gone would look like a loss to ingest."""
        keys = _read(path, {"user_id", "request_id", "time", "event_time", "line", "position"})
        if "line" in keys.column_names:
            lines = zip(keys["line"].to_pylist(), keys["position"].to_pylist(), strict=True)
            gone = pa.array([self.covers_line(line, position) for line, position in lines], pa.bool_())
        else:
            gone = pc.is_in(keys["request_id"], value_set=requests)
            if "user_id" in keys.column_names:
                gone = pc.or_(gone, self._covers_rows(keys))
        if pc.any(gone).as_py():
            table = pq.ParquetFile(path).read()
            # What it says of the day's content holds no more.
            metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != DIGEST}
            write(path, table.filter(pc.invert(gone)).replace_schema_metadata(metadata))

    def _covers_rows(self, keys: pa.Table) -> pa.Array:
        time = "event_time" if "event_time" in keys.column_names else "time"
        deleted = self._is_deleted(keys).to_pylist()
        rows = zip(deleted, keys["user_id"], keys[time], strict=True)
        return pa.array([each and self.covers(user.as_py(), at.as_py()) for each, user, at in rows], pa.bool_())


def erased(log: Path) -> dict[str, int]:
    """Who has left the log below `log`: digest of the user's id, and up to when nothing is left of it.

    A damaged file says nothing: all deletions are then carried out again, and it is written anew.
    """
    try:
        return checksum.of_file(log / NAME) or {}
    except checksum.Damaged as fault:
        _logger.error("%s; the deletions are carried out again", fault)
        return {}


def _owned(folder: Path) -> Iterable[Path]:
    """The Parquet files that the consumer wrote below `folder`; what a killed one left half-written is removed."""
    for partial in folder.glob("day=*/.*.partial"):
        partial.unlink()
    return sorted(folder.glob("day=*/*.parquet"))


@contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        if of_the_disk(error):
            raise
        raise OSError(f"{path}: cannot be read for deleted users ({error}). Restore or remove the file.") from error


def _read(path: Path, columns: set[str]) -> pa.Table:
    """Those of the columns that the file has."""
    file = pq.ParquetFile(path)
    return file.read([name for name in file.schema_arrow.names if name in columns])
