"""An overlay in any namespace, a Kubeflow profile included, is whole: no name of another one stays in it."""

import json
import re

import pytest

from tests.k8s.cluster import (
    K8S,
    OVERLAYS,
    Resource,
    composed,
    containers,
    name,
    namespace,
    of_kind,
    rendered,
    schema,
    workloads,
)
from tests.k8s.test_network import SCRAPED
from tests.k8s.test_schemas import check

IN_MESH = "resources: ['{k8s}/overlays/profile']\ncomponents: ['{k8s}/components/mesh']\n" + (
    "namespace: shop-recommendations\n"
)
REPLACEMENTS = (K8S / "overlays/profile/kustomization.yaml").read_text().partition("replacements:")[2]


def mentions(resources: list[Resource], where: str) -> list[str]:
    """Where a text speaks of `where` as a namespace: as one, in a selector of metrics, in a host's name or a job's."""
    as_namespace = re.compile(
        rf'"namespace": "{where}"|namespace=~?\\"{where}\\"|[\w-]\.{where}\b(?!\.io)|"{where}/|ns/{where}/'
    )
    return [name(each) for each in resources if as_namespace.search(json.dumps(each))]


@pytest.mark.parametrize("overlay", [each for each in OVERLAYS if each not in ("profile", "kserve")])
def test_in_another_namespace_the_old_name_is_nowhere(overlay, tmp_path):
    text = f"namespace: elsewhere\nresources: ['{{k8s}}/overlays/{overlay}']\n"
    if overlay != "local":  # which has no monitoring
        text += "replacements:" + REPLACEMENTS
    moved = composed(tmp_path / "moved", text)
    assert mentions(rendered(overlay), "heterrec"), "the judge of this test would see it"
    assert not mentions(moved, "heterrec")
    assert len(moved) == len(rendered(overlay))


def test_a_profile_s_overlay_speaks_of_the_profile_only():
    assert not mentions(rendered("profile"), "heterrec")
    assert {each["metadata"]["namespace"] for each in rendered("runs")} == {namespace("runs")}
    (rules,) = of_kind(rendered("profile"), "PrometheusRule")
    (install,) = [rule for group in rules["spec"]["groups"] for rule in group["rules"] if "record" in rule]
    assert install["labels"] == {"namespace": namespace("profile")}


def test_in_a_profile_no_pod_of_ours_is_taken_into_the_mesh():
    """By the labels that Istio documents for a pod, which come before the namespace's, in both of its modes."""
    for found, labels, _ in workloads(rendered("profile")):
        assert labels["sidecar.istio.io/inject"] == "false", found
        assert labels["istio.io/dataplane-mode"] == "none", found
    for service in of_kind(rendered("profile"), "Service"):
        assert service["metadata"]["labels"]["istio.io/use-waypoint"] == "none", name(service)


def test_the_gateway_alone_joins_the_mesh_where_that_is_wanted(tmp_path):
    made = composed(tmp_path / "meshed", IN_MESH)
    joined = {found for found, labels, _ in workloads(made) if labels["sidecar.istio.io/inject"] == "true"}
    assert joined == {"Deployment/gateway"}
    (policy,) = of_kind(made, "AuthorizationPolicy")
    check(policy)
    (labels, pod) = next((labels, pod) for found, labels, pod in workloads(made) if found in joined)
    assert policy["spec"]["selector"]["matchLabels"].items() <= labels.items()
    ports = {str(port["containerPort"]) for each in containers(pod) for port in each["ports"]}
    for rule in policy["spec"]["rules"]:
        for to in rule["to"]:
            # Istio compares ports of the pod, not of its Service.
            assert set(to["operation"]["ports"]) <= ports
        assert "from" in rule or rule["to"][0]["operation"]["paths"] == ["/metrics"], "anybody may ask"
    # Prometheus reaches what it scrapes, and shops the Service's port, by the rules for ports of the pod.
    lets = {
        caller: {
            port
            for rule in policy["spec"]["rules"]
            if asks(rule, caller)
            for port in rule["to"][0]["operation"]["ports"]
        }
        for caller in ("shop", "monitoring")
    }
    assert lets == {"shop": {"8000"}, "monitoring": {str(port) for pod, port in SCRAPED if pod == "gateway"}}
    (network,) = [each for each in of_kind(made, "NetworkPolicy") if each["metadata"]["name"] == "gateway-in-mesh"]
    assert {port["port"] for rule in network["spec"]["egress"] for port in rule["ports"]} == {15012}


def asks(rule: Resource, caller: str) -> bool:
    """Whether a rule names the namespace of a caller."""
    return any(caller in each["source"]["namespaces"] for each in rule.get("from", []))


def test_what_a_profile_gets_beside_servers_elsewhere_is_the_base_s_own():
    of_runs = {name(each): each for each in rendered("runs")}
    assert of_runs.keys() == {
        "ServiceAccount/pipelines",
        "Role/pipelines",
        "RoleBinding/pipelines",
        "PersistentVolumeClaim/heterrec-workspace",
    }
    for each in rendered("production"):
        if name(each) == "Role/pipelines":
            assert each["rules"] == of_runs["Role/pipelines"]["rules"]


def test_a_namespace_of_our_own_is_applied_by_itself():
    assert (K8S / "namespace.yaml").is_file()
    for path in K8S.rglob("kustomization.yaml"):
        assert not [each for each in schema(path).get("resources", []) if each.endswith("namespace.yaml")], path


def test_a_pull_secret_is_given_to_every_account(tmp_path):
    made = composed(
        tmp_path / "pulls", "resources: ['{k8s}/overlays/production']\ncomponents: ['{k8s}/components/pull-secret']\n"
    )
    accounts = of_kind(made, "ServiceAccount")
    assert len(accounts) > 5
    assert all(each["imagePullSecrets"] == [{"name": "registry"}] for each in accounts)
