"""The first page: green, or the one thing that is wrong and what to do; and the circle as it turns now."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from console import rollouts, runs
from console.metrics import TrafficRates
from console.render import ago, lasting
from experiments.database import TableAway
from experiments.decision import WITHHELD
from experiments.document import Rollout
from experiments.table import InterimAnalysis
from runtime import workspace
from runtime.page import DASH, percent

FALLBACKS, ERRORS, BEHIND = 0.05, 0.01, 600.0
"""Shares of answers, and seconds of the consumer, from which something is wrong; of the alerts in k8s/."""
UNKNOWN = "unknown"
_ORDER = {"bad": 0, "warn": 1}


class Finding(NamedTuple):
    """One thing that is wrong: its style (bad, warn), what it is, what to do, and the page about it."""

    style: str
    what: str
    remedy: str
    link: str


@dataclass(frozen=True, kw_only=True)
class Part:
    """One station of the circle."""

    name: str
    link: str
    large: str
    lines: Sequence[str]
    style: str = "none"


@dataclass(frozen=True, kw_only=True)
class Now:
    style: str
    verdict: str
    remedy: str
    link: str
    others: Sequence[Finding]
    parts: Sequence[Part]
    traffic: TrafficRates
    rows: Sequence[Rollout]
    recent: Sequence[runs.RunView]
    at: datetime


def now(traffic: TrafficRates) -> Now:
    """What is known at this moment."""
    recent = runs.page(runs.names(), 1)[:5]
    fault, rows, looks = "", [], {}
    try:
        rows, looks = rollouts.rows(), rollouts.last_looks()
    except TableAway as error:
        fault = str(error)
    findings = sorted(_findings(fault, rows, looks, recent, traffic), key=lambda finding: _ORDER[finding.style])
    first = findings[0] if findings else None
    known = traffic.requests is not None
    good = "Everything that is known is well."
    unknown = "What was released is well; nobody tells of the traffic."
    tell = "Start gateway and consumer, or give their addresses: --metrics URL, or --prometheus URL."
    return Now(
        style=first.style if first else "good" if known else "none",
        verdict=first.what if first else good if known else unknown,
        remedy=first.remedy if first else "Nothing to do." if known else tell,
        link=first.link if first else "",
        others=findings[1:],
        parts=_parts(rows, looks, recent, traffic),
        traffic=traffic,
        rows=rows,
        recent=recent,
        at=datetime.now(UTC),
    )


def _findings(
    fault: str,
    rows: Sequence[Rollout],
    looks: dict[str, InterimAnalysis],
    recent: Sequence[runs.RunView],
    traffic: TrafficRates,
) -> Iterator[Finding]:
    """Everything wrong; of equal weight, what shoppers feel comes first."""
    for version in traffic.out:
        remedy = "Others answer in its place. Look at its server's log; roll back if it is the challenger."
        yield Finding("bad", f"{version} is out of traffic", remedy, "/canary")
    if traffic.errors is not None and traffic.errors > ERRORS:
        what = f"{percent(traffic.errors)} of the shoppers get no answer"
        yield Finding("bad", what, "Look at what the gateway says is wrong, below.", "/")
    if traffic.fallbacks is not None and traffic.fallbacks > FALLBACKS:
        what = f"{percent(traffic.fallbacks)} of the answers come from no model"
        yield Finding("bad", what, "Is the model server up, and is it loaded beyond what it can answer?", "/")
    for alert in traffic.alerts or ():
        style = "bad" if traffic.critical else "warn"
        yield Finding(style, alert, "docs/operations.md says what to do at each alert.", "/")
    if traffic.lag is not None and traffic.lag > BEHIND:
        what = f"The consumer is {lasting(traffic.lag)} behind: histories are that old"
        yield Finding("warn", what, "Is `python -m serving consumer` running, and is the online store up?", "/")
    if fault:
        remedy = "What serves goes on serving. Bring the database back, or restore it (docs/operations.md)."
        yield Finding("bad", fault, remedy, "/canary")
    elif not any(row.champion for row in rows):
        what = "Nothing was released yet"
        yield Finding(
            "warn", what, f"make run, or look at why a run was stopped. Workspace: {workspace.home()}", "/runs"
        )
    if recent and (stopped := recent[0].stopped) and recent[0].outcome[1] != "good":
        told, style = recent[0].outcome
        what = f"The last run, {recent[0].name}: {told}. {stopped[0].message}"
        remedy = f"{stopped[0].remedy[:1].upper()}{stopped[0].remedy[1:]}."
        yield Finding("bad" if style == "bad" else "warn", what, remedy, f"/runs/{recent[0].name}")
    elif recent and recent[0].fault:
        yield Finding("bad", recent[0].fault, "Remove the file that it names, or restore it.", "/runs")
    for model, look in looks.items():
        if look.why.startswith(WITHHELD):
            yield Finding("warn", f"{model}: {look.why}", "Mend the log; until then nobody is promoted.", "/canary")
    for problem in traffic.problems:
        yield Finding("warn", problem, "The gateway says so of itself; shoppers are answered.", "/")


def _parts(
    rows: Sequence[Rollout], looks: dict[str, InterimAnalysis], recent: Sequence[runs.RunView], traffic: TrafficRates
) -> list[Part]:
    """The circle, in the order in which data goes round it."""
    last = next((run for run in recent if run.report("ingest")), None)
    came = last.report("ingest") if last else {}
    run = recent[0] if recent else None
    released = [row for row in rows if row.champion]
    serving = next((row for row in released if run and row.model == run.dataset), released[0] if released else None)
    return [
        Part(
            name="Data",
            link="/data",
            large=f"{came['accepted']:,} events" if came else UNKNOWN,
            lines=[f"{came['rejected']:,} set aside", f"until {came['last_event'][:10]}"] if came else [],
            style=_gate(last, "validate") if last else "none",
        ),
        Part(
            name="Last run",
            link=f"/runs/{run.name}" if run else "/runs",
            large=_short(run.outcome[0].split(":")[0], 22) if run else "none yet",
            lines=[run.headline, ago(run.started)] if run else [],
            style=run.outcome[1] if run else "none",
        ),
        Part(
            name="Serves",
            link="/canary",
            large=_short(serving.champion.version, 22) if serving and serving.champion else "nothing",
            lines=_arms(serving, looks) if serving else [],
            style="bad" if traffic.out else "good" if serving else "none",
        ),
        Part(
            name="Shoppers",
            link="/shopper",
            large=UNKNOWN if traffic.requests is None else f"{traffic.requests:.3g} requests/s",
            lines=[
                f"fallbacks {percent_or_unknown(traffic.fallbacks)}",
                f"no answer {percent_or_unknown(traffic.errors)}",
            ],
            style=_answers(traffic),
        ),
        Part(
            name="Events",
            link="/item",
            large=UNKNOWN if traffic.events is None else f"{traffic.events:.3g} events/min",
            lines=[f"consumer behind {lasting(traffic.lag) if traffic.lag is not None else UNKNOWN}"],
            style="none" if traffic.lag is None else "warn" if traffic.lag > BEHIND else "good",
        ),
        Part(
            name="Histories",
            link="/shopper",
            large=UNKNOWN if traffic.age is None else f"{lasting(traffic.age)} old",
            lines=["newest event at a request,", "in the median"],
            style="none" if traffic.age is None else "good",
        ),
    ]


def percent_or_unknown(share: float | None) -> str:
    return UNKNOWN if share is None else percent(share)


def _answers(traffic: TrafficRates) -> str:
    if traffic.fallbacks is None or traffic.errors is None:
        return "none"
    return "bad" if traffic.fallbacks > FALLBACKS or traffic.errors > ERRORS else "good"


def _gate(run: runs.RunView, gate: str) -> str:
    report = run.report(gate)
    if not report:
        return "none"
    return "bad" if not report["passed"] else "warn" if report.get("warned") else "good"


def _arms(row: Rollout, looks: dict[str, InterimAnalysis]) -> list[str]:
    if row.challenger is None:
        watch = f"watched; before: {row.former.version}" if row.former else "alone, no canary"
        return [_short(watch, 34)]
    found = looks.get(row.model)
    return [
        f"challenger {percent(row.weight)}{', paused' if row.paused else ''}",
        _short(f"{found.action}: {found.why}", 34) if found else DASH,
    ]


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
