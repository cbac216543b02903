"""Full-ranking HR, NDCG and MRR at k, where a query may have several targets.

The rank of a target counts every candidate that is no target of the query and scores at least as high: ties count
against the model. A query's value is the mean over its targets. Letters: Q queries, P (query, target) pairs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from heterrec.data.sequences import Ints, Queries, Sequences

Scores = Callable[[Ints], npt.NDArray[np.float32]]
"""Scores (queries, V) of the queries with these numbers; a higher score ranks first."""
Floats = npt.NDArray[np.float64]
Metric = Literal["hr", "ndcg", "mrr"]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The rank of every target of Q queries."""

    queries: int
    query: Ints
    """(P,) number of the query."""
    target: Ints
    """(P,) catalogue row."""
    rank: Ints
    """(P,) from 1."""

    def per_pair(self, metric: Metric, k: int) -> Floats:
        """(P,) value of each target."""
        rank = self.rank.astype(np.float64)
        value = {"hr": np.ones_like(rank), "ndcg": 1 / np.log2(rank + 1), "mrr": 1 / rank}[metric]
        out: Floats = np.where(self.rank <= k, value, 0.0)
        return out

    def per_query(self, metric: Metric, k: int, where: npt.NDArray[np.bool_] | None = None) -> Floats:
        """(Q,) mean over a query's targets, of those pairs that `where` (P,) marks; NaN for a query without any."""
        kept = np.ones(len(self.query), dtype=bool) if where is None else where
        total = np.bincount(self.query[kept], self.per_pair(metric, k)[kept], minlength=self.queries)
        count = np.bincount(self.query[kept], minlength=self.queries)
        out: Floats = np.divide(total, count, out=np.full(self.queries, np.nan), where=count > 0)
        return out

    def mean(self, metric: Metric, k: int, where: npt.NDArray[np.bool_] | None = None) -> float:
        """Mean over the queries that have a target; NaN where there are none."""
        values = self.per_query(metric, k, where)
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    def summary(self, ks: Sequence[int] = (1, 5, 10, 20)) -> dict[str, float]:
        """`{"hr@1": ..., "ndcg@10": ..., ...}`."""
        metrics: tuple[Metric, ...] = ("hr", "ndcg", "mrr")
        return {f"{metric}@{k}": self.mean(metric, k) for metric in metrics for k in ks}


def rank(scores: Scores, sequences: Sequences, queries: Queries, *, chunk_scores: int = 2**25) -> Ranking:
    """Rank the targets of `queries` among all V items of the catalogue, with `chunk_scores` at a time in memory.

    No candidates are: the query's other targets, items that were not available at the time of the target, and,
    where `sequences.repeats` is False, items that the shopper has (`Sequences.seen`).
    """
    pairs: list[tuple[int, int, int]] = []
    available = sequences.catalogue.available_at
    chunk = max(1, min(256, chunk_scores // len(available)))
    for first in range(0, len(queries), chunk):
        numbers = np.arange(first, min(first + chunk, len(queries)))
        found = scores(numbers)
        if found.shape != (len(numbers), len(available)):
            raise ValueError(f"scores: shape {found.shape}, expected {(len(numbers), len(available))}")
        if np.isnan(found).any():
            raise ValueError("scores: not a number; the model is broken")
        for number, row in zip(numbers.tolist(), found, strict=True):
            targets = sequences.targets(queries, number)
            candidate = available <= sequences.time[queries.stop[number]]
            if not sequences.repeats:
                candidate[sequences.seen(queries, number)] = False
            candidate[targets] = False
            ahead = (row[candidate] >= row[targets][:, None]).sum(1)
            pairs += [
                (number, target, 1 + place) for target, place in zip(targets.tolist(), ahead.tolist(), strict=True)
            ]
    query, target, place = np.array(pairs, dtype=np.int64).reshape(-1, 3).T
    return Ranking(queries=len(queries), query=query, target=target, rank=place)
