"""What follows from lines of the log: exposures are kept, outcomes joined to them; others wait or are set aside."""

from collections.abc import (
    Collection,
    Iterable,
    Iterator,
)
from datetime import datetime, timedelta
from typing import Any

from events.consumer.attribution import (
    Identity,
    Interaction,
    Nothing,
    interaction,
)
from events.consumer.erasure import Erasure
from events.consumer.state import Exposure, State, Waiting
from events.schema import (
    SCHEMA,
    DamagedEvent,
    LoggedEvent,
    NoEvent,
    events,
    of_line,
)
from events.segments import (
    Line,
)
from feature_repo.forgotten import microseconds

WAIT = timedelta(seconds=60)
"""So long an outcome waits for its exposure, which another gateway may have written into another segment."""
MOST_AN_HOUR = 200
"""Interactions of one shopper: as many events as a history holds."""


class Noting:
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
            if isinstance(found, LoggedEvent):
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


def set_aside(state: State, position: int, reason: str, line: str, now: datetime) -> None:
    """Note something that nothing will follow from, for a person to look at."""
    state.note_row("set_aside", {"time": now.isoformat(), "position": position, "reason": reason, "line": line})
