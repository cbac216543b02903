"""Several models on the same held-out shoppers: one table, with paired intervals over shoppers and seeds.

The pipeline's gate, the front door's `evaluate`, `compare` and bench-quality rank by the same code, `metrics.rank`, and
take the same intervals, `comparison.paired_bootstrap`.
"""

from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import (
    asdict,
    dataclass,
    field,
    fields,
    replace,
)

import numpy as np
import pyarrow as pa

from heterrec.beyond import Beyond, ShownScores, beyond
from heterrec.data.sequences import Queries, Sequences
from heterrec.evaluation.baselines import Fit
from heterrec.evaluation.comparison import MeanDifference, paired_bootstrap
from heterrec.evaluation.metrics import (
    Floats,
    Metric,
    Ranking,
    Scores,
    rank,
)
from heterrec.inference.answers import judged
from heterrec.recipes import TrainConfig
from heterrec.training.loop import train
from heterrec.training.trained import Progress

K = 10


@dataclass(frozen=True, kw_only=True)
class Contest:
    """What each contender ranked, the first of which the others are held against.

    A contender has a ranking a seed; one that chance has no part in has one.
    """

    rankings: Mapping[str, Sequence[Ranking]]
    k: int = K
    beyond: Mapping[str, Beyond | None] = field(default_factory=dict)
    """What each contender's lists are like (of the first seed)."""

    def first(self, name: str) -> "Contest":
        """The same with `name` as what the others are held against."""
        first = {name: self.rankings[name], **self.rankings}
        return replace(self, rankings=first, beyond={each: self.beyond[each] for each in first})

    @property
    def queries(self) -> int:
        return next(iter(self.rankings.values()))[0].queries

    def values(self, name: str, metric: Metric = "ndcg") -> Floats:
        """(S, Q) of each seed and shopper."""
        return np.stack([each.per_query(metric, self.k) for each in self.rankings[name]])

    def mean(self, name: str, metric: Metric = "ndcg") -> float:
        """Over shoppers and seeds; NaN where nobody was asked."""
        values = self.values(name, metric)
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    def difference(self, name: str, against: str) -> MeanDifference:
        """NDCG@k of one less that of another, with its 95 % interval over shoppers, and over seeds where both have
        several."""
        return paired_bootstrap(self.values(name), self.values(against))

    def table(self) -> pa.Table:
        """A row a contender: model, seeds, hr, ndcg, mrr (each @k), and difference, low, high of its NDCG@k against the
        first one; null for that itself."""
        first, *others = self.rankings
        against = {name: self.difference(name, first) for name in others}
        metrics: tuple[Metric, ...] = ("hr", "ndcg", "mrr")
        return pa.table(
            {
                "model": list(self.rankings),
                "seeds": [len(each) for each in self.rankings.values()],
                **{f"{metric}@{self.k}": [self.mean(name, metric) for name in self.rankings] for metric in metrics},
                "difference": pa.array([None, *(each.mean for each in against.values())], pa.float64()),
                "low": pa.array([None, *(each.low for each in against.values())], pa.float64()),
                "high": pa.array([None, *(each.high for each in against.values())], pa.float64()),
            }
        )

    def lists(self) -> pa.Table:
        """A row a contender, a column each of `Beyond`: what its lists are like."""
        names = [each.name for each in fields(Beyond)]
        rows = [asdict(each) if each else dict.fromkeys(names) for each in self.beyond.values()]
        columns = {name: pa.array([row[name] for row in rows], pa.float64()) for name in names}
        return pa.table({"model": list(self.beyond), **columns})

    def __str__(self) -> str:
        """The table as text."""
        rows, first = self.table().to_pylist(), next(iter(self.rankings))
        wide = max(len(name) for name in self.rankings)
        head = f"{'model':<{wide}}  seeds  HR@{self.k:<4} NDCG@{self.k:<4} NDCG@{self.k} against {first}"
        return "\n".join(
            [head, *(self._line(row, wide) for row in rows), f"{self.queries:,} shoppers, the whole catalogue"]
        )

    def _line(self, row: dict[str, float], wide: int) -> str:
        told = f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]" if row["low"] is not None else ""
        scores = f"{row[f'hr@{self.k}']:.4f}  {row[f'ndcg@{self.k}']:.4f}"
        return f"{row['model']:<{wide}}  {row['seeds']:>5}  {scores}     {told}".rstrip()


def contest(
    sequences: Sequences,
    recipes: Mapping[str, TrainConfig],
    baselines: Mapping[str, Fit],
    *,
    seeds: int = 1,
    k: int = K,
    split: str = "test",
    progress: Callable[[str, int], Progress | None] = lambda name, seed: None,
) -> Contest:
    """Train each recipe with the seeds 0 to `seeds` - 1, fit each baseline, and rank all for the same shoppers.

    `progress` gives, by name and seed, who is told of a training's steps. What chance has no part in (tables and
    baselines) is made once. Raises `ValueError` where names are shared or nobody is held out.
    """
    if shared := sorted(set(recipes) & set(baselines)):
        raise ValueError(f"{shared[0]!r} names a recipe and a baseline; give one of them another name")
    if not recipes and not baselines:
        raise ValueError("there is nothing to compare: name at least one recipe or baseline")
    queries = someone(sequences, split)

    def scored() -> Iterator[tuple[str, Scores]]:
        for name, config in recipes.items():
            for seed in range(seeds if config.network else 1):
                trained = train(sequences, replace(config, seed=seed), progress=progress(name, seed))
                yield name, judged(trained.loaded, sequences, queries)
        for name, fit in baselines.items():
            yield name, fit(sequences, queries)

    return ranked(scored(), sequences, queries, k)


def ranked(scored: Iterable[tuple[str, Scores]], sequences: Sequences, queries: Queries, k: int) -> Contest:
    """The contest of these scores; a name that comes again is another seed of its contender."""
    rankings: dict[str, list[Ranking]] = {}
    lists: dict[str, Beyond | None] = {}
    for name, scores in scored:
        shown = ShownScores(scores, sequences, queries, k)
        rankings.setdefault(name, []).append(rank(shown, sequences, queries))
        if name not in lists:
            lists[name] = beyond(shown.row_QK, sequences, queries)
    return Contest(rankings=rankings, k=k, beyond=lists)


def someone(sequences: Sequences, split: str) -> Queries:
    """The held-out shoppers of `split`; `ValueError` where there are none."""
    queries = sequences.queries(split)
    if not len(queries):
        raise ValueError(
            f"{split}: no shopper has an event held out and one before it; take more days or users, or hold out more"
        )
    return queries
