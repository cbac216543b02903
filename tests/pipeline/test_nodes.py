"""Training over two nodes: the step, Kubeflow's own client, and the TrainJob's very torchrun command, all real."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kubeflow.common.types import KubernetesBackendConfig
from kubeflow.trainer import TrainerClient
from kubeflow_trainer_api import models
from kubernetes import client as kubernetes

from components.train import nodes, step
from heterrec.recipes import LossConfig, ModelConfig, TrainConfig
from pipelines import cluster as clusters
from pipelines.packages import package
from runtime.errors import InputError
from tests.pipeline.trainer_cluster import (
    NAMESPACE,
    ROOT,
    TrainerCluster,
    trainer_cluster,
    until,
)
from tests.unit.heterrec.shop import write_shop

# Chance is off, so that one process and several take the same steps.
CONFIG = TrainConfig(
    model=ModelConfig(
        width=16, item_layers=1, max_history=8, min_events=1, dropout=0.0, id_dropout=0.0, feature_dropout=0.0
    ),
    loss=LossConfig(token_candidates=10, later_share=1.0, token_share=1.0),
    epochs=3,
    batch_events=64,
)
FACTS = clusters.Cluster(
    nodes=clusters.Nodes(count=2),
    training=replace(clusters.GPU, gpus=4),
    run_as_user=10001,
    image_pull_secrets=("registry",),
    labels={"cost-centre": "shop"},
)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("train") / "sequences")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[TrainerCluster]:
    (tmp_path / "cluster").mkdir()
    with trainer_cluster(tmp_path / "cluster") as cluster:
        yield cluster


@pytest.fixture
def trainer(cluster: TrainerCluster) -> TrainerClient:
    return client_of(cluster)


def client_of(cluster: TrainerCluster) -> TrainerClient:
    configuration = kubernetes.Configuration(host=cluster.host)
    configuration.retries = False
    return TrainerClient(KubernetesBackendConfig(namespace=NAMESPACE, client_configuration=configuration))


@pytest.fixture(scope="module")
def job() -> nodes.TrainJob:
    """What the compiled pipeline tells its training task, but for the pause between looks and the machine's folder."""
    import yaml

    spec, _ = yaml.safe_load_all(package("training", FACTS).text)
    container = spec["deploymentSpec"]["executors"]["exec-train"]["container"]
    assert "accelerator" not in container["resources"], "the pod that waits needs no GPU"
    (told,) = (each["value"] for each in container["env"] if each["name"] == nodes.VARIABLE)
    return replace(nodes.TrainJob(**json.loads(told)), poll_seconds=0.2, environment={"OMP_WAIT_POLICY": "PASSIVE"})


class Blinks:
    """A client whose API is away for a moment, while the nodes train."""

    def __init__(self, trainer: TrainerClient) -> None:
        self.trainer = trainer
        self.looks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trainer, name)

    def get_job(self, name: str) -> Any:
        self.looks += 1
        if 3 <= self.looks <= 6:
            raise RuntimeError("Failed to get TrainJob")
        return self.trainer.get_job(name)


@pytest.fixture(scope="module")
def trained(
    sequences: Path, job: nodes.TrainJob, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TrainerCluster, Path]:
    """A cluster in which one training ended, though its API was away for a moment; and the model."""
    root = tmp_path_factory.mktemp("trained")
    with trainer_cluster(root) as cluster:
        trainer = Blinks(client_of(cluster))
        model = train(root, sequences, job, trainer)
    assert trainer.looks > 6
    return cluster, model


def train(
    root: Path, sequences: Path, job: nodes.TrainJob, trainer: TrainerClient, config: TrainConfig = CONFIG
) -> Path:
    work: dict[str, Any] = {"config": config, "sequences": sequences, "model": root / "model", "scratch": root / "key1"}
    work["scratch"].mkdir(parents=True, exist_ok=True)
    nodes.train_on_nodes(job, {**work, "champion": None, "progress": None, "sharded": False}, trainer)
    return root / "model"


def alone(root: Path, sequences: Path, config: TrainConfig = CONFIG) -> Path:
    (root / "alone").mkdir(parents=True)
    step.run(config=config, sequences=sequences, model=root / "alone", scratch=root / "alone-scratch")
    return root / "alone"


def assert_close(model: Path, other: Path) -> None:
    first, second = (torch.load(root / "weights.pt", weights_only=True) for root in (model, other))
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-4)


def test_two_nodes_train_the_model_of_one_process(sequences, trained, tmp_path):
    """Also where the API was away for a moment."""
    cluster, model = trained
    assert json.loads((model / "report.json").read_text())["processes"] == 2
    assert_close(model, alone(tmp_path, sequences))
    assert cluster.deleted == ["heterrec-key1"], "what is done leaves nothing in the cluster"


def test_the_train_job_says_what_the_cluster_needs_and_survives_the_published_models(trained):
    cluster, _ = trained
    (posted,) = cluster.posted
    assert models.TrainerV1alpha1TrainJob.from_dict(posted).to_dict() == posted
    spec = posted["spec"]
    assert spec["runtimeRef"] == {"name": "torch-distributed", "kind": "ClusterTrainingRuntime"}
    assert spec["trainer"]["command"] == ["torchrun", "-m", "components.train.node"]
    assert spec["trainer"]["image"] == FACTS.train_image
    assert spec["trainer"]["numNodes"] == 2
    assert spec["trainer"]["resourcesPerNode"]["limits"] == {"cpu": "4", "memory": "32Gi", "nvidia.com/gpu": "4"}
    assert spec["activeDeadlineSeconds"] == 12 * 3600
    assert not [each["name"] for each in spec["trainer"]["env"] if each["name"].startswith("PET_")]
    (patch,) = spec["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    template = replicated["template"]["spec"]["template"]
    assert template["metadata"]["labels"]["cost-centre"] == "shop"
    pod = template["spec"]
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert pod["securityContext"]["runAsUser"] == 10001
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes["workspace"]["persistentVolumeClaim"]["claimName"] == "heterrec-workspace"
    assert volumes["dshm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "4Gi"}
    (container,) = pod["containers"]
    assert {each["name"]: each["mountPath"] for each in container["volumeMounts"]} == {
        "workspace": "/work", "tmp": "/tmp", "dshm": "/dev/shm",
    }  # fmt: skip


def test_a_job_that_lost_a_node_goes_on_from_its_checkpoint(sequences, cluster, trainer, job, tmp_path):
    longer = replace(CONFIG, epochs=12)
    checkpoint = tmp_path / "key1" / "checkpoint.pt"
    killer = threading.Thread(target=lambda: (until(checkpoint.is_file), cluster.kill("heterrec-key1", 1)))
    killer.start()
    with pytest.raises(RuntimeError, match="TrainJob heterrec-key1 failed; its last words"):
        train(tmp_path, sequences, job, trainer, longer)
    killer.join()
    assert checkpoint.is_file()
    assert not (tmp_path / "model").exists()
    model = train(tmp_path, sequences, job, trainer, longer)
    assert cluster.deleted == ["heterrec-key1"] * 2
    first = next(line for line in cluster.log().splitlines() if '"progress"' in line)
    assert json.loads(first[first.index("{") :])["epoch"] > 1, "training began anew"
    assert_close(model, alone(tmp_path, sequences, longer))


def test_a_job_that_a_killed_step_left_is_taken_up(sequences, cluster, trainer, job, tmp_path):
    longer = replace(CONFIG, epochs=8)
    seen = threading.Event()

    class Dies:
        """A client whose process ends while the nodes train."""

        def __getattr__(self, name: str) -> Any:
            return getattr(trainer, name)

        def get_job(self, name: str) -> Any:
            found = trainer.get_job(name)
            if (tmp_path / "key1" / "checkpoint.pt").is_file():
                seen.set()
                raise MemoryError
            return found

    with pytest.raises(MemoryError):
        train(tmp_path, sequences, job, Dies(), longer)
    assert seen.is_set()
    train(tmp_path, sequences, job, trainer, longer)
    assert len(cluster.posted) == 1, "the nodes went on"


def test_data_at_fault_is_told_as_such(sequences, cluster, trainer, job, tmp_path):
    import pyarrow.parquet as pq

    empty = tmp_path / "sequences"
    empty.mkdir()
    for path in sequences.iterdir():
        (empty / path.name).write_bytes(path.read_bytes())
    events = pq.read_table(empty / "events.parquet")
    pq.write_table(
        events.set_column(events.schema.names.index("split"), "split", [["test"] * len(events)]),
        empty / "events.parquet",
    )
    with pytest.raises(InputError, match="no events in the training split"):
        train(tmp_path, empty, job, trainer)


def test_an_api_that_stays_away_is_told(sequences, cluster, trainer, job, tmp_path):
    cluster.away = True
    with pytest.raises(RuntimeError, match="Kubernetes does not answer"):
        train(tmp_path, sequences, job, trainer)


STEP = """
import sys
from pathlib import Path
from tests.pipeline import test_nodes
from dataclasses import replace
from kubeflow.common.types import KubernetesBackendConfig
from kubeflow.trainer import TrainerClient
from kubernetes import client
from components.train import nodes
host, job, root, sequences = sys.argv[1:]
import json
made = TrainerClient(KubernetesBackendConfig(
    namespace=test_nodes.NAMESPACE, client_configuration=client.Configuration(host=host)))
job = nodes.TrainJob(**json.loads(job))
test_nodes.train(Path(root), Path(sequences), job, made, replace(test_nodes.CONFIG, epochs=500))
"""


def test_a_step_that_is_told_to_end_ends_its_nodes(sequences, cluster, job, tmp_path):
    running = subprocess.Popen(
        [sys.executable, "-c", STEP, cluster.host, job.to_json(), str(tmp_path), str(sequences)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        until(lambda: (tmp_path / "key1" / "checkpoint.pt").is_file())
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 128 + signal.SIGTERM
    finally:
        running.kill()
        running.wait()
    assert cluster.deleted == ["heterrec-key1"]
    assert (tmp_path / "key1" / "checkpoint.pt").is_file()


@pytest.mark.parametrize("told", ["{", '{"nodes": 2}', '{"image": "x", "gpus": 1}'])
def test_a_job_that_is_none_is_told(told, monkeypatch):
    monkeypatch.setenv(nodes.VARIABLE, told)
    with pytest.raises(InputError, match="HETERREC_TRAINJOB: "):
        nodes.wanted()
