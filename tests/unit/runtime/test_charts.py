"""One maker of charts, and what its pictures say."""

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from runtime.charts import intervals, key
from runtime.workspace import ROOT
from tests.unit.runtime.test_service_log import SOURCES, name

ENDS = st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=3, max_size=3).map(sorted)
COLOURED = {
    "runtime/charts.css": "the light colours",
    "console/static/console.css": "the dark ones, and a scale of five",
    "components/validate/data_docs.py": "a style sheet of its own, in pages of Great Expectations",
}


def test_nothing_else_draws_or_names_a_colour() -> None:
    drawn = re.compile(r"matplotlib|plotly|altair|<polyline|<polygon|class=\"(line|bar|dot) ")
    templates = [path for room in ("components", "pipelines", "runtime") for path in (ROOT / room).rglob("*.html")]
    assert [name(path) for path in (*SOURCES, *templates) if drawn.search(path.read_text())] == ["runtime/charts.py"]
    kinds = (ROOT / room for room in ("components", "console", "pipelines", "runtime", "serving"))
    sheets = [path for room in kinds for kind in ("*.html", "*.css", "*.py") for path in room.rglob(kind)]
    coloured = {name(path) for path in sheets if re.search(r"#[0-9a-f]{6}\b", path.read_text())}
    assert coloured <= set(COLOURED), "take a colour of runtime/charts.css: var(--good)"


@given(st.lists(ENDS, min_size=1, max_size=6))
def test_intervals_lie_as_their_numbers_do(rows: list[list[float]]) -> None:
    drawn = str(intervals("against", [(f"peer {n}", mean, low, high) for n, (low, mean, high) in enumerate(rows)]))
    (zero,) = map(float, re.findall(r'class="zero" x1="([-\d.]+)"', drawn))
    lines = re.findall(r'class="line l(\w+)" x1="([-\d.]+)" x2="([-\d.]+)"', drawn)
    dots = [float(x) for x in re.findall(r'<circle [^>]*cx="([-\d.]+)"', drawn)]
    values = [(0.0, zero)]
    for (low, mean, high), (style, left, right), dot in zip(rows, lines, dots, strict=True):
        assert style == ("good" if low > 0 else "bad" if high < 0 else "none")
        assert float(left) <= dot <= float(right)
        values += [(low, float(left)), (mean, dot), (high, float(right))]
        assert f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" in drawn
    assert all(before[1] <= after[1] for before, after in pairwise(sorted(values)))


def test_names_that_others_gave_are_escaped() -> None:
    evil = "<script>alert(1)</script>"
    for drawn in (intervals(evil, [(evil, 0.0, -1.0, 1.0)]), key([("f0", evil)])):
        assert "<script" not in drawn and "&lt;script" in drawn
