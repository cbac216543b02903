"""The difference between two arms that may be looked at after every batch: a stratified, clustered confidence sequence.

Three things make the plain comparison of two rates wrong in a canary, and each has its answer here:

- The weight of the challenger rises while traffic and rates have trends of their own, so that pooled rates compare
  different days: every comparison is made inside a stratum (a stage and a day), where the weight is constant.
- The exposures of one shopper resemble one another, across days too: the variance is that of sums over a user.
- Somebody looks after every batch: the interval is a confidence sequence, valid at all looks at once.

Within stratum s let y be the outcome sums of a user, n its exposures, r = y - n * (pooled rate), w the challenger's
share of the exposures. The score S = sum (T - w) r over users and strata is n_T n_C / n times the difference of rates,
summed over strata (Mantel-Haenszel weights): additive, and nothing where one arm is missing. Its variance V is the
sum over users of their squared part of S. Under a monotone assignment drawn once per user the parts of a user are
positively correlated over time, so that S/sqrt(V) moves less than a Brownian motion in V would (Slepian's inequality),
and the normal mixture boundary of Robbins (1970; Howard et al. 2021, Waudby-Smith et al. 2024 for the asymptotics)
holds for it. The centring on the pooled rate makes this a score test, which keeps its level with few challengers.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Scores(NamedTuple):
    """`part` (rows): what a user's row adds to the score; `residual` (rows): its outcome less what was expected of it;
    `weight` (strata): effective exposures n_T n_C / n, by which differences of rates are weighed."""

    part: Floats
    residual: Floats
    weight: Floats


class RateDifference(NamedTuple):
    """A difference of rates with its confidence sequence; `effective` exposures n_T n_C / n stand behind it."""

    estimate: float
    low: float
    high: float
    effective: float


UNKNOWN = RateDifference(0.0, -float("inf"), float("inf"), 0.0)
"""What is known before both arms were seen."""


def scores(stratum: Integers, treated: Floats, exposures: Floats, outcome: Floats, strata: int) -> Scores:
    """The score of rows, a row for each user and stratum: its stratum (0 to `strata` - 1), whether it belongs to the
    challenger (0 or 1), its exposures and the sum of its outcomes."""
    total, challenger, outcomes = (
        np.bincount(stratum, column, strata) for column in (exposures, treated * exposures, outcome)
    )
    # A stratum without exposures divides nothing by almost nothing: its rate, share and weight are 0.
    some = np.maximum(total, 1e-300)
    rate, share = outcomes / some, challenger / some
    # Centred on the rate of both arms together, which is the rate of each where there is no difference: a score test
    # (Rao 1948). A rate of each arm's own would understate the variance while the challenger has few exposures.
    residual = outcome - exposures * rate[stratum]
    # sum (T - w) r over a stratum is n_C n_T / n times the difference of its two rates; n_T n_C / n = n_T (1 - w).
    return Scores((treated - share[stratum]) * residual, residual, challenger * (1 - share))


def half_width(variance: Floats, mixing: Floats, alpha: float) -> Floats:
    """How far a Brownian motion with `variance` stays from 0 at all times at once, but for a chance of `alpha`.

    `mixing` is the variance about which the bound is made tight; it must not depend on the comparison of the arms.
    """
    # Robbins' normal mixture: exp(a S - a^2 V / 2) is a martingale for every a. Its mean over a ~ N(0, 1 / mixing) is
    # one too, sqrt(mixing / (V + mixing)) exp(S^2 / (2 (V + mixing))), and stays below 1 / alpha at all times but for a
    # chance of alpha (Ville's inequality). Solved for |S| that is this bound (Howard et al. 2021,
    # two-sided normal mixture).
    total = variance + mixing
    return np.asarray(np.sqrt(total * np.log(total / (mixing * alpha**2))))


def mixing(residual_square: Floats, exposures: Floats, planned: float, alpha: float) -> Floats:
    """The `mixing` that makes the bound tightest at about `planned` effective exposures.

    `residual_square` is the sum of the squared residuals of all rows (both arms, so that it tells nothing of their
    difference), `exposures` the exposures behind it.
    """
    # The bound at a given V is tightest where V / mixing solves x = -2 log(alpha) + log(1 + x); put in once, its right
    # side is close enough (as in Waudby-Smith et al. 2024).
    optimum = -2 * np.log(alpha) + np.log(-2 * np.log(alpha) + 1)
    return np.asarray(planned * residual_square / np.maximum(exposures, 1) / optimum)


def difference(
    *,
    user: Integers,
    stratum: Integers,
    treated: Floats,
    exposures: Floats,
    outcome: Floats,
    planned: float,
    alpha: float,
    spread: float = 1.0,
) -> RateDifference:
    """Challenger's rate less champion's, over all strata; the interval errs at any look with a chance of `alpha`.

    Rows are as in `scores`; `user` numbers the users from 0. `spread` multiplies the standard deviation (2 for an
    outcome that is a mean over pairs of exposures of one arm, whose linear part is twice the row's own).
    """
    if not len(user):
        return UNKNOWN
    found = scores(stratum, treated, exposures, outcome, int(stratum.max()) + 1)
    effective = float(found.weight.sum())
    # First added up by user, over strata, and then squared: the rows of one user are not independent of each other.
    variance = float((np.bincount(user, found.part) ** 2).sum()) * spread**2
    # One arm alone, or outcomes that are all the same, say nothing of a difference yet.
    if not effective or not variance:
        return UNKNOWN
    tight = mixing((found.residual**2).sum() * spread**2, exposures.sum(), planned, alpha)
    estimate = float(found.part.sum()) / effective
    half = float(half_width(np.asarray(variance), tight, alpha)) / effective
    return RateDifference(estimate, estimate - half, estimate + half, effective)
