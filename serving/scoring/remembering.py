"""What the archive's memory adds to the scores of a batch of requests; without torch, as a gateway asks it too."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

from serving.scoring.requests import Request

Bonus = tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""Rows of the catalogue, ascending, and what is added to their scores."""


class Remembering:
    """The archive's `memory.npz`, read and asked by the `neighbours.py` that it brings."""

    def __init__(self, root: Path, neighbours: ModuleType, *, alone: bool) -> None:
        self._neighbours = neighbours
        self._memory = neighbours.Memory.load(root / "memory.npz")
        self._gate = self._memory.alone if alone else self._memory.beside

    def bias(self) -> npt.NDArray[np.float32]:
        """(V,) what is added to the score of every item, whatever the history."""
        out: npt.NDArray[np.float32] = self._memory.bias(self._gate)
        return out

    def bonuses(self, requests: Sequence[Request]) -> list[Bonus]:
        """Of each request, whose history has a known item: rows of the catalogue, ascending, and what is added."""
        latest = slice(-self._neighbours.HISTORY, None)
        rows = [np.array(request.known.rows[latest], np.int64) for request in requests]
        times = [np.array(request.known.times[latest], np.int64) for request in requests]
        history = np.repeat(np.arange(len(requests)), [len(each) for each in rows])
        ages, told = self._neighbours.ages, []
        if getattr(self._memory, "kinds", None) is None:  # so are archives of before there were kinds of events
            aged = [ages(each) for each in times]
        else:
            kinds = [np.array(request.known.kinds[latest], np.int64) for request in requests]
            aged = [ages(each, kind) for each, kind in zip(times, kinds, strict=True)]
            told = [np.concatenate(kinds)]
        found = self._memory.recall(np.concatenate(rows), np.concatenate(aged), history, len(requests), *told)
        bounds = np.searchsorted(found.history_J, np.arange(1, len(requests)))
        values = self._memory.bonus(self._gate, found)
        return list(zip(np.split(found.item_J, bounds), np.split(values, bounds), strict=True))
