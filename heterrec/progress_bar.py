"""A progress bar on one line of the terminal or a notebook's cell, for who uses the library by itself."""

import sys
import time
from typing import TextIO

from heterrec.training.trained import Update

INTERVAL_SECONDS = 0.5
WIDTH = 24


class Bar:
    """Shows the steps of one training; see `heterrec.training.loop.Progress`."""

    def __init__(self, name: str, *, to: TextIO | None = None) -> None:
        self.name, self.to = name, to
        self._shown = float("-inf")

    def __call__(self, update: Update) -> None:
        last = update.epoch == update.epochs and update.step == update.steps
        now = time.monotonic()
        if now - self._shown < INTERVAL_SECONDS and not last:
            return
        self._shown = now
        done = ((update.epoch - 1) * update.steps + update.step) / (update.epochs * update.steps)
        full = round(WIDTH * done)
        ndcg = "" if update.validation_ndcg is None else f"  validation NDCG@10 {update.validation_ndcg:.4f}"
        line = (
            f"\r{self.name} [{'#' * full}{'.' * (WIDTH - full)}] epoch {update.epoch}/{update.epochs}  "
            f"loss {update.loss:.3f}{ndcg}  {update.seconds_left:.0f} s left at most  "
        )
        print(line, end="\n" if last else "", file=self.to or sys.stderr, flush=True)
