"""Is one model better than another, and for whom: paired bootstrap and slices. Letters: S seeds, Q queries."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from heterrec.data.sequences import Queries, Sequences
from heterrec.evaluation.metrics import Floats, Ranking

LONG_HISTORY = 20
POPULAR_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class MeanDifference:
    """Mean difference with its interval; `queries` is how many users it rests on."""

    mean: float
    low: float
    high: float
    queries: int

    @property
    def better(self) -> bool:
        """The interval lies above zero."""
        return self.low > 0


def paired_bootstrap(
    ours: npt.ArrayLike, theirs: npt.ArrayLike, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> MeanDifference:
    """Interval of the mean of `ours - theirs`, values (Q,) of the same queries or (S, Q) of S seeds each.

    Users are resampled, and where there are several seeds, seeds too; both models keep the draw in common. Queries
    with NaN (outside of a slice) are left out; without any the difference is NaN and never `better`.
    """
    difference = np.atleast_2d(np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64))
    difference = difference[:, np.isfinite(difference).all(0)]
    seeds, queries = difference.shape
    if not queries:
        return MeanDifference(mean=float("nan"), low=float("nan"), high=float("nan"), queries=0)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for n in range(resamples):
        users = rng.multinomial(queries, np.full(queries, 1 / queries)) / queries
        drawn = rng.multinomial(seeds, np.full(seeds, 1 / seeds)) / seeds
        means[n] = drawn @ difference @ users
    low, high = np.quantile(means, ((1 - level) / 2, (1 + level) / 2))
    return MeanDifference(mean=float(difference.mean()), low=float(low), high=float(high), queries=queries)


def slices(sequences: Sequences, queries: Queries, ranking: Ranking) -> dict[str, npt.NDArray[np.bool_]]:
    """Masks (P,) over the pairs of `ranking`: short and long histories; popular, rare and new items.

    Popular items are the most bought fifth of those with training events, new ones have none.
    """
    history = (queries.stop - queries.start)[ranking.query]
    counts = sequences.training_counts
    bought = np.sort(counts[counts > 0])
    popular = bought[int((1 - POPULAR_SHARE) * len(bought))] if len(bought) else 0
    target = counts[ranking.target]
    return {
        "short_history": history < LONG_HISTORY,
        "long_history": history >= LONG_HISTORY,
        "popular_items": (target >= popular) & (target > 0),
        "rare_items": (target < popular) & (target > 0),
        "new_items": target == 0,
    }


def compare(ours: Ranking, theirs: Ranking, k: int = 10, where: npt.NDArray[np.bool_] | None = None) -> MeanDifference:
    """NDCG@k of one ranking against another of the same queries, on a slice where one is given."""
    if not np.array_equal(ours.target, theirs.target) or not np.array_equal(ours.query, theirs.query):
        raise ValueError("rankings are of different queries; rank both models on the same sequences")
    a: Floats = ours.per_query("ndcg", k, where)
    return paired_bootstrap(a, theirs.per_query("ndcg", k, where))
