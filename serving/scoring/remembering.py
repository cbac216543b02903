"""What the archive's memory adds to the scores of a batch of requests; without torch, as a gateway asks it too."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

from serving.scoring.requests import History, ScoringRequest

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

    def of_items(self, row_N: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """(N,) by what the model's score of these rows is multiplied, and what is added to it, whatever the history; -1
        is an item that was never sold."""
        share_V, bias_V = self._memory.share(self._gate), self._memory.bias(self._gate)
        known_N = row_N >= 0
        share_N = np.where(known_N, share_V[row_N], np.float32(self._gate.trust_new))
        bias_N = np.where(known_N, bias_V[row_N], np.float32(self._gate.bias_K[0]))
        return share_N.astype(np.float32), bias_N.astype(np.float32)

    def bonuses(self, requests: Sequence[ScoringRequest]) -> list[Bonus]:
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

    @property
    def channels(self) -> Sequence[str]:
        """The names of what the tables say."""
        names: Sequence[str] = self._neighbours.CHANNELS
        return names

    def ages(self, known: History) -> list[int]:
        """Of each event how many later moments there are."""
        found: list[int] = self._neighbours.ages(np.array(known.times, np.int64)).tolist()
        return found

    def reminders(
        self, events: Sequence[int], ages: Sequence[int], wanted: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Of the J pairs of an event and one of the `wanted` rows that it brings to mind: the event's row, that row,
        what each channel says (J, channels) as it stands in the sum, and what is added to the row's score for all of
        it together."""
        latest = slice(-self._neighbours.HISTORY, None)
        row_S, age_S = np.array(events[latest], np.int64), np.array(ages[latest], np.int64)
        found = self._memory.recall(row_S, age_S, np.arange(len(row_S)), len(row_S))
        kept = np.isin(found.item_J, wanted)
        row_J, value_JC = found.item_J[kept], found.value_JC[kept].astype(np.float64)
        bucket_J = self._memory.bucket_V[row_J]
        mixed_JC = np.asarray(self._gate.weight_CK).T[bucket_J] * value_JC
        total_V = np.bincount(row_J, mixed_JC.sum(1), minlength=len(self._memory.bucket_V))
        bonus_J = np.asarray(self._gate.gain_K)[bucket_J] * np.log1p(total_V[row_J])
        return row_S[found.history_J[kept]], row_J, mixed_JC, bonus_J

    def kin(self, given: Sequence[int]) -> Bonus:
        """What a shopper who had bought nothing but these items, at one moment, would be reminded of."""
        rows = np.array(given, np.int64)
        nought = np.zeros(len(rows), np.int64)
        found = self._memory.recall(rows, nought, nought, 1)
        return found.item_J, self._memory.bonus(self._gate, found)

    def after(self, row: int) -> Bonus:
        """The items that are bought soonest after this one, and how often for how often either is bought."""
        table = self._memory.tables[self._neighbours.CHANNELS.index("together")]
        mine = slice(int(table.first_V[row]), int(table.first_V[row + 1]))
        return table.item_N[mine].astype(np.int64), table.weight_N[mine]


def added(bonus: Bonus, row_C: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """(C,) what a bonus adds to the scores of these rows; 0 for those that memory says nothing of."""
    rows, values = bonus
    if not len(rows):
        return np.zeros(len(row_C), np.float32)
    place = np.minimum(np.searchsorted(rows, row_C), len(rows) - 1)
    return np.where(rows[place] == row_C, values[place], np.float32(0))
