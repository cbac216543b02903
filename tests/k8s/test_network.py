"""Who reaches which port, by the rules of NetworkPolicy: the needed paths, and nothing besides."""

from dataclasses import dataclass, field, replace

import pytest

from tests.k8s.cluster import (
    OVERLAYS,
    Resource,
    composed,
    containers,
    matches,
    namespace,
    of_kind,
    rendered,
    workloads,
)

RUN_LABELS = {
    "app.kubernetes.io/part-of": "heterrec",
    "app.kubernetes.io/name": "pipelines",
    "heterrec.io/uses-database": "true",
    "heterrec.io/uses-redis": "true",
}
"""What the cluster files give the pods of runs, which Kubeflow makes (see test_clusters.py)."""
OF_KUBEFLOW = {"pipelines.kubeflow.org/v2_component": "true"}
"""On every pod of a run, drivers included: kubeflow/pipelines, backend/src/v2/compiler/argocompiler/argo.go."""
HERE = "heterrec"
UNNAMED = {"management": 8081, "status": 8083}
"""Ports that something listens on, besides those that the containers name."""


@dataclass(frozen=True)
class Pod:
    name: str
    namespace: str
    labels: dict[str, str] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    namespace_labels: dict[str, str] = field(default_factory=dict)

    @property
    def where(self) -> dict[str, str]:
        return {"kubernetes.io/metadata.name": self.namespace, **self.namespace_labels}


OTHERS = [
    Pod("runs", HERE, RUN_LABELS | OF_KUBEFLOW),
    Pod("driver", HERE, OF_KUBEFLOW),
    Pod("unlabelled", HERE, ports={"http": 8000}),
    Pod("artifact-proxy", HERE, {"app": "ml-pipeline-ui-artifact"}, {"http": 3000}),
    Pod("shop", "shop", namespace_labels={"heterrec.io/asks-gateway": "true"}),
    Pod("stranger", "elsewhere", RUN_LABELS, {"http": 8000}),
    Pod("prometheus", "monitoring", {"app.kubernetes.io/name": "prometheus"}, {"web": 9090}),
    Pod("grafana", "monitoring", {"app.kubernetes.io/name": "grafana"}, {"web": 3000}),
    Pod("analyst", "analytics", namespace_labels={"heterrec.io/asks-features": "true"}),
    Pod("dns", "kube-system", {"k8s-app": "kube-dns"}, {"dns": 53}),
    Pod("kubeflow-api", "kubeflow", {"app": "ml-pipeline"}, {"http": 8888, "grpc": 8887}),
    Pod("kubeflow-metadata", "kubeflow", {"app": "metadata-grpc-server"}, {"grpc": 8080}),
    Pod("kubeflow-ui", "kubeflow", {"app": "ml-pipeline-ui"}, {"http": 3000}),
    Pod("openshift-dns", "openshift-dns", {"dns.operator.openshift.io/daemonset-dns": "default"}, {"dns": 5353}),
    Pod("kubeflow-files", "kubeflow", {"app": "seaweedfs"}, {"s3": 8333}),
]
TO_DATABASE = {"gateway", "consumer", "mlflow", "exporter", "runs"}
TO_REDIS = {"gateway", "consumer", "runs"}
SCRAPED = {("gateway", 8001), ("gateway", 8082), ("consumer", 9200), ("exporter", 9300)}


def _pods(resources: list[Resource], where: str) -> list[Pod]:
    made = []
    for _, labels, pod in workloads(resources):
        ports = {port["name"]: port["containerPort"] for each in containers(pod) for port in each.get("ports", [])}
        made.append(Pod(labels["app.kubernetes.io/name"], where, labels, {**UNNAMED, **ports}))
    return [*made, *(replace(each, namespace=where) if each.namespace == HERE else each for each in OTHERS)]


def _ours(pod: Pod, where: str) -> bool:
    """Whose network is ours to say: in a profile our own pods', elsewhere those of the whole namespace."""
    return pod.namespace == where and (where == HERE or pod.labels.get("app.kubernetes.io/part-of") == "heterrec")


def reaches(source: Pod, target: Pod, port: str, policies: list[Resource]) -> bool:
    return _lets("Egress", source, target, target, port, policies) and _lets(
        "Ingress", target, source, target, port, policies
    )


def _lets(direction: str, subject: Pod, peer: Pod, target: Pod, port: str, policies: list[Resource]) -> bool:
    """Whether the policies that choose `subject` let it speak with `peer`; without any it may."""
    mine = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == subject.namespace
        and direction in policy["spec"]["policyTypes"]
        and matches(policy["spec"]["podSelector"], subject.labels)
    ]
    rules = [rule for spec in mine for rule in spec.get(direction.lower(), [])]
    peers = {"Egress": "to", "Ingress": "from"}[direction]
    return not mine or any(
        (peers not in rule or any(_is(each, peer, subject) for each in rule[peers]))
        and ("ports" not in rule or any(_port(each["port"], target, port) for each in rule["ports"]))
        for rule in rules
    )


def _is(selector: Resource, peer: Pod, subject: Pod) -> bool:
    if "ipBlock" in selector:
        return False  # addresses outside of the cluster; no pod is meant by one
    there = (
        matches(selector["namespaceSelector"], peer.where)
        if "namespaceSelector" in selector
        else (peer.namespace == subject.namespace)
    )
    return there and matches(selector.get("podSelector", {}), peer.labels)


def _port(wanted: str | int, target: Pod, port: str) -> bool:
    return wanted == port or wanted == target.ports[port]


def _expected(overlay: str) -> set[tuple[str, str, int]]:
    here = {"gateway", "consumer", "mlflow", "exporter", "redis", "runs"}
    if overlay != "profile":
        here |= {"driver", "unlabelled", "artifact-proxy"}
    database, redis = set(TO_DATABASE), set(TO_REDIS)
    paths = {("prometheus", name, port) for name, port in SCRAPED} | {("shop", "gateway", 8000)}
    paths |= {
        (pod.name, other.name, port)
        for pod in OTHERS
        if OF_KUBEFLOW.items() <= pod.labels.items() and pod.name in here
        for other in OTHERS
        if other.namespace == "kubeflow" and other.name != "kubeflow-ui"
        for port in other.ports.values()
    } | {("runs", "mlflow", 5000)}
    if overlay in ("production", "gpu", "profile"):
        here.add("feature-server")
        redis.add("feature-server")
        paths.add(("analyst", "feature-server", 6566))
    if overlay == "local":
        here.add("postgres")
        paths |= {(name, "postgres", 5432) for name in database}
    return (
        paths
        | {(name, "redis", 6379) for name in redis}
        | {(name, server, port) for name in here for server, port in (("dns", 53), ("openshift-dns", 5353))}
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_needed_paths_are_open(overlay):
    resources = rendered(overlay)
    policies = of_kind(resources, "NetworkPolicy")
    where = namespace(overlay)
    pods = _pods(resources, where)
    found = {
        (source.name, target.name, target.ports[port])
        for source in pods
        for target in pods
        for port in target.ports
        if source != target and (_ours(source, where) or _ours(target, where))
        if reaches(source, target, port, policies)
    }
    assert found == _expected(overlay)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_lies_outside_is_reached_by_who_needs_it(overlay):
    """By address, and each address on one port only."""
    policies = of_kind(rendered(overlay), "NetworkPolicy")
    outside = {
        (policy["metadata"]["name"], rule["ports"][0]["port"])
        for policy in policies
        for rule in policy["spec"].get("egress", [])
        if policy["metadata"]["name"] != "everything-to-dns"  # a node's own cache, by its one address
        if any("ipBlock" in each for each in rule.get("to", []))
    }
    expected = {("database-from-users", 5432), ("object-store-from-users", 443)}
    assert outside == (set() if overlay == "local" else expected)
    unbounded = [
        policy["metadata"]["name"]
        for policy in policies
        for rule in policy["spec"].get("egress", [])
        if "to" not in rule
    ]
    assert unbounded == ["runs-to-kubeflow"], "the API server is no pod"


def test_in_a_profile_nobody_else_is_held_back():
    """Notebooks, other people's runs and Kubeflow's artifact proxy, which the UI asks for every page."""
    policies = of_kind(rendered("profile"), "NetworkPolicy")
    where = namespace("profile")
    others = [pod for pod in _pods([], where) if not _ours(pod, where)]
    for source in others:
        for target in others:
            for port in target.ports:
                assert reaches(source, target, port, policies), f"{source.name} -> {target.name}"


def test_runs_in_a_profile_reach_the_servers_in_a_namespace_of_their_own(tmp_path):
    servers = composed(
        tmp_path / "servers",
        "resources: ['{k8s}/overlays/production']\ncomponents: ['{k8s}/components/runs-elsewhere']\n",
    )
    policies = of_kind([*servers, *rendered("runs")], "NetworkPolicy")
    profile = Pod("profile", "shop-recommendations", RUN_LABELS, namespace_labels={"heterrec.io/runs": "true"})
    notebook = replace(profile, name="notebook", labels={})
    stranger = replace(profile, name="stranger", namespace="elsewhere", namespace_labels={})
    pods = {pod.name: pod for pod in _pods(servers, HERE)}
    for server, port in (("redis", "redis"), ("mlflow", "http")):
        assert reaches(profile, pods[server], port, policies)
        for other in (notebook, stranger):
            assert not reaches(other, pods[server], port, policies)
    assert not reaches(profile, pods["gateway"], "http", policies)


def test_training_pods_speak_with_each_other_and_nobody_else_does():
    policies = of_kind(rendered("gpu"), "NetworkPolicy")
    labels = {"jobset.sigs.k8s.io/jobset-name": "train"}
    first, second = (Pod(name, "heterrec", labels, {"rendezvous": 29500}) for name in ("first", "second"))
    assert reaches(first, second, "rendezvous", policies)
    for other in (*OTHERS, Pod("stranger", "elsewhere", labels)):
        assert not reaches(other, first, "rendezvous", policies), other.name


def test_without_a_policy_everything_is_open():
    """The judge of this file says so, or its denials would mean nothing."""
    one, other = Pod("one", "heterrec"), Pod("other", "heterrec", ports={"http": 80})
    assert reaches(one, other, "http", [])
    deny = {
        "metadata": {"namespace": "heterrec"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    assert not reaches(one, other, "http", [deny])
