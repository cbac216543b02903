"""Every metric that something here exports, by its name in Prometheus, from the registries themselves."""

from collections.abc import Iterator
from importlib.resources import files

import yaml
from prometheus_client import CollectorRegistry

from events.consumer.metrics import ConsumerMetrics
from pipelines import exporter
from serving.gateway.metrics import GatewayMetrics

PROMETHEUS = {"up"}
"""Prometheus' own, of each target."""
KUBELET = {"kubelet_volume_stats_available_bytes", "kubelet_volume_stats_capacity_bytes"}
"""kubernetes/kubernetes, pkg/kubelet/metrics/collectors/volume_stats.go (Apache-2.0)."""

KUBE_STATE_METRICS = {"kube_pod_status_ready"}
"""kubernetes/kube-state-metrics, docs/metrics/workload/pod-metrics.md (Apache-2.0)."""


def samples() -> Iterator[tuple[str, dict[str, str]]]:
    """Each series, and its labels, that gateway and consumer have before anything happened; a version serves."""
    gateway = GatewayMetrics()
    gateway.show_out(["1.0"], [])
    for registry in (gateway.registry, ConsumerMetrics().registry):
        for family in registry.collect():
            yield from ((sample.name, sample.labels) for sample in family.samples)


def names() -> set[str]:
    registries = [GatewayMetrics().registry, ConsumerMetrics().registry, exporter.registry()]
    return (
        {name for registry in registries for name in _of(registry)}
        | _torchserve()
        | PROMETHEUS
        | KUBELET
        | KUBE_STATE_METRICS
    )


def _of(registry: CollectorRegistry) -> set[str]:
    # What a registry refuses to have twice: the names of the series, not of the families.
    return set(registry._names_to_collectors)


def _torchserve() -> set[str]:
    """TorchServe exports what its own metrics.yaml names; ours starts it with no other."""
    metrics = yaml.safe_load((files("ts") / "configs" / "metrics.yaml").read_text())
    groups = [*metrics["ts_metrics"].values(), *metrics["model_metrics"].values()]
    return {metric["name"] for group in groups for metric in group}
