"""The dashboards are what Grafana reads, and their panels ask for what is exported."""

import json
import re

import pytest

from tests.k8s import exported, promtool
from tests.k8s.cluster import K8S, rendered
from tests.k8s.test_alerts import metrics_of

DASHBOARDS = {
    path.stem: json.loads(path.read_text()) for path in (K8S / "components/monitoring/dashboards").glob("*.json")
}
PANELS = [
    (name, panel) for name, dashboard in DASHBOARDS.items() for panel in dashboard["panels"] if panel["type"] != "row"
]


def _plain(expression: str) -> str:
    """With Grafana's variables filled in."""
    return re.sub(r"\$\w+", "marketplace", expression)


def test_training_the_data_gate_serving_and_the_experiment_are_shown():
    assert DASHBOARDS.keys() == {"serving", "models"}
    rows = {panel["title"] for each in DASHBOARDS.values() for panel in each["panels"] if panel["type"] == "row"}
    assert rows >= {"Runs and gates", "Data", "Training and evaluation", "A/B", "Are shoppers answered?", "Versions"}


@pytest.mark.parametrize(
    ("name", "panel"), PANELS, ids=lambda value: value["title"] if isinstance(value, dict) else value
)
def test_a_panel_asks_for_what_is_exported(name, panel):
    for target in panel["targets"]:
        read = metrics_of(_plain(target["expr"]))
        assert read and read <= exported.names(), read - exported.names()


@promtool.needed
def test_every_panel_s_query_parses(tmp_path):
    queries = [_plain(target["expr"]) for _, panel in PANELS for target in panel["targets"]]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    assert not promtool.check({"groups": [{"name": "panels", "rules": rules}]}, tmp_path)


def test_a_table_asks_for_a_table():
    """Grafana makes one frame a series of what is not asked for as a table, and a table panel shows the first frame."""
    tables = [target for _, panel in PANELS if panel["type"] == "table" for target in panel["targets"]]
    assert tables
    for target in tables:
        assert target["format"] == "table" and target["instant"], target


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_shows_one_installation(name):
    """Two in a cluster, in a namespace each, have the same metrics."""
    variables = {each["name"] for each in DASHBOARDS[name]["templating"]["list"]}
    assert "namespace" in variables
    for panel in DASHBOARDS[name]["panels"]:
        for target in panel.get("targets", []):
            metric = r"\b(?:(?:gateway|consumer|pipeline|rollout|ts)_\w+|up)\b(?!\s*\()"
            asked = re.findall(metric, re.sub(r"\b(?:by|on|ignoring)\s*\([^)]*\)", "", target["expr"]))
            assert asked and len(asked) == target["expr"].count('{namespace="$namespace"'), target["expr"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_lie_side_by_side(name):
    taken = set()
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


def test_grafana_s_side_car_finds_them():
    (found,) = [each for each in rendered("production") if each["metadata"].get("labels", {}).get("grafana_dashboard")]
    assert {json.loads(text)["uid"] for text in found["data"].values()} == {each["uid"] for each in DASHBOARDS.values()}


def test_every_metric_of_the_exporter_is_shown_or_alerted_on():
    shown = {
        metric for _, panel in PANELS for target in panel["targets"] for metric in metrics_of(_plain(target["expr"]))
    }
    from tests.k8s.test_alerts import ALERTS

    watched = shown | {metric for rule in ALERTS.values() for metric in metrics_of(rule["expr"])}
    from pipelines import exporter

    unseen = exported._of(exporter.registry()) - watched
    assert unseen == {"rollout_row_version", "rollout_since_timestamp_seconds"}
