"""What time it is, and how far the clocks of shops and machines may differ: one tolerance for whoever compares two."""

from collections.abc import Callable
from datetime import (
    UTC,
    date,
    datetime,
    time,
    timedelta,
)

Clock = Callable[[], datetime]

TOLERANCE = timedelta(hours=1)
"""What is further off is set aside and counted, never taken and never dropped in silence."""


def now() -> datetime:
    """By the clock of this machine, in UTC."""
    return datetime.now(UTC)


def end_of(day: date) -> datetime:
    """The last moment of a day, UTC."""
    return datetime.combine(day, time.max, tzinfo=UTC)
