"""Reads what is new in the log's segments, and notes what follows from it together with how far was read."""

import logging
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Mapping,
)
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from events.consumer.attribution import (
    ATTRIBUTION,
    Identity,
)
from events.consumer.erasure import Erasure
from events.consumer.metrics import ConsumerMetrics
from events.consumer.noting import Noting
from events.consumer.rebuild import RECENT, interactions_of_days, lines_of_days
from events.consumer.state import State, Waiting
from events.schema import (
    NoEvent,
    of_line,
)
from events.segments import (
    Line,
    abandoned,
    lines,
    segments,
    tail,
)
from events.stream import StreamId, split_id
from feature_repo.forgotten import microseconds

REFUSED = ("nobody", "no_item", "not_shown", "time", "too_many")
"""Kinds of outcomes that have an exposure, and that nothing follows from."""
BYTES_AT_ONCE = 4_000_000
_logger = logging.getLogger(__name__)
_FORGET_EVERY = timedelta(minutes=10)
_ERASED_LONGER = timedelta(days=1)
"""So much longer than its outcomes may come it is remembered that a request was of a deleted user."""

Values = Callable[[Iterable[str]], dict[str, dict[str, Any]]]


class LogReader:
    """Of the log below `root`. Outcomes of the types `kinds` are interactions; `values` are those of an item now."""

    def __init__(
        self,
        root: Path,
        state: State,
        values: Values,
        erasure: Erasure,
        *,
        kinds: Collection[str],
        identity: Identity,
        metrics: ConsumerMetrics,
        clock: Callable[[], datetime],
    ) -> None:
        self._root, self._state, self._values, self._erasure = root, state, values, erasure
        self._kinds, self._metrics, self._clock = kinds, metrics, clock
        self._identity = identity
        self.damaged: set[int] = set()
        """Positions of the damaged lines that were set aside since it was started."""
        self._forgot = datetime.min.replace(tzinfo=UTC)

    def read(self) -> int:
        """Note what follows from the lines that are new, up to about `BYTES_AT_ONCE`; how many they were.

        Raises `Unavailable` where the online store cannot be asked; then nothing was noted.
        """
        return self._read()

    def _read(self, known: Collection[str] = ()) -> int:
        """`known` are interactions that are in the partitions already."""
        found, ends, latest = self._new_lines()
        waiting = self._state.waiting()
        self._metrics.waiting.set(len(waiting))
        if not found and not waiting:
            return 0
        self._note(found, waiting, ends, latest, known=known)
        return len(found)

    def rebuild(self) -> None:
        """Note again what follows from the log: the state was lost.

        First its days, then the segments that are there: an interaction is in its partition within seconds, while its
        outcome is in a segment for half a minute.

        Raises `Unavailable` where the online store cannot be asked; it may be done again.
        """
        now = self._clock()
        known = interactions_of_days(self._root, now)
        for content in lines_of_days(self._root, now):
            found = [Line(_position(line), 0, line) for line in content if self._is_open(line, now)]
            self._note(found, [], {}, None, known=known)
        there = {path.name: path.stat().st_size for path in segments(self._root)}
        while self._read(known) and any(self._state.offset(name) < size for name, size in there.items()):
            pass

    def _is_open(self, line: bytes, now: datetime) -> bool:
        """Whether something may follow from it again: an outcome without its exposure was set aside long ago."""
        table, row = of_line(line)
        late = (row.get("received") or row["time"]) < now - RECENT
        return table == "exposures" or not late or self._state.exposure(row["request_id"]) is not None

    def _note(
        self,
        found: Iterable[Line],
        waiting: Iterable[Waiting],
        ends: Mapping[str, int],
        latest: StreamId | None,
        *,
        known: Collection[str] = (),
    ) -> None:
        noting = Noting(self._state, self._erasure, self._kinds, self._identity, self._clock(), known)
        for line in found:
            noting.take(line)
        noting.join(waiting)
        values = self._values({each.item_id for each in noting.interactions})
        with self._state.transaction():
            noting.write(values)
            for name, end in ends.items():
                self._state.advance(name, end)
            if latest is not None:
                self._state.set_stream_id(latest)
            self._forget()
        for table, number in noting.counts.items():
            self._metrics.events.labels(table).inc(number)
        self._metrics.interactions.labels("unmatched").inc(noting.unmatched)
        self._metrics.interactions.labels("forgotten").inc(noting.forgotten)
        self._metrics.interactions.labels("repeated").inc(noting.repeated)
        self._metrics.interactions.labels("refused").inc(
            sum(number for why, number in noting.reasons.items() if why in REFUSED)
        )
        self._metrics.clocks.inc(noting.early)
        for why, number in noting.reasons.items():
            self._metrics.set_aside.labels(why).inc(number)
        self._tell_damaged(noting.damaged)
        self.damaged.update(position for position, _ in noting.damaged)

    def unread(self) -> tuple[int, datetime | None]:
        """Bytes that were not read yet, and when the first of their events happened."""
        size, oldest = 0, None
        for path in segments(self._root):
            start = self._state.offset(path.name)
            size += max(0, path.stat().st_size - start)  # one that was cut has nothing unread
            if (line := next(lines(path, start, most=1), None)) is not None:
                try:
                    row = of_line(split_id(line.content)[1]).row
                except NoEvent:
                    continue
                moment = row.get("received") or row["time"]
                oldest = moment if oldest is None else min(oldest, moment)
        return size, oldest

    def _torn(self, path: Path, start: int) -> Line | None:
        """What an ended writer left behind the last line break."""
        if path.stat().st_size <= start:
            return None
        with abandoned(path) as free:
            return tail(path, start) if free else None

    def _new_lines(self) -> tuple[list[Line], dict[str, int], StreamId | None]:
        """The lines without their stream ids, where each segment was read to, and the latest stream id."""
        found: list[Line] = []
        ends: dict[str, int] = {}
        latest, left = None, BYTES_AT_ONCE
        for path in segments(self._root):
            start = self._state.offset(path.name)
            if left <= 0 or path.stat().st_size <= start:
                continue
            for line in lines(path, start, most=left):
                ident, content = split_id(line.content)
                latest = latest if ident is None else max(ident, latest or ident)
                found.append(line._replace(content=content))
                ends[path.name] = line.end
                left -= len(line.content)
            if (rest := self._torn(path, ends.get(path.name, start))) is not None:
                found.append(rest)
                ends[path.name] = rest.end
        return found, ends, latest

    def _tell_damaged(self, damaged: Iterable[tuple[int, str]]) -> None:
        for position, reason in damaged:
            for path in reversed(segments(self._root)):
                if (start := int(path.name.partition("-")[0])) <= position:
                    _logger.error("%s, offset %d: set aside: %s", path, position - start, reason)
                    break

    def _forget(self) -> None:
        now = self._clock()
        if now - self._forgot > _FORGET_EVERY:
            self._state.forget_exposures(now - ATTRIBUTION)
            self._state.forget_taken(now - ATTRIBUTION)
            self._state.forget_erased(now - ATTRIBUTION - _ERASED_LONGER)
            self._forgot = now


def _position(line: bytes) -> int:
    """A place in the log for what was read from a partition: about where it was."""
    row = of_line(line).row
    return 1000 * microseconds(row.get("received") or row["time"])
