"""Small bar charts of what the gate looks at: a feature now beside the last accepted run, and events by day."""

from collections.abc import Mapping, Sequence
from typing import Any

from components.shared.columns import measured_by
from components.validate.drift import labels

HEIGHT, WIDTH = 70, 270
MOST_BARS = 120
BEFORE, NOW = "#b9c0cb", "#2457a6"

Picture = dict[str, Any]


def days_picture(days: Mapping[str, int]) -> Picture:
    """Events by day, or by a few days where there are too many for a bar each."""
    dates, counts = list(days), list(days.values())
    width = -(-len(counts) // MOST_BARS)
    starts = range(0, len(counts), width)
    sums = [sum(counts[at : at + width]) for at in starts]
    titles = [f"{dates[at]}: {n:,} events" for at, n in zip(starts, sums, strict=True)]
    told = f"{dates[0]} to {dates[-1]}, " + ("a bar a day" if width == 1 else f"a bar every {width} days")
    return _picture("Events", told, [(sums, titles, NOW)])


def feature_picture(name: str, found: Mapping[str, Any], compared: tuple[Any, Any] | None) -> Picture:
    """Shares of a feature's bins; `compared` has the accepted distribution and the one of now, in its bins."""
    if "edges" in found:
        told = f"{measured_by(found['kind'])}, {_figure(found['min'])} to {_figure(found['max'])}"
    else:
        told = f"{found['distinct']:,} values, the most frequent first, then all others"
    rows = sum(found["counts"]) + found["missing"]
    told += f"; {found['missing'] / max(1, rows):.1%} missing (last bar)"
    series = [(compared[0], BEFORE, "accepted"), (compared[1], NOW, "now")] if compared else [(found, NOW, "now")]
    return _picture(name, told, [_shares(each, colour, when) for each, colour, when in series])


def _shares(found: Mapping[str, Any], colour: str, when: str) -> tuple[list[float], list[str], str]:
    counts = [*found["counts"], found["missing"]]
    total = max(1, sum(counts))
    titles = [f"{label}, {when}: {n / total:.2%} ({n:,})" for label, n in zip(labels(dict(found)), counts, strict=True)]
    return [n / total for n in counts], titles, colour


def _picture(name: str, told: str, series: Sequence[tuple[Sequence[float], Sequence[str], str]]) -> Picture:
    """Bars of the series side by side, all to one scale."""
    most = max([n for values, _, _ in series for n in values] or [1]) or 1
    step = WIDTH / max(1, len(series[0][0]))
    width = max(0.5, (step - (1 if step > 2 else 0)) / len(series))
    bars = [
        {
            "x": round(place * step + which * width, 1),
            "width": round(width, 1),
            "height": round(HEIGHT * value / most, 1),
            "title": title,
            "colour": colour,
        }
        for which, (values, titles, colour) in enumerate(series)
        for place, (value, title) in enumerate(zip(values, titles, strict=True))
    ]
    return {"name": name, "told": told, "bars": bars, "width": WIDTH, "height": HEIGHT}


def _figure(value: float | None) -> str:
    return "none" if value is None else f"{value:,.4g}"
