"""Pictures as SVG with real axes, coloured by `STYLE` alone: they follow light and dark, and need no script.

The only maker of charts. A page that a run writes has the style sheet inside it, as it is opened from a folder or in
Kubeflow's sandbox; the console serves the sheet as a file, as its policy forbids styles inside a page.

A `Plot` maps values to places; marks are added to it in the order in which they are painted.
"""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from markupsafe import Markup

STYLE = Path(__file__).with_suffix(".css")
WIDTH, HEIGHT = 460, 220
WIDE = 940
"""Of a chart as wide as its page."""
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 30
LETTER = 7.5
"""Most that a letter of an axis is wide, on the average of a word."""
Point = tuple[float, float]
_STEPS = [timedelta(minutes=n) for n in (1, 5, 15, 30)] + [timedelta(hours=n) for n in (1, 3, 6, 12)]
_STEPS += [timedelta(days=n) for n in (1, 2, 7, 14, 28, 91, 182, 365, 730, 3650)]


class Scale:
    """Values between `low` and `high`; by their logarithm where `log`."""

    def __init__(self, low: float, high: float, *, log: bool = False) -> None:
        if not low < high:
            low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
        self.low, self.high, self.log = low, high, log

    def share(self, value: float) -> float:
        """Where `value` lies, from 0 at the low end to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values inside."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            step = max(1, -(-(last - first + 1) // most))
            found = [10.0**power for power in range(first, last + 1, step)]
            if len(found) >= 2:
                return found
        rough = (self.high - self.low) / most
        size = 10 ** math.floor(math.log10(rough))
        step_ = next(size * n for n in (1, 2, 2.5, 5, 10) if size * n >= rough * 0.999)
        first_ = math.ceil(self.low / step_ - 1e-9)
        return [round(n * step_, 12) for n in range(first_, math.floor(self.high / step_ + 1e-9) + 1)]


def figure(value: float) -> str:
    """A number on an axis, short."""
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        return f"{value:.0e}".replace("e+0", "e").replace("e-0", "e-")
    return f"{value:,.6g}"


def signed_figure(value: float) -> str:
    """The same for differences."""
    return "0" if value == 0 else f"{value:+.3g}"


def times(moments: Sequence[datetime]) -> Scale:
    """A scale of moments, as seconds since 1970: an hour of them at least, and a little room at both ends."""
    first, last = moments[0].timestamp(), moments[-1].timestamp()
    room = max(0.03 * (last - first), (3600 - (last - first)) / 2)
    return Scale(first - room, last + room)


class Plot:
    """One pair of axes; `name` is what it is read out as."""

    def __init__(self, name: str, x: Scale, y: Scale, *, width: int = WIDTH, height: int = HEIGHT) -> None:
        self._name, self.x, self.y, self._width, self._height = name, x, y, width, height
        self._marks: list[Markup] = []

    def at(self, point: Point) -> tuple[float, float]:
        """Where a pair of values lies in the picture."""
        across, up = self.x.share(point[0]), self.y.share(point[1])
        wide, high = self._width - LEFT - RIGHT, self._height - TOP - BOTTOM
        return round(LEFT + across * wide, 1), round(TOP + (1 - up) * high, 1)

    def axes(self, told: Callable[[float], str] = figure, *, below: Callable[[float], str] | None = figure) -> "Plot":
        """Both axes: values of y `told`, values of x told by `below` (None: the x axis has names of its own)."""
        for tick in self.y.ticks():
            left, y = self.at((self.x.low, tick))
            self._add('<line class="gridline" x1="{}" x2="{}" y1="{}" y2="{}"/>', left, self._width - RIGHT, y, y)
            self._text(left - 6, y + 4, told(tick), "end")
        base = self._height - BOTTOM
        self._add('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>', LEFT, self._width - RIGHT, base, base)
        for tick in self.x.ticks(6) if below is not None else ():
            x, _ = self.at((tick, self.y.low))
            self._add('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>', x, x, base, base + 4)
            assert below is not None
            self._below(x, below(tick))
        return self

    def clock(self) -> "Plot":
        """The x axis as moments."""
        low, high = (datetime.fromtimestamp(end, UTC) for end in (self.x.low, self.x.high))
        step = next((each for each in _STEPS if (high - low) / each <= 5), _STEPS[-1])
        first = datetime(1970, 1, 5, tzinfo=UTC)  # a Monday, so that weeks begin as weeks do
        tick, base = first + step * math.ceil((low - first) / step), self._height - BOTTOM
        while tick <= high:
            x, _ = self.at((tick.timestamp(), self.y.low))
            self._add('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>', x, x, base, base + 4)
            self._below(x, f"{tick:%H:%M}" if step < timedelta(days=1) else f"{tick:%d %b}")
            tick += step
        return self

    def name(self, x: float, text: str, *, title: str = "") -> "Plot":
        """A name below the x axis."""
        place, _ = self.at((x, self.y.low))
        self._text(place, self._height - BOTTOM + 18, text, "middle", title or text)
        return self

    def line(self, points: Sequence[Point], style: str, title: str = "") -> "Plot":
        path = " ".join(f"{x},{y}" for x, y in map(self.at, points))
        return self._add('<polyline class="line {}" points="{}">{}</polyline>', style, path, _title(title))

    def band(self, lower: Sequence[Point], upper: Sequence[Point], style: str) -> "Plot":
        path = " ".join(f"{x},{y}" for x, y in map(self.at, [*lower, *reversed(upper)]))
        return self._add('<polygon class="band {}" points="{}"/>', style, path)

    def dots(self, points: Sequence[Point], style: str, titles: Sequence[str] = (), radius: float = 3.5) -> "Plot":
        for number, (x, y) in enumerate(map(self.at, points)):
            told = _title(titles[number] if titles else "")
            self._add('<circle class="dot {}" cx="{}" cy="{}" r="{}">{}</circle>', style, x, y, radius, told)
        return self

    def interval(self, x: float, low: float, high: float, style: str, title: str = "") -> "Plot":
        """An upright line from `low` to `high`, where they are within the axis or beyond it."""
        a, b = (self.at((x, min(max(end, self.y.low), self.y.high))) for end in (low, high))
        mark = '<line class="line {}" x1="{}" x2="{}" y1="{}" y2="{}">{}</line>'
        return self._add(mark, style, a[0], b[0], a[1], b[1], _title(title))

    def bar(self, start: float, end: float, height: float, style: str, title: str = "") -> "Plot":
        """From the bottom of the axis; `start` and `end` are values of x."""
        (x, y), (right, base) = self.at((start, height)), self.at((end, self.y.low))
        wide = max(round(right - x - 0.5, 1), 0.6)
        mark = '<rect class="bar {}" x="{}" y="{}" width="{}" height="{}">{}</rect>'
        return self._add(mark, style, x, y, wide, round(max(base - y, 0), 1), _title(title))

    def across(self, y: float, style: str) -> "Plot":
        (x, place), (right, _) = self.at((self.x.low, y)), self.at((self.x.high, y))
        return self._add('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>', style, x, right, place, place)

    def upright(self, x: float, style: str) -> "Plot":
        (place, base), (_, top) = self.at((x, self.y.low)), self.at((x, self.y.high))
        return self._add('<line class="{}" x1="{}" x2="{}" y1="{}" y2="{}"/>', style, place, place, base, top)

    def svg(self) -> Markup:
        head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">')
        return head.format(self._width, self._height, self._name) + Markup("").join(self._marks) + Markup("</svg>")

    def _below(self, x: float, text: str) -> None:
        """A word under the x axis, moved where it would run out of the picture."""
        half = LETTER * len(text) / 2
        self._text(min(max(x, half), self._width - half), self._height - BOTTOM + 18, text, "middle")

    def _text(self, x: float, y: float, text: str, anchor: str, title: str = "") -> None:
        mark = '<text class="tick" x="{}" y="{}" text-anchor="{}">{}{}</text>'
        self._add(mark, round(x, 1), round(y, 1), anchor, text, _title(title))

    def _add(self, mark: str, *values: object) -> "Plot":
        self._marks.append(Markup(mark).format(*values))
        return self


def steps(edges: Sequence[float], heights: Sequence[float]) -> list[Point]:
    """The outline of a histogram."""
    path = [(edges[0], 0.0)]
    for (left, right), height in zip(pairwise(edges), heights, strict=True):
        path += [(left, height), (right, height)]
    return [*path, (edges[-1], 0.0)]


def _title(text: str) -> Markup:
    return Markup("<title>{}</title>").format(text) if text else Markup("")


def key(entries: Sequence[tuple[str, str]]) -> Markup:
    """What the colours mean: (style, meaning) of each. Styles of lines begin with l, of areas with f."""
    line = Markup('<line class="line {}" x1="0" x2="12" y1="6" y2="6"/>')
    area = Markup('<rect class="{}" width="12" height="12"/>')
    sample = Markup('<li><svg viewBox="0 0 12 12" aria-hidden="true">{}</svg>{}</li>')
    made = [
        sample.format((line if style.startswith("l") else area).format(style), meaning) for style, meaning in entries
    ]
    return Markup('<ul class="key">{}</ul>').format(Markup("").join(made))


def intervals(
    name: str, rows: Sequence[tuple[str, float, float, float]], *, digits: int = 4, width: int = WIDTH
) -> Markup:
    """Differences of (label, mean, low, high) below one another against zero, with their numbers beside."""
    step, left, right, base = 24, 130, 195, 24
    ends = [0.0, *(end for _, _, low, high in rows for end in (low, high))]
    scale, high = Scale(min(ends), max(ends)), 8 + len(rows) * step

    def at(value: float) -> float:
        return round(left + scale.share(value) * (width - left - right), 1)

    marks = [Markup('<line class="zero" x1="{}" x2="{}" y1="0" y2="{}"/>').format(at(0), at(0), high)]
    for place, (label, mean, low, upper) in enumerate(rows):
        y, style = 4 + step * (place + 0.5), "good" if low > 0 else "bad" if upper < 0 else "none"
        told = f"{mean:+.{digits}f} [{low:+.{digits}f}, {upper:+.{digits}f}]"
        row = Markup('<g>{}<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>')
        row = row.format(_title(f"{label}: {told}"), left - 10, y + 4, _cut(label))
        row += Markup('<line class="line l{}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            style, at(low), at(upper), y, y
        )
        row += Markup('<circle class="dot f{}" cx="{}" cy="{}" r="5"/>').format(style, at(mean), y)
        row += Markup('<text class="tick" x="{}" y="{}">{}</text></g>').format(width - right + 10, y + 4, told)
        marks.append(row)
    for tick in scale.ticks(4):
        mark = '<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>'
        marks.append(Markup(mark).format(at(tick), high + 16, signed_figure(tick)))
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, high + base, name)
    return head + Markup("").join(marks) + Markup("</svg>")


def _cut(label: str, most: int = 19) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}…"


def ranked(name: str, rows: Sequence[tuple[str, float, float | None]], *, width: int = WIDTH) -> Markup:
    """Bars from the left, one below the other, of (name, share, share before or None); the shares as numbers beside."""
    step, left, right = 19, 140, 60
    most = max([1e-9, *(max(share, before or 0.0) for _, share, before in rows)])
    marks = []
    for place, (label, share, before) in enumerate(rows):
        y = 4 + place * step
        wide = [round((width - left - right) * (value or 0.0) / most, 1) for value in (share, before)]
        told = f"{label}: {share:.2%}" + (f", accepted before {before:.2%}" if before is not None else "")
        row = Markup('<g><title>{}</title><text class="tick" x="{}" y="{}" text-anchor="end">{}</text>')
        row = row.format(told, left - 8, y + 12, _cut(label))
        row += Markup('<rect class="bar f0" x="{}" y="{}" width="{}" height="{}"/>').format(left, y, wide[0], 14)
        if before is not None:
            mark = '<line class="line l1" x1="{}" x2="{}" y1="{}" y2="{}"/>'
            row += Markup(mark).format(left + wide[1], left + wide[1], y - 1, y + 15)
        row += Markup('<text class="tick" x="{}" y="{}">{}</text></g>').format(
            left + max(wide) + 6, y + 12, f"{share:.1%}"
        )
        marks.append(row)
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(width, 8 + len(rows) * step, name)
    return head + Markup("").join(marks) + Markup("</svg>")


def spark(values: Sequence[float], bounds: Sequence[float], name: str) -> Markup:
    """A small line of `values`, with lines at `bounds`; the axis holds all of them."""
    ends = [*values, *bounds]
    y, wide, high = Scale(min(ends), max(ends)), 110, 26
    places = [round(high - 3 - y.share(value) * (high - 6), 1) for value in values]
    across = [round(3 + n * (wide - 6) / max(1, len(values) - 1), 1) for n in range(len(values))]
    made = Markup('<svg class="spark" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(wide, high, name)
    for bound in bounds:
        place = round(high - 3 - y.share(bound) * (high - 6), 1)
        made += Markup('<line class="margin" x1="0" x2="{}" y1="{}" y2="{}"/>').format(wide, place, place)
    path = " ".join(f"{x},{p}" for x, p in zip(across, places, strict=True))
    made += Markup('<polyline class="line l0" points="{}"/>').format(path)
    made += Markup('<circle class="f0" cx="{}" cy="{}" r="2.5"/></svg>').format(across[-1], places[-1])
    return made
