"""Takes a failing model version out of traffic, and finds out whether it is back.

What is told by shoppers' requests and what is told by probes is judged apart: a version that answers every probe and
fails every shopper must go, and so must one that nobody asks.
"""

import time
from collections.abc import Callable
from typing import Literal

FAILURES = 3
"""In a row: out."""
DOUBT_SECONDS = 1.0
"""So long after its first failure a version that has not answered since is out: within 2 s with any traffic."""
REST_SECONDS = 5.0
"""So long shoppers leave it alone before one request tries it again."""

Source = Literal["traffic", "probe"]


class Breaker:
    """Of one version. Ask `allows` before each call for a shopper, and tell how each call went."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._streaks: dict[Source, _Streak] = {"traffic": _Streak(clock), "probe": _Streak(clock)}

    @property
    def open(self) -> bool:
        """Whether the version is out of traffic."""
        return any(streak.out for streak in self._streaks.values())

    def allows(self) -> bool:
        """Whether to call the version now. Once its rest is over, one caller is let through at a time."""
        return not self._streaks["probe"].out and self._streaks["traffic"].allows()

    def succeeded(self, source: Source = "traffic") -> None:
        """The version answered: by this source's lights it is back."""
        self._streaks[source].succeeded()

    def failed(self, source: Source = "traffic") -> None:
        """The version failed or did not answer in time."""
        self._streaks[source].failed()


class _Streak:
    """The failures in a row that one source has seen."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failures = 0
        self._first_failure = 0.0
        self._retry: float | None = None

    @property
    def out(self) -> bool:
        if self._retry is None and self._failures and self._clock() - self._first_failure >= DOUBT_SECONDS:
            self._retry = self._clock() + REST_SECONDS
        return self._retry is not None

    def allows(self) -> bool:
        if not self.out:
            return True
        assert self._retry is not None
        if self._clock() < self._retry:
            return False
        self._retry = self._clock() + REST_SECONDS
        return True

    def succeeded(self) -> None:
        self._failures, self._retry = 0, None

    def failed(self) -> None:
        if not self._failures:
            self._first_failure = self._clock()
        self._failures += 1
        if self._failures >= FAILURES and self._retry is None:
            self._retry = self._clock() + REST_SECONDS
