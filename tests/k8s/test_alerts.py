"""Alerts fire when they should and only then, speak of metrics that exist, and say what to do."""

import re
from pathlib import Path

import pytest

from tests.k8s import exported, promtool
from tests.k8s.cluster import K8S, schema
from tests.k8s.series import CASES, Case

RULES = schema(K8S / "components" / "monitoring" / "alerts.yaml")["spec"]
ALL = [rule for group in RULES["groups"] for rule in group["rules"]]
ALERTS = {rule["alert"]: rule for rule in ALL if "alert" in rule}
RECORDED = {rule["record"]: rule for rule in ALL if "record" in rule}
NAMESPACE = "heterrec"
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"
_KEYWORDS = {"by", "on", "and", "or", "ignoring", "group_left", "without", "unless"}


def metrics_of(expression: str) -> set[str]:
    """Names of the series that an expression reads."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\b(by|on|ignoring|without|group_left)\s*\([^)]*\)", "", bare)
    return {word for word in re.findall(r"\b[a-zA-Z_][a-zA-Z0-9_:]*\b(?!\s*\()", bare) if word not in _KEYWORDS} - {
        match for match in re.findall(r"\[(\w+)\]", bare)
    }


def test_metrics_of_an_expression_are_read_off():
    expression = 'sum by (le) (rate(a_total{x="b_total"}[5m])) / on (model) c > 0 and vector(1) or absent(up{job="d"})'
    assert metrics_of(expression) == {"a_total", "c", "up"}


@promtool.needed
def test_every_expression_parses(tmp_path):
    assert not promtool.check(RULES, tmp_path)
    broken = {"groups": [{"name": "x", "rules": [{"alert": "X", "expr": "sum(rate(a[5m])"}]}]}
    assert promtool.check(broken, tmp_path)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_reads_metrics_that_are_exported(name):
    read = metrics_of(ALERTS[name]["expr"])
    known = exported.names() | RECORDED.keys()
    assert read and read <= known, read - known


def test_a_counter_whose_rate_is_watched_is_born_at_zero():
    """Prometheus has no rate of a series that appears with its first fault: that fault would be told to nobody."""
    present = list(exported.samples())
    watched = [
        (metric, name, value)
        for rule in ALERTS.values()
        for metric, matchers in re.findall(r"rate\((\w+_total)(?:\{([^}]*)\})?\[", rule["expr"])
        for name, _, values in re.findall(r'(\w+)(=~?)"([^"]*)"', matchers) or [("", "", "")]
        for value in values.split("|")
    ]
    assert len(watched) > 10
    for metric, name, value in watched:
        born = [labels for other, labels in present if other == metric]
        assert any(re.fullmatch(value, labels.get(name, "")) for labels in born), f"{metric}: no {name}={value}"


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_leads_to_its_section(name):
    page, _, anchor = ALERTS[name]["annotations"]["runbook_url"].partition("#")
    assert page.endswith("/docs/operations.md") and anchor == name.lower()
    section = re.search(rf"^### {name}$(.*?)(?=^##|\Z)", OPERATIONS.read_text(), re.M | re.S)
    assert section, f"docs/operations.md has no section {name}"
    for part in ("Means:", "Look:", "Do:"):
        assert part in section[1], f"{name}: no {part}"


def test_every_section_of_the_runbook_has_its_alert():
    runbook = OPERATIONS.read_text().partition("## When an alert fires")[2]
    assert set(re.findall(r"^### (\w+)$", runbook, re.M)) == ALERTS.keys()


def test_every_alert_is_tried_on_series_where_it_fires_and_where_it_does_not():
    for name in ALERTS:
        fires = {bool(case.labels is not None) for case in CASES if case.alert == name}
        assert fires == {True, False}, name


@promtool.needed
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_alert_fires_when_it_should_and_only_then(case: Case, tmp_path):
    rule = ALERTS[case.alert]
    expected = []
    if case.labels is not None:
        # By the namespace an operator's Alertmanager routes: an alert without one reaches nobody's team.
        expected = [{"exp_labels": {**rule["labels"], "namespace": NAMESPACE, **case.labels}}]
    tests = {
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": _placed(series), "values": values} for series, values in case.series.items()
                ],
                "alert_rule_test": [{"eval_time": case.at, "alertname": case.alert, "exp_alerts": expected}],
            }
        ],
    }
    # Without what it says, which depends on the value; whether it fires does not.
    bare = {key: value for key, value in rule.items() if key != "annotations"}
    # The recorded ones first, as the operator evaluates them.
    assert not promtool.test({"groups": [{"name": "x", "rules": [*RECORDED.values(), bare]}]}, tests, tmp_path)


def _placed(series: str) -> str:
    """A series as it is scraped: with the namespace of its pod."""
    if "namespace=" in series:
        return series
    metric, _, labels = series.partition("{")
    return f'{metric}{{namespace="{NAMESPACE}"{", " + labels if labels else "}"}'


@promtool.needed
def test_a_case_that_is_wrong_is_found(tmp_path):
    quiet = {"groups": [{"name": "x", "rules": [{"alert": "X", "expr": "vector(0) > 1"}]}]}
    case = {"eval_time": "1m", "alertname": "X", "exp_alerts": [{"exp_labels": {}}]}
    tests = {"tests": [{"interval": "1m", "input_series": [], "alert_rule_test": [case]}]}
    assert promtool.test(quiet, tests, tmp_path)
