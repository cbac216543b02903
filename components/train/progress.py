"""Training's progress as events, twice a second at most; the local runner draws its bar from them."""

import time
from collections.abc import Callable

from heterrec.training.trained import Update
from runtime.log import emit

INTERVAL_SECONDS = 0.5
MEASURED, LEAST_SECONDS = 10, 0.5
"""Steps after the first, which warms up, that say how long all will take; and for how long they are looked at."""


class EventProgress:
    """Reports the updates of `task`; a cluster's log gets one every `interval` seconds.

    Once, after the first steps, it says how long all of them will take here and now.
    """

    def __init__(
        self, task: str, *, interval: float = INTERVAL_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._task, self._interval, self._clock = task, interval, clock
        self._last = float("-inf")
        self._first: tuple[float, int] | None = None
        self._paced = False

    def __call__(self, update: Update) -> None:
        done = (update.epoch - 1) * update.steps + update.step
        now = self._clock()
        if not self._paced:
            self._pace(now, done, update.epochs * update.steps)
        if now - self._last < self._interval:
            return
        self._last = now
        emit(
            "progress",
            task=self._task,
            epoch=update.epoch,
            epochs=update.epochs,
            step=done,
            steps=update.epochs * update.steps,
            loss=round(update.loss, 4),
            sequences_per_second=round(update.sequences_per_second, 1),
            seconds_left=round(update.seconds_left, 1),
        )

    def _pace(self, now: float, done: int, steps: int) -> None:
        if self._first is None:
            self._first = now, done
            return
        began, first = self._first
        if done - first >= MEASURED and now - began >= LEAST_SECONDS:
            self._paced = True
            each = (now - began) / (done - first)
            left = round(each * (steps - done), 1)
            emit("pace", task=self._task, steps=steps, measured=done - first, each=round(each, 4), seconds_left=left)
