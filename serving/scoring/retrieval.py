"""From user vectors to the best items of the catalogue: exactly, or through an index where it is large.

Letters: B requests, D width, V items of the catalogue, K items asked for, C candidates.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from serving.scoring.filters import Mask
from serving.scoring.remembering import Bonus, added

Best = list[tuple[int, float]]
"""Rows of the catalogue with their scores, best first."""
INDEX = "index.faiss"
_SCORES = 1 << 24
"""Scores that are held at once."""
_WIDER = 2
"""The best of a part of the catalogue lie in more cells than as many of the whole would."""
_FEW = 0.02
"""Share of the catalogue up to which what a filter allows is scored item by item, index or not."""


def _candidates(k: int) -> int:
    """How many are scored exactly for `k` items, where they are found by less than the item matrix itself."""
    return 2 * k + 50


class RetrievalRequest(NamedTuple):
    """What a request wants of the ranking."""

    k: int
    hidden: list[int]
    """Rows that must not be answered."""
    forbidden: Mask | None
    """(V,) True for what its filters do not allow; None without filters."""
    bonus: Bonus | None = None
    """What memory adds; None without a memory."""


class Retrieval(Protocol):
    """Finds the best items of each request."""

    def best(self, user_BD: torch.Tensor, asked: Sequence[RetrievalRequest]) -> list[Best]:
        """The best allowed rows of each request with their scores, best first; `asked` has B entries."""
        ...


class Exact:
    """Scores every item. With `scan` bfloat16 candidates are found by a copy of the matrix of half the size, which is
    read in half the time, and scored by the matrix itself.
    """

    def __init__(self, item_matrix: torch.Tensor, *, scan: torch.dtype = torch.float32) -> None:
        self._matrix = item_matrix
        self._scanned = item_matrix.to(scan)
        self._rescores = scan != item_matrix.dtype

    def best(self, user_BD: torch.Tensor, asked: Sequence[RetrievalRequest]) -> list[Best]:
        step = max(1, _SCORES // len(self._matrix))
        parts = [slice(start, start + step) for start in range(0, len(asked), step)]
        return [best for part in parts for best in self._part(user_BD[part], asked[part])]

    def _part(self, user_BD: torch.Tensor, asked: Sequence[RetrievalRequest]) -> list[Best]:
        score_BV = (user_BD.to(self._scanned.dtype) @ self._scanned.T).float()
        _add(score_BV, asked)
        hidden = [np.array(request.hidden, np.int64) for request in asked]
        place = np.repeat(np.arange(len(asked)), [len(rows) for rows in hidden]), np.concatenate(hidden)
        score_BV[torch.from_numpy(place[0]), torch.from_numpy(place[1])] = -torch.inf
        for b, request in enumerate(asked):
            if request.forbidden is not None:
                score_BV[b].masked_fill_(torch.from_numpy(request.forbidden), -torch.inf)
        most = max(request.k for request in asked)
        if not self._rescores:
            score_BK, row_BK = score_BV.topk(most)
        else:
            found_BC, row_BC = score_BV.topk(min(_candidates(most), score_BV.shape[1]))
            exact_BC = torch.einsum("bd,bcd->bc", user_BD, self._matrix[row_BC])
            exact_BC += torch.from_numpy(_bonuses(asked, row_BC.numpy()))
            exact_BC[found_BC == -torch.inf] = -torch.inf
            score_BK, place_BK = exact_BC.topk(most)
            row_BK = row_BC.gather(1, place_BK)
        allowed = (score_BK > -torch.inf).sum(1).tolist()
        return [
            list(zip(rows[:end], scores[:end], strict=True))
            for rows, scores, end in zip(
                row_BK.tolist(), score_BK.tolist(), map(min, allowed, (request.k for request in asked)), strict=True
            )
        ]


class Approximate:
    """Looks into the `probes` likeliest cells of an inverted file of 8-bit codes, and scores what it finds exactly.

    A filter widens the search twice as much as it narrows the catalogue; where it allows little, or little is found,
    the answer is exact: so there are always K items where so many are allowed.
    """

    def __init__(self, item_matrix: torch.Tensor, index: Any, *, probes: int) -> None:
        self._matrix, self._index, self._probes = item_matrix, index, probes
        self._exact = Exact(item_matrix)

    @classmethod
    def read(cls, root: Path, item_matrix: torch.Tensor, *, probes: int) -> "Approximate":
        """Read the index of an archive. Raises `ValueError` where it is not that of the item matrix."""
        import faiss

        index = faiss.read_index(str(root / INDEX))
        if (index.ntotal, index.d) != tuple(item_matrix.shape):
            raise ValueError(f"{INDEX}: holds {index.ntotal} vectors of {index.d}, expected {tuple(item_matrix.shape)}")
        return cls(item_matrix, index, probes=probes)

    def best(self, user_BD: torch.Tensor, asked: Sequence[RetrievalRequest]) -> list[Best]:
        out = self.search(user_BD, asked)
        missing = [b for b, best in enumerate(out) if best is None]
        if missing:
            for b, best in zip(missing, self._exact.best(user_BD[missing], [asked[b] for b in missing]), strict=True):
                out[b] = best
        return [best for best in out if best is not None]

    def search(self, user_BD: torch.Tensor, asked: Sequence[RetrievalRequest]) -> list[Best | None]:
        """As `best`, but None where the index alone does not find K items."""
        out: list[Best | None] = [None] * len(asked)
        free = [b for b, request in enumerate(asked) if request.forbidden is None]
        if free:
            self._search(user_BD, asked, free, out, self._probes, None)
        for b, request in enumerate(asked):
            if request.forbidden is not None:
                share = 1 - np.count_nonzero(request.forbidden) / len(request.forbidden)
                if share <= _FEW:
                    out[b] = self._few(user_BD[b], request)
                else:
                    self._search(user_BD, asked, [b], out, math.ceil(_WIDER * self._probes / share), request.forbidden)
        return out

    def _search(
        self,
        user_BD: torch.Tensor,
        asked: Sequence[RetrievalRequest],
        chosen: list[int],
        out: list[Best | None],
        probes: int,
        forbidden: Mask | None,
    ) -> None:
        """Fill `out` for the `chosen` requests, where enough is found."""
        import faiss

        settings: dict[str, Any] = {"nprobe": min(probes, self._index.nlist)}
        if forbidden is not None:
            bits = np.packbits(~forbidden, bitorder="little")
            settings["sel"] = faiss.IDSelectorBitmap(len(forbidden), faiss.swig_ptr(bits))
        wanted = max(_candidates(asked[b].k) + len(asked[b].hidden) for b in chosen)
        users = user_BD[chosen]
        _, row_BC = self._index.search(
            users.numpy(), min(wanted, self._index.ntotal), params=faiss.SearchParametersIVF(**settings)
        )
        row_BC = _united(row_BC, [asked[b] for b in chosen])
        rows = torch.from_numpy(row_BC)
        exact_BC = torch.einsum("bd,bcd->bc", users, self._matrix[rows.clamp(min=0)])
        exact_BC += torch.from_numpy(_bonuses([asked[b] for b in chosen], row_BC))
        exact_BC[rows < 0] = -torch.inf
        score_BC, place_BC = exact_BC.sort(dim=1, descending=True)
        for b, found, scores in zip(chosen, rows.gather(1, place_BC).numpy(), score_BC.numpy(), strict=True):
            kept = np.flatnonzero((scores > -np.inf) & ~np.isin(found, asked[b].hidden))[: asked[b].k]
            if len(kept) == asked[b].k:
                out[b] = list(zip(found[kept].tolist(), scores[kept].tolist(), strict=True))

    def _few(self, user_D: torch.Tensor, request: RetrievalRequest) -> Best:
        """Exactly, over the items that the filter allows alone."""
        assert request.forbidden is not None
        allowed = np.flatnonzero(~request.forbidden)
        allowed = allowed[~np.isin(allowed, request.hidden)]
        score_C = self._matrix[torch.from_numpy(allowed)] @ user_D
        score_C += torch.from_numpy(_bonuses([request], allowed[None])[0])
        score_K, place_K = score_C.topk(min(request.k, len(allowed)))
        return list(zip(allowed[place_K.numpy()].tolist(), score_K.tolist(), strict=True))


def _add(score_BV: torch.Tensor, asked: Sequence[RetrievalRequest]) -> None:
    """To scores of all V items, in place."""
    found = [(b, request.bonus) for b, request in enumerate(asked) if request.bonus is not None]
    if found:
        place = np.repeat([b for b, _ in found], [len(rows) for _, (rows, _) in found])
        rows, values = (np.concatenate([bonus[part] for _, bonus in found]) for part in (0, 1))
        score_BV[torch.from_numpy(place), torch.from_numpy(rows)] += torch.from_numpy(values)


def _bonuses(asked: Sequence[RetrievalRequest], row_BC: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """(B, C) of these candidates; 0 for those that memory says nothing of."""
    out = np.zeros(row_BC.shape, np.float32)
    for b, request in enumerate(asked):
        if request.bonus is not None:
            out[b] = added(request.bonus, row_BC[b])
    return out


def _united(row_BC: npt.NDArray[np.int64], asked: Sequence[RetrievalRequest]) -> npt.NDArray[np.int64]:
    """The candidates of the index, and those that memory alone brings up and the filters allow; -1 where there are
    fewer of them than of others."""
    extra = []
    for found, request in zip(row_BC, asked, strict=True):
        rows = np.zeros(0, np.int64) if request.bonus is None else request.bonus[0]
        if request.forbidden is not None:
            rows = rows[~request.forbidden[rows]]
        extra.append(np.setdiff1d(rows, found))
    out = np.full((len(row_BC), row_BC.shape[1] + max(map(len, extra))), -1, np.int64)
    out[:, : row_BC.shape[1]] = row_BC
    for b, rows in enumerate(extra):
        out[b, row_BC.shape[1] : row_BC.shape[1] + len(rows)] = rows
    return out
