"""The YAML that a cluster gets comes from the function that a laptop runs."""

from pathlib import Path

import pytest
import yaml
from kfp import compiler
from kfp import components as kfp_components

from pipelines.training import training


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> tuple[Path, dict, dict]:
    path = tmp_path_factory.mktemp("compiled") / "training.yaml"
    compiler.Compiler().compile(training, str(path))
    spec, platform = yaml.safe_load_all(path.read_text())
    return path, spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_kubeflow_loads_the_compiled_pipeline(compiled):
    component = kfp_components.load_component_from_file(str(compiled[0]))
    assert component.pipeline_spec.pipeline_info.name == "heterrec-training"
    assert set(component.pipeline_spec.root.input_definitions.parameters) == {
        "run_id",
        "card",
        "recipe",
        "baseline",
        "as_of",
        "new_reference",
    }


def test_every_image_is_a_reference_and_nothing_is_installed_at_run_time(compiled):
    executors = compiled[1]["deploymentSpec"]["executors"]
    assert len(executors) == 12
    for name, executor in executors.items():
        container = executor["container"]
        assert ":" in container["image"], name
        assert "pip install" not in " ".join(container["command"]), name


def test_training_asks_for_a_gpu_on_a_gpu_node(compiled):
    executors = compiled[1]["deploymentSpec"]["executors"]
    for name in ("exec-train", "exec-train-2"):
        accelerator = executors[name]["container"]["resources"]["accelerator"]
        assert accelerator["resourceType"] == "nvidia.com/gpu"
        assert accelerator["resourceCount"] == "1"
        assert compiled[2][name]["nodeSelector"]["labels"] == {"nvidia.com/gpu.present": "true"}
    others = {
        name for name, executor in executors.items() if "accelerator" in executor["container"].get("resources", {})
    }
    assert others == {"exec-train", "exec-train-2"}


def test_infra_validate_runs_in_the_image_that_serves(compiled):
    executors = compiled[1]["deploymentSpec"]["executors"]
    assert "serve" in executors["exec-infra-validate"]["container"]["image"]


def test_kubeflow_caching_is_off_for_every_task(compiled):
    def tasks(dag: dict):
        yield from dag.get("tasks", {}).items()

    spec = compiled[1]
    dags = [spec["root"]["dag"], *(c["dag"] for c in spec["components"].values() if "dag" in c)]
    leaves = [
        (name, task)
        for dag in dags
        for name, task in tasks(dag)
        if "executorLabel" in spec["components"][task["componentRef"]["name"]]
    ]
    assert len(leaves) == 12
    assert not [name for name, task in leaves if task.get("cachingOptions", {}).get("enableCache")]
