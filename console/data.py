"""What came in: days, rows set aside, checks against their bounds run by run, and how each feature is distributed."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import (
    UTC,
    date,
    datetime,
    timedelta,
)
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from markupsafe import Markup

from components.shared.columns import measured_by
from console import runs
from console.charts import (
    Plot,
    Scale,
    figure,
    ranked,
    spark,
    times,
)
from console.runs import Run
from runtime.decision import Decision, Reason

MOST_BARS, MOST_VALUES = 180, 12
RUNS = 60
"""Latest runs whose checks are drawn."""
_EXAMPLES, _READ = 2, 20_000
_LOG_FROM = 30.0
"""Times that the largest value is the middle one, from which an axis is by the logarithm."""
_SAME = 1e-6
Distribution = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Aside:
    """Why rows were set aside, how many, and some of them."""

    reason: str
    rows: int
    examples: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One check of the latest run, and what it found in the runs before."""

    reason: Reason
    found: str
    allowed: str
    over_time: Markup | None


@dataclass(frozen=True, kw_only=True)
class Data:
    run: Run
    report: Mapping[str, Any]
    decision: Decision
    accepted: str
    """As of when the run was that it is held against; empty where there is none."""
    days: Markup | None
    aside: Sequence[Aside]
    open: Sequence[Checked]
    moving: Sequence[Checked]
    """Those that held and did not find the same in every run."""
    still: Sequence[Checked]
    drift: Sequence[Checked]
    features: Sequence[tuple[str, str, Markup | None]]
    """Name, sentence, picture."""


def read(dataset: str) -> Data | None:
    """What the latest run of `dataset` that came through the data gate found; None where there is none."""
    run = runs.latest_with("validate", dataset)
    if run is None:
        return None
    folder = run.artifact("validate")
    assert folder is not None
    decision, reference = Decision.read(folder), run.artifact("reference")
    profile, before = (_profile(each / "profile.json") if each else {} for each in (folder, reference))
    checks = list(_checks(decision, dataset))
    held = [each for each in checks if each.reason.held and not each.reason.check.endswith(" drift")]
    return Data(
        run=run,
        report=run.report("ingest"),
        decision=decision,
        accepted=before.get("as_of", ""),
        days=days(profile["days"]) if profile.get("days") else None,
        aside=_aside(run),
        open=[each for each in checks if not each.reason.held],
        moving=[each for each in held if each.over_time is not None],
        still=[each for each in held if each.over_time is None],
        drift=[each for each in checks if each.reason.check.endswith(" drift")],
        features=[
            (name, *feature(name, found, before.get("features", {}).get(name)))
            for name, found in profile.get("features", {}).items()
        ],
    )


def days(counted: Mapping[str, int]) -> Markup:
    """Events by day, or by a few days where there are too many for a bar each."""
    moments = [datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC) for day in counted]
    wide = -(-len(moments) // MOST_BARS)
    counts = list(counted.values())
    groups = [
        (moments[at], moments[at : at + wide][-1], sum(counts[at : at + wide])) for at in range(0, len(counts), wide)
    ]
    scale = times([moments[0], moments[-1] + timedelta(days=1)])
    plot = Plot("events by day", scale, Scale(0, 1.1 * max(1, *(n for *_, n in groups), 1)), width=940)
    plot.axes(below=None).clock()
    for first, last, n in groups:
        told = f"{first:%a %Y-%m-%d}: {n:,} events" if wide == 1 else f"{first:%Y-%m-%d} to {last:%Y-%m-%d}: {n:,}"
        plot.bar(first.timestamp(), (last + timedelta(days=1)).timestamp(), n, "f0", told)
    return plot.svg()


def feature(name: str, found: Distribution, before: Distribution | None) -> tuple[str, Markup | None]:
    """A sentence and a picture with real axes: equal shares of the rows are not drawn as equal widths."""
    rows = sum(found["counts"]) + found["missing"]
    missing = f"{found['missing'] / max(1, rows):.1%} missing"
    before = before if before and before["kind"] == found["kind"] else None
    if "edges" not in found:
        return f"{found['distinct']:,} values; {missing}", _values(name, found, before)
    if found["min"] is None:
        return f"no value; {missing}", None
    low, high = found["min"], found["max"]
    told = f"{measured_by(found['kind'])}, {figure(low)} to {figure(high)}; {missing}"
    if high - low <= _SAME * max(abs(low), abs(high)):
        return f"{measured_by(found['kind'])}, {low:.6g} in all rows; {missing}", None
    return told, _numbers(name, found, before)


def bins(found: Distribution) -> tuple[list[float], list[float]]:
    """Ends of the bins, and the share of the rows in each. A bin of one value gets the width of the narrowest."""
    ends = sorted({found["min"], *found["edges"], found["max"]})
    counts = list(found["counts"])
    if found["edges"] and found["min"] == found["edges"][0]:
        narrow = min((b - a for a, b in pairwise(ends)), default=1.0)
        ends.insert(0, ends[0] - narrow)
    if found["edges"] and found["max"] <= found["edges"][-1]:
        counts.pop()  # above the last edge lies nothing
    total = max(1, sum(found["counts"]))
    return ends, [count / total for count in counts[: len(ends) - 1]]


def _numbers(name: str, found: Distribution, before: Distribution | None) -> Markup:
    ends, shares = bins(found)
    log = ends[0] > 0 and found["edges"] and ends[-1] / found["edges"][len(found["edges"]) // 2] > _LOG_FROM
    drawn = [(ends, shares), *([bins(before)] if before and before.get("min") is not None else [])]
    if log and any(each[0][0] <= 0 for each in drawn):
        log = False
    x = Scale(min(each[0][0] for each in drawn), max(each[0][-1] for each in drawn), log=bool(log))
    heights = [[share / _width(a, b, x) for (a, b), share in zip(pairwise(e), s, strict=True)] for e, s in drawn]
    plot = Plot(f"distribution of {name}", x, Scale(0, 1.1 * max(max(each) for each in heights)))
    plot.axes(lambda y: f"{100 * y:,.4g} %")
    for (a, b), share, height in zip(pairwise(ends), shares, heights[0], strict=True):
        plot.bar(a, b, height, "f0", f"{a:.4g} to {b:.4g}: {share:.1%} of the rows")
    for (e, _), each in zip(drawn[1:], heights[1:], strict=True):
        path = [(e[0], 0.0)]
        for (a, b), height in zip(pairwise(e), each, strict=True):
            path += [(a, height), (b, height)]
        plot.line([*path, (e[-1], 0.0)], "l1 outline", "the last accepted run")
    return plot.svg()


def _width(a: float, b: float, x: Scale) -> float:
    return math.log10(b / a) if x.log else b - a


def _values(name: str, found: Distribution, before: Distribution | None) -> Markup:
    def shares(of: Distribution) -> dict[str, float]:
        total = max(1, sum(of["counts"]))
        return {value: n / total for value, n in zip(of["values"], of["counts"], strict=False)}

    now, was = shares(found), shares(before) if before else {}
    rows = [
        (value, share, was.get(value, 0.0) if before else None) for value, share in islice(now.items(), MOST_VALUES)
    ]
    rest = 1 - sum(share for _, share, _ in rows)
    others = None if not before else 1 - sum(was.get(value, 0.0) for value, _, _ in rows)
    if found["distinct"] > len(rows):
        rows.append((f"{found['distinct'] - len(rows):,} others", max(rest, 0.0), others))
    return ranked(f"distribution of {name}", rows)


def _checks(decision: Decision, dataset: str) -> Iterator[Checked]:
    earlier = [runs.only(name, "validate").report("validate") for name in islice(runs.names(dataset), RUNS)]
    series = [report["found"] for report in reversed(earlier) if report]
    for reason in decision.reasons:
        if reason.level == "info":
            continue
        values = [found[reason.check] for found in series if _number(found.get(reason.check))]
        moves = len(values) > 1 and len(set(values)) > 1
        told = f"{reason.check} over {len(values)} runs: {_told(values[0])} to {_told(values[-1])}" if values else ""
        yield Checked(
            reason=reason,
            found=_told(reason.found),
            allowed=_told(reason.allowed),
            over_time=spark(values, _bounds(reason.allowed), told) if moves else None,
        )


def _bounds(allowed: Any) -> list[float]:
    """The numbers of a bound, as checks tell it: one, or "low to high"."""
    if _number(allowed):
        return [float(allowed)]
    try:
        return [float(part) for part in str(allowed).split(" to ")] if " to " in str(allowed) else []
    except ValueError:
        return []


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _told(value: Any) -> str:
    return figure(value) if _number(value) else str(value)


def _aside(run: Run) -> list[Aside]:
    counted = run.report("ingest").get("reasons", {})
    folder = run.artifact("ingest")
    examples: dict[str, list[str]] = {reason: [] for reason in counted}
    if folder and (folder / "rejected.parquet").is_file():
        with pq.ParquetFile(folder / "rejected.parquet") as file:
            rows = next(file.iter_batches(_READ, columns=["reasons", "record"]), None)
        for row in rows.to_pylist() if rows is not None else []:
            for reason in row["reasons"]:
                if len(shown := examples.setdefault(reason, [])) < _EXAMPLES:
                    shown.append(str(row["record"])[:300])
    ordered = sorted(counted.items(), key=lambda entry: -entry[1])
    return [Aside(reason=reason, rows=n, examples=examples[reason]) for reason, n in ordered]


def _profile(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found
