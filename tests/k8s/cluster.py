"""The rendered overlays, as a cluster would get them, and how to look things up in them."""

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime import workspace

K8S = workspace.ROOT / "k8s"
OVERLAYS = ("local", "production", "gpu", "kserve", "profile")
"""Those that serve; `runs` is the pipelines' side alone."""
MISSING = "neither kustomize 5 nor a kubectl that has it is installed (scripts/kubectl.sh; .ci/run does)"
Resource = dict[str, Any]


def namespace(overlay: str) -> str:
    """Where an overlay is installed."""
    return {"profile": "shop-recommendations", "runs": "shop-recommendations"}.get(overlay, "heterrec")


def rendered(overlay: str) -> list[Resource]:
    """The resources of an overlay; the test is skipped where nothing can render it."""
    return rendered_at(K8S / "overlays" / overlay)


@functools.cache
def rendered_at(folder: Path) -> list[Resource]:
    """As `rendered`, of any folder with a kustomization."""
    command = _renderer()
    if command is None:
        pytest.skip(MISSING)
    made = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert not made.stderr, made.stderr  # kustomize warns of what it is about to drop
    return list(yaml.load_all(made.stdout, yaml.CSafeLoader))


@functools.cache
def _renderer() -> list[str] | None:
    venv = workspace.ROOT / ".venv" / "bin" / "kubectl"
    kubectl = shutil.which("kubectl") or (str(venv) if venv.is_file() else None)
    if kubectl:
        told = subprocess.run([kubectl, "version", "--client"], capture_output=True, text=True).stdout
        if re.search(r"Kustomize Version: v5", told):
            return [kubectl, "kustomize"]
    kustomize = shutil.which("kustomize")
    return [kustomize, "build"] if kustomize else None


def composed(folder: Path, text: str) -> list[Resource]:
    """What an overlay of somebody's own makes: `text` is its kustomization, with {k8s} where this project's is."""
    folder.mkdir(parents=True)
    (folder / "kustomization.yaml").write_text(text.replace("{k8s}", os.path.relpath(K8S, folder)))
    return rendered_at(folder)


def of_kind(resources: list[Resource], *kinds: str) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] in kinds]


def name(resource: Resource) -> str:
    return f"{resource['kind']}/{resource['metadata']['name']}"


def workloads(resources: list[Resource]) -> Iterator[tuple[str, Resource, Resource]]:
    """Name, labels and pod specification of everything that makes pods."""
    for resource in resources:
        if resource["kind"] == "InferenceService":
            predictor = resource["spec"]["predictor"]
            yield name(resource), predictor["labels"], predictor
        elif "template" in resource.get("spec", {}):
            template = resource["spec"]["template"]
            yield name(resource), template["metadata"]["labels"], template["spec"]


def containers(pod: Resource) -> list[Resource]:
    return [*pod["containers"], *pod.get("initContainers", [])]


def matches(selector: Resource, labels: dict[str, str]) -> bool:
    """Whether a label selector chooses `labels`; an empty one chooses everything."""
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()) and all(
        _holds(each, labels) for each in selector.get("matchExpressions", [])
    )


def _holds(expression: Resource, labels: dict[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise ValueError(f"unknown operator in {expression}")


def settings(resources: list[Resource]) -> dict[str, str]:
    """The environment that every process of ours gets."""
    (found,) = [each for each in of_kind(resources, "ConfigMap") if each["metadata"]["name"].startswith("settings-")]
    return dict(found["data"])


def schema(path: Path) -> Any:
    return yaml.load(path.read_text(), yaml.CSafeLoader)
