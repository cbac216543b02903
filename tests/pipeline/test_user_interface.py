"""What Kubeflow's UI shows of a run: each task's page, numbers and summary, from the executors' real outputs."""

import json
import re
from pathlib import Path

import pytest
import yaml

from pipelines.cluster import Cluster
from pipelines.packages import package

PAGES = {"validate", "train", "train-2", "evaluate", "report"}
NUMBERS = {
    "ingest",
    "validate",
    "features",
    "materialise",
    "train",
    "train-2",
    "evaluate",
    "refit",
    "package",
    "infra-validate",
}
SUMMARIES = {"resolve", "refit", "package", "infra-validate", "push", "report"}


@pytest.fixture(scope="module")
def shown(pushed_home: Path) -> Path:
    """The folder of a whole run's outputs, one folder a task."""
    first = min((pushed_home / "kfp").glob("marketplace-*"))
    (root,) = first.iterdir()
    return root


def outputs(shown: Path, task: str, name: str) -> dict:
    told = json.loads((shown / task / "executor_output.json").read_text())
    (artifact,) = told["artifacts"][name]["artifacts"]
    return artifact


def test_kubeflow_s_store_gets_references_pages_and_numbers_and_nothing_of_an_artifact(shown):
    """Its launcher uploads every file of every output, and nobody deletes them there."""
    made = [path for path in shown.rglob("*") if path.is_file() and path.name != "executor_output.json"]
    kinds = {"reference.json": 1_000, "page": 2_000_000, "summary": 20_000, "metrics": 20_000}
    assert len([path for path in made if path.name == "reference.json"]) >= 12
    for path in made:
        assert path.name in kinds, path
        assert path.stat().st_size < kinds[path.name], path


def test_tasks_with_a_picture_show_it_as_a_page_that_needs_no_network(shown):
    for task in PAGES:
        page = Path(outputs(shown, task, "page")["uri"]).read_text()
        assert page.startswith("<!doctype html>"), task
        assert "<svg" in page or task == "validate", task
        assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!#)""", page), task


def test_tasks_that_count_show_numbers(shown):
    for task in NUMBERS:
        numbers = outputs(shown, task, "metrics")["metadata"]
        assert numbers, task
        assert all(isinstance(value, int | float) for value in numbers.values()), task
    assert outputs(shown, "features", "metrics")["metadata"]["split_events_train"] > 0
    assert outputs(shown, "validate", "metrics")["metadata"]["blocked"] == 0


def test_tasks_that_decide_say_so_in_a_summary(shown):
    texts = {task: Path(outputs(shown, task, "summary")["uri"]).read_text() for task in SUMMARIES}
    assert texts["infra-validate"].startswith("# infra_validate: passed")
    assert re.match(r"# marketplace \S+: new\n", texts["package"])
    assert re.match(r"# marketplace \S+: champion\n", texts["push"])
    assert "| champion | none yet |" in texts["resolve"]
    assert re.match(r"# heterrec-training: pushed: version \S+ \(champion\)\n", texts["report"])


def test_the_types_of_these_outputs_are_those_that_the_ui_draws():
    spec, _ = yaml.safe_load_all(package("training", Cluster()).text)
    types = {
        (component.removeprefix("comp-"), name): each["artifactType"]["schemaTitle"]
        for component, made in spec["components"].items()
        for name, each in made.get("outputDefinitions", {}).get("artifacts", {}).items()
        if "executorLabel" in made
    }
    for tasks, name, kind in (
        (PAGES, "page", "HTML"),
        (NUMBERS, "metrics", "Metrics"),
        (SUMMARIES, "summary", "Markdown"),
    ):
        assert {task for (task, output), found in types.items() if found == f"system.{kind}"} == tasks, kind
        assert all(output == name for (_, output), found in types.items() if found == f"system.{kind}")
