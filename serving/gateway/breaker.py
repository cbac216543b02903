"""Takes a failing model version out of traffic, and lets one request at a time find out whether it is back."""

import time
from collections.abc import Callable

FAILURES = 3
"""In a row: out."""
DOUBT_SECONDS = 1.0
"""So long after its first failure a version that has not answered since is out: within 2 s with any traffic."""
REST_SECONDS = 5.0
"""So long it is left alone before one request tries it again."""


class Breaker:
    """Of one version. Ask `allows` before each call and tell it how the call went."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._first_failure = 0.0
        self._retry: float | None = None

    @property
    def open(self) -> bool:
        """Whether the version is out of traffic."""
        if self._retry is None and self._failures and self._clock() - self._first_failure >= DOUBT_SECONDS:
            self._retry = self._clock() + REST_SECONDS
        return self._retry is not None

    def allows(self) -> bool:
        """Whether to call the version now. Once its rest is over, one caller is let through at a time."""
        if not self.open:
            return True
        assert self._retry is not None
        if self._clock() < self._retry:
            return False
        self._retry = self._clock() + REST_SECONDS
        return True

    def succeeded(self) -> None:
        """The version answered: it is back."""
        self._failures, self._retry = 0, None

    def failed(self) -> None:
        """The version failed or did not answer in time."""
        if not self._failures:
            self._first_failure = self._clock()
        self._failures += 1
        if self._failures >= FAILURES and self._retry is None:
            self._retry = self._clock() + REST_SECONDS
