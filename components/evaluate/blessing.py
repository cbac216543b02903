"""The blessing of a refresh: no worse than a reference that does not slide, by the evidence of several nights.

Held against the champion, each night may lose a little and none of them much: ten nights of -5 % pass one by one. So a
refresh is held against the reference, the model that last won an A/B test, or has since been surely better than the
one before; and it must be *shown* not to lose more than a margin.

One night's window seldom shows that, so nights are pooled; but pooled nights lag behind what they are pooled for: a
recipe that loses .5 % a night has lost 1.5 % since the middle of its week. So a refresh has to pass three looks at
once: tonight's window, which is late for nothing, the week's and the month's, which see what is small. As it is asked
every night, and a year has many, each look is one-sided at 1 %, and the likelier value keeps to half of the margin.
Where the looks do not show it, freshness decides after a stated number of days, if the month speaks for the refresh:
else a small shop would serve its first model for ever. What this keeps, and what it costs: docs/results.md, "Do
releases keep what was won?".
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
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
    """Share of the best model's NDCG, of those that served in 30 days, that what serves keeps within."""
    held: float = 0.9
    """Share of the margin that a refresh is asked to keep against the reference: where nights differ, the best night
    of a month lies above the reference, which follows only what is surely better."""
    likely: float = 0.5
    """Share of what is asked that no look's estimate may lose."""
    alpha: float = 0.01
    """Chance that one look takes one that loses more for one that does not, or the other way round; one-sided."""
    pool_days: float = 7.0
    """The nights of so many days are the second look."""
    month_days: float = 31.0
    """The nights of so many days are the third look: as many as resolve hands on."""
    fresh_days: float = 35.0
    """When the champion's data is older by this than tonight's, a refresh serves that the month's nights speak for."""

    @property
    def asked(self) -> float:
        """Share of the reference's NDCG that a refresh may lose."""
        return self.held * self.margin


class NightlyValues(NamedTuple):
    """What one night's window says of a model and of the reference, one value for each held-out shopper."""

    users: Sequence[str] | npt.NDArray[Any]
    ours: Floats
    theirs: Floats
    days_ago: float = 0.0
    """How long before tonight."""


class RelativeGain(NamedTuple):
    """How much better than the reference, as a share of it, with one-sided bounds."""

    estimate: float
    low: float
    high: float
    users: int

    def __str__(self) -> str:
        return f"{self.estimate:+.1%} [{self.low:+.1%}, {self.high:+.1%}]"


@dataclass(frozen=True, kw_only=True)
class Blessing:
    """The verdict with its numbers: tonight's window alone, and pooled over the week's and the month's nights."""

    verdict: Verdict
    tonight: RelativeGain
    week: RelativeGain
    month: RelativeGain
    nights: int
    """Of the month, tonight among them."""

    @property
    def passed(self) -> bool:
        return self.verdict in BLESSED

    @property
    def rises(self) -> bool:
        """Whether it becomes the reference: surely better by every look. By tonight's alone the luckiest of many
        nights would, and the next were held against less: a slower ratchet."""
        return self.passed and min(look.low for look in self.looks) > 0

    @property
    def looks(self) -> tuple[RelativeGain, RelativeGain, RelativeGain]:
        return self.tonight, self.week, self.month

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), **{name: getattr(self, name)._asdict() for name in ("tonight", "week", "month")}}


def bless(tonight: NightlyValues, earlier: Sequence[NightlyValues], *, age_days: float, rule: Rule) -> Blessing:
    """Judge tonight's refresh. `earlier` are the windows of other nights of its recipe against the same reference,
    `age_days` how much older the champion's data is than tonight's.

    An earlier night that was surely below is no evidence for the line: one broken night blocks none but itself.
    """
    alone = change([tonight], rule.alpha)
    month = [night for night in earlier if night.days_ago < rule.month_days]
    sound = [night for night in month if change([night], rule.alpha).high >= -rule.asked]
    week = [night for night in sound if night.days_ago < rule.pool_days]
    looks = alone, change([*week, tonight], rule.alpha), change([*sound, tonight], rule.alpha)
    verdict = _verdict(looks, age_days, rule)
    return Blessing(verdict=verdict, tonight=alone, week=looks[1], month=looks[2], nights=1 + len(sound))


def _verdict(looks: tuple[RelativeGain, RelativeGain, RelativeGain], age_days: float, rule: Rule) -> Verdict:
    if looks[0].high < -rule.asked:
        return "surely below"
    if min(look.estimate for look in looks) < -rule.likely * rule.asked:
        return "below"
    if min(look.low for look in looks) > -rule.asked:
        return "no worse"
    return "fresher" if age_days >= rule.fresh_days and looks[-1].estimate >= 0 else "undecided"


def change(nights: Sequence[NightlyValues], alpha: float) -> RelativeGain:
    """The relative change over all shoppers of `nights`, whose windows may overlap: the same shopper's values of
    several nights are one observation. Unknown, and as wide as can be, with fewer than two shoppers or a reference
    that finds nothing.
    """
    ours, theirs = _by_shopper(nights)
    total = float(theirs.sum())
    if len(ours) < 2 or total <= 0:
        return RelativeGain(0.0, -np.inf, np.inf, len(ours))
    estimate = float(ours.sum()) / total - 1
    # Of a ratio of sums over shoppers, by the delta method.
    residual = ours - (1 + estimate) * theirs
    error = float(np.sqrt((residual**2).sum() * len(ours) / (len(ours) - 1))) / total
    half = _quantile(alpha, len(ours) - 1) * error
    return RelativeGain(estimate, estimate - half, estimate + half, len(ours))


def _by_shopper(nights: Sequence[NightlyValues]) -> tuple[Floats, Floats]:
    """What both find for each shopper, over all nights."""
    if len(nights) == 1:
        return nights[0].ours, nights[0].theirs
    _, user = np.unique(np.concatenate([np.asarray(night.users) for night in nights]), return_inverse=True)
    ours, theirs = (np.concatenate([getattr(night, name) for night in nights]) for name in ("ours", "theirs"))
    return np.bincount(user, ours).astype(np.float64), np.bincount(user, theirs).astype(np.float64)


@lru_cache(maxsize=1024)
def _quantile(alpha: float, degrees: int) -> float:
    return float(t.ppf(1 - alpha, degrees))
