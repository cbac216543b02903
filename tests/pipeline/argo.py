"""What Argo does with the fields that Kubeflow makes of ours, so that a test can ask it instead of comparing numbers.

Read in argoproj/argo-workflows, workflow/controller/operator.go (processNodeRetries, applyExecutionControl), and in
kubeflow/pipelines, backend/src/v2/compiler/argocompiler (container.go, which sets no retryPolicy; spec_patch.go).
Seconds throughout; times are since the beginning of the run.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

Phase = Literal["Failed", "Error"]
"""Failed: the container ended with a fault. Error: its pod was lost, deleted with its node or from it."""


@dataclass(frozen=True)
class Strategy:
    """`retryStrategy` of a template; `limit` and backoff as Kubeflow fills them in from a task's `retryPolicy`."""

    limit: int
    duration: int
    factor: float
    max_duration: int
    policy: str = "OnFailure"
    """Argo's own, where nobody sets one."""


@dataclass(frozen=True)
class Retry:
    begins: float
    killed: float
    """When it is ended if it still runs then."""


def strategy(task: dict[str, Any], defaults: dict[str, Any] | None = None) -> Strategy:
    """Of a task of a compiled pipeline; `defaults` is what templateDefaults.retryStrategy adds where it is silent."""
    given = task["retryPolicy"]
    policy = (defaults or {}).get("retryPolicy", "OnFailure")
    return Strategy(
        limit=given["maxRetryCount"],
        duration=_seconds(given["backoffDuration"]),
        factor=given["backoffFactor"],
        max_duration=_seconds(given["backoffMaxDuration"]),
        policy=policy,
    )


def retried(
    rules: Strategy, *, began: float, ended: float, phase: Phase, retries: int, timeout: float, deadline: float
) -> Retry | None:
    """The retry of a task whose first attempt began at `began` and whose last, after `retries` of them, ended.

    `timeout` is the pod's activeDeadlineSeconds, `deadline` the workflow's. None where Argo lets the task fail.
    """
    if ended > deadline:
        return None  # "retry exceeded workflow deadline"
    if ended > began + rules.max_duration:
        return None  # "Max duration limit exceeded"
    begins = ended + rules.duration * rules.factor**retries
    if begins > began + rules.max_duration or begins > deadline:
        return None
    if phase not in {"OnFailure": ("Failed",), "OnError": ("Error",), "Always": ("Failed", "Error")}[rules.policy]:
        return None
    if retries >= rules.limit:
        return None
    return Retry(begins, min(begins + timeout, began + rules.max_duration, deadline))


def spec_patch(path: Path) -> dict[str, Any]:
    """What Kubeflow's API server merges into each Workflow's spec once `path` patches its Deployment."""
    (container,) = yaml.safe_load(path.read_text())["spec"]["template"]["spec"]["containers"]
    assert container["name"] == "ml-pipeline-api-server"
    (variable,) = container["env"]
    assert variable["name"] == "COMPILED_PIPELINE_SPEC_PATCH"
    return dict(json.loads(variable["value"]))


def _seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text[:-1])
