"""Tells a run's progress: as events for the one logger, which the terminal draws as a bar."""

import time
from typing import TYPE_CHECKING

from components.console import emit

if TYPE_CHECKING:
    from heterrec.training import Update

SECONDS = 0.5
"""Between two events; a step may take milliseconds."""


class EventProgress:
    """Emits `progress` events of `task`: epoch, loss, sequences/s and the seconds left at most."""

    def __init__(self, task: str) -> None:
        self.task = task
        self._told = float("-inf")

    def __call__(self, update: "Update") -> None:
        now = time.monotonic()
        last = update.step == update.steps
        if now - self._told < SECONDS and not last:
            return
        self._told = now
        emit(
            "progress",
            task=self.task,
            epoch=update.epoch,
            epochs=update.epochs,
            step=(update.epoch - 1) * update.steps + update.step,
            steps=update.epochs * update.steps,
            loss=round(update.loss, 4),
            sequences_per_second=round(update.sequences_per_second, 1),
            seconds_left=round(update.seconds_left, 1),
            validation_ndcg=update.validation_ndcg,
        )
