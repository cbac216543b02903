"""The blessing of a refresh: no worse than a reference that does not slide, by the evidence of several nights.

Held against the champion, each night may lose a little and none of them much: ten nights of -5 % pass one by one. So a
refresh is held against the reference, the model that last won an A/B test, or has since been surely better than the
one before; and it must be *shown* not to lose more than a margin. One night's window seldom shows that, so the nights
of the same recipe against the same reference are pooled. Where they do not show it either, freshness decides after a
stated number of days: else a small shop would serve its first model for ever.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import t

Floats = npt.NDArray[np.float64]
Verdict = Literal["no worse", "fresher", "surely below", "below", "undecided"]
BLESSED = ("no worse", "fresher")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What a refresh is asked for."""

    margin: float = 0.05
    """Share of the reference's NDCG that a refresh may lose."""
    alpha: float = 0.05
    """Chance that one that loses more is taken for one that does not, or the other way round; each one-sided."""
    pool_days: float = 7.0
    """Nights as long ago as this are evidence, too."""
    fresh_days: float = 7.0
    """When the champion's data is older by this than tonight's, the likelier side decides where nothing is sure."""


class Night(NamedTuple):
    """What one night's window says of a model and of the reference, a value for each held-out shopper."""

    users: Sequence[str]
    ours: Floats
    theirs: Floats


class Change(NamedTuple):
    """How much better than the reference, as a share of it, with one-sided bounds."""

    estimate: float
    low: float
    high: float
    users: int

    def __str__(self) -> str:
        return f"{self.estimate:+.1%} [{self.low:+.1%}, {self.high:+.1%}]"


@dataclass(frozen=True, kw_only=True)
class Blessing:
    """The verdict with its numbers: tonight's window alone, and pooled over `nights` nights with it."""

    verdict: Verdict
    tonight: Change
    pooled: Change
    nights: int

    @property
    def passed(self) -> bool:
        return self.verdict in BLESSED

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "tonight": self.tonight._asdict(), "pooled": self.pooled._asdict()}


def bless(tonight: Night, earlier: Sequence[Night], *, age_days: float, rule: Rule) -> Blessing:
    """Judge tonight's refresh. `earlier` are the windows of other nights of its recipe against the same reference,
    `age_days` how much older the champion's data is than tonight's.

    Tonight's own estimate must be within the margin in any case, so that no broken night hides behind good ones; and
    an earlier night that was surely below is no evidence for the line.
    """
    alone = change([tonight], rule.alpha)
    sound = [night for night in earlier if change([night], rule.alpha).high >= -rule.margin]
    pooled = change([*sound, tonight], rule.alpha)
    return Blessing(
        verdict=_verdict(alone, pooled, age_days, rule), tonight=alone, pooled=pooled, nights=1 + len(sound)
    )


def _verdict(alone: Change, pooled: Change, age_days: float, rule: Rule) -> Verdict:
    if alone.high < -rule.margin:
        return "surely below"
    if min(alone.estimate, pooled.estimate) < -rule.margin:
        return "below"
    if pooled.low > -rule.margin:
        return "no worse"
    return "fresher" if age_days >= rule.fresh_days else "undecided"


def change(nights: Sequence[Night], alpha: float) -> Change:
    """The relative change over all shoppers of `nights`, whose windows may overlap: the same shopper's values of
    several nights are one observation. Unknown, and as wide as can be, with fewer than two shoppers or a reference
    that finds nothing.
    """
    _, user = np.unique(np.concatenate([np.asarray(night.users, dtype=str) for night in nights]), return_inverse=True)
    ours, theirs = (np.bincount(user, np.concatenate([night[n] for night in nights])) for n in (1, 2))
    total = float(theirs.sum())
    if len(ours) < 2 or total <= 0:
        return Change(0.0, -np.inf, np.inf, len(ours))
    estimate = float(ours.sum()) / total - 1
    # Of a ratio of sums over shoppers, by the delta method.
    residual = ours - (1 + estimate) * theirs
    error = float(np.sqrt((residual**2).sum() * len(ours) / (len(ours) - 1))) / total
    half = float(t.ppf(1 - alpha, len(ours) - 1)) * error
    return Change(estimate, estimate - half, estimate + half, len(ours))
