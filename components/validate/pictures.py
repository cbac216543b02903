"""What the data looks like: events by day, and how each feature is distributed beside the last accepted run."""

import math
from collections.abc import Mapping
from datetime import (
    UTC,
    date,
    datetime,
    timedelta,
)
from itertools import islice, pairwise
from typing import Any

from markupsafe import Markup

from components.shared.columns import measured_by
from runtime.charts import (
    WIDE,
    Plot,
    Scale,
    figure,
    ranked,
    times,
)

MOST_BARS, MOST_VALUES = 180, 12
_LOG_FROM = 30.0
"""Times that the largest value is the middle one, from which an axis is by the logarithm."""
_SAME = 1e-6
Distribution = Mapping[str, Any]


def days(counted: Mapping[str, int]) -> Markup:
    """Events by day, or by a few days where there are too many for a bar each."""
    moments = [datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC) for day in counted]
    wide = -(-len(moments) // MOST_BARS)
    counts = list(counted.values())
    groups = [
        (moments[at], moments[at : at + wide][-1], sum(counts[at : at + wide])) for at in range(0, len(counts), wide)
    ]
    scale = times([moments[0], moments[-1] + timedelta(days=1)])
    plot = Plot("events by day", scale, Scale(0, 1.1 * max(1, *(n for *_, n in groups), 1)), width=WIDE)
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
