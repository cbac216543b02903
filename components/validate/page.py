"""The gate's page for people: what came in, every check with what was found and allowed, and distributions."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from components.decision import Decision, Reason
from components.page import render as render_page
from components.validate.profile import MEASURE

HEIGHT, WIDTH = 60, 240
MOST_BARS = 120

TEMPLATE = """{% extends "base" %}{% block body %}
<h1>Validation of {{ dataset }}</h1><p class="sub">as of {{ as_of }}</p>
<section>
  <p>{% if decision.passed %}<span class="badge good">passed</span>{% else %}<span class="badge bad">blocked</span>
  {% endif %} {{ decision.reasons|length }} checks, {{ decision.blocking|length }} block, {{ warned }} warn</p>
  {% if decision.blocking %}<ul>{% for reason in decision.blocking %}<li class="bad">{{ reason.message }}</li>
  {% endfor %}</ul>{% endif %}
</section>
<section><h2>What came in</h2>
  <table>{% for name, value in came_in %}<tr><td>{{ name }}</td><td class="n">{{ value }}</td></tr>{% endfor %}</table>
  {% if report.reasons %}<details><summary>Why rows were set aside (a row may have several reasons)</summary>
  <table>{% for reason, rows in set_aside %}<tr><td>{{ reason }}</td><td class="n">{{ rows|count }}</td></tr>
  {% endfor %}</table></details>{% endif %}
  {% for note in report.notes %}<p class="quiet">{{ note }}</p>{% endfor %}
</section>
<section><h2>Checks</h2>
  <table><tr><th>check</th><th></th><th class="n">found</th><th class="n">allowed</th></tr>
  {% for check in checks %}<tr>
    <td>{{ check.reason.message }}<br><span class="quiet">{{ check.reason.check }}</span>
    {% if check.rows %}<details><summary>{{ check.rows|length }} of the rows</summary><div style="overflow-x: auto">
      <table><tr>{% for name in check.names %}<th>{{ name }}</th>{% endfor %}</tr>
      {% for row in check.rows %}<tr>{% for cell in row %}<td><code>{{ cell }}</code></td>{% endfor %}</tr>{% endfor %}
      </table></div></details>{% endif %}</td>
    <td><span class="{{ check.style }}">{{ check.outcome }}</span></td>
    <td class="n">{{ check.found }}</td><td class="n">{{ check.allowed }}</td></tr>{% endfor %}
  </table>
</section>
{% if charts %}<section><h2>What the data looks like</h2>
  <div style="display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: 20px">
  {% for chart in charts %}<figure style="margin: 0"><b>{{ chart.name }}</b>
    <svg viewBox="0 0 {{ width }} {{ height }}" width="100%" role="img" aria-label="{{ chart.name }}">
    {% for bar in chart.bars %}<rect x="{{ bar.x }}" y="{{ height - bar.height }}" width="{{ bar.width }}"
     height="{{ bar.height }}" fill="#2457a6"><title>{{ bar.title }}</title></rect>{% endfor %}
    <line x1="0" x2="{{ width }}" y1="{{ height }}" y2="{{ height }}" stroke="#c3cad4"/></svg>
    <figcaption class="quiet">{{ chart.told }}</figcaption></figure>{% endfor %}
  </div></section>{% endif %}
{% endblock %}"""

_CAME_IN = {
    "rows": "Rows in the source",
    "accepted": "accepted",
    "rejected": "set aside",
    "users": "Users",
    "items": "Items",
    "first_event": "First event",
    "last_event": "Last event",
}


def render(
    decision: Decision, report: Mapping[str, Any], profile: Mapping[str, Any], *, dataset: str, as_of: str
) -> str:
    """The whole page, self-contained; `report` is ingest's, `profile` may be empty. All data is escaped."""
    # What blocks comes first, then what warns, then what held.
    ranked = sorted(decision.reasons, key=lambda reason: (reason.held, reason.level != "block"))
    charts = [_events_chart(profile["days"])] if profile.get("days") else []
    charts += [_feature_chart(name, found) for name, found in profile.get("features", {}).items()]
    return render_page(
        TEMPLATE,
        title=f"Validation of {dataset}",
        dataset=dataset,
        as_of=as_of,
        decision=decision,
        warned=sum(reason.level == "warn" and not reason.held for reason in decision.reasons),
        report=report,
        came_in=[(name, number(report[key])) for key, name in _CAME_IN.items()],
        set_aside=sorted(report["reasons"].items(), key=lambda entry: -entry[1]),
        checks=[_check(reason) for reason in ranked],
        charts=charts,
        width=WIDTH,
        height=HEIGHT,
    )


def number(value: Any) -> str:
    """A figure as people read it."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else "none" if value is None else str(value)


def _check(reason: Reason) -> dict[str, Any]:
    failed = ("blocks", "bad") if reason.level == "block" else ("warns", "warn")
    outcome, style = ("held", "good") if reason.held else failed
    names = list(reason.evidence[0]) if reason.evidence else []
    return {
        "reason": reason,
        "outcome": outcome,
        "style": style,
        "found": number(reason.found),
        "allowed": number(reason.allowed),
        "names": names,
        "rows": [[_cell(row.get(name)) for name in names] for row in reason.evidence],
    }


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _events_chart(days: Mapping[str, int]) -> dict[str, Any]:
    """Events by day, or by a few days where there are too many for a bar each."""
    dates, counts = list(days), list(days.values())
    width = -(-len(counts) // MOST_BARS)
    starts = range(0, len(counts), width)
    sums = [sum(counts[at : at + width]) for at in starts]
    titles = [f"{dates[at]}: {n:,} events" for at, n in zip(starts, sums, strict=True)]
    told = f"{dates[0]} to {dates[-1]}, " + ("a bar a day" if width == 1 else f"a bar every {width} days")
    return {"name": "Events", "told": told, "bars": _bars(sums, titles)}


def _feature_chart(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    counts, missing = found["counts"], found["missing"]
    if "edges" in found:
        edges = [found["min"], *found["edges"], found["max"]]
        labels = [f"{number(low)} to {number(high)}" for low, high in pairwise(edges)]
        told = f"{MEASURE[found['kind']]}, {number(found['min'])} to {number(found['max'])}"
    else:
        labels = [*found["values"], f"{max(0, found['distinct'] - len(found['values']))} other values"]
        told = f"{found['distinct']:,} values, the most frequent first, the last bar all others"
    titles = [f"{label}: {n:,}" for label, n in zip(labels, counts, strict=True)]
    told += f"; {missing / max(1, sum(counts) + missing):.1%} missing"
    return {"name": name, "told": told, "bars": _bars(counts, titles)}


def _bars(counts: Sequence[int], titles: Sequence[str]) -> list[dict[str, Any]]:
    most, step = max([*counts, 1]), WIDTH / max(1, len(counts))
    width = round(max(0.6, step - 1), 1)
    return [
        {"x": round(at * step, 1), "width": width, "height": round(HEIGHT * n / most, 1), "title": title}
        for at, (n, title) in enumerate(zip(counts, titles, strict=True))
    ]
