"""As much of a Kubernetes API as Kubeflow Trainer's client asks for, and a controller that really runs what it is told:
the command of a TrainJob, once a node, as processes of this machine."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.loopback_api import served
from tests.pipeline.published_schema import validate

ROOT = Path(__file__).parents[2]
NAMESPACE = "team-a"
TRAINER = "/apis/trainer.kubeflow.org/v1alpha1"
MOMENT = "2026-01-01T00:00:00Z"
RUNTIME = {
    "apiVersion": "trainer.kubeflow.org/v1alpha1",
    "kind": "ClusterTrainingRuntime",
    "metadata": {"name": "torch-distributed", "labels": {"trainer.kubeflow.org/framework": "torch"}},
    "spec": {
        "mlPolicy": {"numNodes": 1, "torch": {"numProcPerNode": "auto"}},
        "template": {
            "spec": {
                "replicatedJobs": [
                    {
                        "name": "node",
                        "template": {
                            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
                            "spec": {
                                "template": {
                                    "spec": {"containers": [{"name": "node", "image": "pytorch/pytorch:2.9.1"}]}
                                }
                            },
                        },
                    }
                ]
            }
        },
    },
}


class TrainerCluster:
    """`jobs` by name as they are, `posted` as they came, `processes` of each and `logs` of each node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[str, dict[str, Any]] = {}
        self.posted: list[dict[str, Any]] = []
        self.processes: dict[str, list[subprocess.Popen[bytes]]] = {}
        self.deleted: list[str] = []
        self.faults: list[str] = []
        self.away = False
        self.host = ""
        self._lock = threading.Lock()

    def log(self, node: int = 0, attempt: int = -1) -> str:
        paths = sorted(self.folder.glob(f"*-node-{node}.log"))
        return paths[attempt].read_text()

    def kill(self, name: str, node: int) -> None:
        """End a node as a lost machine does."""
        _end_tree(self.processes[name][node])

    def answer(self, method: str, path: str, _: Any, body: bytes) -> tuple[int, Any]:
        if self.away:
            return 503, _status(503, "the API is away")
        path, _, _ = path.partition("?")
        jobs = f"{TRAINER}/namespaces/{NAMESPACE}/trainjobs"
        with self._lock:
            if method == "POST" and path == jobs:
                return self._create(json.loads(body))
            if path.startswith(f"{jobs}/"):
                name = path.rpartition("/")[2]
                if name not in self.jobs:
                    return 404, _status(404, "not found")
                if method == "DELETE":
                    self._end(name)
                    self.deleted.append(name)
                    del self.jobs[name]
                    return 200, _status(200, "deleted")
                self._look(name)
                return 200, self.jobs[name]
            if path == f"{TRAINER}/clustertrainingruntimes/torch-distributed":
                return 200, RUNTIME
            if path == f"/api/v1/namespaces/{NAMESPACE}/pods":
                return 200, {"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": self._pods()}
            if match := re.fullmatch(rf"/api/v1/namespaces/{NAMESPACE}/pods/pod-(\d)/log", path):
                return 200, self.log(int(match[1]))
            if path.endswith("/configmaps/kubeflow-trainer-public"):
                return 200, {"apiVersion": "v1", "kind": "ConfigMap", "data": {"kubeflow_trainer_version": "v2.3.0"}}
        return 404, _status(404, f"nothing at {path}")

    def _create(self, job: dict[str, Any]) -> tuple[int, Any]:
        try:
            validate(job, "trainer.kubeflow.org_trainjobs.yaml")
        except Exception as error:
            self.faults.append(str(error)[:800])
            return 422, _status(422, str(error)[:200])
        name = job["metadata"]["name"]
        if name in self.jobs:
            return 409, _status(409, f"{name} exists")
        self.posted.append(job)
        made = {**job, "metadata": {**job["metadata"], "namespace": NAMESPACE, "creationTimestamp": MOMENT}}
        self.jobs[name] = {**made, "status": {}}
        self._start(name, job["spec"]["trainer"])
        return 201, self.jobs[name]

    def _start(self, name: str, trainer: dict[str, Any]) -> None:
        """As Trainer's torch plugin does: torchrun hears the rest through PET_ variables."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.processes[name] = []
        for node in range(trainer["numNodes"]):
            given = {each["name"]: each["value"] for each in trainer["env"]}
            environment = {
                **os.environ,
                **given,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "PET_NNODES": str(trainer["numNodes"]),
                "PET_NPROC_PER_NODE": "1",
                "PET_NODE_RANK": str(node),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(port),
            }
            path = self.folder / f"{len(self.posted)}-{name}-node-{node}.log"
            with path.open("wb") as log:
                self.processes[name].append(
                    subprocess.Popen(
                        [*trainer["command"], *trainer["args"]],
                        cwd=self.folder,
                        env=environment,
                        stdout=log,
                        stderr=log,
                    )
                )

    def _look(self, name: str) -> None:
        codes = [process.poll() for process in self.processes[name]]
        if any(code not in (None, 0) for code in codes):
            self._end(name)
            self._condition(name, "Failed")
        elif all(code == 0 for code in codes):
            self._condition(name, "Complete")

    def _condition(self, name: str, kind: str) -> None:
        condition = {"type": kind, "status": "True", "reason": kind, "message": "", "lastTransitionTime": MOMENT}
        self.jobs[name]["status"] = {"conditions": [condition]}

    def _end(self, name: str) -> None:
        for process in self.processes[name]:
            _end_tree(process)

    def _pods(self) -> list[dict[str, Any]]:
        if not self.jobs:
            return []
        return [
            {
                "metadata": {
                    "name": f"pod-{node}",
                    "creationTimestamp": MOMENT,
                    "labels": {
                        "jobset.sigs.k8s.io/replicatedjob-name": "node",
                        "batch.kubernetes.io/job-completion-index": str(node),
                    },
                },
                "spec": {"containers": [{"name": "node", "image": "x"}]},
                "status": {"phase": "Running"},
            }
            for node in range(2)
        ]

    def stop(self) -> None:
        for name in self.processes:
            self._end(name)


def _end_tree(process: "subprocess.Popen[bytes]") -> None:
    """With the agent its workers, as a container ends: they are in sessions of their own."""
    try:
        agent = psutil.Process(process.pid)
        family = [agent, *agent.children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


def _status(code: int, message: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Status", "code": code, "message": message}


@contextmanager
def trainer_cluster(folder: Path) -> Iterator[TrainerCluster]:
    """The API on a free port; it and every process it started are stopped at the end."""
    cluster = TrainerCluster(folder)

    try:
        with served(cluster.answer) as cluster.host:
            yield cluster
    finally:
        cluster.stop()
    assert cluster.faults == []


def until(true: Any, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
