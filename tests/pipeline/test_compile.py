"""The YAML that a cluster gets comes from the function that a laptop runs, with the cluster's facts on every task."""

import functools
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from kfp import components as kfp_components

from pipelines import cluster
from pipelines.packages import BUILDERS, package, resources
from runtime import object_store
from runtime.workspace import ROOT
from tests.pipeline import argo
from tests.pipeline.published_schema import validate

FACTS = """
train_image: registry.example/heterrec-train@sha256:{a}
serve_image: registry.example/heterrec-serve@sha256:{b}
image_pull_policy: Always
image_pull_secrets: [registry]
namespace: team-a
run_as_user: 10001
labels: {{app.kubernetes.io/part-of: heterrec, cost-centre: shop}}
environment: {{HETERREC_FEATURE_STORE: "redis,sql_registry"}}
secrets:
  - {{name: rollout-database, env: {{url: HETERREC_ROLLOUT_URL}}}}
  - {{name: object-store, env: {{key: HETERREC_S3_ACCESS_KEY_ID, secret: HETERREC_S3_SECRET_ACCESS_KEY}}}}
  - {{name: failure-webhook, env: {{url: HETERREC_WEBHOOK_URL}}, optional: true}}
  - {{name: mlflow-client, mount: /etc/mlflow}}
sources:
  - {{name: shop-database, env: {{url: SHOP_DATABASE}}}}
workspace_claim: models
claims: {{clicks: /data}}
store: s3://models/heterrec
training:
  gpu: nvidia.com/mig-3g.40gb
  gpus: 2
  node_selector: {{gpu: h100}}
  tolerations: [{{key: gpu, operator: Equal, value: h100, effect: NoExecute}}]
  shared_memory: 8Gi
  retries: 5
""".format(a="a" * 64, b="b" * 64)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> cluster.Cluster:
    path = tmp_path_factory.mktemp("cluster") / "cluster.yaml"
    path.write_text(FACTS)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HETERREC_TRAIN_IMAGE", "HETERREC_SERVE_IMAGE"):
            patch.delenv(name, raising=False)
        return cluster.read(path)


@pytest.fixture(scope="module")
def documents(here) -> Callable[[str], tuple[dict, dict]]:
    """Of a kind of pipeline its specification, and all that Kubernetes is told."""

    @functools.cache
    def documents(kind: str) -> tuple[dict, dict]:
        spec, platform = yaml.safe_load_all(package(kind, here).text)
        return spec, platform["platforms"]["kubernetes"]

    return documents


@pytest.fixture(scope="module", params=tuple(BUILDERS))
def compiled(request, documents) -> tuple[str, dict, dict]:
    """Kind of pipeline, its specification, and of each executor what Kubernetes is told."""
    spec, platform = documents(request.param)
    return request.param, spec, platform["deploymentSpec"]["executors"]


def containers(spec: dict) -> dict[str, Any]:
    return {name: executor["container"] for name, executor in spec["deploymentSpec"]["executors"].items()}


def tasks(spec: dict) -> dict[str, dict]:
    """Every task that runs a container."""
    dags = [spec["root"]["dag"], *(each["dag"] for each in spec["components"].values() if "dag" in each)]
    return {
        name: task
        for dag in dags
        for name, task in dag["tasks"].items()
        if "executorLabel" in spec["components"][task["componentRef"]["name"]]
    }


def executor(spec: dict, task: dict) -> str:
    return spec["components"][task["componentRef"]["name"]]["executorLabel"]


def run_deadline(platform: dict) -> int:
    """`Workflow.spec.activeDeadlineSeconds`, which Kubeflow takes from here (argocompiler/argo.go)."""
    return int(platform["pipelineConfig"]["activeDeadlineSeconds"])


def test_kubeflow_loads_what_was_compiled_and_needs_no_run_id(compiled, here, tmp_path):
    kind = compiled[0]
    path = tmp_path / "pipeline.yaml"
    path.write_text(package(kind, here).text)
    component = kfp_components.load_component_from_file(str(path))
    assert component.pipeline_spec.pipeline_info.name == f"heterrec-{kind}"
    needed = {
        name
        for name, each in compiled[1]["root"]["inputDefinitions"]["parameters"].items()
        if not each.get("isOptional")
    }
    assert (
        needed
        == {
            "training": {"card", "recipe", "baseline"},
            "catalogue": {"card"},
            "rollout": {"model"},
            "recommend": {"model"},
        }[kind]
    )


def test_images_are_those_of_the_cluster_and_nothing_is_installed_at_run_time(compiled):
    for name, container in containers(compiled[1]).items():
        which, digest = ("serve", "b") if "infra-validate" in name else ("train", "a")
        assert container["image"] == f"registry.example/heterrec-{which}@sha256:{digest * 64}", name
        assert "pip install" not in " ".join(container["command"]), name
        assert compiled[2][name]["imagePullPolicy"] == "Always"
        assert compiled[2][name]["imagePullSecret"] == [
            {"secretName": "registry", "secretNameParameter": {"runtimeValue": {"constant": "registry"}}}
        ]


def test_training_alone_asks_for_gpus_where_they_are(compiled):
    kind, spec, platform = compiled
    training = {name for name, each in containers(spec).items() if "accelerator" in each["resources"]}
    assert training == ({"exec-train", "exec-train-2", "exec-refit"} if kind == "training" else set())
    for name in training:
        accelerator = containers(spec)[name]["resources"]["accelerator"]
        assert accelerator["resourceType"] == "nvidia.com/mig-3g.40gb"
        assert accelerator["resourceCount"] == "2"
        assert platform[name]["nodeSelector"]["labels"] == {"gpu": "h100"}
        assert platform[name]["tolerations"] == [
            {"key": "gpu", "operator": "Equal", "value": "h100", "effect": "NoExecute"}
        ]
        assert {"volumeName": "dshm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "8Gi"} in platform[
            name
        ]["emptyDirMounts"]


def test_every_task_names_its_memory_cpu_timeout_owner_and_where_it_may_write(compiled):
    for name, container in containers(compiled[1]).items():
        assert container["resources"].keys() >= {"resourceCpuRequest", "resourceMemoryRequest", "resourceMemoryLimit"}
        there = compiled[2][name]
        assert int(there["activeDeadlineSeconds"]) > 0
        assert there["podMetadata"]["labels"] == {
            "app.kubernetes.io/part-of": "heterrec",
            "cost-centre": "shop",
            "heterrec/pipeline": f"heterrec-{compiled[0]}",
        }
        assert there["securityContext"] == {"runAsNonRoot": True, "runAsUser": "10001"}
        assert "/tmp" in {each["mountPath"] for each in there["emptyDirMounts"]}
        claims = {each["constant"]: each["mountPath"] for each in there["pvcMount"]}
        assert claims == {"models": "/work", "clicks": "/data"}


def test_secrets_are_named_and_never_held(compiled):
    for name, container in containers(compiled[1]).items():
        there = compiled[2][name]
        found = {
            (each["secretName"], key["secretKey"]): key["envVar"]
            for each in there["secretAsEnv"]
            for key in each["keyToEnv"]
        }
        reads = {("shop-database", "url"): "SHOP_DATABASE"} if name in ("exec-ingest", "exec-prepare") else {}
        assert found == reads | {
            ("rollout-database", "url"): "HETERREC_ROLLOUT_URL",
            ("object-store", "key"): "HETERREC_S3_ACCESS_KEY_ID",
            ("object-store", "secret"): "HETERREC_S3_SECRET_ACCESS_KEY",
            ("failure-webhook", "url"): "HETERREC_WEBHOOK_URL",
        }
        (mounted,) = there["secretAsVolume"]
        assert (mounted["secretName"], mounted["mountPath"]) == ("mlflow-client", "/etc/mlflow")
        plain = {each["name"]: each["value"] for each in container["env"]}
        assert not plain.keys() & set(found.values())
        assert plain["HETERREC_HOME"] == "/work"
        assert plain["HETERREC_STORE"] == "s3://models/heterrec"
        assert plain["HETERREC_FEATURE_STORE"] == "redis,sql_registry"


def test_every_task_is_tried_again_but_for_the_last(compiled):
    kind, spec, _ = compiled
    last = {"judge-rollout"} if kind == "rollout" else {"report"}
    for name, task in tasks(spec).items():
        tries = task.get("retryPolicy", {}).get("maxRetryCount", 0)
        assert tries == (0 if name in last else 5 if name.startswith("train") or name == "refit" else 2), name


def test_a_task_that_fails_at_the_end_of_its_time_is_tried_again_and_the_retry_has_time_of_its_own(compiled, documents):
    """By what Argo does with the fields: backoffMaxDuration bounds no pause, but the time of all attempts together."""
    kind, spec, platform = compiled
    deadline = run_deadline(documents(kind)[1])
    for name, task in tasks(spec).items():
        if "retryPolicy" not in task:
            continue
        rules = argo.strategy(task)
        timeout = int(platform[executor(spec, task)]["activeDeadlineSeconds"])
        retry = argo.retried(
            rules, began=0, ended=timeout, phase="Failed", retries=0, timeout=timeout, deadline=deadline
        )
        assert retry is not None, name
        assert retry.begins == timeout + 60
        assert retry.killed == min(retry.begins + timeout, deadline), (
            f"{name}: killed before its own time and the run's"
        )


def test_a_bound_on_all_attempts_shorter_than_one_of_them_would_leave_no_retry():
    """The fault that there was: 900 s. The judge of these tests says so."""
    rules = argo.Strategy(limit=5, duration=60, factor=2, max_duration=900)
    hours = {"began": 0, "retries": 0, "timeout": 43200, "deadline": 79200}
    assert argo.retried(rules, ended=1000, phase="Failed", **hours) is None
    killed = argo.retried(rules, ended=600, phase="Failed", **hours)
    assert killed is not None and killed.killed == 900


def test_a_lost_pod_is_tried_again_only_where_kubeflow_is_patched(documents):
    """As docs/pipelines.md says: Kubeflow sets no policy, and Argo's own does not count a lost pod as a failure."""
    train = tasks(documents("training")[0])["train"]
    lost = {"began": 0, "ended": 20000, "phase": "Error", "retries": 0, "timeout": 43200, "deadline": 79200}
    assert argo.retried(argo.strategy(train), **lost) is None
    patch = argo.spec_patch(ROOT / "k8s" / "kubeflow" / "retry-lost-pods.yaml")
    defaults = patch["templateDefaults"]["retryStrategy"]
    assert argo.retried(argo.strategy(train, defaults), **lost) is not None
    assert defaults["limit"] == "0", "without a limit Argo would retry every other template for ever"


def test_a_run_that_waits_for_what_never_comes_is_ended_before_the_next_one_is_due(compiled, documents):
    """Of one schedule only one run runs at a time, and a pod that finds no node never times out by itself."""
    kind = compiled[0]
    deadline = run_deadline(documents(kind)[1])
    assert deadline == {"training": 79200, "catalogue": 14400, "rollout": 1800, "recommend": 14400}[kind]
    if kind == "training":
        assert deadline < 24 * 3600


def test_nothing_in_a_task_s_environment_is_kubeflow_s_launcher_s():
    """It runs in the task's container, and its S3 client would look for Kubeflow's own store where ours is."""
    facts = cluster.read(ROOT / "k8s" / "overlays" / "gpu" / "cluster.yaml")
    spec, platform = yaml.safe_load_all(package("training", facts).text)
    names = {each["name"] for container in containers(spec).values() for each in container["env"]}
    for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        names |= {key["envVar"] for each in executor["secretAsEnv"] for key in each["keyToEnv"]}
        names |= {each["name"] for each in executor["fieldPathAsEnv"]}
    assert "HETERREC_ROLLOUT_URL" in names and object_store.ENDPOINT in names
    assert not {each for each in names if each.startswith(cluster.LAUNCHERS)}


def test_an_exit_handler_runs_however_a_run_ends(compiled):
    if compiled[0] == "rollout":
        assert list(tasks(compiled[1])) == ["judge-rollout"], "one task, and no pods for another that says how it ended"
        return
    (last,) = (task for task in compiled[1]["root"]["dag"]["tasks"].values() if "triggerPolicy" in task)
    assert last["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert "status" in last["inputs"]["parameters"]


def test_kubeflow_caching_is_off_for_every_task(compiled):
    found = tasks(compiled[1])
    assert len(found) == {"training": 13, "catalogue": 8, "rollout": 1, "recommend": 2}[compiled[0]]
    assert not [name for name, task in found.items() if task.get("cachingOptions", {}).get("enableCache")]


def test_a_run_takes_as_many_pods_as_the_docs_say(compiled):
    """Two for each task, its driver and itself, and a driver for each group of tasks, the whole run included."""
    kind, spec, _ = compiled
    pods = sum(pods_of(spec, spec["root"]["dag"], taken=True).values())
    quiet = sum(pods_of(spec, spec["root"]["dag"], taken=False).values())
    assert (pods, quiet) == {"training": (33, 33), "catalogue": (23, 13), "rollout": (3, 3), "recommend": (6, 6)}[kind]
    (row,) = (line for line in asked_for().splitlines() if line.startswith(f"| `heterrec-{kind}` |"))
    told = [cell.strip() for cell in row.split("|")[1:-1]]
    assert (told[1], told[3]) == (str(pods), str(quiet))


def pods_of(spec: dict, dag: dict, *, taken: bool) -> dict[str, int]:
    """Pods by task below `dag`, its own driver under ""; without `taken` groups that begin with an arm that changed
    have their driver alone, which finds that the condition does not hold."""
    found = {"": 1}
    for name, task in dag["tasks"].items():
        inner = spec["components"][task["componentRef"]["name"]].get("dag")
        if inner is None:
            found[name] = 2
        elif taken or "changed" not in task["taskInfo"]["name"]:
            found[name] = sum(pods_of(spec, inner, taken=taken).values())
        else:
            found[name] = 1
    return found


def asked_for() -> str:
    return (ROOT / "docs" / "pipelines.md").read_text().partition("## What a run asks for")[2].partition("\n## ")[0]


def test_every_task_asks_for_what_the_docs_table_says(documents):
    """One table of all tasks of all pipelines: where each runs, and which section of the cluster's file it asks for."""
    rows = [
        row.split("|")[1:-1] for row in asked_for().splitlines() if row.startswith("| `") and "heterrec-" not in row
    ]
    told = {
        task: (cells[1].strip(" `"), cells[2].strip()) for cells in rows for task in re.findall("`(.+?)`", cells[0])
    }
    sections = {"small": ("250m", "768Mi", "2Gi"), "needs": ("1", "2Gi", "8Gi"), "training": ("1", "2Gi", "8Gi")}
    shown = set()
    for kind in BUILDERS:
        spec, _ = documents(kind)
        for task in tasks(spec).values():
            name = task["taskInfo"]["name"]
            shown.add(name)
            section, image = told[name]
            container = containers(spec)[executor(spec, task)]
            asked = container["resources"]
            names = ("resourceCpuRequest", "resourceMemoryRequest", "resourceMemoryLimit")
            assert tuple(asked[each] for each in names) == sections[section], name
            assert ("accelerator" in asked) == (section == "training"), name
            assert f"heterrec-{image}@" in container["image"], name
    assert shown == told.keys()


def test_the_same_facts_compile_to_the_same_version_in_another_process(here):
    code = (
        "from pipelines.packages import package; from pipelines.cluster import Cluster\n"
        "print(package('training', Cluster()).version)"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert package("training", here).version not in found.pop()


def test_resources_for_gitops_are_what_kubernetes_admits(compiled, here):
    kind = compiled[0]
    pipeline, version = yaml.safe_load_all(resources(kind, here))
    validate(pipeline, "pipelines.kubeflow.org_pipelines.yaml")
    validate(version, "pipelines.kubeflow.org_pipelineversions.yaml")
    digest = package(kind, here).version
    assert pipeline["metadata"] == {"name": f"heterrec-{kind}", "namespace": "team-a"}
    assert version["metadata"] == {"name": f"heterrec-{kind}-{digest}", "namespace": "team-a"}
    assert version["spec"]["pipelineName"] == pipeline["metadata"]["name"]
    assert version["spec"]["pipelineSpec"]["deploymentSpec"] == compiled[1]["deploymentSpec"]
    executors = version["spec"]["platformSpec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors == compiled[2]


def test_the_schema_of_the_resources_is_strict(here):
    _, version = yaml.safe_load_all(resources("rollout", here))
    version["spec"]["pipelinName"] = "x"
    with pytest.raises(Exception, match="pipelinName"):
        validate(version, "pipelines.kubeflow.org_pipelineversions.yaml")


def test_what_serves_can_be_proven_without_what_only_trains():
    """infra_validate runs in the image that serves, which has neither Feast nor what the other steps need."""
    code = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name in ("feast", "great_expectations", "mlflow", "matplotlib", "pandas", "rich", "kubeflow"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import components.infra_validate.component, components.infra_validate.step, runtime.task, serving.replay
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
