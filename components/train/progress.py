"""Training's progress as events, twice a second at most; the local runner draws its bar from them."""

import time

from components.console import emit
from heterrec.training import Update

INTERVAL_SECONDS = 0.5


class EventProgress:
    """Reports the updates of `task`; a cluster's log gets one every `interval` seconds."""

    def __init__(self, task: str, *, interval: float = INTERVAL_SECONDS) -> None:
        self._task, self._interval = task, interval
        self._last = float("-inf")

    def __call__(self, update: Update) -> None:
        now = time.monotonic()
        if now - self._last < self._interval:
            return
        self._last = now
        done = (update.epoch - 1) * update.steps + update.step
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
