"""What is true of a cluster and not of a model: images, hardware, secrets by name, where things are kept.

Read from a YAML file (`--cluster FILE`, else `$HETERREC_CLUSTER`) and never mixed with a recipe; the two images come
from `$HETERREC_TRAIN_IMAGE` and `$HETERREC_SERVE_IMAGE` where those are set, so that a release pins them by digest.
"""

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from components.shared import image
from runtime import object_store as store
from runtime.errors import InputError

FILE = "HETERREC_CLUSTER"
LAUNCHERS = ("AWS_", "MINIO_", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_")
"""What the S3, GCS and Azure clients in Kubeflow's launcher read from the environment that it shares with the task."""


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
    """Of one attempt, from the moment when its node has started it: a pod without a node never times out."""
    retries: int = 2
    """After a failure. Argo retries no pod that was lost, with its node or by deletion (docs/pipelines.md)."""
    backoff: str = "60s"
    """Before the first retry; twice as long before each one after it. None begins after the run's deadline."""


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
SMALL = Needs(cpu="250m", memory="768Mi", memory_limit="2Gi", timeout_seconds=3600)
"""Measured: docs/pipelines.md, "What a run asks for"."""


@dataclass(frozen=True, kw_only=True)
class RunDeadlines:
    """Seconds after which a run is ended, whatever it waits for: of one schedule only one runs at a time, and a pod
    that finds no node would keep the next ones waiting for good."""

    training: int = 22 * 3600
    """Before the next night's."""
    catalogue: int = 4 * 3600
    rollout: int = 1800
    recommend: int = 4 * 3600

    def __post_init__(self) -> None:
        for name in asdict(self):
            if getattr(self, name) <= 0:
                raise ValueError(f"deadlines.{name}: found {getattr(self, name)}, expected seconds above 0")


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
        _refuse_launchers(f"secret {self.name}", self.env.values())


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
    """Of every task."""
    sources: tuple[Secret, ...] = ()
    """What reading a card's source takes, such as the URL of a shop's database (`source.sql.url_from`): of the tasks
    that read it alone."""
    workspace_claim: str = "heterrec-workspace"
    """A PersistentVolumeClaim (ReadWriteMany) for the workspace; with `store` it may be left out (empty)."""
    workspace_path: str = "/work"
    """Where every pod finds it, the servers' too: the rollout table holds paths."""
    claims: dict[str, str] = field(default_factory=dict)
    """More PersistentVolumeClaims by name, and where they are mounted: the source's files, the event log."""
    store: str = ""
    """s3://bucket/prefix: where artifacts and checkpoints are kept and found again by their keys."""
    needs: Needs = field(default_factory=Needs)
    small: Needs = SMALL
    """Of tasks that handle no events and no model: resolve, push, the look at a canary, the end of a run."""
    training: Needs = GPU
    """Left out, a GPU; a section of its own has a GPU only where it names one."""
    deadlines: RunDeadlines = field(default_factory=RunDeadlines)
    nodes: Nodes = field(default_factory=Nodes)

    def __post_init__(self) -> None:
        if not self.workspace_claim and not self.store:
            raise ValueError("workspace_claim and store are both empty: the tasks of a run would share nothing")
        if self.nodes.count > 1 and not self.workspace_claim:
            raise ValueError("nodes.count: several nodes share their work on workspace_claim, which is empty")
        if self.training.timeout_seconds >= self.deadlines.training:
            raise ValueError(
                f"deadlines.training: {self.deadlines.training} s end the run before one attempt of training has had "
                f"its {self.training.timeout_seconds} s (training.timeout_seconds)"
            )
        _refuse_launchers("environment", self.environment)
        for name in ("PASSWORD", "SECRET", "TOKEN", "ACCESS_KEY"):
            for variable in self.environment:
                if name in variable.upper():
                    raise ValueError(f"environment.{variable}: looks like a secret; name a Secret under `secrets`")

    def runnable(self) -> "Cluster":
        """Itself, for a server to run; raises `InputError` where an image is not named, or is k8s/'s placeholder."""
        for name in ("train_image", "serve_image"):
            found = getattr(self, name)
            if image.UNNAMED in found or found.endswith("@sha256:" + 64 * "0"):
                raise InputError(
                    f"{name}: found {found}, which is no image. No task would start, nor the one that tells of it. "
                    f"Name it in the cluster's file or in $HETERREC_{name.upper()}, by its digest in the registry "
                    "(`make images` builds them)."
                )
        return self

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


def _refuse_launchers(where: str, variables: Iterable[str]) -> None:
    """Kubeflow's launcher runs in the task's container and its S3 client reads the same environment."""
    for variable in variables:
        if variable.startswith(LAUNCHERS):
            raise ValueError(
                f"{where}: {variable} would also be read by Kubeflow's launcher, which then looks for its own store "
                f"where ours is. Name it {store.ENDPOINT}, {store.KEY}, {store.SECRET} or {store.REGION}."
            )


def _field(place: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in place) or "the cluster"
