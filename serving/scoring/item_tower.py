"""The item side of an archive: vectors of items that its catalogue does not have, or not as they are now.

A worker keeps nothing that a request would not bring again, so all workers, both arms and replay answer alike.
Letters: N items, V of the catalogue, D width, C rows.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch

from serving.scoring.faults import BadRequest
from serving.scoring.filters import Filters
from serving.scoring.item_values import FIELD, PROGRAM, ItemValues
from serving.scoring.remembering import Remembering
from serving.scoring.upserts import Offered, Rows, Upserts

MOST = 256
"""Items of a request."""
_KEPT = 8
"""Lists whose vectors a worker keeps: a list lives until the next change."""
ItemProgram = Callable[..., torch.Tensor]


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
        memory: Remembering | None,
    ) -> None:
        self._program, self._encoder, self._rows, self._items = program, encoder, rows, items
        self._values = ItemValues(contract["item_features"])
        self._derived = [name for name, each in self._values.features.items() if each.derived]
        self._filterable, self._title = contract["filterable"], contract.get("title")
        self._memory = memory
        self._kept = lru_cache(maxsize=_KEPT)(self._make)

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
            raise ArithmeticError(f"{PROGRAM} gives NaN: the archive is broken, package the model again")
        return vector_ND


def load_item_program(root: Path) -> ItemProgram:
    """Read an archive's `items.pt2`."""
    return torch.export.load(root / PROGRAM).module()


def vectors(rows: Sequence[int] | Rows, matrix_VD: torch.Tensor, offered: Offered | None) -> torch.Tensor:
    """(C, D) of rows of the catalogue, and of those of a request's own items behind it."""
    row_C = torch.as_tensor(np.asarray(rows, np.int64))
    if offered is None:
        return matrix_VD[row_C]
    behind_C = row_C >= offered.first
    out = matrix_VD[row_C.clamp(max=offered.first - 1)]
    out[behind_C] = offered.upserts.vector_ND[row_C[behind_C] - offered.first]
    return out
