"""How the archive finds the best items: exactly, or through an index that is made here and held to its recall."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from feature_repo.card import Serving
from heterrec.inference.answers import Matrix
from serving.scoring.remembering import Bonus
from serving.scoring.retrieval import (
    INDEX,
    Approximate,
    Best,
    Exact,
    RetrievalRequest,
)

EXACT_UP_TO = 100_000
RECALL, RECALL_AT = 0.99, 100
USERS = 256
"""Users that the recall is measured on."""
_TRAINED_ON = 64
"""Items a cell is trained on; more does not better the cells."""
_SEED, _ROUNDS = 1234, 10


def make_index(
    content: Path, items: Matrix, users: Matrix, serving: Serving, bonuses: Sequence[Bonus | None] = ()
) -> tuple[dict[str, Any], Approximate | None]:
    """The contract's `retrieval` and, where it is approximate, the index, which is written into `content`.

    As many cells are probed as it takes for a recall at 100 of 0.99 of the whole score, on vectors of the model's own
    users (Q, D) and what memory adds for each. A catalogue whose items do not fall into cells ends with all of them
    probed, which finds everything.
    """
    if serving.retrieval == "exact" or (serving.retrieval == "auto" and len(items) <= EXACT_UP_TO):
        return {"by": "exact", "scan": serving.scan}, None
    import faiss

    index = _index(items)
    faiss.write_index(index, str(content / INDEX))
    probes, recall = _probes(index, items, users, bonuses or [None] * len(users))
    chosen = {"by": "approximate", "probes": probes, "cells": index.nlist, "recall_at_100": round(recall, 4)}
    return chosen, Approximate(torch.from_numpy(items), index, probes=probes)


def _index(items: Matrix) -> Any:
    import faiss

    faiss.omp_set_num_threads(1)  # sums in another order would make another archive of the same model
    count, width = items.shape
    cells = 2 ** round(np.log2(np.sqrt(count)))
    quantiser = faiss.IndexFlatIP(width)
    index = faiss.IndexIVFScalarQuantizer(
        quantiser, width, cells, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.seed, index.cp.niter = _SEED, _ROUNDS
    chosen = np.random.default_rng(_SEED).permutation(count)[: cells * _TRAINED_ON]
    index.train(items[np.sort(chosen)])
    index.add(items)
    return index


def _probes(index: Any, items: Matrix, users: Matrix, bonuses: Sequence[Bonus | None]) -> tuple[int, float]:
    """The least power of two of cells that has the recall, twice as deep as it is asked for (a history's items may
    be the best, and are hidden), and its recall at 100.
    """
    matrix, deep = torch.from_numpy(items), min(2 * RECALL_AT, len(items))
    asked = [RetrievalRequest(deep, [], None, bonus) for bonus in bonuses]
    best = Exact(matrix).best(torch.from_numpy(users), asked)
    probes = 1
    while True:
        found = Approximate(matrix, index, probes=probes).search(torch.from_numpy(users), asked)
        if _recall(found, best, deep) >= RECALL or probes >= index.nlist:
            return probes, _recall(found, best, RECALL_AT)
        probes *= 2


def _recall(found: list[Best | None], best: list[Best], depth: int) -> float:
    shares = [
        len({row for row, _ in (mine or [])[:depth]} & {row for row, _ in true[:depth]}) / len(true[:depth])
        for mine, true in zip(found, best, strict=True)
    ]
    return float(np.mean(shares))
