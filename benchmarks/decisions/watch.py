"""One watcher of many simulated canaries at once: what each way of comparing the arms says at each look.

Our way goes through the functions that decide in production; the others each leave one thing out.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.decisions.traffic import Batch, SimulatedCanary, batches
from experiments.sample_ratio import log_e_value
from experiments.sequential_test import (
    Floats,
    half_width,
    mixing,
    scores,
)

WAYS = {
    "stratified, clustered, at every look": "sequential",
    "the same once, at the fixed end": "fixed",
    "without strata": "pooled",
    "without clusters": "unclustered",
    "without validity at every look": "peeking",
    "naive: pooled rates, z-test at every look": "naive",
}
Z = 1.959964


@dataclass(kw_only=True)
class WatchFindings:
    """For each way the look (number of the batch, inf for never) of its first decision and the decision's sign, and
    the look at which the sample-ratio check spoke; arrays are (canaries,)."""

    first: dict[str, Floats] = field(default_factory=dict)
    sign: dict[str, Floats] = field(default_factory=dict)
    mismatch: Floats
    effective: Floats


def watch(
    world: SimulatedCanary,
    rows: int,
    seed: int,
    *,
    alpha: float,
    planned: float,
    users: int,
    margin: float = 0.0,
    ratio_alpha: float,
) -> WatchFindings:
    """Watch `rows` canaries of one world to their end, with a look after every batch.

    The first day of each stage is the novelty window; no way decides before the challenger has `users` users.
    `margin` is what the challenger's rate may be above the champion's (a guardrail).
    """
    rng = np.random.default_rng(seed)
    strata, pool, users_seen = _Strata(rows, world.users), _Pool(rows, world.users), _Ratio(rows, world.users)
    never = np.full(rows, np.inf)
    found = WatchFindings(mismatch=never.copy(), effective=np.zeros(rows))
    for way in WAYS.values():
        found.first[way], found.sign[way] = never.copy(), np.zeros(rows)
    last = len(world.weights) * world.batches - 1
    for number, batch in enumerate(batches(world, rows, rng)):
        clicks = batch.clicks + margin * (1 - batch.treated) * batch.exposures
        strata.add(batch, clicks)
        pool.add(batch, clicks)
        enough = batch.treated.sum(1) >= users
        statistics = {**strata.statistics(alpha, planned), **pool.statistics(alpha, planned)}
        for way, (statistic, bound) in statistics.items():
            hit = enough & (np.abs(statistic) > bound) & np.isinf(found.first[way]) & (way != "fixed" or number == last)
            found.first[way][hit], found.sign[way][hit] = number, np.sign(statistic[hit])
        spoke = (users_seen.evidence(batch) > -np.log(ratio_alpha)) & np.isinf(found.mismatch)
        found.mismatch[spoke] = number
    found.effective = strata.effective
    return found


class _Strata:
    """The comparison inside strata (a stage and a day), with what is left out of it on purpose."""

    def __init__(self, rows: int, users: int) -> None:
        self._rows, self._canary = rows, np.repeat(np.arange(rows), users)
        self._closed = self._open = (np.zeros((rows, users)), *(np.zeros(rows) for _ in range(4)))
        self._day, self._weight, self._counts = -1, -1.0, True

    def add(self, batch: Batch, clicks: Floats) -> None:
        if batch.day != self._day:
            self._close(batch)
        self._exposures += batch.exposures
        self._clicks += clicks
        found = scores(self._canary, batch.treated.ravel(), self._exposures.ravel(), self._clicks.ravel(), self._rows)
        exposures = self._exposures.sum(1)
        rate = self._clicks.sum(1) / np.maximum(exposures, 1)
        part, residual = (column.reshape(self._rows, -1) for column in found[:2])
        # The last is the variance of exposures that were independent of one another.
        self._open = (part, found.weight, (residual**2).sum(1), exposures, found.weight * rate * (1 - rate))

    def _close(self, batch: Batch) -> None:
        if self._counts:
            self._closed = tuple(closed + open_ for closed, open_ in zip(self._closed, self._open, strict=True))  # type: ignore[assignment]
        self._counts = batch.weight == self._weight
        self._day, self._weight = batch.day, batch.weight
        self._exposures, self._clicks = np.zeros_like(batch.exposures), np.zeros_like(batch.exposures)

    @property
    def _now(self) -> Any:
        return [closed + self._counts * open_ for closed, open_ in zip(self._closed, self._open, strict=True)]

    @property
    def effective(self) -> Floats:
        effective: Floats = self._now[1]
        return effective

    def statistics(self, alpha: float, planned: float) -> dict[str, tuple[Floats, Floats]]:
        part, weight, residual, exposures, independent = self._now
        score, variance = part.sum(1), (part**2).sum(1)
        tight = np.maximum(mixing(residual, exposures, planned, alpha), 1e-300)
        unclustered = np.maximum(mixing(independent, weight, planned, alpha), 1e-300)
        return {
            "sequential": (score, half_width(variance, tight, alpha)),
            "fixed": (score, Z * np.sqrt(variance)),
            "peeking": (score, Z * np.sqrt(variance)),
            "unclustered": (score, half_width(independent, unclustered, alpha)),
        }


class _Pool:
    """The comparison of rates over everything so far, whatever day it is of."""

    def __init__(self, rows: int, users: int) -> None:
        self._sums = np.zeros((4, rows, users))

    def add(self, batch: Batch, clicks: Floats) -> None:
        for arm, of_arm in enumerate((batch.treated, 1 - batch.treated)):
            self._sums[2 * arm] += of_arm * batch.exposures
            self._sums[2 * arm + 1] += of_arm * clicks

    def statistics(self, alpha: float, planned: float) -> dict[str, tuple[Floats, Floats]]:
        challenger, hits, champion, champion_hits = self._sums.sum(2)
        total = challenger + champion
        rate = (hits + champion_hits) / np.maximum(total, 1)
        effective = challenger * champion / np.maximum(total, 1)
        difference = hits / np.maximum(challenger, 1) - champion_hits / np.maximum(champion, 1)
        share = (challenger / np.maximum(total, 1))[:, None]
        in_challenger, in_champion = (self._sums[k + 1] - rate[:, None] * self._sums[k] for k in (0, 2))
        clustered = (((1 - share) * in_challenger - share * in_champion) ** 2).sum(1)
        tight = mixing((in_challenger**2 + in_champion**2).sum(1), total, planned, alpha)
        naive = Z * np.sqrt(rate * (1 - rate) * effective)
        return {
            "pooled": (difference * effective, half_width(clustered, np.maximum(tight, 1e-300), alpha)),
            "naive": (difference * effective, naive),
        }


class _Ratio:
    """Who was drawn into which arm, as `EventLog.draws` counts it: a group for each weight before and now."""

    def __init__(self, rows: int, users: int) -> None:
        self._before, self._stays = np.zeros((rows, users)), np.zeros((rows, users), dtype=bool)
        self._weight = 0.0
        self._closed: list[tuple[float, Floats, Floats]] = []
        self._open: list[tuple[float, Floats, Floats]] = []

    def evidence(self, batch: Batch) -> Floats:
        if batch.weight != self._weight:
            self._begin(batch)
        self._seen |= batch.exposures > 0
        self._open = []
        for before in np.unique(self._before):
            drawn = self._seen & ~self._stays & (self._before == before)
            chance = (batch.weight - before) / (1 - before)
            self._open.append((chance, drawn.sum(1), (drawn & (batch.treated > 0)).sum(1)))
        chances, users, challengers = zip(*self._closed, *self._open, strict=True)
        return log_e_value(chances, users, challengers)

    def _begin(self, batch: Batch) -> None:
        """A new stage: who met an arm in the one before is remembered with it."""
        if self._weight:
            challenger = self._seen & (self._treated > 0)
            self._before = np.where(self._seen & ~challenger & ~self._stays, self._weight, self._before)
            self._stays |= challenger
        self._weight, self._treated, self._seen = batch.weight, batch.treated, np.zeros_like(self._stays)
        self._closed += self._open
