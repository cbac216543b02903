"""A canary: where it stands, what a person can do now, and when it can decide."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from components.rollout.page import (
    folded,
    ratio,
    stages,
    standing,
)
from components.rollout.pictures import ARMS, guardrails, pictures
from console import rollouts
from experiments.decision import planned_exposures
from experiments.document import Rollout
from experiments.policy import Policy
from experiments.sequential_test import half_width
from experiments.table import Entry, InterimAnalysis, RolloutTable
from experiments.transitions import WrongMove
from runtime.page import minute, points
from serving.operate import HELP, MOVES

_MANY = 1e9
"""Exposures among which successes are as frequent as their rate says."""
_RECENT = timedelta(days=2)
"""Looks back from which the pace of the traffic is taken."""


class Move(NamedTuple):
    """What a person can do now."""

    what: str
    meaning: str
    command: str


@dataclass(frozen=True, kw_only=True)
class CanaryView:
    """The experiment that runs, or the latest one."""

    row: Rollout
    standing: dict[str, str]
    stages: list[dict[str, Any]]
    changes: list[Entry]
    looks: list[dict[str, Any]]
    last: InterimAnalysis | None
    ratio: dict[str, Any] | None
    forecast: list[str]
    moves: list[Move]
    pictures: list[tuple[str, Markup]]
    guardrails: list[tuple[str, bool, Markup]]
    key: Markup = ARMS
    """What the lines of a guardrail are."""

    @property
    def versions(self) -> dict[str, str]:
        """Of the two arms."""
        run = [entry.rollout for entry in self.changes if entry.rollout.challenger is not None]
        if not run or run[0].champion is None or run[0].challenger is None:
            return {}
        return {"champion": run[0].champion.version, "challenger": run[0].challenger.version}


def read(table: RolloutTable, model: str, policy: Policy) -> CanaryView:
    """The canary of `model` as the table has it."""
    salt, changes, looks = rollouts.experiment(table, model)
    row = table.read(model)
    known = [look for look in looks if look.evidence]
    running = bool(salt) and row.salt == salt
    return CanaryView(
        row=row,
        standing=standing(changes, looks, salt),
        stages=stages(policy, changes, salt),
        changes=changes[::-1],
        looks=folded(looks),
        last=known[-1] if known else None,
        ratio=ratio(known, policy),
        forecast=forecast(known, row, policy, changes[0].at) if running and known else [],
        moves=_moves(row),
        pictures=pictures(changes, known, policy) if known else [],
        guardrails=guardrails(known),
    )


def forecast(looks: Sequence[InterimAnalysis], row: Rollout, policy: Policy, opened: datetime) -> list[str]:
    """When it can decide at the traffic of the last days, in sentences."""
    last, patience = looks[-1], opened + policy.hours("patience")
    found, rate = last.evidence["outcome"], last.evidence["champion_rate"]
    if row.challenger is None:
        return []
    if found["low"] is None:
        users = f"{last.evidence['users']:,} of {policy.decision_users:,} shoppers of the challenger"
        return [f"Nothing is compared before there are enough of them: {users}.", *_stage(looks, row, policy)]
    traffic = _traffic(looks)
    if traffic <= 0:
        return ["No exposure came since the look before: at this traffic it never decides."]
    told, margin = [], policy.allowed_loss * rate
    if found["low"] > -margin or found["high"] < 0:
        told.append("The interval decides already; what is still to come are the stages.")
    else:
        gap = found["estimate"] + margin if found["estimate"] + margin > 0 else -found["estimate"]
        when = reached(effective_for(gap, found, rate, policy), last, row, policy, traffic, patience)
        stays = "If the difference stays as it is seen, and stages rise as early as they may,"
        if when is not None:
            told.append(f"{stays} the interval leaves zero about {minute(when)}.")
        else:
            told.append(f"{stays} patience ends first, on {minute(patience)}.")
    most = list(ahead(last, row, policy, traffic, patience))[-1][1]
    seen = half_at(most, found, rate, policy)
    told.append(f"When patience ends it can tell a difference of {points(seen).lstrip('+')} points.")
    left = [stage for stage in policy.stages if stage > row.weight]
    if left:
        hours = len(left) * policy.stage_hours
        told.append(f"{len(left)} stages are ahead, {policy.stage_hours:g} hours each at least: {hours / 24:g} days.")
    return told


def ahead(
    last: InterimAnalysis, row: Rollout, policy: Policy, traffic: float, until: datetime
) -> Iterator[tuple[datetime, float]]:
    """Moments and the effective exposures by then, straight lines between them, where each stage ends as early as it
    may. `traffic` is exposures of both arms a day; nobody is compared in the first hours of a stage, and all shoppers
    meet the challenger only once it is better: so the last stage before that lasts `until` patience ends.
    """
    assert row.since is not None
    effective = float(last.evidence["outcome"]["effective"])
    moment, began = last.at, row.since
    yield moment, effective
    stages = [row.weight, *(stage for stage in policy.stages if row.weight < stage < 1)]
    for number, weight in enumerate(stages):
        counted = max(moment, began + policy.hours("novelty"))
        ends = until if number == len(stages) - 1 else max(moment, began + policy.hours("stage"))
        if counted > moment:
            yield counted, effective
        effective += traffic * weight * (1 - weight) * max((ends - counted) / timedelta(days=1), 0.0)
        moment, began = max(ends, counted), ends
        yield moment, effective


def reached(
    effective: float, last: InterimAnalysis, row: Rollout, policy: Policy, traffic: float, until: datetime
) -> datetime | None:
    """When there are so many effective exposures; None where that is not before `until`."""
    path = list(ahead(last, row, policy, traffic, until))
    for (start, before), (end, after) in pairwise(path):
        if after >= effective > before:
            found: datetime = start + (end - start) * ((effective - before) / (after - before))
            return found if found < until else None
    return None


def _stage(looks: Sequence[InterimAnalysis], row: Rollout, policy: Policy) -> list[str]:
    """When the stage has the exposures that it needs."""
    seen = [
        (look.at, look.evidence["traffic"]["stage_exposures"]) for look in looks if row.since and look.at > row.since
    ]
    if len(seen) < 2 or seen[-1][1] >= policy.stage_exposures or seen[-1][1] <= seen[0][1]:
        return []
    pace = (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0]).total_seconds()
    when: datetime = seen[-1][0] + timedelta(seconds=(policy.stage_exposures - seen[-1][1]) / pace)
    return [f"At this traffic the stage has its {policy.stage_exposures:,} exposures about {minute(when)}."]


def half_at(effective: float, found: dict[str, Any], rate: float, policy: Policy) -> float:
    """Half of the interval's width at `effective` exposures, where it is (high - low) / 2 at those of `found`.

    By the boundary of `experiments.sequential_test`: variance grows with the exposures, mixing stays.
    """
    now = found["effective"]
    known = (found["high"] - found["low"]) / 2 * now
    return float(known * _bound(effective, rate, policy) / _bound(now, rate, policy) / effective)


def effective_for(gap: float, found: dict[str, Any], rate: float, policy: Policy) -> float:
    """Effective exposures from which the interval is narrower than `gap` on a side; infinite where it never is."""
    if gap <= 0:
        return math.inf
    low: float = found["effective"]
    high = low * 1e6
    if half_at(high, found, rate, policy) > gap:
        return math.inf
    for _ in range(80):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if half_at(middle, found, rate, policy) > gap else (low, middle)
    return high


def _bound(effective: float, rate: float, policy: Policy) -> float:
    # In units of the variance of one effective exposure, which is the same throughout.
    planned = planned_exposures(np.array([_MANY]), np.array([_MANY * rate]), policy)
    optimum = -2 * math.log(policy.alpha) + math.log(-2 * math.log(policy.alpha) + 1)
    return float(half_width(np.asarray(effective), np.asarray(planned / optimum), policy.alpha))


def _traffic(looks: Sequence[InterimAnalysis]) -> float:
    """Exposures of both arms a day, over the last days."""
    recent = [look for look in looks if looks[-1].at - look.at <= _RECENT]
    days = (recent[-1].at - recent[0].at) / timedelta(days=1)
    grown = recent[-1].evidence["traffic"]["exposures"] - recent[0].evidence["traffic"]["exposures"]
    return float(grown / days) if days > 0 else 0.0


def _moves(row: Rollout) -> list[Move]:
    """Those that the document allows: each is tried on it."""
    offered = []
    for what, make in MOVES.items():
        try:
            make(row, datetime.now(UTC))
        except WrongMove:
            continue
        command = f'python -m serving rollout {what} --dataset {row.model} --why "..."'
        offered.append(Move(what, HELP[what], command))
    return offered
