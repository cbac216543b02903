"""Items that a request brings along: new ones, and known ones whose features have changed since the catalogue was made.

A worker keeps nothing that a request would not bring again, so all workers, both arms and replay answer alike. Behind
the V rows of the catalogue stand those of a request's N upserts: row V + n is its n-th. Letters: D width.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import torch

from serving.scoring.faults import BadRequest
from serving.scoring.filters import Filter, Filters
from serving.scoring.item_values import ItemValues
from serving.scoring.placed import RANKING

if TYPE_CHECKING:
    from serving.scoring.remembering import Remembering
    from serving.scoring.requests import Request

ITEM_PROGRAM = "items.pt2"
MOST = 256
"""Items of a request."""
FIELD = "upserts"
"""Of a request; entries `{"item_id", "features", "since"}`, the last in days since 1970."""
_KEPT = 8
"""Lists whose vectors a worker keeps: arms have one each, and a list lives until the next change."""
Rows = npt.NDArray[np.int64]
Best = list[tuple[int, float]]
"""Rows with their scores, best first."""
ItemProgram = Callable[..., torch.Tensor]


class Upserts(NamedTuple):
    """The N items of one list, as vectors."""

    ids: list[str]
    number: Mapping[str, int]
    """Of each id."""
    row_N: Rows
    """In the catalogue, of an item that it holds; -1 of a new one."""
    vector_ND: torch.Tensor
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

    def vectors(self, rows: Sequence[int] | Rows, matrix_VD: torch.Tensor) -> torch.Tensor:
        """(C, D) of rows of the catalogue and of those behind it."""
        row_C = torch.as_tensor(np.asarray(rows, np.int64))
        behind_C = row_C >= self.first
        out = matrix_VD[row_C.clamp(max=self.first - 1)]
        out[behind_C] = self.upserts.vector_ND[row_C[behind_C] - self.first]
        return out

    def in_catalogue(self, rows: Sequence[int] | Rows) -> Rows:
        """(C,) where these rows stand in the catalogue: -1 of a new item."""
        row_C = np.asarray(rows, np.int64)
        behind_C = row_C >= self.first
        return np.where(behind_C, self.upserts.row_N[np.where(behind_C, row_C - self.first, 0)], row_C)

    def of_given(self, rows: Sequence[int]) -> list[int]:
        """Of a request's items, whose `rows` the catalogue has, all rows by which they are scored."""
        changed = set(self.changed)
        return [*(row for row in rows if row not in changed), *self.given]


class ItemTower:
    """Makes vectors of items by an archive's second program; `items` is its items.json, `rows` where an id stands."""

    def __init__(
        self,
        program: ItemProgram,
        *,
        encoder: Any,
        contract: Mapping[str, Any],
        rows: Mapping[str, int],
        items: Mapping[str, Any],
        memory: "Remembering | None",
    ) -> None:
        self._program, self._encoder, self._rows, self._items = program, encoder, rows, items
        self._values = ItemValues(contract["item_features"])
        self._derived = [name for name, each in self._values.features.items() if each.derived]
        self._filterable, self._title = contract["filterable"], contract.get("title")
        self._memory = memory
        self._kept = lru_cache(maxsize=_KEPT)(self._make)

    def offered(
        self,
        raw: object,
        *,
        hidden: Sequence[int],
        closed: frozenset[str],
        filters: Filter,
        given: Sequence[str],
        only_given: bool,
    ) -> Offered:
        """What a request has of the list `raw`, where `hidden` rows of the catalogue and `closed` ids are not to be
        answered. Raises `BadRequest`."""
        upserts, first = self.of(raw), len(self._rows)
        forbidden_N = upserts.filters.forbidden(filters)
        gone = set(hidden)
        named = {first + upserts.number[item] for item in given if item in upserts.number}
        may = [
            first + n
            for n, (item, row) in enumerate(zip(upserts.ids, upserts.row_N.tolist(), strict=True))
            if item not in closed and row not in gone and not forbidden_N[n] and (first + n in named or not only_given)
        ]
        return Offered(upserts, first, may, sorted(named))

    def of(self, raw: object) -> Upserts:
        """The items of a list, made once for each content. Raises `BadRequest`."""
        if not isinstance(raw, list) or len(raw) > MOST:
            raise BadRequest(FIELD, raw, f"a list of at most {MOST} items with item_id, features and since")
        return self._kept(orjson.dumps(raw))

    def _make(self, content: bytes) -> Upserts:
        entries = orjson.loads(content)
        for n, entry in enumerate(entries):
            self._check(n, entry)
        ids = [entry["item_id"] for entry in entries]
        row_N = np.array([self._rows.get(item, -1) for item in ids], np.int64)
        columns = self._columns([entry["features"] for entry in entries], row_N)
        titles = columns[self._title] if self._title is not None else [None] * len(ids)
        return Upserts(
            ids=ids,
            number={item: n for n, item in enumerate(ids)},
            row_N=row_N,
            vector_ND=self._vectors(ids, columns, row_N),
            filters=Filters(self._filterable, columns, len(ids)),
            titles=titles,
            since=[float(entry["since"]) for entry in entries],
        )

    def _check(self, n: int, entry: Any) -> None:
        if not isinstance(entry, dict) or entry.keys() != {"item_id", "features", "since"}:
            raise BadRequest(f"{FIELD}[{n}]", entry, "an object with item_id, features and since")
        if not isinstance(entry["item_id"], str) or not isinstance(entry["features"], dict):
            raise BadRequest(f"{FIELD}[{n}]", entry, "an item_id that is a string, and features by their names")
        if not isinstance(entry["since"], int | float) or isinstance(entry["since"], bool):
            raise BadRequest(f"{FIELD}[{n}].since", entry["since"], "a number of days since 1970")
        for name, feature in self._values.features.items():
            value = entry["features"].get(name)
            if value is not None and (wrong := feature.misfit(value)) is not None:
                raise BadRequest(f"{FIELD}[{n}].features.{name}", value, wrong)

    def _columns(self, features: Sequence[Mapping[str, Any]], row_N: Rows) -> dict[str, list[Any]]:
        """Of each feature N values. What is derived from events, and not sent, is as the catalogue has it."""
        columns = {name: [each.get(name) for each in features] for name in self._values.features}
        for name in self._derived:
            known = self._items["features"].get(name)
            if known is not None:
                columns[name] = [
                    known[row] if value is None and row >= 0 else value
                    for value, row in zip(columns[name], row_N.tolist(), strict=True)
                ]
        return columns

    def _vectors(self, ids: Sequence[str], columns: Mapping[str, list[Any]], row_N: Rows) -> torch.Tensor:
        fields = self._encoder.fields
        encoded = self._encoder.encode(columns)
        values = [encoded[field.name][0] for field in fields]
        missing_NG = np.stack([encoded[field.name][1] for field in fields], axis=1)
        id_N = self._encoder.encode_ids(ids)
        with torch.inference_mode():
            vector_ND = self._program(*map(torch.from_numpy, (id_N, missing_NG, *values)))
        if self._memory is not None:
            share_N, bias_N = (torch.from_numpy(part)[:, None] for part in self._memory.of_items(row_N))
            vector_ND = torch.cat([vector_ND * share_N, bias_N], dim=1)
        if not vector_ND.isfinite().all():
            raise ArithmeticError(f"{ITEM_PROGRAM} gives NaN: the archive is broken, package the model again")
        return vector_ND


def load_item_program(root: Path) -> ItemProgram:
    """Read an archive's `items.pt2`."""
    return torch.export.load(root / ITEM_PROGRAM).module()


def changed_aside(request: "Request") -> "Request":
    """The request with changed items behind the catalogue alone, where they are as they are now."""
    upserts = request.upserts
    if upserts is None:
        return request
    k = len(upserts.of_given(request.placed.rows)) if request.placed.placement == RANKING else request.k
    return request._replace(hidden=[*request.hidden, *upserts.changed], k=max(k, 1))


def in_baskets(request: "Request") -> "Request":
    """The request as tables of what is bought together answer it: they know nothing of new items, and changed ones keep
    their rows, hidden where they are no longer what the request asks for."""
    upserts = request.upserts
    if upserts is None:
        return request
    return request._replace(hidden=[*request.hidden, *upserts.closed])


def merged(best: Iterable[tuple[int, float]], others: Iterable[tuple[int, float]], request: "Request") -> Best:
    """The best of both, as many as are asked for."""
    return sorted([*best, *others], key=lambda each: -each[1])[: request.k]
