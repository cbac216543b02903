"""What the neighbour tables of an archive answer in this process, where no model does: personal, and without torch.

The request is read, filtered and scored by the very code of the scorer; the tables and the code that reads them are the
archive's. Letters: V items of the catalogue, J of them that a history brings to mind.
"""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from serving.scoring import reasons
from serving.scoring.brought import brought
from serving.scoring.filters import Filters
from serving.scoring.placed import (
    OF_ARCHIVES,
    RANKING,
    SIMILAR,
    TOGETHER,
)
from serving.scoring.remembering import Remembering, added
from serving.scoring.requests import RequestReader, ScoringRequest
from serving.scoring.shelves import (
    BASKETS,
    Baskets,
    Best,
    Shelves,
)

MEMORY, CODE = "memory.npz", "neighbours.py"
MOST_BYTES = 256 * 2**20
"""Of tables that a gateway reads: some 100,000 items. With more of them popular items answer where no model does."""
_IN_MEMORY = 4 / 3
"""Bytes of tables in memory for each in their file, once unpacked: weights are half as long there."""
_BLOCK = 512


class TooLarge(ValueError):
    """Tables that would not fit a gateway."""


class NeighbourAnswers:
    """Of one archive, over its catalogue."""

    def __init__(
        self,
        *,
        contract: Mapping[str, Any],
        items: Mapping[str, Any],
        memory: Remembering,
        baskets: Baskets | None = None,
    ) -> None:
        self._ids: Sequence[str] = items["item_id"]
        self._titles: Sequence[str | None] = items.get("title") or [None] * len(self._ids)
        filters = Filters(contract["filterable"], items["features"], len(self._ids))
        rows = {item: row for row, item in enumerate(self._ids)}
        self._filters = filters
        self._shelves = Shelves(items, filters, memory=memory, baskets=baskets)
        self._reader = RequestReader(
            contract=contract,
            rows=rows,
            varying=(),
            filters=filters,
            placements=OF_ARCHIVES,
            kinds=self._shelves.kinds,
        )
        self._memory, self._bias_V = memory, memory.bias()
        if self._bias_V.shape != (len(rows),):
            raise ValueError(f"{MEMORY}: of {len(self._bias_V)} items, expected the {len(rows)} of items.json")
        self._order = np.lexsort((-np.array(items["events"], np.int64), -self._bias_V))
        """Of the items that no history brings to mind."""

    @classmethod
    def read(cls, mar: Path, *, most_bytes: int = MOST_BYTES) -> "NeighbourAnswers | None":
        """None where the archive has no memory. Raises `TooLarge`, and whatever a damaged one raises."""
        with zipfile.ZipFile(mar) as packed, TemporaryDirectory(prefix="tables-") as folder:
            if MEMORY not in packed.namelist():
                return None
            contract, items = (json.loads(packed.read(name)) for name in ("serving.json", "items.json"))
            if (size := _size(packed, most_bytes)) > most_bytes:
                raise TooLarge(
                    f"the tables take {size / 2**20:,.0f} MiB, of {most_bytes / 2**20:,.0f} that a gateway gives them"
                )
            for name in (MEMORY, CODE):
                (Path(folder) / name).write_bytes(packed.read(name))
            memory = Remembering(Path(folder), brought(Path(folder) / CODE), alone=True)
            baskets = None
            if BASKETS in packed.namelist():
                (Path(folder) / BASKETS).write_bytes(packed.read(BASKETS))
                baskets = Baskets(Path(folder))
        return cls(contract=contract, items=items, memory=memory, baskets=baskets)

    def answer(self, request: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """The best items for a request as a model gets it, best first; None where its history, or what is given, has no
        known item.

        Raises `BadRequest` for what the scorer would refuse.
        """
        asked = self._reader.read(request)
        placement, given = asked.placed.placement, asked.placed.rows
        if placement in (SIMILAR, TOGETHER):
            if not given:
                return None
            shelves = self._shelves
            best = shelves.similar(asked) if placement == SIMILAR else shelves.bought_together(asked)
            return self._dressed(best, asked)
        if not asked.history.rows:
            return None
        if placement == RANKING:
            (bonus,) = self._memory.bonuses([asked])
            rows = np.array(given, np.int64)
            best = self._shelves.chosen(rows, self._bias_V[rows] + added(bonus, rows), asked)
            return self._dressed(best, asked)
        return self._dressed(self._for_you(asked), asked)

    def _for_you(self, asked: ScoringRequest) -> Best:
        ((row_J, bonus_J),) = self._memory.bonuses([asked])
        closed_V = self._filters.forbidden(asked.filters).copy() if asked.filters else np.zeros(len(self._ids), bool)
        closed_V[asked.hidden] = True
        open_J = ~closed_V[row_J]
        row_J, bonus_J = row_J[open_J], bonus_J[open_J]
        score_J = self._bias_V[row_J] + bonus_J
        closed_V[row_J] = True
        if len(row_J) > asked.k:
            best = np.argpartition(-score_J, asked.k - 1)[: asked.k]
            row_J, score_J = row_J[best], score_J[best]
        others = self._others(closed_V, asked.k)
        rows = np.concatenate([row_J, others])
        scores = np.concatenate([score_J, self._bias_V[others]])
        best = np.argsort(-scores, kind="stable")[: asked.k]
        return list(zip(rows[best].tolist(), scores[best].tolist(), strict=True))

    def _dressed(self, best: Best, asked: ScoringRequest) -> list[dict[str, Any]]:
        """For an answer, with the reasons where they are asked for."""
        items: list[dict[str, Any]] = [
            {"item_id": self._ids[row], "score": score, "title": self._titles[row]} for row, score in best
        ]
        if asked.placed.explain:
            why = self._why(asked, [row for row, _ in best])
            for item, (row, _) in zip(items, best, strict=True):
                item["why"] = reasons.reason_entries(why.get(row, ()), self._ids.__getitem__)
        return items

    def _why(self, asked: ScoringRequest, rows: Sequence[int]) -> reasons.Shares:
        placement, given = asked.placed.placement, asked.placed.rows
        if placement == TOGETHER:
            return reasons.of_terms(self._shelves.terms(given), rows)
        if placement == SIMILAR:
            return reasons.of_memory(self._memory, given, [0] * len(given), rows)
        wanted: reasons.Shares = {
            row: [reasons.ReasonTerm("popularity", None, float(self._bias_V[row]), True)] for row in rows
        }
        known = asked.known
        return reasons.joined(wanted, reasons.of_memory(self._memory, known.rows, self._memory.ages(known), rows))

    def _others(self, closed_V: np.ndarray, k: int) -> np.ndarray:
        """The `k` best rows that are open, by their bias."""
        found, count = [np.zeros(0, np.int64)], 0
        for start in range(0, len(self._order), _BLOCK):
            block = self._order[start : start + _BLOCK]
            found.append(block[~closed_V[block]][: k - count])
            count += len(found[-1])
            if count == k:
                break
        return np.concatenate(found)


def _size(packed: zipfile.ZipFile, most_bytes: int) -> float:
    """Bytes of the tables once they are read; no more of the file is read than fits."""
    if (size := packed.getinfo(MEMORY).file_size) > most_bytes:
        return size
    with zipfile.ZipFile(io.BytesIO(packed.read(MEMORY))) as arrays:
        return _IN_MEMORY * sum(entry.file_size for entry in arrays.infolist())
