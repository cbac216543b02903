"""Items that a request brings along: new ones, and known ones whose features have changed since the catalogue was made.

Behind the V rows of the catalogue stand those of a request's N upserts: row V + n is its n-th. Letters: D width.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from serving.scoring.filters import Filter, Filters
from serving.scoring.placed import RANKING

if TYPE_CHECKING:
    from serving.scoring.requests import ScoringRequest

Rows = npt.NDArray[np.int64]
Best = list[tuple[int, float]]
"""Rows with their scores, best first."""


class Upserts(NamedTuple):
    """The N items of one list, as vectors."""

    ids: list[str]
    number: Mapping[str, int]
    """Of each id."""
    row_N: Rows
    """In the catalogue, of an item that it holds; -1 of a new one."""
    vector_ND: Any
    """A tensor: of who asks for it in a process without torch there is none."""
    filters: Filters
    titles: list[str | None]
    since: list[float]


class Offered(NamedTuple):
    """What one request has of its upserts. All rows are those behind the catalogue's."""

    upserts: Upserts
    first: int
    """V."""
    open: list[int]
    """Rows that may be answered."""
    given: list[int]
    """Rows of those that the request names as its items."""

    @property
    def changed(self) -> list[int]:
        """Rows of the catalogue that are not as they were."""
        row_N = self.upserts.row_N
        return row_N[row_N >= 0].tolist()  # type: ignore[no-any-return]

    @property
    def closed(self) -> list[int]:
        """Rows of the catalogue of changed items that may not be answered."""
        among = set(self.open)
        return [row for n, row in enumerate(self.upserts.row_N.tolist()) if row >= 0 and self.first + n not in among]

    @property
    def places(self) -> list[tuple[int, int]]:
        """Of what may be answered the rows, and where they stand in the catalogue: -1 of a new item."""
        return list(zip(self.open, self.in_catalogue(self.open).tolist(), strict=True))

    def named(self, row: int) -> tuple[str, str | None]:
        """Id and title of one of the rows behind the catalogue's."""
        return self.upserts.ids[row - self.first], self.upserts.titles[row - self.first]

    def since(self, row: int) -> float:
        """When it came."""
        return self.upserts.since[row - self.first]

    def in_catalogue(self, rows: Sequence[int] | Rows) -> Rows:
        """(C,) where these rows stand in the catalogue: -1 of a new item."""
        row_C = np.asarray(rows, np.int64)
        behind_C = row_C >= self.first
        return np.where(behind_C, self.upserts.row_N[np.where(behind_C, row_C - self.first, 0)], row_C)

    def of_given(self, rows: Sequence[int]) -> list[int]:
        """Of a request's items, whose `rows` the catalogue has, all rows by which they are scored."""
        changed = set(self.changed)
        return [*(row for row in rows if row not in changed), *self.given]


def offered(
    upserts: Upserts,
    first: int,
    *,
    closed: Collection[str],
    filters: Filter,
    given: Sequence[str],
    only_given: bool,
) -> Offered:
    """What a request has of them, behind a catalogue of `first` items, where `closed` ones are not to be answered, nor
    others than those `given` with `only_given`."""
    forbidden_N = upserts.filters.forbidden(filters)
    named = {first + upserts.number[item] for item in given if item in upserts.number}
    may = [
        first + n
        for n, item in enumerate(upserts.ids)
        if item not in closed and not forbidden_N[n] and (first + n in named or not only_given)
    ]
    return Offered(upserts, first, may, sorted(named))


def changed_aside(request: "ScoringRequest") -> "ScoringRequest":
    """The request with changed items behind the catalogue alone, where they are as they are now."""
    upserts = request.upserts
    if upserts is None:
        return request
    k = len(upserts.of_given(request.placed.rows)) if request.placed.placement == RANKING else request.k
    return request._replace(hidden=[*request.hidden, *upserts.changed], k=max(k, 1))


def in_baskets(request: "ScoringRequest") -> "ScoringRequest":
    """The request as tables of what is bought together answer it: they know nothing of new items, and changed ones keep
    their rows, hidden where they are no longer what the request asks for."""
    upserts = request.upserts
    if upserts is None:
        return request
    return request._replace(hidden=[*request.hidden, *upserts.closed])


def merged(best: Iterable[tuple[int, float]], others: Iterable[tuple[int, float]], request: "ScoringRequest") -> Best:
    """The best of both, as many as are asked for."""
    return sorted([*best, *others], key=lambda each: -each[1])[: request.k]
