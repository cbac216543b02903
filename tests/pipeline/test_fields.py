"""docs/fields.md names every field of a compiled pipeline that another system interprets, and what holds it."""

import re
from typing import Any

import pytest
import yaml

from pipelines import cluster
from pipelines.packages import BUILDERS, package
from tests.field_table import (
    amiss,
    not_there,
    paths,
    rows,
    written,
)
from tests.pipeline.test_compile import FACTS

TABLE = rows("Of compiled pipelines")
OF_THE_GRAPH = {"componentRef", "dependentTasks", "inputs", "taskInfo", "parameterIterator", "iteratorPolicy"}
"""What makes the graph, and which program of ours a task is: held by every run."""
OURS = {"container.command", "container.args"}


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Specification and platform of every pipeline, for a cluster that sets all that can be set."""
    path = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
    path.write_text(FACTS)
    facts = cluster.read(path)
    made = [tuple(yaml.safe_load_all(package(kind, facts).text)) for kind in BUILDERS]
    return [(spec, platform["platforms"]["kubernetes"]) for spec, platform in made]


def tasks(spec: dict[str, Any]) -> list[dict[str, Any]]:
    dags = [spec["root"]["dag"], *(each["dag"] for each in spec["components"].values() if "dag" in each)]
    return [task for dag in dags for task in dag["tasks"].values()]


def fields(spec: dict[str, Any], kubernetes: dict[str, Any]) -> set[str]:
    """Ways to the fields that a compiled pipeline sets for Kubeflow, Argo and Kubernetes."""
    found = set(paths({"pipelineConfig": kubernetes["pipelineConfig"]}))
    for executor in kubernetes["deploymentSpec"]["executors"].values():
        found |= set(paths({"kubernetes": executor}))
    for executor in spec["deploymentSpec"]["executors"].values():
        found |= set(paths({"container": executor["container"]}))
    for task in tasks(spec):
        found |= {f"task.{each}" for each in paths({name: task[name] for name in task.keys() - OF_THE_GRAPH}) if each}
    return found - OURS


def test_every_field_of_a_compiled_pipeline_has_a_row_and_every_row_a_field(documents):
    found = set().union(*(fields(*each) for each in documents))
    without, needless = amiss(TABLE, found)
    assert not without, f"fields that docs/fields.md does not have: {sorted(without)}"
    assert not needless, f"rows of docs/fields.md that no field needs: {sorted(needless)}"


def test_every_row_is_held_by_tests_that_are_there():
    assert len(TABLE) > 25
    assert all(row.tests for row in TABLE)
    assert not not_there(TABLE, written())


def test_old_servers_are_told_the_same_as_new_ones(documents):
    """Some fields have two names: a server reads the one that it knows."""
    for spec, kubernetes in documents:
        for executor in spec["deploymentSpec"]["executors"].values():
            asked = executor["container"]["resources"]
            assert asked["cpuRequest"] == cores(asked["resourceCpuRequest"])
            for which in ("Request", "Limit"):
                assert asked[f"memory{which}"] == pytest.approx(gigabytes(asked[f"resourceMemory{which}"]))
            if accelerator := asked.get("accelerator"):
                assert accelerator["type"] == accelerator["resourceType"]
                assert accelerator["count"] == accelerator["resourceCount"]
        for told in kubernetes["deploymentSpec"]["executors"].values():
            for claim in told["pvcMount"]:
                assert claim["constant"] == claim["pvcNameParameter"]["runtimeValue"]["constant"]
            for secret in (
                each for kind in ("secretAsEnv", "secretAsVolume", "imagePullSecret") for each in told[kind]
            ):
                assert secret["secretName"] == secret["secretNameParameter"]["runtimeValue"]["constant"]


def cores(quantity: str) -> float:
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def gigabytes(quantity: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(Mi|Gi)", quantity).groups()
    return float(number) * {"Mi": 2**20, "Gi": 2**30}[unit] / 1e9


def test_a_condition_compares_with_a_plain_token(documents):
    """An apostrophe in what is compared would make the condition one that nobody can evaluate."""
    conditions = {
        task["triggerPolicy"]["condition"]
        for spec, _ in documents
        for task in tasks(spec)
        if "condition" in task.get("triggerPolicy", {})
    }
    assert conditions
    for each in conditions:
        assert re.fullmatch(r"(!?\(?inputs\.parameter_values\['[\w-]+'\] == (true|false|'[\w-]*')\)?)( && )?", each), (
            each
        )
