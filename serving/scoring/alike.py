"""Items like some given ones, by a network's own embeddings; and the best of them for one shopper.

Letters: V items of the catalogue, E numbers of an embedding, C candidates, G given items.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from serving.scoring.retrieval import Best

EMBEDDING = ("identity", "features", "network")
"""Parts of an item's row that say what it is like; the others say how much it is wanted by all."""
_IN_A_ROW = (*EMBEDDING, "appeal", "popularity")
"""How the parts follow each other: the contract's object has them in no order, as JSON has none."""
FUSED = 60.0
"""Of reciprocal rank fusion (Cormack, Clarke & Büttcher, SIGIR 2009): rankings need no common scale."""


def parts_of(contract: Mapping[str, object], *, memory: bool) -> dict[str, slice]:
    """What stands where in an item's row. An archive of before this was said has its network's numbers in one part."""
    said = contract.get("parts")
    if not isinstance(said, Mapping):
        width = int(str(contract["width"])) - memory
        said = {"network": width - 1, "appeal": 1, "popularity": int(memory)}
    out, at = {}, 0
    for name in (each for each in _IN_A_ROW if each in said):
        out[name], at = slice(at, at + said[name]), at + said[name]
    return out


class ItemSimilarity:
    """Over the item matrix (V, width) of a network whose rows have these parts."""

    def __init__(self, matrix: torch.Tensor, parts: Mapping[str, slice]) -> None:
        inside = [place for name, place in parts.items() if name in EMBEDDING]
        self._inside = slice(inside[0].start, inside[-1].stop)
        self._embedding_VE = matrix[:, self._inside]
        self._length_V = _lengths(self._embedding_VE)

    def scores(self, given: torch.Tensor) -> torch.Tensor:
        """(V,) the cosine of each item with the middle of the given ones (G, width)."""
        out: torch.Tensor = self._embedding_VE @ self._towards(given).sum(0) / self._length_V
        return out

    def best(
        self, given: torch.Tensor, k: int, hidden: Sequence[int], forbidden_V: npt.NDArray[np.bool_] | None
    ) -> Best:
        """The k items that are most like the given ones (G, width), best first, without those hidden or forbidden."""
        score_V = self.scores(given)
        score_V[torch.tensor(hidden, dtype=torch.int64)] = -torch.inf
        if forbidden_V is not None:
            score_V.masked_fill_(torch.from_numpy(forbidden_V), -torch.inf)
        score_K, row_K = score_V.topk(min(k, len(score_V)))
        allowed = int((score_K > -torch.inf).sum())
        return list(zip(row_K[:allowed].tolist(), score_K[:allowed].tolist(), strict=True))

    def scores_of(self, given: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(C,) the same of these rows (C, width)."""
        out: torch.Tensor = self.shares(given, rows).sum(0)
        return out

    def shares(self, given: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(G, C) what each given item has in the score of each of these rows: they add up to it."""
        embedding_CE = rows[:, self._inside]
        out: torch.Tensor = self._towards(given) @ (embedding_CE / _lengths(embedding_CE)[:, None]).T
        return out

    def _towards(self, given: torch.Tensor) -> torch.Tensor:
        """(G, E) that add up to a vector of length one."""
        embedding_GE = given[:, self._inside]
        each = embedding_GE / _lengths(embedding_GE)[:, None]
        out: torch.Tensor = each / each.sum(0).norm().clamp(min=1e-12)
        return out


def _lengths(embedding_RE: torch.Tensor) -> torch.Tensor:
    out: torch.Tensor = embedding_RE.norm(dim=1).clamp(min=1e-12)
    return out


def fused(alike: Best, taste_C: np.ndarray, k: int) -> tuple[Best, dict[int, tuple[float, float]]]:
    """The best k of what is alike, best first, by their place there and by their place among a shopper's own scores
    `taste_C` of the same items; and what either of the two gives of each score."""
    place_C = np.empty(len(alike), np.int64)
    place_C[np.argsort(-taste_C, kind="stable")] = np.arange(len(alike))
    halves = {
        row: (1 / (FUSED + 1 + place), 1 / (FUSED + 1 + int(own)))
        for place, ((row, _), own) in enumerate(zip(alike, place_C, strict=True))
    }
    best = sorted(((row, sum(halves[row])) for row, _ in alike), key=lambda each: -each[1])
    return best[:k], halves
