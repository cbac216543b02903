"""The consumer of the event log: what shoppers did changes their histories at once, and what is trained on later.

A round moves what lies in Redis into segments, notes what follows from what is new, and does what was noted. A kill at
any moment loses nothing and doubles nothing; a part that fails is tried again, and keeps no other part from its work.
"""

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from events.consumer.attribution import UNTYPED, Identity
from events.consumer.delivery import Delivery
from events.consumer.erasure import LATE, Erasure
from events.consumer.metrics import ConsumerMetrics
from events.consumer.online import OnlineHistories
from events.consumer.reader import LogReader
from events.consumer.retention import Upkeep
from events.consumer.state import State, StateDamaged
from events.segments import SegmentSink, lines, segments
from events.stream import Stream, StreamId, split_id
from events.writer import LogUnavailable
from feature_repo.faults import Unavailable
from runtime.locks import try_lock

_logger = logging.getLogger(__name__)
POLL_SECONDS = 0.05
PAUSE_SECONDS = 0.5
"""After a failure."""
ERASE_SECONDS = 0.5
"""Between looks whether a deletion can be carried out."""
_FAULTS = (Unavailable, LogUnavailable, RedisError, sqlite3.OperationalError, OSError)
_BYTES_OF_AN_EVENT = 1_000


class Busy(RuntimeError):
    """Another consumer works on this log."""


class Consumer:
    """`with Consumer(...) as consumer: consumer.run(stopped)`; one at a time works on a log.

    Args:
        log: Root of the log; the consumer's own state lies in it too.
        served: Folder for the feature values that models were asked with (docs/contracts.md, "exposures").
        kinds: Types of outcomes that are interactions.
        identity: What the card says of who and what an event is.
        stream: Makes the Redis stream that is moved into the segments, told the latest entry that is in them; None
            where gateways write the segments themselves.
        flush_seconds: So often day partitions are written.

    Raises `Busy` on entering where another consumer holds the log.
    """

    def __init__(
        self,
        log: Path,
        served: Path,
        online: OnlineHistories,
        *,
        kinds: Collection[str],
        identity: Identity = UNTYPED,
        stream: Callable[[StreamId], Stream] | None = None,
        metrics: ConsumerMetrics | None = None,
        flush_seconds: float = 30.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._log, self._served, self._online, self._kinds = log, served, online, frozenset(kinds)
        self._identity, self._make_stream = identity, stream
        self._stream: Stream | None = None
        self._sink = SegmentSink(log)
        self._flush_seconds, self._clock = flush_seconds, clock
        self._flushed = self._asked = self._looked = time.monotonic()
        self._lag = 0
        self._emptied = datetime.min.replace(tzinfo=UTC)
        """When nothing was left in the stream that was older."""
        self.metrics = metrics or ConsumerMetrics()
        self.problems: dict[str, str] = {}
        """Parts that failed in the latest round, and why."""

    def __enter__(self) -> "Consumer":
        self._sink.open()
        self._lock = (self._log / "consumer.lock").open("w")
        if not try_lock(self._lock):
            self._lock.close()
            raise Busy(f"{self._log}: another consumer works on this log")
        try:
            self._state = state = self._opened()
        except BaseException:
            self._lock.close()
            raise
        present = {path.name for path in segments(self._log)}
        with state.transaction():
            state.drop_segments([name for name in state.segments() if name not in present])
        self._erasure = erasure = Erasure(self._log, self._served, state, self._online.forgotten)
        told: dict[str, Any] = {"metrics": self.metrics, "clock": self._clock}
        self._reader = LogReader(
            self._log, state, self._online.values, erasure, kinds=self._kinds, identity=self._identity, **told
        )
        self._delivery = Delivery(self._log, self._served, state, self._online, erasure, self._reader.damaged, **told)
        retention = self._online.retention
        self._upkeep = Upkeep(self._log, self._served, retention=retention, clock=self._clock)
        if self._make_stream is not None:
            self._stream = self._make_stream(max(state.stream_id(), _latest_in(self._log)))
        return self

    def _opened(self) -> State:
        """The state; where its file is damaged, or of another version, an empty one, which the log then fills."""
        path = self._log / "consumer.db"
        try:
            return State(path)
        except StateDamaged as fault:
            _logger.error("%s. It is made anew from the log", fault)
            self.metrics.failures.labels("state").inc()
            for name in ("", "-wal", "-shm"):
                path.with_name(path.name + name).unlink(missing_ok=True)
            return State(path)

    def __exit__(self, *exception: object) -> None:
        if self._stream is not None:
            self._stream.close()
        self._sink.close()
        self._state.close()
        self._lock.close()

    def run(self, stopped: Callable[[], bool]) -> None:
        """Work until `stopped`, and then once more to write down what was begun."""
        while not stopped():
            busy = self.round()
            if self.problems:
                time.sleep(PAUSE_SECONDS)
            elif not busy:
                time.sleep(POLL_SECONDS)
        self._sink.close()
        self.round(flush=True)

    def round(self, *, flush: bool = False) -> bool:
        """Do once what there is to do; whether there was anything new. `flush` writes partitions at once."""
        done = self._try("log", self._move) + self._try("histories", self._follow)
        if flush or time.monotonic() - self._flushed > self._flush_seconds:
            self._try("partitions", self._flush)
            self._try("upkeep", self._keep_up)
        if (deleted := self._erasure.outstanding()) is not None:
            self._try("erasure", lambda: self._erase(deleted))
        self._report()
        return done > 0

    def _try(self, part: str, work: Callable[[], int]) -> int:
        try:
            done = work()
        except _FAULTS as error:
            if self.problems.get(part) != str(error):
                _logger.warning("%s: %s; tried again until it goes", part, error)
            self.problems[part] = str(error)
            self.metrics.failures.labels(part).inc()
            return 0
        self.problems.pop(part, None)
        return done

    def _erase(self, deleted: datetime) -> int:
        """Bring what is of before the deletion to where it can be rewritten, and do that once all of it is there."""
        if time.monotonic() - self._looked < ERASE_SECONDS:
            return 0
        self._looked = time.monotonic()
        if self._stream is not None:
            if self._emptied <= deleted + LATE:
                return 0
            self._stream.trim(exactly=True)
        self._sink.close()
        self._flush()
        self._erasure.carry_out()
        return 0

    def _move(self) -> int:
        if self._stream is None:
            return 0
        began = datetime.now(UTC)
        moved = self._stream.move(self._keep, block_ms=int(1000 * POLL_SECONDS))
        if not moved:
            self._emptied = began
        self._sink.idle()
        return moved

    def _keep(self, moved: Sequence[bytes]) -> None:
        """On this disk before Redis lets go of it."""
        self._sink.write(moved)
        self._sink.sync()

    def _follow(self) -> int:
        self._online.refresh()
        if self._state.new:
            self._reader.rebuild()
            self._state.filled()
        read = self._reader.read()
        self._delivery.histories()
        self._delivery.impressions()
        return read

    def _flush(self) -> int:
        self._delivery.partitions()
        self._delivery.retire()
        self._flushed = time.monotonic()
        return 0

    def _keep_up(self) -> int:
        if self._erasure.outstanding() is None:
            self._upkeep.step()
        return 0

    def _report(self) -> None:
        waiting, oldest = self._reader.unread()
        behind = waiting // _BYTES_OF_AN_EVENT
        self.metrics.lag_events.set(behind + self._lag_of_stream())
        age = 0.0 if oldest is None else max(0.0, (self._clock() - oldest).total_seconds())
        self.metrics.lag_seconds.set(age)
        if not self.problems and oldest is None:
            self.metrics.success.set(time.time())

    def _lag_of_stream(self) -> int:
        """Asked once a second; while Redis is away the last answer stands, and the next round says that it is."""
        if self._stream is not None and time.monotonic() - self._asked > 1:
            self._asked = time.monotonic()
            with contextlib.suppress(RedisError):
                self._lag = self._stream.lag()
        return self._lag


def _latest_in(log: Path) -> StreamId:
    """The latest entry of a stream that is in the segments, read or not."""
    found = [ident for path in segments(log) for line in lines(path) if (ident := split_id(line.content)[0])]
    return max(found, default=(0, 0))
