"""What another policy would have earned, from the log of the one that served: off-policy evaluation.

A slot whose item was drawn by a known law tells about every item that it could have shown; a slot that shows the best
of its ranking tells about that one only, so only slots with a draw are evidence. Each of them is one row here, in (N,)
arrays: the shopper, the reward, the probability with which the item was shown (`propensity`, from the log) and the one
with which the policy in question would have shown it there (`chance`). A policy that shows what the log could not have
shown has no estimate: hold it to what was open to the draw.

Rows of one shopper belong together: intervals are cluster-robust (Liang and Zeger, 1986), at 95 %.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Z = 1.959964
FEWEST = 50
"""Shoppers, each as heavy as all others, below which an interval by the normal law promises too much."""


class Scored(NamedTuple):
    """An estimate, and by how much each row moves it: the difference of two is that of their values and influences."""

    value: float
    influence_N: Floats

    def against(self, other: "Scored") -> "Scored":
        """How much more this one earns, row by row, so that what both share does not widen the interval."""
        return Scored(self.value - other.value, self.influence_N - other.influence_N)


class Interval(NamedTuple):
    """Of an estimate. `shoppers` is how many equally heavy ones it rests on."""

    value: float
    low: float
    high: float
    shoppers: float

    @property
    def supported(self) -> bool:
        return self.shoppers >= FEWEST


def logged(reward_N: Floats) -> Scored:
    """What the policy of the log has earned."""
    value = float(reward_N.mean())
    return Scored(value, reward_N - value)


def self_normalised(reward_N: Floats, propensity_N: Floats, chance_N: Floats) -> Scored:
    """Inverse propensity, its weights summing to one (Hájek, 1971; Swaminathan and Joachims, 2015).

    Raises `ValueError` where no row has an item that the policy would show, or a propensity is none.
    """
    weight_N = _weights(propensity_N, chance_N)
    value = float((weight_N * reward_N).sum() / weight_N.sum())
    return Scored(value, weight_N * (reward_N - value) / weight_N.mean())


def doubly_robust(
    reward_N: Floats, propensity_N: Floats, chance_N: Floats, expected_N: Floats, promised_N: Floats
) -> Scored:
    """A model of the reward, corrected by what was logged (Dudík, Langford and Li, 2011), the weights of the correction
    summing to one (Thomas and Brunskill, 2016): right where the model or the propensities are.

    `expected_N` is the modelled reward of the item shown, `promised_N` that of what the policy would show. Neither may
    have learned from the same shopper (see `predicted`).
    """
    weight_N = _weights(propensity_N, chance_N)
    promised, missed_N = float(promised_N.mean()), reward_N - expected_N
    missed = float((weight_N * missed_N).sum() / weight_N.sum())
    influence_N = promised_N - promised + weight_N * (missed_N - missed) / weight_N.mean()
    return Scored(promised + missed, influence_N)


def interval(scored: Scored, shopper_N: Integers) -> Interval:
    """At 95 %, by shoppers."""
    _, place_N = np.unique(shopper_N, return_inverse=True)
    moved_G = np.bincount(place_N, weights=scored.influence_N)
    groups, rows = len(moved_G), len(shopper_N)
    if groups < 2:
        return Interval(scored.value, -np.inf, np.inf, float(groups))
    spread = float(np.sqrt((moved_G**2).sum() * groups / (groups - 1)) / rows)
    heavy = float((np.abs(moved_G).sum()) ** 2 / max((moved_G**2).sum(), 1e-300))
    # Student's quantile, by its expansion; its degrees of freedom by Satterthwaite, as a few heavy shoppers tell little
    # of the spread.
    freedom = (moved_G**2).sum() ** 2 / max((moved_G**4).sum(), 1e-300)
    wide = spread * Z * (1 + (Z**2 + 1) / (4 * max(float(freedom), 1)))
    return Interval(scored.value, scored.value - wide, scored.value + wide, heavy)


def predicted(
    shown_NF: Floats,
    other_NF: Floats,
    reward_N: Floats,
    propensity_N: Floats,
    shopper_N: Integers,
    *,
    folds: int = 5,
    ridge: float = 1.0,
) -> tuple[Floats, Floats]:
    """Expected rewards of what was shown and of what a policy would show, from features of both; each row by a linear
    model that has seen none of its shopper (cross-fitting: Chernozhukov et al., 2018). What was seldom shown counts for
    more, by its propensity: there a wrong model would cost most."""
    _, place_N = np.unique(shopper_N, return_inverse=True)
    fold_N = np.random.default_rng(0).permutation(place_N.max() + 1)[place_N] % folds
    expected_N, promised_N = np.empty(len(reward_N)), np.empty(len(reward_N))
    for fold in range(folds):
        mine, others = fold_N == fold, fold_N != fold
        seen_NF = shown_NF[others]
        heavy_NF = seen_NF * (propensity_N[others].min() / propensity_N[others])[:, None]
        gram_FF = heavy_NF.T @ seen_NF + ridge * np.eye(shown_NF.shape[1])
        weight_F = np.linalg.solve(gram_FF, heavy_NF.T @ reward_N[others])
        expected_N[mine], promised_N[mine] = shown_NF[mine] @ weight_F, other_NF[mine] @ weight_F
    return expected_N, promised_N


def _weights(propensity_N: Floats, chance_N: Floats) -> Floats:
    if not ((propensity_N > 0) & (propensity_N <= 1)).all():
        raise ValueError("a propensity is not above 0 and at most 1: the log is of another law")
    weight_N: Floats = chance_N / propensity_N
    if not weight_N.any():
        raise ValueError("the log shows nothing that this policy would: it has no estimate")
    return weight_N
