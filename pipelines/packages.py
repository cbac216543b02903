"""The compiled pipelines: for Kubeflow's API, and as resources of Kubernetes for those who release by GitOps."""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp import compiler
from kfp.compiler.compiler_utils import KubernetesManifestOptions
from kfp.dsl.base_component import BaseComponent

from pipelines import (
    catalogue_run,
    recommend_run,
    rollout,
    training,
)
from pipelines.cluster import Cluster

BUILDERS: dict[str, Callable[[Cluster | None], BaseComponent]] = {
    "training": training.build,
    "catalogue": catalogue_run.build,
    "rollout": rollout.build,
    "recommend": recommend_run.build,
}


@dataclass(frozen=True, kw_only=True)
class Package:
    """One pipeline as a cluster gets it."""

    name: str
    description: str
    text: str
    """YAML: the pipeline's specification, and that of Kubernetes."""

    @property
    def version(self) -> str:
        """Names the content: another cluster, image or graph is another version, the same is the same."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]


def package(kind: str, cluster: Cluster) -> Package:
    """The pipeline `kind` (a key of `BUILDERS`), compiled for `cluster`."""
    made = BUILDERS[kind](cluster)
    about = made.pipeline_spec.pipeline_info
    return Package(name=about.name, description=about.description, text=_compiled(made))


def resources(kind: str, cluster: Cluster) -> str:
    """The same as Pipeline and PipelineVersion resources; needs Kubeflow Pipelines with its Kubernetes-native store."""
    made = package(kind, cluster)
    options = KubernetesManifestOptions(
        pipeline_name=made.name,
        pipeline_version_name=f"{made.name}-{made.version}",
        pipeline_version_display_name=made.version,
        namespace=cluster.namespace or None,
        include_pipeline_manifest=True,
    )
    pipeline = BUILDERS[kind](cluster)
    return _compiled(pipeline, kubernetes_manifest_format=True, kubernetes_manifest_options=options)


def _compiled(pipeline: BaseComponent, **options: Any) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(path), **options)
        return path.read_text()
