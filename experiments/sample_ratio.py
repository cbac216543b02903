"""Sample-ratio check: do the shoppers in the log divide between the arms as the weights say?

Where they do not, part of one arm is missing or misplaced, the arms are no longer comparable, and every decision on
their difference is withheld.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp
from scipy.stats import norm

from experiments.log import Draws
from experiments.sequential_test import Floats

SPREAD = 0.2
"""Of the log-odds by which a wrong division is mixed over: about where a fifth of an arm is missing."""
_TILTS = SPREAD * norm.ppf((np.arange(64) + 0.5) / 64)


def evidence(draws: Iterable[Draws]) -> float:
    """Log of the e-value against "every user was drawn with the weight of the time"."""
    found = list(draws)
    return float(log_e_value(*([getattr(draw, name) for draw in found] for name in Draws._fields)))


def log_e_value(chance: ArrayLike, users: ArrayLike, challengers: ArrayLike) -> Floats:
    """Likelihood ratio of "the odds are wrong by one factor throughout", mixed over the factor, against "as drawn".

    Chances are (groups,), counts (groups, ...). A mean of martingales while the division is right, however often it is
    looked at, so that it exceeds log(1 / alpha) with a chance of at most alpha (Ville's inequality; after Lindon and
    Malek 2022, with one factor for all groups because a log that loses an arm loses it at every weight).
    """
    p = np.asarray(chance, dtype=float)
    n, k = np.asarray(users, dtype=float), np.asarray(challengers, dtype=float)
    normaliser = np.log1p(np.multiply.outer(np.expm1(_TILTS), p))
    ratios = np.multiply.outer(_TILTS, k.sum(0)) - np.tensordot(normaliser, n, axes=1)
    return np.asarray(logsumexp(ratios, axis=0) - np.log(len(_TILTS)))
