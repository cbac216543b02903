"""Sample-ratio check: do the shoppers in the log divide between the arms as the weights say?

Where they do not, part of one arm is missing or misplaced, the arms are no longer comparable, and every decision on
their difference is withheld.
"""

from collections.abc import Iterable

import numpy as np
from scipy.special import betaln

from serving.rollout.log import Draws

CONCENTRATION = 1000.0
"""Of the mixture over wrong shares: deviations of a point or two at one half, and where the test is sharpest."""


def evidence(draws: Iterable[Draws]) -> float:
    """Log of the e-value against "every user was drawn with the weight of the time".

    A product of Beta-Binomial mixture likelihood ratios, one for each chance: a martingale while the ratio is right,
    however often it is looked at, so that it exceeds log(1 / alpha) with a chance of at most alpha (Ville's
    inequality; Lindon and Malek 2022).
    """
    return float(sum(_log_ratio(*draw) for draw in draws if 0 < draw.chance < 1))


def _log_ratio(chance: float, users: int, challengers: int) -> float:
    champions = users - challengers
    a, b = CONCENTRATION * chance, CONCENTRATION * (1 - chance)
    mixture = betaln(a + challengers, b + champions) - betaln(a, b)
    return float(mixture - challengers * np.log(chance) - champions * np.log1p(-chance))
