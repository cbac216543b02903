"""The page of one training, for Kubeflow's UI: its curve, its numbers and its recipe."""

import json
from pathlib import Path
from typing import Any

from components.shared.pictures import training_curves
from runtime import page

TEMPLATE = """{% extends "base" %}{% block body %}
<h1>{{ title }}</h1><p class="sub">{{ sub }}</p>
{% if curve %}<section><h2>Validation</h2>{{ curve }}
<p class="quiet">NDCG@10 by epoch; the dot is the checkpoint that was kept.</p></section>{% endif %}
<section><h2>Numbers</h2><table>
{% for name, value in report.items() %}<tr><td>{{ name | words }}</td><td class="n">{{ value | found }}</td></tr>
{% endfor %}</table></section>
<section><h2>Recipe</h2><table>
{% for name, value in recipe.items() %}<tr><td>{{ name | words }}</td><td><code>{{ value }}</code></td></tr>
{% endfor %}</table></section>
{% endblock %}"""


def render(title: str, model: Path, report: dict[str, Any]) -> str:
    """Self-contained HTML about the model artifact `model`."""
    curve = json.loads((model / "curve.json").read_text())
    recipe = json.loads((model / "config.json").read_text())
    settings = {key: each for key, value in recipe.items() for key, each in _flat(key, value).items()}
    numbers = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in report.items()}
    count = report["processes"]
    epochs = f"{report['epochs']} epochs, the best was {report['best_epoch']}" if report["epochs"] else "no epoch"
    return page.render(
        TEMPLATE,
        title=title,
        sub=f"{epochs}; {report['seconds']:.0f} s on {report['device']}, {count} process{'es' * (count != 1)}",
        curve=training_curves({title: curve}) if curve else None,
        report=numbers,
        recipe=settings,
    )


def _flat(name: str, value: Any) -> dict[str, Any]:
    return {f"{name}: {key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
