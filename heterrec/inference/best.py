"""The best items of each of many shoppers, a part of them at a time. Letters: Q queries, V items, K items of a list."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from heterrec.data.sequences import (
    NOW,
    Ints,
    Queries,
    Sequences,
)
from heterrec.evaluation.metrics import Scores
from heterrec.inference.answers import Answers, item_matrix
from heterrec.memory.neighbours import Memory

Mask = npt.NDArray[np.bool_]


class Lists(NamedTuple):
    """Of some queries the best items, the best first; of a query that has fewer the rest is -1 with score -inf."""

    number_Q: Ints
    """Of the query."""
    row_QK: Ints
    score_QK: npt.NDArray[np.float32]


def best(
    scores: Scores, sequences: Sequences, queries: Queries, k: int, candidate_V: Mask, *, seen: bool, at_once: int
) -> Iterator[Lists]:
    """The `k` best of the candidates for each query, `at_once` scores in memory; with `seen` False without what is in
    the history. Of equal scores the item that comes first in the catalogue."""
    size = len(sequences.catalogue)
    k, part = min(k, size), max(1, at_once // size)
    for first in range(0, len(queries), part):
        number_Q = np.arange(first, min(first + part, len(queries)))
        score_QV = np.where(candidate_V, scores(number_Q), np.float32(-np.inf))
        if not seen:
            for place, number in enumerate(number_Q.tolist()):
                score_QV[place, sequences.row[queries.start[number] : queries.stop[number]]] = -np.inf
        yield Lists(number_Q, *highest(score_QV, k))


def highest(score_QV: npt.NDArray[np.float32], k: int) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Rows and scores (Q, k) of the highest scores, in order; -1 where a score is -inf."""
    rows = np.arange(len(score_QV))[:, None]
    edge = np.partition(score_QV, -k, axis=1)[:, -k, None]
    # Of those that are equal to the last of the list the first rows: to be the same whoever asks.
    above = score_QV > edge
    left = k - above.sum(1, keepdims=True)
    equal = score_QV == edge
    chosen = above | (equal & (np.cumsum(equal, axis=1) <= left))
    row_QK: Ints = np.nonzero(chosen)[1].reshape(len(score_QV), k)
    score_QK = score_QV[rows, row_QK]
    order = np.argsort(-score_QK, axis=1, kind="stable")
    row_QK, score_QK = row_QK[rows, order], score_QK[rows, order]
    return np.where(np.isneginf(score_QK), -1, row_QK), score_QK


def rows_of(asked: str, names: pa.Array, lists: Lists, sequences: Sequences) -> pa.Table:
    there = lists.row_QK >= 0
    query, rank_from_0 = np.nonzero(there)
    items = pa.array(sequences.catalogue.item_ids, pa.string())
    return pa.table(
        {
            asked: names.take(pa.array(query)),
            "rank": pa.array(rank_from_0 + 1, pa.int64()),
            "item_id": items.take(pa.array(lists.row_QK[there])),
            "score": pa.array(lists.score_QK[there], pa.float32()),
        }
    )


class ItemLikeness:
    """(Q, V) of some items with all; see `heterrec.estimator.HeterRec.similar_items`."""

    def __init__(self, answers: Answers) -> None:
        self.memory: Memory | None = answers.memory
        self.gate, self.size = answers.gate, len(answers.catalogue)
        self.unit = None
        model = answers.loaded.model
        if model is not None:
            vector = item_matrix(model, answers.loaded.encoder, answers.catalogue, NOW)[:, :-1]  # the last is a bias
            self.unit = vector / np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), 1e-12)

    def of(self, rows: Ints) -> np.ndarray[Any, np.dtype[np.float32]]:
        if self.unit is not None:
            cosine: np.ndarray[Any, np.dtype[np.float32]] = self.unit[rows] @ self.unit.T
            return cosine
        assert self.memory is not None and self.gate is not None, "tables alone have a memory"
        number = np.arange(len(rows))
        found = self.memory.recall(rows, np.zeros_like(rows), number, len(rows))
        out = np.full((len(rows), self.size), -np.inf, dtype=np.float32)
        out[found.history_J, found.item_J] = self.memory.bonus(self.gate, found)
        return out
