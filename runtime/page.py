"""One look for every page that a run writes: self-contained HTML, no network, data always escaped."""

from datetime import UTC, datetime
from typing import Any

import jinja2

from runtime.charts import STYLE

BASE = (
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>
"""
    + STYLE.read_text()
    + """:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 0 }
main { max-width: 980px; margin: 0 auto; padding: 24px 20px 60px }
h1 { font-size: 24px; margin: 0 0 4px }
h2 { font-size: 18px; margin: 0 0 10px } h3 { font-size: 15px; margin: 18px 0 6px }
.sub { color: var(--quiet); margin: 0 0 20px }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 18px 20px;
  margin: 0 0 16px }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th { text-align: left; color: var(--quiet); font-weight: 600; font-size: 13px; border-bottom: 1px solid var(--line) }
td, th { padding: 5px 12px 5px 0; vertical-align: top } td { border-bottom: 1px solid var(--faint) }
td.n, th.n { text-align: right } td.n { white-space: nowrap }
.good { color: var(--good) } .bad { color: var(--bad) } .warn { color: var(--warn) } .quiet { color: var(--quiet) }
.badge { display: inline-block; border-radius: 999px; padding: 1px 10px; font-weight: 600; font-size: 13px;
  color: var(--badge) }
.badge.good { background: var(--good) } .badge.bad { background: var(--bad) } .badge.warn { background: var(--warn) }
.badge.quiet, .badge.none { background: var(--none) }
code { font: 13px ui-monospace, monospace; background: var(--faint); padding: 1px 4px; border-radius: 4px;
  overflow-wrap: anywhere }
figure { margin: 0; min-width: 0 } figcaption { color: var(--quiet); font-size: 13px }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 20px }
a { color: var(--link) }
</style></head><body><main>
{% block body %}{% endblock %}
</main></body></html>
"""
)

DASH = "–"  # noqa: RUF001


def percent(share: float | None) -> str:
    """Of a share, with as many digits as tell it from nothing."""
    if share is None:
        return DASH
    return f"{100 * share:.0f} %" if share >= 0.1 or share == 0 else f"{100 * share:.2g} %"


def signed(value: float | None) -> str:
    return DASH if value is None else f"{value:+.4f}"


def points(value: float | None) -> str:
    """A difference of shares, in points of percent."""
    return DASH if value is None else f"{100 * value:+.2f}"


def minute(moment: datetime | None) -> str:
    return DASH if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


FILTERS = {
    "count": lambda value: f"{value:,}",
    "number": lambda value: DASH if value is None else f"{value:.4f}",
    "moment": lambda value: str(value)[:16].replace("T", " ") + " UTC" if value else DASH,
    "found": lambda value: f"{value:.4g}" if isinstance(value, float) else str(value),
    "words": lambda value: str(value).replace("_", " "),
    "short": lambda value: str(value)[:12],
    "percent": percent,
    "signed": signed,
    "points": points,
    "minute": minute,
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
