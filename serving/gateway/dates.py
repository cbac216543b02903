"""Dates in filters and rules: people say days and times, archives know numbers of days since 1970 (UTC).

A feature that the card calls a date is such a number, whole or broken. What a shop says of it becomes numbers before
any model is asked, so that archives know one kind of bounds, and a logged request says which moment was meant.
"""

from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

WITHIN = "within_days"
MOST_DAYS = 36_500
MOST_CHARACTERS = 40
STEP = timedelta(minutes=1)
"""`within_days` counts from the whole minute, up to its end: requests of one minute are of one mask, and a rule is made
anew once a minute."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EXPECTED = 'dates (2026-01-31) or times (2026-01-31T12:00:00Z), as "min", "max" or both, or {"within_days": 30}'


class BadDate(ValueError):
    """A condition on a date that cannot be understood; `feature` is what it is on."""

    def __init__(self, feature: str, found: object, expected: str) -> None:
        super().__init__(f"found {found!r}, expected {expected}")
        self.feature = feature


def in_days(where: Mapping[str, Any], zones: Mapping[str, str], now: datetime) -> dict[str, Any]:
    """`where` (feature to what is wanted of it) with the bounds of dates as days since 1970, both included.

    `zones` has the features that are dates, each with the zone of a day, or of a time that says none. The last day is
    meant to its end. Raises `BadDate`, also for a date where the feature is none.
    """
    return {name: _bounds(name, wanted, zones.get(name), now) for name, wanted in where.items()}


def moves(where: Mapping[str, Any]) -> bool:
    """Whether what is meant is another thing a minute later."""
    return any(isinstance(wanted, Mapping) and WITHIN in wanted for wanted in where.values())


def minute(now: datetime) -> datetime:
    """The whole minute that `now` lies in."""
    return now.replace(second=0, microsecond=0)


def _bounds(feature: str, wanted: Any, zone: str | None, now: datetime) -> Any:
    if zone is None:
        said = isinstance(wanted, Mapping) and (WITHIN in wanted or any(map(_is_said, wanted.values())))
        if said:
            raise BadDate(feature, dict(wanted), "no date: the card does not say `date: true` of this feature")
        return wanted
    if not isinstance(wanted, Mapping) or not wanted or wanted.keys() - {"min", "max", WITHIN}:
        raise BadDate(feature, wanted, _EXPECTED)
    if WITHIN in wanted:
        return _within(feature, wanted, now)
    ends = {name: _moment(feature, wanted[name], ZoneInfo(zone), last=name == "max") for name in wanted}
    if ends.get("min", -float("inf")) > ends.get("max", float("inf")):
        raise BadDate(feature, dict(wanted), "a min that is not after the max")
    return ends


def _within(feature: str, wanted: Mapping[str, Any], now: datetime) -> dict[str, float]:
    days = wanted[WITHIN]
    if len(wanted) > 1 or isinstance(days, bool) or not isinstance(days, int | float) or not 0 < days <= MOST_DAYS:
        raise BadDate(feature, dict(wanted), f"{WITHIN} by itself, a number above 0 and up to {MOST_DAYS}")
    return {"min": _days(minute(now) - timedelta(days=days)), "max": _days(minute(now) + STEP)}


def _moment(feature: str, said: object, zone: ZoneInfo, *, last: bool) -> float:
    text = said.isoformat() if isinstance(said, date) else said  # YAML has read a date already
    if not isinstance(text, str) or len(text) > MOST_CHARACTERS:
        raise BadDate(feature, said, _EXPECTED)
    try:
        moment = datetime.combine(date.fromisoformat(text), time.max if last else time.min)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise BadDate(feature, said, _EXPECTED) from error
    return _days(moment if moment.tzinfo is not None else moment.replace(tzinfo=zone))


def _days(moment: datetime) -> float:
    return (moment - _EPOCH) / timedelta(days=1)


def _is_said(bound: Any) -> bool:
    return isinstance(bound, str | date)
