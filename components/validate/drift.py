"""How far a distribution has moved: the population stability index, and how much of it is chance."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from components.validate.profile import Distribution

_CERTAIN = 0.9999
"""Moves that chance makes less often than once in 10,000 times are not chance."""


def stability_index(before: Distribution, now: Distribution) -> float:
    """Population stability index, sum of (p - q) ln(p / q) over bins, with missing values as one more bin.

    An empty bin counts as half a row, so that one new value does not make the index infinite. Without rows
    on either side nothing has moved: 0.
    """
    p, q = _counts(before), _counts(now)
    assert len(p) == len(q), "both are counted in the same bins"
    total_p, total_q = sum(p), sum(q)
    if not total_p or not total_q:
        return 0.0
    shares = [(max(a, 0.5) / total_p, max(b, 0.5) / total_q) for a, b in zip(p, q, strict=True) if a or b]
    return math.fsum((a - b) * math.log(a / b) for a, b in shares)


def chance(before: Distribution, now: Distribution) -> float:
    """What the index of two samples of one and the same distribution hardly ever exceeds.

    Times n m / (n + m) the index is distributed as chi-squared with a degree of freedom less than there are bins
    (Yurdakul and Naranjo, 2020, "Statistical properties of the population stability index").
    """
    from scipy.stats import chi2

    p, q = _counts(before), _counts(now)
    filled = sum(1 for a, b in zip(p, q, strict=True) if a or b)
    if filled < 2 or not sum(p) or not sum(q):
        return 0.0
    return float(chi2.ppf(_CERTAIN, filled - 1)) * (1 / sum(p) + 1 / sum(q))


def moved(before: Distribution, now: Distribution) -> list[dict[str, Any]]:
    """Evidence: the bins with their shares before and now, what moved most first."""
    p, q = ([n / max(1, sum(counts)) for n in counts] for counts in (_counts(before), _counts(now)))
    shares = sorted(zip(labels(before), p, q, strict=True), key=lambda bin_: -abs(bin_[1] - bin_[2]))
    return [{"bin": label, "accepted": f"{a:.2%}", "now": f"{b:.2%}"} for label, a, b in shares]


def labels(found: Distribution) -> list[str]:
    """Names of the bins, the last one `missing`."""
    if "edges" not in found:
        return [*found["values"], "all other values", "missing"]
    edges: Sequence[float] = found["edges"]
    if not edges:
        return ["any", "missing"]
    between = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
    return [f"up to {edges[0]:.4g}", *between, f"above {edges[-1]:.4g}", "missing"]


def _counts(found: Distribution) -> list[int]:
    return [*found["counts"], found["missing"]]
