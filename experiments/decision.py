"""One look at a canary: the evidence in its log, and what follows from it. Pure but for the reading of the log."""

import math
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from experiments import guardrails, transitions
from experiments import sample_ratio as ratio
from experiments.document import Rollout, SentBack
from experiments.guardrails import Guardrail
from experiments.log import ExposureLog, LoggedTraffic
from experiments.policy import Policy
from experiments.sequential_test import (
    UNKNOWN,
    Floats,
    RateDifference,
    difference,
)
from experiments.transitions import Salt

Action = Literal["hold", "raise", "promote", "roll back", "end watch"]
WITHHELD = "decision withheld"
BUSIEST = 0.1
"""Share of the exposures of one user from which they say more about that user than about the arms."""
MISDRAWN = 0.001
"""Share of exposures in the wrong arm from which the log counts as broken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the log says at one moment. Rates are of successful exposures, weighed as their difference is."""

    at: datetime
    traffic: LoggedTraffic
    champion_rate: float
    challenger_rate: float
    outcome: RateDifference
    users: int
    """The challenger's users behind `outcome`."""
    guardrails: tuple[Guardrail, ...]
    full: bool
    """Whether all shoppers but the holdout meet the new model: the guardrails compare with the holdout."""
    ratio: float
    """Log of the e-value against a right division of the users."""

    def to_json(self) -> dict[str, Any]:
        """JSON values; an interval that is not known yet has no ends."""
        plain = asdict(self)
        plain["at"], plain["traffic"]["latest"] = _iso(self.at), _iso(self.traffic.latest)
        plain["outcome"] = self.outcome._asdict()
        for interval in (plain["outcome"], *plain["guardrails"]):
            for end in ("low", "high"):
                interval[end] = interval[end] if math.isfinite(interval[end]) else None
        return plain


class Verdict(NamedTuple):
    """What follows: the action, its reason in one sentence, and the document after it (None where nothing changes)."""

    action: Action
    why: str
    rollout: Rollout | None = None


def look(root: Path, rollout: Rollout, policy: Policy, *, opened: datetime, now: datetime) -> Evidence:
    """Read the experiment's log as of `now`; `opened` is when the experiment began. Raises `LogFault`."""
    with ExposureLog(root, salt=rollout.salt, opened=opened, now=now, policy=policy) as log:
        sums = log.successes()
        full = rollout.former is not None or rollout.weight == 1
        users = len(np.unique(sums.user[sums.treated > 0]))
        champion, challenger = guardrails.rates(sums, sums.outcomes["success"])
        found = UNKNOWN
        # The confidence sequence is asymptotic: with fewer users their sums are too far from normal for its level to
        # hold.
        if users >= policy.decision_users:
            found = difference(
                user=sums.user,
                stratum=sums.stratum,
                treated=sums.treated,
                exposures=sums.exposures,
                outcome=sums.outcomes["success"],
                planned=planned_exposures(sums.exposures, sums.outcomes["success"], policy),
                alpha=policy.alpha,
            )
        return Evidence(
            at=now,
            traffic=log.traffic(rollout.stage),
            champion_rate=champion,
            challenger_rate=challenger,
            outcome=found,
            users=users,
            guardrails=tuple(guardrails.judge(log.technical(full=full), policy, alike=rollout.alike)),
            full=full,
            ratio=ratio.evidence(log.draws()),
        )


def planned_exposures(exposures: Floats, successes: Floats, policy: Policy) -> float:
    """Effective exposures at which the interval is tightest: so many that successes, or failures, are no rarity among
    them. Of both arms together, and so without a view of their difference."""
    total = max(float(exposures.sum()), 1.0)
    rarer = min(float(successes.sum()), total - float(successes.sum()))
    return max(policy.planned_exposures, policy.planned_successes * total / max(rarer, 1.0))


def judge(rollout: Rollout, evidence: Evidence, policy: Policy, *, opened: datetime, salt: Salt) -> Verdict:
    """What follows from the evidence. Safety first: a breached guardrail sends back whatever else holds."""
    breached = [guardrail.sentence for guardrail in evidence.guardrails if guardrail.breached]
    if breached:
        return Verdict("roll back", f"guardrail: {'; '.join(breached)}", _sent_back(rollout, evidence, salt))
    if rollout.paused:
        return Verdict("hold", "paused by a person; guardrails still watch")
    if (silent := _silence(evidence, policy)) is not None:
        return Verdict("hold", silent)
    if rollout.former is not None:
        return _judge_watch(rollout, evidence, policy, salt)
    if (broken := _broken(evidence, policy)) is not None:
        return Verdict("hold", f"{WITHHELD}: {broken}")
    return _judge_experiment(rollout, evidence, policy, opened, salt)


def _judge_watch(rollout: Rollout, evidence: Evidence, policy: Policy, salt: Salt) -> Verdict:
    assert rollout.since is not None and rollout.former is not None
    ends = rollout.since + policy.hours("watch")
    if evidence.at < ends:
        return Verdict("hold", f"promoted; {rollout.former.version} stays warm until {ends:%Y-%m-%d %H:%M} UTC")
    why = f"no guardrail was breached for {policy.watch_hours:g} hours; {rollout.former.version} may be unloaded"
    return Verdict("end watch", why, transitions.end_watch(rollout, now=evidence.at, salt=salt))


def _judge_experiment(rollout: Rollout, evidence: Evidence, policy: Policy, opened: datetime, salt: Salt) -> Verdict:
    assert rollout.stage is not None and rollout.since is not None
    now, low, high = evidence.at, evidence.outcome.low, evidence.outcome.high
    found = f"{policy.outcome}-through {_points(evidence.outcome)}"
    # The order matters. Surely worse ends it at once, at any stage.
    if high < 0:
        return Verdict("roll back", f"worse: {found}", _sent_back(rollout, evidence, salt))
    better = low > -policy.allowed_loss * evidence.champion_rate
    # Patience comes before the least time and traffic of a stage: an experiment that gets none of it has to end, too.
    if not better and rollout.weight < 1 and now - opened >= policy.hours("patience"):
        better, why = _out_of_patience(rollout, evidence, policy)
        found = f"{why} after {policy.patience_hours / 24:g} days: {found}"
        if not better:
            return Verdict("roll back", found, _sent_back(rollout, evidence, salt))
    if (early := _too_early(rollout, evidence, policy)) is not None:
        return Verdict("hold", early)
    if rollout.weight == 1:
        how = "better" if better else "no worse, fresher"
        return Verdict("promote", f"{how} and sound for all shoppers: {found}", transitions.promote(rollout, now=now))
    weight = next(stage for stage in policy.stages if stage > rollout.weight)
    # Stages on the way need to be sound only; all shoppers are a decision, and need it to be better.
    if weight == 1 and not better:
        return Verdict("hold", f"not decided yet: {found}")
    raised = transitions.raise_weight(rollout, weight, now=now)
    return Verdict("raise", f"sound at {rollout.weight:.0%}: {found}", raised)


def _out_of_patience(rollout: Rollout, evidence: Evidence, policy: Policy) -> tuple[bool, str]:
    """Whether a challenger that is not surely better serves all the same, and why.

    An equal model is never surely better. Without this way a change of the recipe that changes no number would keep
    the champion of that day for ever, as every night's model is of the new recipe from then on.
    """
    assert rollout.champion is not None and rollout.challenger is not None
    fresher = rollout.challenger.fresh_as_of - rollout.champion.fresh_as_of
    loss = policy.patience_loss * evidence.champion_rate
    if fresher > timedelta(0) and evidence.outcome.low > -loss:
        return True, f"no worse than {policy.patience_loss:.0%} below, and fresher,"
    days = f"{fresher / timedelta(days=1):.0f} days fresher"
    # Without a success in either arm there is no rate of which a loss could be a share.
    known = evidence.outcome.effective > 0 and max(evidence.champion_rate, evidence.outcome.estimate) > 0
    if fresher >= policy.hours("fresh") and known:
        # What is only likely is asked of all experiments of this recipe: of many, one will say so by chance.
        before = rollout.sent_back_of(rollout.challenger.recipe_digest) or SentBack(recipe_digest="", until=evidence.at)
        seen = before.with_evidence(evidence.outcome.effective, _change(evidence))
        if seen.change > -policy.patience_loss:
            return True, f"undecided, likelier no worse, and {days},"
        if before.effective:
            return False, f"undecided, and with the experiments before likelier worse ({seen.change:+.1%}),"
    return False, f"undecided, and {days if fresher > timedelta(0) else 'no fresher'},"


def _sent_back(rollout: Rollout, evidence: Evidence, salt: Salt) -> Rollout:
    known = evidence.outcome.effective if evidence.champion_rate > 0 else 0.0
    return transitions.roll_back(
        rollout, now=evidence.at, salt=salt, effective=known, change=_change(evidence) if known else 0.0
    )


def _change(evidence: Evidence) -> float:
    """How much better the challenger is found, as a share of the champion's rate."""
    return evidence.outcome.estimate / evidence.champion_rate if evidence.champion_rate > 0 else 0.0


def _too_early(rollout: Rollout, evidence: Evidence, policy: Policy) -> str | None:
    assert rollout.since is not None
    until = rollout.since + policy.hours("stage")
    if evidence.at < until:
        return f"the stage of {rollout.weight:.0%} lasts until {until:%Y-%m-%d %H:%M} UTC at least"
    if (seen := evidence.traffic.stage_exposures) < policy.stage_exposures:
        return f"{seen} of {policy.stage_exposures} exposures of the challenger at {rollout.weight:.0%}"
    return None


def _silence(evidence: Evidence, policy: Policy) -> str | None:
    latest = evidence.traffic.latest
    if latest is None:
        return "no exposure of this experiment was logged yet"
    if evidence.at - latest > policy.hours("silence"):
        return f"the log is silent since {latest:%Y-%m-%d %H:%M} UTC: is the gateway's log still written?"
    return None


def _broken(evidence: Evidence, policy: Policy) -> str | None:
    """Why the arms are not comparable, if they are not."""
    misdrawn, exposures = evidence.traffic.misdrawn, evidence.traffic.exposures
    if misdrawn > MISDRAWN * exposures:
        return f"{misdrawn} of {exposures} exposures are in another arm than their salt draws"
    if evidence.traffic.busiest > BUSIEST:
        share = f"one user has {evidence.traffic.busiest:.0%} of the exposures"
        return f"{share}: is that a shopper, or everybody without an id?"
    if evidence.ratio > -math.log(policy.ratio_alpha):
        return (
            "sample-ratio mismatch, the users do not divide as the weights say "
            f"(e-value 10^{evidence.ratio / math.log(10):.1f}); part of one arm is missing from the log"
        )
    return None


def _points(found: RateDifference) -> str:
    if not math.isfinite(found.low):
        return "not compared yet"
    return f"{100 * found.estimate:+.2f} points [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
