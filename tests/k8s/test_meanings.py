"""What Kubernetes and KServe do with fields of the manifests: grace, budgets, rollouts, claims, scaling."""

import json
import re

import pytest

from tests.k8s.cluster import (
    OVERLAYS,
    Resource,
    containers,
    matches,
    name,
    of_kind,
    rendered,
    workloads,
)

GRACE = 30
"""Kubernetes' own, where a pod names none."""


@pytest.fixture(params=OVERLAYS)
def resources(request) -> list[Resource]:
    return rendered(request.param)


def test_a_pod_that_ends_has_time_for_it(resources):
    """preStop is counted in the grace: what is left has to do for requests that are under way."""
    for found, _, pod in workloads(resources):
        for container in containers(pod):
            command = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
            if command:
                program, seconds = command
                assert program == "sleep" and int(seconds) + 15 <= pod.get("terminationGracePeriodSeconds", GRACE), (
                    found
                )


def test_no_argument_names_a_variable_that_is_not_there(resources):
    """$(NAME) without a variable stays as it stands, and no server starts by such a name."""
    maps = {each["metadata"]["name"]: set(each["data"]) for each in of_kind(resources, "ConfigMap")}
    for found, _, pod in workloads(resources):
        for container in containers(pod):
            has = {each["name"] for each in container.get("env", [])}
            has |= {key for each in container.get("envFrom", []) for key in maps[each["configMapRef"]["name"]]}
            words = json.dumps([container.get("command", []), container.get("args", [])])
            assert set(re.findall(r"(?<!\$)\$\((\w+)\)", words)) <= has, f"{found}, {container['name']}"


def test_a_secret_s_files_are_read_by_the_pod_and_nobody_else(resources):
    """Files are root's and of the pod's fsGroup: its members read, the others do not."""
    for found, _, pod in workloads(resources):
        for volume in pod.get("volumes", []):
            if "secret" in volume:
                assert volume["secret"].get("defaultMode") == 0o440, f"{found}: {volume}"
                assert pod["securityContext"]["fsGroup"] > 0


def test_a_rollout_takes_no_gateway_away_before_another_is_ready(resources):
    for resource in of_kind(resources, "Deployment"):
        if resource["metadata"]["name"] == "gateway":
            assert resource["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}


def test_a_drain_takes_one_gateway_at_a_time_and_is_never_held_up(resources):
    """A budget that lets none go, or counts pods that are not ready, keeps a node from being drained for good."""
    for budget in of_kind(resources, "PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] >= 1 and "minAvailable" not in budget["spec"], name(budget)
        assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow", name(budget)


def test_a_stateful_set_s_pods_have_names(resources):
    services = {each["metadata"]["name"]: each["spec"] for each in of_kind(resources, "Service")}
    for each in of_kind(resources, "StatefulSet"):
        service = services[each["spec"]["serviceName"]]
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert service["clusterIP"] == "None" and matches({"matchLabels": service["selector"]}, labels), name(each)


def test_a_claim_that_several_pods_mount_is_for_many(resources):
    modes = {
        each["metadata"]["name"]: each["spec"]["accessModes"] for each in of_kind(resources, "PersistentVolumeClaim")
    }
    if resources is rendered("local"):
        assert modes["heterrec-workspace"] == ["ReadWriteOnce"], "one node: all its pods may"
        return
    mounted = [
        volume["persistentVolumeClaim"]["claimName"]
        for _, _, pod in workloads(resources)
        for volume in pod.get("volumes", [])
        if "persistentVolumeClaim" in volume
    ]
    for claim in mounted:
        assert modes[claim] == ["ReadWriteMany"], claim


def test_a_claim_of_a_volume_that_is_there_makes_none():
    """Without a class of its own it would get the cluster's default one, and so a new and empty volume."""
    for overlay in (*OVERLAYS, "runs"):
        for claim in of_kind(rendered(overlay), "PersistentVolumeClaim"):
            if "volumeName" in claim["spec"]:
                assert claim["spec"]["storageClassName"] == ""
            else:
                assert "storageClassName" not in claim["spec"], "the cluster's own default, or an overlay's to say"


def test_an_autoscaler_lets_go_more_slowly_than_a_pod_takes_to_start(resources):
    for scaler in of_kind(resources, "HorizontalPodAutoscaler"):
        down = scaler["spec"]["behavior"]["scaleDown"]
        (deployment,) = [each for each in of_kind(resources, "Deployment") if each["metadata"]["name"] == "gateway"]
        patience = max(
            each["startupProbe"]["periodSeconds"] * each["startupProbe"]["failureThreshold"]
            for each in deployment["spec"]["template"]["spec"]["containers"]
            if "startupProbe" in each
        )
        assert down["stabilizationWindowSeconds"] >= patience
        assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 120}]
        assert scaler["spec"]["minReplicas"] >= 2


def test_kserve_makes_a_deployment_and_scales_it_as_ours():
    """By its annotations: in Knative's mode a pod could go to none, and a canary would be drawn for each request."""
    (service,) = of_kind(rendered("kserve"), "InferenceService")
    (ours,) = of_kind(rendered("gpu"), "HorizontalPodAutoscaler")
    annotations = service["metadata"]["annotations"]
    assert annotations["serving.kserve.io/deploymentMode"] == "Standard"
    assert annotations["serving.kserve.io/autoscalerClass"] == "hpa"
    predictor = service["spec"]["predictor"]
    assert "canaryTrafficPercent" not in predictor
    assert predictor["scaleMetric"] == "cpu" and 2 <= predictor["minReplicas"] <= predictor["maxReplicas"]
    targets = {each["containerResource"]["target"]["averageUtilization"] for each in ours["spec"]["metrics"]}
    assert targets == {predictor["scaleTarget"]}
    for container in predictor["containers"]:
        assert "cpu" in container["resources"]["requests"], "a percentage of nothing scales nothing"


@pytest.mark.parametrize("overlay", ["production", "profile", "kserve"])
def test_alerts_and_dashboards_know_jobs_by_the_names_that_monitors_give(overlay):
    resources = rendered(overlay)
    given = {
        relabelling["replacement"]
        for monitor in of_kind(resources, "ServiceMonitor", "PodMonitor")
        for kind in ("endpoints", "podMetricsEndpoints")
        for endpoint in monitor["spec"].get(kind, [])
        for relabelling in endpoint["relabelings"]
        if relabelling["targetLabel"] == "job"
    }
    (rules,) = of_kind(resources, "PrometheusRule")
    dashboards = [each for each in of_kind(resources, "ConfigMap") if "grafana_dashboard" in str(each["metadata"])]
    asked = set(re.findall(r'\bjob=\\*"([\w-]+)', json.dumps([rules, dashboards])))
    assert asked and asked <= given
