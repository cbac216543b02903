"""Outcomes meet their exposures: who did what with which item, or the reason why nothing follows from an outcome."""

from datetime import UTC, datetime, timedelta
from hashlib import md5
from typing import Any, NamedTuple

from events.consumer.state import Exposure
from feature_repo.forgotten import microseconds
from feature_repo.keys import NOBODY, is_nobody
from runtime.clocks import TOLERANCE

ATTRIBUTION = timedelta(days=7)
"""So long after its exposure an outcome is understood; older exposures are forgotten here."""


class Interaction(NamedTuple):
    """What one user did with one item that was shown."""

    event_id: str
    user_id: str
    item_id: str
    time: datetime
    received: datetime
    event_type: str
    request_id: str
    model_version: str | None
    position: int
    override: bool

    def identity(self, key: str | None) -> str:
        """What makes another telling of it the same: its request, item, type and, where the shop gave one, its key."""
        told = (self.request_id, self.item_id, self.event_type, key or "")
        return md5("\x1f".join(told).encode(), usedforsecurity=False).hexdigest()


class Nothing(NamedTuple):
    """No interaction follows from the outcome: the kind of reason, for its counter, and the reason."""

    kind: str
    reason: str


class Identity(NamedTuple):
    """What the card says of who and what an event is."""

    typed: bool = False
    """Whether the type is part of an event: a view and a purchase at one moment are two."""
    nobody: tuple[str, ...] = NOBODY
    """User ids that stand for no user."""
    negative: frozenset[str] = frozenset()
    """Types that speak against an item."""


UNTYPED = Identity()


def interaction(
    outcome: dict[str, Any], exposure: Exposure, position: int, identity: Identity = UNTYPED
) -> Interaction | Nothing:
    """The interaction behind an outcome (a row of the log) of `exposure`.

    An outcome that names no item means the only one that was shown. One that names an item that was not shown is
    none: the log would otherwise take anything for an item that somebody sends.
    """
    if is_nobody(exposure.user_id, identity.nobody):
        return Nothing("nobody", f"user_id: {exposure.user_id!r} stands for no user (columns.nobody of the card)")
    item = outcome.get("item_id")
    if item is None and len(exposure.items) == 1:
        item = exposure.items[0]
    if item is None:
        return Nothing("no_item", f"item_id is missing, and {len(exposure.items)} items were shown")
    if item not in exposure.items:
        return Nothing("not_shown", f"item_id: {item!r} was not shown to this request")
    time = outcome["time"].astimezone(UTC)
    if time < exposure.time - TOLERANCE or time > exposure.time + ATTRIBUTION:
        why = f"within {ATTRIBUTION.days} days after the request, by clocks that differ by {TOLERANCE} at most"
        return Nothing("time", f"time: {time.isoformat()} is not {why}")
    return Interaction(
        event_id=event_id(exposure.user_id, item, time, outcome["event_type"] if identity.typed else None),
        user_id=exposure.user_id,
        item_id=item,
        time=time,
        received=(outcome.get("received") or time).astimezone(UTC),
        event_type=outcome["event_type"],
        request_id=outcome["request_id"],
        model_version=exposure.model_version,
        position=position,
        override=exposure.override,
    )


def event_id(user_id: str, item_id: str, time: datetime, event_type: str | None = None) -> str:
    """The id that ingest gives the same event, so that its telling and the log's are one."""
    told = (user_id, item_id, str(microseconds(time)), *([] if event_type is None else [event_type]))
    return md5("\x1f".join(told).encode(), usedforsecurity=False).hexdigest()
