"""Puts a cluster's facts on a task: image, hardware, secrets by reference, volumes, retries, timeout, labels."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from types import SimpleNamespace

from kfp import dsl, kubernetes
from kfp.dsl import pipeline_task

from components.train import nodes
from pipelines.cluster import Cluster, Needs, Secret

RUN = "HETERREC_RUN_ID"


def _stack() -> list[tuple[object, str, int, str]]:
    """As much of `inspect.stack` as Kubeflow reads: who called, and who called that.

    It asks on each setting of a task, to name the setting in a message. The real one finds the source of every frame,
    and under `python -m` looks through all modules for one that has none: 1.8 in place of .08 CPU seconds a pipeline.
    """
    callee = sys._getframe(1)
    caller = callee.f_back or callee
    return [(each, each.f_code.co_filename, each.f_lineno, each.f_code.co_name) for each in (callee, caller)]


pipeline_task.inspect = SimpleNamespace(stack=_stack)


class Placement:
    """Where the tasks of one pipeline run; without a cluster on this machine, which is as it is."""

    def __init__(self, cluster: Cluster | None, pipeline: str) -> None:
        self._cluster, self._pipeline = cluster, pipeline
        kind = pipeline.removeprefix("heterrec-")
        self._deadline: int | None = getattr(cluster.deadlines, kind) if cluster is not None else None

    @property
    def config(self) -> dsl.PipelineConfig:
        """Of the whole run: its deadline, by which a run ends that waits for what never comes."""
        return dsl.PipelineConfig(active_deadline_seconds=self._deadline)

    def small(self, task: dsl.PipelineTask) -> dsl.PipelineTask:
        """A task that handles no events and no model."""
        return self._placed(task, lambda cluster: (cluster.train_image, cluster.small))

    def light(self, task: dsl.PipelineTask) -> dsl.PipelineTask:
        """A task on the data, in the image that trains."""
        return self._placed(task, lambda cluster: (cluster.train_image, cluster.needs))

    def reading(self, task: dsl.PipelineTask) -> dsl.PipelineTask:
        """A task that reads the card's source, with the secrets that no other task needs."""
        self.light(task)
        if self._cluster is not None:
            _secrets(task, self._cluster.sources)
        return task

    def training(self, task: dsl.PipelineTask) -> dsl.PipelineTask:
        """Training: in its own pod, on a GPU where the cluster has one; or by a pod that waits for several nodes."""
        self._placed(task, lambda cluster: (cluster.train_image, _trainer(cluster)))
        if self._cluster is not None and self._cluster.nodes.count > 1:
            task.set_env_variable(nodes.VARIABLE, _train_job(self._cluster, self._pipeline).to_json())
        return task

    def serving(self, task: dsl.PipelineTask) -> dsl.PipelineTask:
        """What is proven in the very image that serves."""
        return self._placed(task, lambda cluster: (cluster.serve_image, cluster.needs))

    def last(self, task: dsl.PipelineTask) -> dsl.PipelineTask:
        """The last task of a run, or its only one: Kubeflow retries no exit handler, and the next look at a canary is
        the next try."""
        return self._placed(task, lambda cluster: (cluster.train_image, replace(cluster.small, retries=0)))

    def _placed(self, task: dsl.PipelineTask, where: Callable[[Cluster], tuple[str, Needs]]) -> dsl.PipelineTask:
        # Kubeflow's cache keys on arguments, not on content or code: runtime/task.py reuses by content instead.
        task.set_caching_options(False)
        if self._cluster is not None:
            image, needs = where(self._cluster)
            task.set_container_image(image)
            self._pod(task, self._cluster, needs)
            self._hardware(task, self._cluster, needs)
            self._environment(task, self._cluster)
        return task

    def _pod(self, task: dsl.PipelineTask, cluster: Cluster, needs: Needs) -> None:
        task.set_cpu_request(needs.cpu).set_memory_request(needs.memory).set_memory_limit(needs.memory_limit)
        if needs.retries:
            # The last of these is no bound on a pause: Argo counts it from the beginning of the first attempt, retries
            # nothing after it and kills a retry that still runs then. So it is the run's own deadline.
            task.set_retry(needs.retries, needs.backoff, 2.0, f"{self._deadline}s")
        kubernetes.set_timeout(task, needs.timeout_seconds)
        kubernetes.set_image_pull_policy(task, cluster.image_pull_policy)
        if cluster.image_pull_secrets:
            kubernetes.set_image_pull_secrets(task, list(cluster.image_pull_secrets))
        kubernetes.set_security_context(task, run_as_non_root=True, run_as_user=cluster.run_as_user)
        for name, value in _labels(cluster, self._pipeline).items():
            kubernetes.add_pod_label(task, name, value)

    def _hardware(self, task: dsl.PipelineTask, cluster: Cluster, needs: Needs) -> None:
        if needs.gpu:
            task.set_accelerator_type(needs.gpu).set_accelerator_limit(needs.gpus)
        for label, value in needs.node_selector.items():
            kubernetes.add_node_selector(task, label, value)
        for each in needs.tolerations:
            kubernetes.add_toleration(task, each.key, each.operator, each.value, each.effect)
        # The root file system is read-only.
        kubernetes.empty_dir_mount(task, "tmp", "/tmp", size_limit=needs.temporary)
        if needs.shared_memory:
            kubernetes.empty_dir_mount(task, "dshm", "/dev/shm", medium="Memory", size_limit=needs.shared_memory)
        for name, path in cluster.claims.items():
            kubernetes.mount_pvc(task, name, path)
        if cluster.workspace_claim:
            kubernetes.mount_pvc(task, cluster.workspace_claim, cluster.workspace_path)
        else:
            kubernetes.empty_dir_mount(task, "workspace", cluster.workspace_path, size_limit=needs.temporary)

    def _environment(self, task: dsl.PipelineTask, cluster: Cluster) -> None:
        # A scheduled run has the same parameters every time, and Kubeflow fills in none of its macros there. Its own
        # launcher reads the run's id from this label of its pod too.
        kubernetes.use_field_path_as_env(task, RUN, "metadata.labels['pipeline/runid']")
        for name, value in cluster.variables.items():
            task.set_env_variable(name, value)
        _secrets(task, cluster.secrets)


def _secrets(task: dsl.PipelineTask, secrets: Iterable[Secret]) -> None:
    for secret in secrets:
        if secret.env:
            kubernetes.use_secret_as_env(task, secret.name, secret.env, optional=secret.optional)
        if secret.mount:
            kubernetes.use_secret_as_volume(task, secret.name, secret.mount, optional=secret.optional)


def _trainer(cluster: Cluster) -> Needs:
    if cluster.nodes.count == 1:
        return cluster.training
    training = cluster.training
    return replace(cluster.needs, timeout_seconds=training.timeout_seconds, retries=training.retries)


def _train_job(cluster: Cluster, pipeline: str) -> nodes.TrainJob:
    needs = cluster.training
    return nodes.TrainJob(
        image=cluster.train_image,
        nodes=cluster.nodes.count,
        runtime=cluster.nodes.runtime,
        resources={"cpu": needs.cpu, "memory": needs.memory_limit}
        | ({needs.gpu: str(needs.gpus)} if needs.gpu else {}),
        claim=cluster.workspace_claim,
        mount=cluster.workspace_path,
        environment=cluster.variables,
        labels=_labels(cluster, pipeline),
        node_selector=needs.node_selector,
        tolerations=[{k: v for k, v in asdict(each).items() if v is not None} for each in needs.tolerations],
        image_pull_secrets=list(cluster.image_pull_secrets),
        shared_memory=needs.shared_memory,
        run_as_user=cluster.run_as_user,
        timeout_seconds=needs.timeout_seconds,
    )


def _labels(cluster: Cluster, pipeline: str) -> dict[str, str]:
    return {**cluster.labels, "heterrec/pipeline": pipeline}
