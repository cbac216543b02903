"""One look for every page that a run writes: self-contained HTML, no network, data always escaped."""

import io
from typing import Any

import jinja2
from markupsafe import Markup

INK, QUIET, GOOD, BAD, WARN, SERIES = "#1d2430", "#6b7686", "#177a4b", "#b3261e", "#a15c00", ["#2457a6", "#c05a1c"]

BASE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2430; background: #f6f7f9; margin: 0 }
main { max-width: 980px; margin: 0 auto; padding: 24px 20px 60px }
h1 { font-size: 24px; margin: 0 0 4px }
h2 { font-size: 18px; margin: 0 0 10px } h3 { font-size: 15px; margin: 18px 0 6px }
.sub { color: #6b7686; margin: 0 0 20px }
section { background: #fff; border: 1px solid #e3e6eb; border-radius: 8px; padding: 18px 20px; margin: 0 0 16px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { text-align: left; color: #6b7686; font-weight: 600; font-size: 13px; border-bottom: 1px solid #d5dae1 }
td, th { padding: 5px 12px 5px 0; vertical-align: top } td { border-bottom: 1px solid #eef0f3 }
td.n, th.n { text-align: right } td.n { white-space: nowrap }
.good { color: #177a4b } .bad { color: #b3261e } .warn { color: #a15c00 } .quiet { color: #6b7686 }
.badge { display: inline-block; border-radius: 999px; padding: 1px 10px; font-weight: 600; font-size: 13px;
  color: #fff }
.badge.good { background: #177a4b } .badge.bad { background: #b3261e } .badge.warn { background: #a15c00 }
.badge.quiet { background: #6b7686 }
code { font: 13px ui-monospace, monospace; background: #f1f3f6; padding: 1px 4px; border-radius: 4px;
  overflow-wrap: anywhere }
svg { max-width: 100%; height: auto } a { color: #2457a6 }
</style></head><body><main>
{% block body %}{% endblock %}
</main></body></html>
"""

FILTERS = {
    "count": lambda value: f"{value:,}",
    "number": lambda value: "–" if value is None else f"{value:.4f}",  # noqa: RUF001
    "moment": lambda value: str(value)[:16].replace("T", " ") + " UTC" if value else "–",  # noqa: RUF001
    "found": lambda value: f"{value:.4g}" if isinstance(value, float) else str(value),
    "words": lambda value: str(value).replace("_", " "),
    "short": lambda value: str(value)[:12],
}
"""How pages write numbers, moments and names: those of a run, and the console's."""


def environment() -> jinja2.Environment:
    """Templates in which data is always escaped, and a name that is not given is a fault."""
    made = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= FILTERS
    return made


_environment = environment()


def render(template: str, **values: Any) -> str:
    """Fill a template that extends "base" (blocks: body; it must be given `title`)."""
    loader = jinja2.DictLoader({"base": BASE, "page": template})
    return _environment.overlay(loader=loader).get_template("page").render(**values)


def svg(figure: Any) -> Markup:
    """A matplotlib figure as inline SVG, the same bytes for the same figure."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "heterrec", "svg.fonttype": "none", "font.family": "sans-serif"}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])


def axes(width: float, height: float) -> tuple[Any, Any]:
    """A figure of `width` x `height` inches with one quiet pair of axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    ax = figure.add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#c3cad4")
    ax.tick_params(colors=QUIET, labelsize=9)
    return figure, ax
