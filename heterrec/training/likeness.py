"""How alike two networks are, by answers and by weights: is the refitted one still what was judged?

Answers tell what shoppers would notice; weights tell what few of them would, such as two items whose IDs were swapped,
or a tower of residual blocks that is gone. Letters: V items, O old ones.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from heterrec.data.sequences import Ints, Queries, Sequences
from heterrec.inference.answers import Loaded, Matrix, judged
from heterrec.training.optimiser import ID_TABLE
from heterrec.training.warm_start import VALUE_TABLE, begun_values

QUERIES, AT_ONCE, K = 1000, 256, 10
"""Shoppers of a split that are looked at, and how many at once."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ModelLikeness:
    """Of the networks alone, without memory, over shoppers of the held-out windows."""

    loss_before: float
    """Cross-entropy of the windows' targets among all candidates, in nats."""
    loss_after: float
    overlap: float
    """Mean share of the ten best old items that both name."""
    correlation: float
    """Mean Spearman correlation of the two rankings of the old items."""
    moved: float
    """Most that a weight matrix changed, against its own size (Frobenius); of the table of values row by row as it
    began, and without that of IDs."""
    least_row: float
    """Least cosine of an old item's ID with what it was."""
    shoppers: int
    old_items: int


def likeness(before: Loaded, after: Loaded, sequences: Sequences) -> ModelLikeness:
    """Compare them on at most `QUERIES` shoppers of validation and of test each. Old items are those with an ID in
    both. Raises `ValueError` where a score is not finite."""
    networks = [each._replace(memory=None, item_ids=[]) for each in (before, after)]
    known = set(before.encoder.ids) & set(after.encoder.ids)
    old_O = np.array([row for row, item in enumerate(sequences.catalogue.item_ids) if item in known], dtype=np.int64)
    found: list[Floats] = []
    for split in ("validation", "test"):
        queries = _sample(sequences.queries(split))
        scores = [judged(each, sequences, queries) for each in networks]
        for first in range(0, len(queries), AT_ONCE):
            numbers = np.arange(first, min(first + AT_ONCE, len(queries)))
            one, other = (score(numbers) for score in scores)
            if not (np.isfinite(one).all() and np.isfinite(other).all()):
                raise ValueError("scores: not a number")
            found += [_compared(sequences, queries, int(n), one[i], other[i], old_O) for i, n in enumerate(numbers)]
    mean = np.nanmean(np.array(found).reshape(-1, 4), axis=0)
    moved, least_row = _weights(before, after)
    return ModelLikeness(
        moved=moved,
        least_row=least_row,
        loss_before=float(mean[0]),
        loss_after=float(mean[1]),
        overlap=float(mean[2]),
        correlation=float(mean[3]),
        shoppers=len(found),
        old_items=len(old_O),
    )


@torch.no_grad()
def _weights(before: Loaded, after: Loaded) -> tuple[float, float]:
    assert before.model is not None and after.model is not None, "tables alone have no weights"
    old, new = before.model.state_dict(), after.model.state_dict()
    matrices = [name for name, value in old.items() if value.ndim > 1 and name not in (ID_TABLE, VALUE_TABLE)]
    # How far each matrix moved against its own size: one number for layers of any width.
    moved = [float((new[name] - old[name]).norm() / old[name].norm().clamp(min=1e-12)) for name in matrices]
    if begun := begun_values(after.model, before.model):
        values = torch.cat(begun)
        moved.append(float((new[VALUE_TABLE][: len(values)] - values).norm() / values.norm().clamp(min=1e-12)))
    place = {item: row for row, item in enumerate(after.encoder.ids, start=1)}
    rows = [(row, place[item]) for row, item in enumerate(before.encoder.ids, start=1) if item in place]
    first, second = (list(each) for each in zip(*rows, strict=True)) if rows else ([], [])
    cosine_O = F.cosine_similarity(old[ID_TABLE][first], new[ID_TABLE][second])
    return max(moved, default=0.0), float(cosine_O.min()) if rows else 1.0


def _compared(
    sequences: Sequences, queries: Queries, number: int, before_V: Matrix, after_V: Matrix, old_O: Ints
) -> Floats:
    """(4,) both losses, overlap, correlation."""
    candidate = sequences.catalogue.available_at <= sequences.time[queries.stop[number]]
    if not sequences.repeats:
        candidate[sequences.seen(queries, number)] = False
    targets = sequences.targets(queries, number)
    losses = []
    for score_V in (before_V, after_V):
        score = score_V.astype(np.float64)
        # -log softmax of each target among the candidates that are no target: log(1 + others / own), from the peak down
        # so that no exponential overflows.
        peak = score.max()
        others = np.delete(np.where(candidate, np.exp(score - peak), 0.0), targets).sum()
        own = np.exp(score[targets] - peak)
        losses.append(float(np.log1p(others / np.maximum(own, 1e-300)).mean()))
    rows = old_O[candidate[old_O]]
    if len(rows) < 2:
        return np.array([*losses, np.nan, np.nan])
    # The argsort of an argsort is the rank; the correlation of two ranks is Spearman's.
    place = [np.argsort(np.argsort(-score_V[rows], kind="stable")) for score_V in (before_V, after_V)]
    k = min(K, len(rows))
    overlap = float(((place[0] < k) & (place[1] < k)).sum() / k)
    return np.array([*losses, overlap, float(np.corrcoef(place[0], place[1])[0, 1])])


def _sample(queries: Queries) -> Queries:
    if len(queries) <= QUERIES:
        return queries
    return queries.take(np.sort(np.random.default_rng(0).permutation(len(queries))[:QUERIES]))
