"""One training over several nodes: a TrainJob of Kubeflow Trainer, made, waited for and removed by the step.

What the nodes share is the workspace's claim: the step lays the work there, the first of them leaves the model and the
checkpoints, from which whatever attempt comes next goes on.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runtime.errors import InputError
from runtime.files import replace_text
from runtime.log import emit
from runtime.manifest import Manifest

VARIABLE = "HETERREC_TRAINJOB"
TASK, FAULT, WORK = "task.json", "fault.json", "nodes"
BEGUN_FROM = ("champion", "blessed")
"""Models that a training may begin from."""
LABEL = "heterrec/training"
PATIENCE = 20
"""Looks in a row that the API may fail before the step does; the nodes train on meanwhile."""


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What the nodes are; a fact of the cluster, `$HETERREC_TRAINJOB` as JSON."""

    image: str
    nodes: int
    resources: dict[str, str]
    """Of a node, e.g. cpu, memory, nvidia.com/gpu. Each GPU has a process of its own."""
    claim: str
    mount: str
    runtime: str = "torch-distributed"
    environment: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[dict[str, str]] = field(default_factory=list)
    image_pull_secrets: list[str] = field(default_factory=list)
    shared_memory: str = ""
    run_as_user: int | None = None
    timeout_seconds: int = 12 * 3600
    poll_seconds: float = 15.0

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def wanted() -> TrainJob | None:
    """The TrainJob of `$HETERREC_TRAINJOB`; None where this pod trains itself. Raises `InputError` where it is none."""
    named = os.environ.get(VARIABLE, "").strip()
    try:
        return TrainJob(**json.loads(named)) if named else None
    except (TypeError, ValueError) as error:
        raise InputError(f"{VARIABLE}: {error}. It is written by `python -m pipelines compile`.") from error


def train_on_nodes(job: TrainJob, work: Mapping[str, Any], client: Any = None) -> None:
    """Train as `step.fit(**work)` would, on `job.nodes` nodes; the model lies in `work["model"]` when it returns.

    `client` is a kubeflow.trainer.TrainerClient (default: that of the pod). A TrainJob that a killed attempt left is
    taken up while it runs, and made anew where it failed. Raises `InputError` where the data is at fault and
    `RuntimeError` for all else; the checkpoint stays for the next attempt.
    """
    if client is None:
        from kubeflow.trainer import TrainerClient

        client = TrainerClient()
    folder = work["scratch"] / WORK
    name = f"heterrec-{work['scratch'].name}"
    if _state(client, name) in (None, "Complete", "Failed"):
        _remove(client, name)
        _lay(folder, work)
        create(client, name, job, folder)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _wait(client, name, job, folder)
    except (SystemExit, KeyboardInterrupt):
        # Whoever ends this task ends what it started; the nodes' last checkpoint stays.
        _remove(client, name)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    shutil.copytree(folder / "model", work["model"], dirs_exist_ok=True)
    _remove(client, name)


def create(client: Any, name: str, job: TrainJob, folder: Path) -> None:
    """Make the TrainJob `name`, whose processes all run `components.train.node` over `folder`."""
    from kubeflow.trainer import CustomTrainerContainer
    from kubeflow.trainer import options as to

    volumes: list[dict[str, Any]] = [
        {"name": "workspace", "persistentVolumeClaim": {"claimName": job.claim}},
        {"name": "tmp", "emptyDir": {}},
    ]
    mounts = [{"name": "workspace", "mountPath": job.mount}, {"name": "tmp", "mountPath": "/tmp"}]
    if job.shared_memory:
        volumes.append({"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": job.shared_memory}})
        mounts.append({"name": "dshm", "mountPath": "/dev/shm"})
    user = {} if job.run_as_user is None else {"runAsUser": job.run_as_user, "fsGroup": job.run_as_user}
    pod = to.PodSpecPatch(
        volumes=volumes,
        containers=[
            to.ContainerPatch(
                name="node",
                volume_mounts=mounts,
                security_context={
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
            )
        ],
        security_context={"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, **user},
        node_selector=job.node_selector or None,
        tolerations=job.tolerations or None,
        image_pull_secrets=[{"name": each} for each in job.image_pull_secrets] or None,
    )
    labels = {**job.labels, LABEL: name}
    replicated = to.ReplicatedJobPatch(
        name="node",
        template=to.JobTemplatePatch(
            spec=to.JobSpecPatch(template=to.PodTemplatePatch(metadata={"labels": labels}, spec=pod))
        ),
    )
    patch = to.RuntimePatch(
        training_runtime_spec=to.TrainingRuntimeSpecPatch(
            template=to.JobSetTemplatePatch(spec=to.JobSetSpecPatch(replicated_jobs=[replicated]))
        )
    )
    client.train(
        runtime=job.runtime,
        trainer=CustomTrainerContainer(
            image=job.image, num_nodes=job.nodes, resources_per_node=job.resources, env=job.environment
        ),
        options=[
            to.Name(name=name),
            to.Labels(labels),
            # How many processes, which node this is and where the first one listens torchrun hears from Trainer.
            to.TrainerCommand(["torchrun", "-m", "components.train.node"]),
            to.TrainerArgs(["--work", str(folder)]),
            to.ActiveDeadlineSeconds(job.timeout_seconds),
            patch,
        ],
    )
    emit("trainjob_created", name=name, nodes=job.nodes, runtime=job.runtime)


def _lay(folder: Path, work: Mapping[str, Any]) -> None:
    """Copy what the nodes read to the claim: the task's own inputs lie in its pod."""
    shutil.rmtree(folder / "model", ignore_errors=True)
    (folder / "model").mkdir(parents=True)
    (folder / FAULT).unlink(missing_ok=True)
    for name in ("sequences", *BEGUN_FROM):
        if work.get(name) is not None:
            _copy(work[name], folder / name)
    begun = {name: work.get(name) is not None for name in BEGUN_FROM}
    task = {"config": work["config"].to_json(), "sharded": work["sharded"], **begun}
    replace_text(folder / TASK, json.dumps(task))


def _copy(artifact: Path, target: Path) -> None:
    try:
        if Manifest.verify(target).digest == Manifest.read(artifact).digest:
            return
    except InputError:
        shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(artifact, target, dirs_exist_ok=True)


def _wait(client: Any, name: str, job: TrainJob, folder: Path) -> None:
    told, misses = "", 0
    while True:
        try:
            status, misses = client.get_job(name).status, 0
        except (RuntimeError, TimeoutError) as error:
            misses += 1
            if misses > PATIENCE:
                raise RuntimeError(f"TrainJob {name} cannot be seen any more: {_cause(error)}") from error
            status = told
        if status != told:
            emit("trainjob", name=name, status=status)
            told = status
        if status == "Complete":
            return
        if status == "Failed":
            if (folder / FAULT).is_file():
                raise InputError(json.loads((folder / FAULT).read_text()))
            raise RuntimeError(
                f"TrainJob {name} failed; its last words: {_last_words(client, name)}. Run the step again and it goes "
                "on from the last checkpoint."
            )
        time.sleep(job.poll_seconds)


def _state(client: Any, name: str) -> str | None:
    """Status of the TrainJob, None where there is none."""
    try:
        return str(client.get_job(name).status)
    except RuntimeError as error:
        if getattr(error.__cause__, "status", None) == 404:
            return None
        raise RuntimeError(f"TrainJob {name}: Kubernetes does not answer for it: {_cause(error)}") from error


def _remove(client: Any, name: str) -> None:
    try:
        client.delete_job(name)
    except RuntimeError as error:
        if getattr(error.__cause__, "status", None) != 404:
            raise
        return
    for _ in range(PATIENCE):
        if _state(client, name) is None:
            return
        time.sleep(1.0)


def _last_words(client: Any, name: str) -> str:
    try:
        lines = [line for line in client.get_job_logs(name=name) if line.strip()]
    except (RuntimeError, TimeoutError) as error:
        return f"(its log cannot be read: {_cause(error)})"
    return str(lines[-1]).strip() if lines else "(none)"


def _cause(error: BaseException) -> str:
    return f"{error}" + (f" ({type(error.__cause__).__name__})" if error.__cause__ else "")
