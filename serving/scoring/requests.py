"""One request, checked: what docs/contracts.md allows becomes rows of the catalogue, anything else a `BadRequest`."""

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from operator import le
from typing import Any, NamedTuple

from serving.scoring import placed
from serving.scoring.asker import AskerReader
from serving.scoring.faults import BadRequest
from serving.scoring.filters import Filter, Filters
from serving.scoring.forms import is_number
from serving.scoring.item_values import FIELD as UPSERTS
from serving.scoring.placed import (
    FOR_YOU,
    RANKING,
    SIMILAR,
    TOGETHER,
    PlacementRequest,
)
from serving.scoring.upserts import Offered, Upserts, offered

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXAMPLE = "2026-01-05T10:00:00Z"
_NOTHING: dict[str, Any] = {}
_FIELDS = ("user_id", "history", "k", "exclude_seen", "filters", "exclude", *placed.FIELDS)
_FOR_YOU = PlacementRequest()


class History(NamedTuple):
    """Events of a request side by side: one object for all of them, as there are thousands in a batch."""

    rows: list[int]
    """Of the catalogue."""
    times: list[int]
    """Microseconds since 1970."""
    features: list[Mapping[str, Any]]
    kinds: list[int]
    """Number of the event's kind in the contract, from 1; 0 where none was told or events are of one kind alone."""


class ScoringRequest(NamedTuple):
    """What is asked for, in rows of the catalogue."""

    k: int
    history: History
    """Known items in time order, the latest `max_history`."""
    hidden: list[int]
    """Rows that must not be answered: those excluded and, where asked for, all known items of the whole history."""
    filters: Filter
    unknown_items: int
    known: History
    """Of the whole history; `history` is its end."""
    placed: PlacementRequest = _FOR_YOU
    asked: Mapping[str, Any] = _NOTHING
    """What is known of who asks, by name."""
    upserts: Offered | None = None
    """What it has of the items that it brings along."""


class RequestReader:
    """Reads requests against one archive's contract, catalogue and varying features (fields of the encoder).

    `present` are the varying features that the catalogue knows, by name: what an event without `features` has.
    `placements` and `kinds` of popular items are those that the archive can answer. Items that a request brings along
    are made vectors of by `upserts_of`, and left out without it.
    """

    def __init__(
        self,
        *,
        contract: Mapping[str, Any],
        rows: Mapping[str, int],
        varying: Sequence[Any],
        filters: Filters,
        present: Mapping[str, Sequence[Any]] = _NOTHING,
        placements: tuple[str, ...] = (FOR_YOU,),
        kinds: tuple[str, ...] = placed.KINDS[:1],
        upserts_of: Callable[[object], Upserts] | None = None,
    ) -> None:
        self._contract, self._rows, self._filters = contract, rows, filters
        self._varying = [(feature.name, is_number(feature)) for feature in varying]
        self._present = present
        types = contract.get("event_types", ())
        self._types = {each["name"]: number for number, each in enumerate(types, start=1)}
        self._others = frozenset(number for number, each in enumerate(types, start=1) if not each["predict"])
        self._placements, self._kinds = placements, kinds
        self._asker = AskerReader(contract.get("asking", ()))
        self._upserts_of = upserts_of
        self._fields = frozenset((*_FIELDS, UPSERTS, *self._asker.fields))

    def read(self, raw: object) -> ScoringRequest:
        """Check one request and order its history; raises `BadRequest`."""
        if not isinstance(raw, dict):
            raise BadRequest("request", raw, f"a JSON object with the fields {', '.join(_FIELDS)}")
        if extra := sorted(map(str, raw.keys() - self._fields)):
            raise BadRequest("request", extra[0], f"no fields but {', '.join((*_FIELDS, *self._asker.fields))}")
        if not isinstance(raw.get("user_id"), str | None):
            raise BadRequest("user_id", raw["user_id"], "a string, or none at all")
        if not isinstance(raw.get("history"), list):
            raise BadRequest("history", raw.get("history"), "a list of events, which may be empty")
        k = raw.get("k", self._contract["default_k"])
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise BadRequest("k", k, "a whole number of at least 1")
        asked = _FOR_YOU
        if not raw.keys().isdisjoint(placed.FIELDS):
            asked = placed.read(raw, self._rows, self._placements, self._kinds)
        # Who gives a list wants all of it ranked.
        by_rule = self._contract["exclude_seen"] and asked.placement != RANKING
        exclude_seen = raw.get("exclude_seen", by_rule)
        if not isinstance(exclude_seen, bool):
            raise BadRequest("exclude_seen", exclude_seen, "true or false")
        hidden = self._excluded(raw.get("exclude"))
        filters = self._filters.read(raw.get("filters"))
        events = raw["history"]
        known = self._known(events)
        if exclude_seen:
            hidden += self._had(known)
        if asked.placement in (SIMILAR, TOGETHER):
            hidden += asked.rows
        upserts = None
        if self._upserts_of is not None and raw.get(UPSERTS):
            upserts = self._offered(self._upserts_of(raw[UPSERTS]), raw, asked, exclude_seen, filters)
        most = len(asked.rows) if asked.placement == RANKING else min(k, self._contract["max_k"])
        latest = slice(-self._contract["max_history"], None)
        return ScoringRequest(
            k=min(most, len(self._rows)),
            history=History(*(column[latest] for column in known)),  # type: ignore[arg-type]
            hidden=hidden,
            filters=filters,
            unknown_items=len(events) - len(known.rows),
            known=known,
            placed=asked,
            asked=self._asker.read(raw) if self._asker.fields else _NOTHING,
            upserts=upserts,
        )

    def _offered(
        self,
        upserts: Upserts,
        raw: Mapping[str, Any],
        asked: PlacementRequest,
        exclude_seen: bool,
        filters: Filter,
    ) -> Offered:
        """What it has of the items that it brings along, which are hidden as those of the catalogue are."""
        given: Sequence[str] = raw.get("items", ())
        closed = {*(raw.get("exclude") or ()), *(given if asked.placement in (SIMILAR, TOGETHER) else ())}
        if exclude_seen:
            closed.update(event["item_id"] for event in raw["history"] if self._is_had(event.get("event_type")))
        return offered(
            upserts,
            len(self._rows),
            closed=closed,
            filters=filters,
            given=given,
            only_given=asked.placement == RANKING,
        )

    def _is_had(self, kind: str | None) -> bool:
        """Whether an event of this kind makes its item one that the shopper has."""
        if not self._types or kind is None:
            return True
        return kind in self._types and self._types[kind] not in self._others

    def _known(self, events: list[Any]) -> History:
        """The events of items that the catalogue holds, in time order; each event is checked all the same."""
        find, varying = self._rows.get, self._varying
        rows: list[int] = []
        times: list[int] = []
        features: list[Mapping[str, Any]] = []
        kinds: list[int] = []
        for number, raw in enumerate(events):
            # Names are made where something is wrong only: this runs for each event of each request.
            if not isinstance(raw, dict):
                raise BadRequest(
                    f"history[{number}]", raw, "an object with item_id, event_time and, where there are any, features"
                )
            item, values = raw.get("item_id"), raw.get("features") or _NOTHING
            if not isinstance(item, str):
                raise BadRequest(f"history[{number}].item_id", item, "a string")
            if not isinstance(values, dict):
                raise BadRequest(f"history[{number}].features", values, "an object of feature names and values")
            for feature, is_a_number in varying:
                if (wrong := _misfit(is_a_number, values.get(feature))) is not None:
                    raise BadRequest(f"history[{number}].features.{feature}", values[feature], wrong)
            time = _microseconds(raw.get("event_time"))
            if time is None:
                name, expected = f"history[{number}].event_time", "an ISO 8601 time with its zone, such as " + _EXAMPLE
                raise BadRequest(name, raw.get("event_time"), expected)
            kind = self._kind(number, raw) if self._types else 0
            row = find(item, -1)
            if row >= 0 and kind is not None:
                if self._present and "features" not in raw:
                    values = {name: column[row] for name, column in self._present.items()}
                rows.append(row)
                times.append(time)
                features.append(values)
                kinds.append(kind)
        if all(map(le, times, times[1:])):
            return History(rows, times, features, kinds)
        order = sorted(range(len(times)), key=times.__getitem__)
        columns = (rows, times, features, kinds)
        return History(*([column[n] for n in order] for column in columns))  # type: ignore[arg-type]

    def _kind(self, number: int, raw: dict[str, Any]) -> int | None:
        """Of an event; None for a kind that no history of training has, which is left out as it was there."""
        name = raw.get("event_type")
        if name is None:
            return 0
        if not isinstance(name, str):
            raise BadRequest(f"history[{number}].event_type", name, f"one of {', '.join(self._types)}, or none at all")
        return self._types.get(name)

    def _had(self, known: History) -> list[int]:
        """Rows of what the shopper has: of what was merely looked at no item is hidden."""
        if not self._others:
            return known.rows
        return [row for row, kind in zip(known.rows, known.kinds, strict=True) if kind not in self._others]

    def _excluded(self, raw: object) -> list[int]:
        """Rows of the excluded items; those that the catalogue does not hold are excluded anyway."""
        if raw is None:
            return []
        if not isinstance(raw, list) or not all(isinstance(item, str) for item in raw):
            raise BadRequest("exclude", raw, "a list of item ids, which are strings")
        return [self._rows[item] for item in raw if item in self._rows]


def _microseconds(value: object) -> int | None:
    """Since 1970; None where it is no ISO 8601 time with its zone."""
    try:
        since = datetime.fromisoformat(value) - _EPOCH  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _misfit(is_a_number: bool, value: object) -> str | None:
    """What was expected of a feature that changes over time, where that was not found; null is a missing value."""
    if value is None:
        return None
    if is_a_number:
        fits = isinstance(value, float) or (
            isinstance(value, int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        )
        return None if fits else "a number or null"
    return None if isinstance(value, str) else "a string or null"
