"""What is true of a cluster and not of a model: images, hardware, secrets by name, where things are kept.

Read from a YAML file (`--cluster FILE`, else `$HETERREC_CLUSTER`) and never mixed with a recipe; the two images come
from `$HETERREC_TRAIN_IMAGE` and `$HETERREC_SERVE_IMAGE` where those are set, so that a release pins them by digest.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from components import image
from components.errors import InputError

FILE = "HETERREC_CLUSTER"


@dataclass(frozen=True, kw_only=True)
class Toleration:
    """A taint of nodes that tasks put up with, in Kubernetes' words."""

    key: str
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = "NoSchedule"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a task asks of a node, in Kubernetes' quantities, and how long and how often it may try."""

    cpu: str = "1"
    memory: str = "2Gi"
    memory_limit: str = "8Gi"
    shared_memory: str = ""
    """Of /dev/shm, which counts as memory of the task; empty for the node's 64 MiB."""
    temporary: str = "20Gi"
    """Of /tmp, the one place besides the workspace where a task may write."""
    gpu: str = ""
    """A resource name such as nvidia.com/gpu; empty for none."""
    gpus: int = 1
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = ()
    timeout_seconds: int = 2 * 3600
    """Of one attempt."""
    retries: int = 2
    backoff: str = "60s"
    """Before the first retry; twice as long before each one after it, 15 minutes at most."""


GPU = Needs(
    cpu="4",
    memory="16Gi",
    memory_limit="32Gi",
    shared_memory="4Gi",
    gpu="nvidia.com/gpu",
    node_selector={"nvidia.com/gpu.present": "true"},
    tolerations=(Toleration(key="nvidia.com/gpu"),),
    timeout_seconds=12 * 3600,
    retries=5,
)


@dataclass(frozen=True, kw_only=True)
class Secret:
    """A Kubernetes Secret by name: keys as variables (`env`, key to variable), or all keys as files (`mount`)."""

    name: str
    env: dict[str, str] = field(default_factory=dict)
    mount: str = ""
    optional: bool = False

    def __post_init__(self) -> None:
        if not self.env and not self.mount:
            raise ValueError(f"secret {self.name}: say how it is used, `env` (key: VARIABLE) or `mount` (a folder)")


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Training over several nodes by Kubeflow Trainer; one node is the pipeline's own pod."""

    count: int = 1
    runtime: str = "torch-distributed"
    """A (Cluster)TrainingRuntime of Kubeflow Trainer."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Everything that a compiled pipeline says about where it runs."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    train_image: str = image.TRAIN
    serve_image: str = image.SERVE
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    namespace: str = ""
    """The Kubeflow profile; empty where Kubeflow has one user."""
    service_account: str = ""
    """Of runs; empty for Kubeflow's own."""
    run_as_user: int | None = None
    """The images' user, for clusters that do not take it from the image; it owns what is mounted."""
    labels: dict[str, str] = field(
        default_factory=lambda: {"app.kubernetes.io/name": "pipelines", "app.kubernetes.io/part-of": "heterrec"}
    )
    """On every pod: by these the cost is told apart."""
    environment: dict[str, str] = field(default_factory=dict)
    """Plain settings such as HETERREC_FEATURE_STORE or MLFLOW_TRACKING_URI; nothing secret."""
    secrets: tuple[Secret, ...] = ()
    workspace_claim: str = "heterrec-workspace"
    """A PersistentVolumeClaim (ReadWriteMany) for the workspace; with `store` it may be left out (empty)."""
    workspace_path: str = "/work"
    """Where every pod finds it, the servers' too: the rollout table holds paths."""
    claims: dict[str, str] = field(default_factory=dict)
    """More PersistentVolumeClaims by name, and where they are mounted: the source's files, the event log."""
    store: str = ""
    """s3://bucket/prefix: where artifacts and checkpoints are kept and found again by their keys."""
    needs: Needs = field(default_factory=Needs)
    training: Needs = GPU
    """Left out, a GPU; a section of its own has a GPU only where it names one."""
    nodes: Nodes = field(default_factory=Nodes)

    def __post_init__(self) -> None:
        if not self.workspace_claim and not self.store:
            raise ValueError("workspace_claim and store are both empty: the tasks of a run would share nothing")
        if self.nodes.count > 1 and not self.workspace_claim:
            raise ValueError("nodes.count: several nodes share their work on workspace_claim, which is empty")
        for name in ("PASSWORD", "SECRET", "TOKEN", "ACCESS_KEY"):
            for variable in self.environment:
                if name in variable.upper():
                    raise ValueError(f"environment.{variable}: looks like a secret; name a Secret under `secrets`")

    @property
    def variables(self) -> dict[str, str]:
        """The plain environment of every task."""
        kept = {"HETERREC_HOME": self.workspace_path, "HOME": "/tmp", "OMP_WAIT_POLICY": "PASSIVE"}
        if self.store:
            kept["HETERREC_STORE"] = self.store
        return {**kept, **self.environment}


def read(path: Path | None = None) -> Cluster:
    """The cluster of `path`, or of `$HETERREC_CLUSTER`, or the defaults; images of the environment come first.

    Raises `InputError` that names the file, the field, what was found and what was expected.
    """
    named = path or (Path(os.environ[FILE]) if os.environ.get(FILE) else None)
    raw: Any = {}
    if named:
        try:
            raw = yaml.safe_load(named.read_text()) or {}
        except OSError as error:
            raise InputError(f"{named}: cannot be read ({error.strerror}). Pass the cluster's file.") from error
        except yaml.YAMLError as error:
            raise InputError(f"{named}: is not valid YAML: {error}") from error
        if not isinstance(raw, dict):
            raise InputError(f"{named}: found {type(raw).__name__}, expected a mapping of the fields of `Cluster`")
    for name, variable in (("train_image", "HETERREC_TRAIN_IMAGE"), ("serve_image", "HETERREC_SERVE_IMAGE")):
        if found := os.environ.get(variable):
            raw[name] = found
    try:
        return TypeAdapter(Cluster).validate_python(raw)
    except ValidationError as error:
        told = "\n".join(f"{_field(each['loc'])}: {each['msg']}, found {each['input']!r}" for each in error.errors())
        raise InputError(f"{named or 'environment'}: {told}") from error


def _field(place: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in place) or "the cluster"
