"""Does what the reader noted: interactions go to online histories, everything to day partitions.

Each piece may be done twice with the same effect and is struck off once it is done.
"""

import json
import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from events.consumer.erasure import Erasure
from events.consumer.histories import UserEvent
from events.consumer.metrics import ConsumerMetrics
from events.consumer.noting import set_aside
from events.consumer.online import OnlineHistories
from events.consumer.served_features import schema as served_schema
from events.consumer.served_features import served
from events.consumer.state import State
from events.partitions import write_days
from events.schema import (
    MOST_DAYS,
    TABLES,
    DamagedEvent,
    LoggedEvent,
    events,
)
from events.segments import (
    Line,
    abandoned,
    lines,
    segments,
    tail,
)
from events.stream import split_id
from feature_repo.forgotten import microseconds
from feature_repo.history import EVENT_TYPE, HistoryRecord

AT_ONCE = 2_000
_logger = logging.getLogger(__name__)
_TIME, _TEXT = pa.timestamp("us", tz="UTC"), pa.string()
NOTED = {
    "interactions": pa.schema(
        {
            "schema": pa.int32(), "event_id": _TEXT, "user_id": _TEXT, "item_id": _TEXT, "time": _TIME,
            "received": _TIME, "event_type": _TEXT, "request_id": _TEXT, "model_version": _TEXT,
            "position": pa.int64(), "features": _TEXT,
        }
    ),
    "set_aside": pa.schema({"time": _TIME, "position": pa.int64(), "reason": _TEXT, "line": _TEXT}),
}  # fmt: skip
"""Tables whose rows are noted by the reader, beside those of the log itself."""


class Delivery:
    """Of what `state` notes: to the store `online`, to partitions below `log`, and the values served below `values`.

    `damaged` are the positions of the damaged lines that the reader has set aside; it forgets those of what is retired.
    """

    def __init__(
        self,
        log: Path,
        values: Path,
        state: State,
        online: OnlineHistories,
        erasure: Erasure,
        damaged: set[int],
        *,
        metrics: ConsumerMetrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._damaged = damaged
        self._log, self._values, self._state, self._online = log, values, state, online
        self._erasure, self._metrics, self._clock = erasure, metrics, clock

    def histories(self) -> int:
        """Write every noted interaction to its user's history online. Raises `Unavailable`; the rest stays noted."""
        done = 0
        while noted := self._state.histories(AT_ONCE):
            written = self._online.writer.append(UserEvent(user, _record(row)) for _, user, row in noted)
            with self._state.transaction():
                self._state.histories_written(number for number, _, _ in noted)
                self._metrics.set_aside.labels("refused").inc(len(written.refused))
                for event, reason in written.refused:
                    line = json.dumps({"user_id": event.user_id, **event.record._asdict()}, default=str)
                    set_aside(self._state, event.record.position, reason, line, self._clock())
            now = self._clock()
            for _, _, row in noted:
                self._metrics.delay.observe((now - datetime.fromisoformat(row["received"])).total_seconds())
            for result, number in {
                "added": written.added,
                "known": written.known,
                "forgotten": written.forgotten,
                "refused": len(written.refused),
            }.items():
                self._metrics.interactions.labels(result).inc(number)
            done += len(noted)
        return done

    def impressions(self) -> None:
        """Tell the store what has changed of what shoppers were shown. Raises `Unavailable`; the rest stays noted."""
        noted, since = self._state.impressions, microseconds(self._clock() - timedelta(days=MOST_DAYS))
        while users := noted.untold(AT_ONCE):
            self._online.writer.tell_impressions(users, lambda user: noted.of(user, since, self._erasure.covered))
            with self._state.transaction():
                noted.delivered(users)

    def partitions(self) -> None:
        """Write noted rows to their partitions. Raises `OSError`; what is left stays noted."""
        self._state.open_batch()
        for number, tables in self._state.batches():
            for table, rows in tables.items():
                name = f"{number:08d}-{self._state.name}"
                self._write(self._log / table, name, table, NOTED[table], map(_timed, rows))
            self._state.close_batch(number)

    def retire(self) -> None:
        """Turn segments that were read to their end, and that nobody writes any more, into partitions."""
        for path in segments(self._log):
            with abandoned(path) as free:
                size, read = path.stat().st_size, self._state.offset(path.name)
                if not free or size > read:
                    continue
                if size < read:
                    self._tell_cut(path, size, read)
                self._retire(path)
                self.partitions()  # what was found damaged: with the segment gone, the state alone would know of it
                path.unlink()
            with self._state.transaction():
                self._state.drop_segments([path.name])

    def _retire(self, path: Path) -> None:
        found: dict[str, list[dict[str, Any]]] = {}
        whole = list(lines(path))
        rest = tail(path, max((line.end for line in whole), default=0))
        for line in [*whole, *([rest] if rest is not None else [])]:
            for _, each in events(split_id(line.content)[1]):
                if isinstance(each, LoggedEvent):
                    found.setdefault(each.table, []).append(each.row)
                elif isinstance(each, DamagedEvent):  # the reader has set aside the others that are none
                    self._put_aside(path, line, each)
        self._leave_out(found)
        for table, rows in found.items():
            self._write(self._log / table, path.stem, table, TABLES[table], ((row["time"], row) for row in rows))
        kinds = self._online.kinds
        used = served(found.get("exposures", ()), kinds)
        self._write(self._values, path.stem, "served", served_schema(kinds), used)

    def _tell_cut(self, path: Path, size: int, read: int) -> None:
        """A segment that was cut after it was read: what followed from it has its place, the rows cut off are lost."""
        why = f"damaged: {read - size:,} bytes of {path.name} are gone since they were read"
        _logger.error("%s, offset %d: %s", path, size, why)
        self._metrics.set_aside.labels("damaged").inc()
        with self._state.transaction():
            set_aside(self._state, int(path.name.partition("-")[0]) + size, why, "", self._clock())

    def _put_aside(self, path: Path, line: Line, fault: DamagedEvent) -> None:
        """A line that was damaged after it was read: what followed from it has its place, its row is lost."""
        if line.position in self._damaged:
            self._damaged.remove(line.position)
            return
        start = int(path.name.partition("-")[0])
        _logger.error("%s, offset %d: set aside, damaged since it was read: %s", path, line.position - start, fault)
        self._metrics.set_aside.labels("damaged").inc()
        if not self._erasure.covers_line(line.content, line.position):
            with self._state.transaction():
                text = line.content.decode(errors="replace")
                set_aside(self._state, line.position, f"no event: {fault}", text, self._clock())

    def _leave_out(self, found: dict[str, list[dict[str, Any]]]) -> None:
        """Take the rows of deleted users out. Their requests are remembered: outcomes may lie elsewhere."""
        exposures = found.get("exposures", [])
        if gone := {row["request_id"] for row in exposures if self._erasure.covers_exposure(row)}:
            with self._state.transaction():
                self._state.add_erased(gone, self._clock())
        for table, rows in found.items():
            found[table] = [row for row in rows if not self._state.is_erased(row["request_id"])]

    def _write(
        self,
        folder: Path,
        name: str,
        table: str,
        schema: pa.Schema,
        rows: Iterable[tuple[datetime, dict[str, Any]]],
    ) -> None:
        self._metrics.rows.labels(table).inc(write_days(folder, name, schema, rows))


def _record(row: dict[str, Any]) -> HistoryRecord:
    time = microseconds(datetime.fromisoformat(row["time"]))
    # Of which kind it is the store keeps where histories have several.
    values = {**row["features"], EVENT_TYPE: row["event_type"]}
    return HistoryRecord(row["event_id"], row["item_id"], time, values, row["position"])


def _timed(row: dict[str, Any]) -> tuple[datetime, dict[str, Any]]:
    """A noted row, whose JSON knows no times and no objects within a column."""
    times: dict[str, Any] = {name: datetime.fromisoformat(row[name]) for name in ("time", "received") if name in row}
    features = {"features": json.dumps(row["features"])} if "features" in row else {}
    return times["time"], {**row, **times, **features}
