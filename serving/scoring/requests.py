"""One request, checked: what docs/contracts.md allows becomes rows of the catalogue, anything else a `BadRequest`."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from serving.scoring.faults import BadRequest
from serving.scoring.filters import Filter, Filters

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIELDS = ("user_id", "history", "k", "exclude_seen", "filters", "exclude")


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a history."""

    row: int
    """Of the catalogue; -1 for an item that it does not hold."""
    time: int
    """Microseconds since 1970."""
    features: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, in rows of the catalogue."""

    k: int
    history: list[Event] = field(default_factory=list)
    """Known items in time order, the latest `max_history`."""
    hidden: list[int] = field(default_factory=list)
    """Rows that must not be answered: those excluded and, where asked for, all known items of the whole history."""
    filters: Filter = ()
    unknown_items: int = 0


class Reader:
    """Reads requests against one archive's contract, catalogue and varying features (fields of the encoder)."""

    def __init__(
        self, *, contract: Mapping[str, Any], rows: Mapping[str, int], varying: Sequence[Any], filters: Filters
    ) -> None:
        self._contract, self._rows, self._varying, self._filters = contract, rows, varying, filters

    def read(self, raw: object) -> Request:
        """Check one request and order its history; raises `BadRequest`."""
        if not isinstance(raw, dict):
            raise BadRequest("request", raw, f"a JSON object with the fields {', '.join(_FIELDS)}")
        if extra := sorted(map(str, raw.keys() - set(_FIELDS))):
            raise BadRequest("request", extra[0], f"no fields but {', '.join(_FIELDS)}")
        if not isinstance(raw.get("user_id"), str | None):
            raise BadRequest("user_id", raw["user_id"], "a string, or none at all")
        if not isinstance(raw.get("history"), list):
            raise BadRequest("history", raw.get("history"), "a list of events, which may be empty")
        k = raw.get("k", self._contract["default_k"])
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise BadRequest("k", k, "a whole number of at least 1")
        exclude_seen = raw.get("exclude_seen", self._contract["exclude_seen"])
        if not isinstance(exclude_seen, bool):
            raise BadRequest("exclude_seen", exclude_seen, "true or false")
        hidden = self._excluded(raw.get("exclude"))
        filters = self._filters.read(raw.get("filters"))
        events = [self._event(event, f"history[{number}]") for number, event in enumerate(raw["history"])]
        known = sorted((event for event in events if event.row >= 0), key=lambda event: event.time)
        if exclude_seen:
            hidden += [event.row for event in known]
        return Request(
            k=min(k, self._contract["max_k"], len(self._rows)),
            history=known[-self._contract["max_history"] :],
            hidden=hidden,
            filters=filters,
            unknown_items=len(events) - len(known),
        )

    def _excluded(self, raw: object) -> list[int]:
        """Rows of the excluded items; those that the catalogue does not hold are excluded anyway."""
        if raw is None:
            return []
        if not isinstance(raw, list) or not all(isinstance(item, str) for item in raw):
            raise BadRequest("exclude", raw, "a list of item ids, which are strings")
        return [self._rows[item] for item in raw if item in self._rows]

    def _event(self, raw: object, name: str) -> Event:
        if not isinstance(raw, dict):
            raise BadRequest(name, raw, "an object with item_id, event_time and, where there are any, features")
        item = raw.get("item_id")
        if not isinstance(item, str):
            raise BadRequest(f"{name}.item_id", item, "a string")
        features = raw.get("features") or {}
        if not isinstance(features, dict):
            raise BadRequest(f"{name}.features", features, "an object of feature names and values")
        for varying in self._varying:
            _check_feature(f"{name}.features.{varying.name}", varying.kind, features.get(varying.name))
        return Event(self._rows.get(item, -1), _microseconds(f"{name}.event_time", raw.get("event_time")), features)


def _microseconds(name: str, value: object) -> int:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise BadRequest(name, value, "an ISO 8601 time with its zone, such as 2026-01-05T10:00:00Z")
    return (time - _EPOCH) // timedelta(microseconds=1)


def _check_feature(name: str, kind: str, value: object) -> None:
    """A feature that changes over time is a number or a category; null is a missing value."""
    if kind == "numeric":
        fits = isinstance(value, int | float | None) and not isinstance(value, bool) and _is_double(value)
        expected = "a number or null"
    else:
        fits, expected = isinstance(value, str | None), "a string or null"
    if not fits:
        raise BadRequest(name, value, expected)


def _is_double(value: float | None) -> bool:
    return value is None or isinstance(value, float) or abs(value) <= sys.float_info.max
