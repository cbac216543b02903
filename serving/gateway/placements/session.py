"""What a shopper did a moment ago joins what is known of them."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi.exceptions import RequestValidationError

from runtime.clocks import TOLERANCE
from serving.gateway.api import SessionEvent

OLDEST = timedelta(days=30)
"""Age of an event that is still taken."""
Events = Sequence[Mapping[str, Any]]
"""As docs/contracts.md sends them to a model: those of a session have no `features`, and the model takes the
catalogue's."""


def events_of(session: Sequence[SessionEvent], now: datetime) -> Events:
    """As a model gets them. Raises `RequestValidationError` for a moment that no event can have."""
    return [
        {
            "item_id": event.item_id,
            "event_time": plausible(event.time, now, "session", number, "time").isoformat(),
            **({} if event.event_type is None else {"event_type": event.event_type}),
        }
        for number, event in enumerate(session)
    ]


def plausible(time: datetime, now: datetime, *field: str | int) -> datetime:
    """A moment of UTC; one that lies where no event can be told of is refused."""
    if not now - OLDEST <= time <= now + TOLERANCE:
        why = f"is not within {OLDEST.days} days before now and {TOLERANCE.seconds // 3600} hour after"
        raise RequestValidationError([{"loc": ("body", *field), "msg": why, "type": "time"}])
    return time.astimezone(UTC)


def joined(history: list[dict[str, Any]], session: Events) -> list[dict[str, Any]]:
    """The history with the events of the session, oldest first; an event that is in both (the same item at the same
    moment) counts once, with the values that the history has of it."""
    if not session:
        return history
    known = {(event["item_id"], _moment(event)) for event in history}
    fresh = [dict(event) for event in session if (event["item_id"], _moment(event)) not in known]
    return sorted([*history, *fresh], key=_moment)


def _moment(event: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(event["event_time"])
