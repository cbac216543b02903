"""What a clock on a wall says of a moment: the hour of the day, the day of the week.

One way for training, which has millions of moments, and for serving, which has one: so both read the same clock.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

By = Literal["hour", "weekday"]
VALUES: Mapping[str, tuple[str, ...]] = {
    "hour": tuple(f"{hour:02}" for hour in range(24)),
    "weekday": ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
}
"""All that a clock can say."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE = 60_000_000


@dataclass(frozen=True, kw_only=True)
class WallClock:
    """A clock that tells `by` (of `VALUES`) in the zone of that IANA name; its summer time is that of the zone."""

    by: str
    timezone: str

    @property
    def values(self) -> tuple[str, ...]:
        return VALUES[self.by]

    def at(self, moment: datetime) -> str:
        """What it says at `moment`, which has a zone of its own."""
        return self.values[self._place(moment.astimezone(UTC))]

    def at_each(self, time_E: npt.NDArray[np.int64]) -> list[str]:
        """What it says at each of these moments, in microseconds since 1970.

        Clocks are set by whole minutes, so that each minute is looked up once.
        """
        minute_M, place_E = np.unique(time_E // _MINUTE, return_inverse=True)
        said_M = [self.values[self._place(_EPOCH + timedelta(minutes=minute))] for minute in minute_M.tolist()]
        return [said_M[place] for place in place_E.tolist()]

    def _place(self, moment: datetime) -> int:
        there = moment.astimezone(ZoneInfo(self.timezone))
        return there.hour if self.by == "hour" else there.weekday()


def require_zone(name: str, *, field: str) -> None:
    """Raises `ValueError` where there is no such zone."""
    try:
        ZoneInfo(name)
    except (LookupError, ValueError, OSError) as error:  # OSError: the name of a folder of zones
        raise ValueError(f"{field}: timezone {name!r} is no time zone; write an IANA name, as Europe/Berlin") from error


def clocks_of(asking: Iterable[Mapping[str, str]]) -> dict[str, WallClock]:
    """By name those entries of an archive's `asking` (docs/contracts.md) that are read off a clock."""
    return {each["name"]: WallClock(by=each["by"], timezone=each["timezone"]) for each in asking if "by" in each}


def said_at(clocks: Mapping[str, WallClock], moment: datetime) -> dict[str, str]:
    """What each says at `moment`."""
    return {name: clock.at(moment) for name, clock in clocks.items()}
