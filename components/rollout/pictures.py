"""The pictures of a rollout, for its page and the console: gain, weight, evidence and each guardrail over time."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from markupsafe import Markup

from experiments.document import Rollout
from experiments.policy import Policy
from experiments.table import Entry, InterimAnalysis
from runtime.charts import (
    Plot,
    Scale,
    key,
    signed_figure,
    times,
)
from runtime.page import minute, percent, points

NAMES = {
    "errors": "errors and fallbacks",
    "empties": "empty answers",
    "slow_p50": "slow (p50)",
    "slow_p99": "very slow (p99)",
    "overlap": "sameness (coverage)",
}
ARMS = key([("l0", "challenger"), ("l7", "champion"), ("lbad dashed", "allowed")])
"""What the lines of a guardrail are."""


def new_model_share(rollout: Rollout, opened: Rollout) -> float:
    """Share of shoppers that meet the new model: all once it is champion. `opened` is the experiment's first state."""
    assert rollout.champion is not None and opened.challenger is not None
    promoted = rollout.champion.recipe_digest == opened.challenger.recipe_digest
    return 1.0 if promoted else rollout.weight if rollout.salt == opened.salt else 0.0


def pictures(changes: Sequence[Entry], looks: Sequence[InterimAnalysis], policy: Policy) -> list[tuple[str, Markup]]:
    """What each shows, and the picture: the gain with its interval, the weight, and the evidence of missing shoppers.

    `changes` are those of one experiment, `looks` the ones that have evidence; at least one of each.
    """
    moments = [changes[0].at, looks[-1].at]
    loss = policy.allowed_loss
    against = f"zero and the margin ({percent(loss)} of the champion's rate)" if loss else "zero, which is the margin"
    return [
        (f"{policy.outcome}-through of the challenger less the champion's, points, against {against}",
         _gain(looks, moments, policy)),
        ("share of shoppers with the new model", _weight(changes, looks[-1].at, moments)),
        ("evidence that shoppers are missing from the log, power of ten; above the line decisions are withheld",
         _ratio(looks, moments, policy)),
    ]  # fmt: skip


def _gain(looks: Sequence[InterimAnalysis], moments: Sequence[datetime], policy: Policy) -> Markup:
    known = [look for look in looks if look.evidence["outcome"]["low"] is not None]
    ends = [end for look in known[-1:] for end in (look.evidence["outcome"]["low"], look.evidence["outcome"]["high"])]
    # The first intervals are so wide that they would hide the later ones.
    span = 100 * 3 * max([0.001, *map(abs, ends)])
    plot = Plot("difference over time", times(moments), Scale(-span, span)).axes(signed_figure, below=None).clock()
    if known:
        low, middle, high = (
            [(look.at.timestamp(), _within(100 * look.evidence["outcome"][end], span)) for look in known]
            for end in ("low", "estimate", "high")
        )
        style = "2" if low[-1][1] > 0 else "5" if high[-1][1] < 0 else "0"
        titles = [f"{minute(look.at)}: {_interval(look)}; {look.action}" for look in known]
        plot.band(low, high, f"f{style}").line(middle, f"l{style}").dots(middle, f"f{style}", titles, 3)
    plot.across(0, "zero")
    if policy.allowed_loss and known:
        margin = 100 * policy.allowed_loss * known[-1].evidence["champion_rate"]
        plot.across(_within(-margin, span), "margin")
    return plot.svg()


def _within(value: float, span: float) -> float:
    return min(max(value, -span), span)


def _interval(look: InterimAnalysis) -> str:
    found = look.evidence["outcome"]
    return f"{points(found['estimate'])} points [{points(found['low'])}, {points(found['high'])}]"


def _weight(changes: Sequence[Entry], at: datetime, moments: Sequence[datetime]) -> Markup:
    plot = Plot("share of shoppers", times(moments), Scale(0, 1.05)).axes(lambda y: f"{y:.0%}", below=None).clock()
    shares = [(entry.at, new_model_share(entry.rollout, changes[0].rollout)) for entry in changes if entry.at <= at]
    path: list[tuple[float, float]] = []
    for moment, value in shares:
        path += [(moment.timestamp(), path[-1][1] if path else value), (moment.timestamp(), value)]
    path.append((at.timestamp(), path[-1][1]))
    return plot.band([(path[0][0], 0), (path[-1][0], 0)], path, "f0").line(path, "l0").svg()


def _ratio(looks: Sequence[InterimAnalysis], moments: Sequence[datetime], policy: Policy) -> Markup:
    found = [(look.at.timestamp(), look.evidence["ratio"] / math.log(10)) for look in looks]
    limit = -math.log10(policy.ratio_alpha)
    values = [value for _, value in found]
    plot = Plot("sample ratio", times(moments), Scale(min([-1, *values]), max([limit, *values]) + 0.5))
    return plot.axes(below=None).clock().line(found, "l0").across(limit, "margin").svg()


def guardrails(looks: Sequence[InterimAnalysis]) -> list[tuple[str, bool, Markup]]:
    """Of each guardrail its title, whether it is breached, and its course: the champion's share of bad exposures, the
    challenger's, and what is allowed."""
    return [_guardrail(name, title, looks) for name, title in NAMES.items() if _of(looks, name)]


def _of(looks: Sequence[InterimAnalysis], name: str) -> list[tuple[InterimAnalysis, dict[str, Any]]]:
    return [(look, row) for look in looks for row in look.evidence["guardrails"] if row["name"] == name]


def _guardrail(name: str, title: str, looks: Sequence[InterimAnalysis]) -> tuple[str, bool, Markup]:
    found = _of(looks, name)
    most = max(row[part] for _, row in found for part in ("champion", "challenger", "allowed"))
    scale = Scale(0, 1.15 * max(most, 1e-4))
    plot = Plot(title, times([looks[0].at, looks[-1].at]), scale, height=170)
    plot.axes(lambda y: f"{100 * y:.3g} %", below=None).clock()
    for part, style in (("allowed", "lbad dashed"), ("champion", "l7"), ("challenger", "l0")):
        line = [(look.at.timestamp(), row[part]) for look, row in found]
        plot.line(line, style, f"{part} {percent(line[-1][1])}")
    return title, bool(found[-1][1]["breached"]), plot.svg()
