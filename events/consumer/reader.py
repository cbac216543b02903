"""Reads what is new in the log's segments, and notes what follows from it together with how far was read."""

import logging
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
)
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from events.consumer.attribution import (
    ATTRIBUTION,
    Identity,
    Interaction,
    Nothing,
    interaction,
)
from events.consumer.erasure import Erasure
from events.consumer.metrics import Metrics
from events.consumer.rebuild import RECENT, interactions_of_days, lines_of_days
from events.consumer.state import Exposure, State, Waiting
from events.schema import (
    SCHEMA,
    DamagedEvent,
    Event,
    NoEvent,
    events,
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

WAIT = timedelta(seconds=60)
"""So long an outcome waits for its exposure, which another gateway may have written into another segment."""
MOST_AN_HOUR = 200
"""Interactions of one shopper: as many events as a history holds."""
REFUSED = ("nobody", "no_item", "not_shown", "time", "too_many")
"""Kinds of outcomes that have an exposure, and that nothing follows from."""
BYTES_AT_ONCE = 4_000_000
_logger = logging.getLogger(__name__)
_FORGET_EVERY = timedelta(minutes=10)
_ERASED_LONGER = timedelta(days=1)
"""So much longer than its outcomes may come it is remembered that a request was of a deleted user."""

Values = Callable[[Iterable[str]], dict[str, dict[str, Any]]]


class Reader:
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
        metrics: Metrics,
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
        noting = _Noting(self._state, self._erasure, self._kinds, self._identity, self._clock(), known)
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


class _Noting:
    """What follows from some lines: gathered first, so that the online store is asked once, then written."""

    def __init__(
        self,
        state: State,
        erasure: Erasure,
        kinds: Collection[str],
        identity: Identity,
        now: datetime,
        known: Collection[str],
    ) -> None:
        self._state, self._erasure, self._kinds, self._identity = state, erasure, kinds, identity
        self._now, self._known = now, known
        self._exposures: dict[str, Exposure] = {}
        self._outcomes: list[tuple[Waiting, dict[str, Any]]] = []
        self._answers: list[dict[str, Any]] = []
        """Outcomes that say something for their item."""
        self._set_aside: list[tuple[int, str, bytes]] = []
        self._keep: list[Waiting] = []
        self._done: list[Waiting] = []
        self.interactions: list[Interaction] = []
        self._erased: set[str] = set()
        self.counts: dict[str, int] = {}
        self.reasons: dict[str, int] = {}
        """Kinds of what is set aside, and how often each."""
        self.damaged: list[tuple[int, str]] = []
        """Positions of damaged lines, and what is wrong with them."""
        self._identities: dict[str, Interaction] = {}
        """The interactions accepted, by what makes another telling the same."""
        self._of: dict[str, list[datetime]] = {}
        """When those of each user were received."""
        self.unmatched = self.forgotten = self.repeated = self.early = 0

    def take(self, line: Line) -> None:
        for content, found in events(line.content):
            if isinstance(found, Event):
                self._take(line._replace(content=content), *found)
                continue
            if isinstance(found, DamagedEvent):
                self.damaged.append((line.position, str(found)))
            self._put_aside("damaged" if isinstance(found, DamagedEvent) else "no_event", line, f"no event: {found}")

    def _put_aside(self, kind: str, line: Line | Waiting, reason: str) -> None:
        self.reasons[kind] = self.reasons.get(kind, 0) + 1
        content = line.content if isinstance(line, Line) else line.line
        if not isinstance(line, Line) or not self._erasure.covers_line(content, line.position):
            self._set_aside.append((line.position, reason, content))

    def _take(self, line: Line, table: str, row: dict[str, Any]) -> None:
        self.counts[table] = self.counts.get(table, 0) + 1
        if table == "exposures" and self._erasure.covers_exposure(row):
            self._erased.add(row["request_id"])
        elif table == "exposures":
            self._exposures[row["request_id"]] = Exposure(
                user_id=row["user_id"],
                items=tuple(row["items"]),
                time=row["time"],
                model_version=row["model_version"],
                override=bool(row.get("override")),
                tiring=row.get("tired") is not None,
            )
        else:
            if row["event_type"] not in self._identity.negative:
                self._answers.append(row)
            if row["event_type"] in self._kinds:
                self._outcomes.append((Waiting(0, line.position, self._now, line.content), row))

    def join(self, waiting: Iterable[Waiting]) -> None:
        """Find the interactions among the outcomes taken, and among those that wait."""
        for entry, row in [*self._readable(waiting), *self._outcomes]:
            exposure = self._exposures.get(row["request_id"]) or self._state.exposure(row["request_id"])
            if self._is_erased(row, exposure):
                self.forgotten += 1
                self._done += [entry] if entry.number else []
                continue
            if exposure is None:
                if self._now - entry.since <= WAIT:
                    self._keep += [entry] if not entry.number else []
                    continue
                self.unmatched += 1
                what: Interaction | Nothing = Nothing("unmatched", "request_id: no exposure was logged with it")
            else:
                what = interaction(row, exposure, entry.position, self._identity)
            if entry.number:
                self._done.append(entry)
            if isinstance(what, Nothing):
                self._put_aside(what.kind, entry, what.reason)
            else:
                self._accept(what, row, exposure, entry)

    def _accept(self, found: Interaction, row: dict[str, Any], exposure: Exposure | None, entry: Waiting) -> None:
        """Once for all tellings of it, and so many of one shopper as a person can do."""
        identity = found.identity(row.get("key"))
        if identity in self._identities or self._state.is_taken(identity):
            self.repeated += 1
            return
        since = found.received - timedelta(hours=1)
        mine = self._of.setdefault(found.user_id, [])
        if self._state.taken_of(found.user_id, since) + sum(at > since for at in mine) >= MOST_AN_HOUR:
            self._put_aside("too_many", entry, f"user_id: more than {MOST_AN_HOUR} interactions within an hour")
            return
        mine.append(found.received)
        self._identities[identity] = found
        self.early += exposure is not None and found.time < exposure.time
        self.interactions.append(found)

    def _readable(self, waiting: Iterable[Waiting]) -> Iterator[tuple[Waiting, dict[str, Any]]]:
        for entry in waiting:
            try:
                yield entry, of_line(entry.line).row
            except NoEvent as fault:  # of a later version, which this one took the place of
                self._done.append(entry)
                self._put_aside("no_event", entry, f"no event: {fault}")

    def _is_erased(self, outcome: dict[str, Any], exposure: Exposure | None) -> bool:
        """Whether the outcome is of a deleted user: it goes with its exposure, and by its own time."""
        if exposure is None:
            request: str = outcome["request_id"]
            return request in self._erased or self._state.is_erased(request)
        return self._erasure.covers(exposure.user_id, min(exposure.time, outcome["time"]))

    def write(self, values: dict[str, dict[str, Any]]) -> None:
        """Into the state, in the transaction of the caller."""
        self._state.add_erased(self._erased, self._now)
        self._state.add_exposures(self._exposures.items())
        self._note_impressions()
        for entry in self._keep:
            self._state.keep_waiting(entry)
        for entry in self._done:
            self._state.no_longer_waiting(entry)
        for identity, found in self._identities.items():
            self._state.take(identity, found.user_id, found.received)
        for each in self.interactions:
            row = {
                **each._asdict(),
                "schema": SCHEMA,
                "time": each.time.isoformat(),
                "received": each.received.isoformat(),
                "features": values[each.item_id],
            }
            self._state.note_history(each.user_id, row)
            # What people who test do is no shopper's behaviour to learn from.
            if not each.override and each.event_id not in self._known:
                self._state.note_row("interactions", row)
        for position, reason, line in self._set_aside:
            set_aside(self._state, position, reason, line.decode(errors="replace"), self._now)

    def _note_impressions(self) -> None:
        """Of shoppers to whom a rule of fatigue holds; an outcome whose exposure comes later is of one, for all that is
        known."""
        noted = self._state.impressions
        changed = {each.user_id for each in self._exposures.values() if each.tiring}
        for row in self._answers:
            exposure = self._exposures.get(row["request_id"]) or self._state.exposure(row["request_id"])
            if exposure.tiring if exposure is not None else not self._is_erased(row, None):
                noted.answer(row["request_id"], row.get("item_id"), microseconds(row["time"]))
                changed |= {exposure.user_id} if exposure is not None else set()
        noted.changed(changed)


def _position(line: bytes) -> int:
    """A place in the log for what was read from a partition: about where it was."""
    row = of_line(line).row
    return 1000 * microseconds(row.get("received") or row["time"])


def set_aside(state: State, position: int, reason: str, line: str, now: datetime) -> None:
    """Note something that nothing will follow from, for a person to look at."""
    state.note_row("set_aside", {"time": now.isoformat(), "position": position, "reason": reason, "line": line})
