"""What tables and counts answer by themselves, in whatever placement; without torch, as a gateway asks it too.

Letters: V items of the catalogue, J of them that some given items bring to mind.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from serving.scoring.filters import Filters
from serving.scoring.placed import (
    COLUMN,
    OF_ARCHIVES,
    SIMILAR,
    TOGETHER,
)
from serving.scoring.remembering import Remembering
from serving.scoring.requests import ScoringRequest

Best = list[tuple[int, float]]
"""Rows of the catalogue with their scores, best first."""
Rows = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]
BASKETS = "baskets.npz"
_SORTED = 4096
"""Candidates up to which all of them are sorted."""


class Term(NamedTuple):
    """What one given item says of J others; a score is the sum of such terms."""

    by: str
    given: int
    rows: Rows
    values: Values


class Baskets:
    """Which items lie in one basket: `baskets.npz`, with the entries [first[v], first[v + 1]) of each item v."""

    def __init__(self, root: Path) -> None:
        with np.load(root / BASKETS, allow_pickle=False) as arrays:
            self._first_V, self._item_N = arrays["first"], arrays["item"].astype(np.int64)
            self._weight_N = arrays["weight"].astype(np.float32)

    def of(self, row: int) -> tuple[Rows, Values]:
        """The items that lie with this one, and how strongly."""
        mine = slice(int(self._first_V[row]), int(self._first_V[row + 1]))
        return self._item_N[mine], self._weight_N[mine]


def offered(files: Collection[str], *, network: bool) -> tuple[str, ...]:
    """The placements that an archive of these files answers by itself."""
    without = set()
    if "memory.npz" not in files and not network:
        without.add(SIMILAR)
    if "memory.npz" not in files and BASKETS not in files:
        without.add(TOGETHER)
    return tuple(each for each in OF_ARCHIVES if each not in without)


class Shelves:
    """Of one archive; `items` is its items.json."""

    def __init__(
        self, items: Mapping[str, Any], filters: Filters, *, memory: Remembering | None, baskets: Baskets | None
    ) -> None:
        self._filters, self._memory, self._baskets = filters, memory, baskets
        self.events_V = np.array(items["events"], np.float64)
        self._kinds = {kind: np.array(items[name], np.float64) for kind, name in COLUMN.items() if name in items}
        self._order: dict[str, Rows] = {}

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self._kinds)

    def value(self, kind: str, row: int) -> float | None:
        """By what an item stands among the popular ones of a kind; None for row -1, an item that was never counted."""
        return None if row < 0 else float(self._kinds[kind][row])

    def popular(self, request: ScoringRequest) -> Best:
        """The allowed items that are best by events, by how much more was bought lately, or by when they came."""
        kind = request.placed.kind
        value_V = self._kinds[kind]
        if kind not in self._order:
            self._order[kind] = np.argsort(-value_V, kind="stable")
        best = self._order[kind]
        if request.filters or request.hidden:
            forbidden = self._filters.forbidden(request.filters).copy()
            forbidden[request.hidden] = True
            best = best[~forbidden[best]]
        best = best[: request.k]
        if kind == "trending":
            best = best[value_V[best] > 0]
        return list(zip(best.tolist(), value_V[best].tolist(), strict=True))

    def ranked(self, request: ScoringRequest) -> Best:
        """The given items by their events: for who is not known."""
        rows = np.array(request.placed.rows, np.int64)
        return self.chosen(rows, self.events_V[rows], request)

    def bought_together(self, request: ScoringRequest) -> Best:
        """What lies in one basket with the given items, and what is bought soonest after them."""
        return self.chosen(*summed(self.terms(request.placed.rows)), request)

    def terms(self, given: Sequence[int]) -> list[Term]:
        """What each of the given items says of others by what was bought with it, and after it."""
        found = []
        for row in given:
            if self._baskets is not None:
                found.append(Term("basket", row, *self._baskets.of(row)))
            if self._memory is not None:
                found.append(Term("order", row, *self._memory.after(row)))
        return found

    def similar(self, request: ScoringRequest) -> Best:
        """What the neighbour tables bring to mind of the given items, were they all that a shopper had bought."""
        assert self._memory is not None
        return self.chosen(*self._memory.kin(request.placed.rows), request)

    def chosen(self, row_C: Rows, score_C: npt.NDArray[Any], request: ScoringRequest) -> Best:
        """The best of these candidates that the request allows."""
        open_C = ~np.isin(row_C, request.hidden)
        if request.filters:
            open_C &= ~self._filters.forbidden(request.filters)[row_C]
        row_C, score_C = row_C[open_C], score_C[open_C]
        if len(row_C) > max(_SORTED, 4 * request.k):
            found = np.argpartition(-score_C, request.k - 1)[: request.k]
            row_C, score_C = row_C[found], score_C[found]
        best = np.lexsort((row_C, -score_C))[: request.k]
        return list(zip(row_C[best].tolist(), score_C[best].astype(float).tolist(), strict=True))


def summed(terms: Sequence[Term]) -> tuple[Rows, npt.NDArray[np.float64]]:
    """The rows that the terms speak of, ascending, and the sums of their values."""
    if not terms:
        return np.zeros(0, np.int64), np.zeros(0)
    rows, place = np.unique(np.concatenate([term.rows for term in terms]), return_inverse=True)
    values = np.concatenate([term.values for term in terms])
    return rows, np.bincount(place, values, minlength=len(rows)).astype(np.float64)
