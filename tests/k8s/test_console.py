"""The console on a cluster: read-only, reached by a login proxy's namespace alone, and as restricted as all others."""

from dataclasses import replace

import pytest

from console import __main__ as console
from tests.k8s import test_network, test_policy
from tests.k8s.cluster import (
    Resource,
    composed,
    containers,
    of_kind,
    workloads,
)

OVERLAY = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [{k8s}/overlays/production]
components: [{k8s}/components/console, {k8s}/components/images]
"""
LOGIN = test_network.Pod("login", "login", namespace_labels={"heterrec.io/asks-console": "true"})


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory) -> list[Resource]:
    return composed(tmp_path_factory.mktemp("console") / "overlay", OVERLAY)


def test_it_holds_what_all_pods_hold(resources):
    test_policy.test_pods_are_restricted(resources)
    test_policy.test_our_images_run_as_their_own_user(resources)
    test_policy.test_requests_and_limits_are_given(resources)
    test_policy.test_servers_are_probed(resources)
    test_policy.test_images_are_pinned("production", resources)


def test_it_changes_nothing_and_answers_its_probes(resources):
    (pod,) = [pod for found, _, pod in workloads(resources) if found == "Deployment/console"]
    (container,) = containers(pod)
    options = console._parser().parse_args(container["args"][3:])
    assert not options.allow_changes and options.port == container["ports"][0]["containerPort"]
    claims = [each for each in container["volumeMounts"] if each["name"] == "workspace"]
    assert claims and all(each["readOnly"] for each in claims)
    settings = console._settings(options)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        (header,) = container[probe]["httpGet"]["httpHeaders"]
        assert header["name"] == "Host" and header["value"] in settings.hosts


def test_it_is_reached_by_the_login_proxy_alone_and_reaches_what_it_reads(resources):
    policies = of_kind(resources, "NetworkPolicy")
    pods = [*test_network._pods(resources, "heterrec"), LOGIN]
    (mine,) = [pod for pod in pods if pod.name == "console"]
    asking = {pod.name for pod in pods if pod != mine and test_network.reaches(pod, mine, "http", policies)}
    assert asking == {"login"}
    (prometheus,) = [pod for pod in pods if pod.name == "prometheus"]
    assert test_network.reaches(mine, prometheus, "web", policies)
    (mlflow,) = [pod for pod in pods if pod.name == "mlflow"]
    assert test_network.reaches(mine, mlflow, "http", policies)
    (redis,) = [pod for pod in pods if pod.name == "redis"]
    assert test_network.reaches(mine, redis, "redis", policies)
    stranger = replace(prometheus, labels={"app.kubernetes.io/name": "grafana"})
    assert not test_network.reaches(mine, stranger, "web", policies)
