"""The comparison as HTML: a part of the run's page, and a page of its own for the Kubeflow UI."""

import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from components.shared.pictures import differences
from runtime.decision import Decision
from runtime.page import render

TEMPLATE = Path(__file__).parent / "comparison.html"
METRICS = ("hr@10", "ndcg@10", "mrr")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def body(evaluation: Path) -> Markup:
    """Tables and pictures of the evaluation artifact, as a fragment."""
    report = read_json(evaluation / "report.json")
    filled = render(
        TEMPLATE.read_text(),
        report=report,
        decision=Decision.read(evaluation),
        metrics=METRICS,
        picture=differences(report["differences"], "difference in NDCG@10 to each peer"),
    )
    return Markup(filled)


def page(evaluation: Path) -> str:
    """The fragment as a self-contained page."""
    template = (
        '{% extends "base" %}{% block body %}<h1>{{ title }} <span class="badge {{ style }}">{{ word }}</span></h1>'
        "<section>{{ content }}</section>{% endblock %}"
    )
    word, style = ("blessed", "good") if Decision.read(evaluation).passed else ("not blessed", "bad")
    return render(template, title="Is the new model better?", word=word, style=style, content=body(evaluation))
