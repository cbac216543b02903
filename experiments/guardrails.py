"""Guardrails: is the challenger technically as sound as the champion, at the same time and for the same traffic?

Each is a share of bad exposures compared as in `experiments.sequential_test`, one-sided: it is breached when the whole
interval lies above what is allowed. All of them together share the policy's error budget.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.log import Sums
from experiments.policy import Policy
from experiments.sequential_test import UNKNOWN, difference, scores

SHARES = 10
"""Of the error budget: five guardrails, each while both arms serve and then while all shoppers meet the new model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guardrail:
    """One guardrail's finding: the shares of bad exposures of both arms (weighed as their difference is), what is
    allowed to the challenger, and the interval of its share less that; `breached` where the interval lies above 0."""

    name: str
    meaning: str
    champion: float
    challenger: float
    allowed: float
    low: float
    high: float
    breached: bool

    @property
    def sentence(self) -> str:
        """What was found, for people."""
        return (
            f"{self.meaning}: {self.challenger:.2%} of the challenger's exposures, allowed {self.allowed:.2%} "
            f"(over by at least {self.low:+.2%})"
        )


def judge(sums: Sums, policy: Policy, *, alike: bool = True) -> list[Guardrail]:
    """Every guardrail on the exposures of `EventLog.technical`.

    Of a network beside neighbour tables (not `alike`) the pace is not compared: what comes after its deadline is a
    fallback, and so an error.
    """
    wide = 1 / policy.coverage_share
    pace = [
        _judge("slow_p50", f"slower than {policy.p50_factor:g} times the champion's p50", sums, policy),
        _judge("slow_p99", f"slower than {policy.p99_factor:g} times the champion's p99", sums, policy),
    ]
    return [
        _judge("errors", "errors and fallbacks", sums, policy, margin=policy.errors_margin),
        _judge("empties", "answers without an item", sums, policy, margin=policy.empties_margin),
        *(pace if alike else ()),
        _judge(
            "overlap", "items that other shoppers' answers show too (coverage)", sums, policy, factor=wide, spread=2.0
        ),
    ]


def _judge(
    name: str,
    meaning: str,
    sums: Sums,
    policy: Policy,
    *,
    margin: float = 0.0,
    factor: float = 1.0,
    spread: float = 1.0,
) -> Guardrail:
    """Challenger's bad exposures against `factor` times the champion's plus `margin` for each exposure."""
    bad = sums.outcomes[name]
    treated = sums.treated > 0
    allowed = np.where(treated, bad, factor * bad + margin * sums.exposures)
    if len(np.unique(sums.user[treated])) < policy.guardrail_users:
        found = UNKNOWN
    else:
        found = difference(
            user=sums.user,
            stratum=sums.stratum,
            treated=sums.treated,
            exposures=sums.exposures,
            outcome=allowed,
            planned=policy.guardrail_exposures,
            alpha=policy.guardrail_alpha / SHARES,
            spread=spread,
        )
    champion, challenger = rates(sums, bad)
    return Guardrail(
        name=name,
        meaning=meaning,
        champion=champion,
        challenger=challenger,
        allowed=factor * champion + margin,
        low=found.low,
        high=found.high,
        breached=found.low > 0,
    )


def rates(sums: Sums, outcome: Any) -> tuple[float, float]:
    """The champion's and the challenger's rate over the strata that have both, weighed as their difference is."""
    if not len(sums.user):
        return 0.0, 0.0
    strata = int(sums.stratum.max()) + 1
    weight = scores(sums.stratum, sums.treated, sums.exposures, outcome, strata).weight
    found = []
    for arm in (1 - sums.treated, sums.treated):
        exposures, total = (np.bincount(sums.stratum, column * arm, strata) for column in (sums.exposures, outcome))
        found.append(float((weight * total / np.maximum(exposures, 1)).sum() / max(weight.sum(), 1e-300)))
    return found[0], found[1]
