"""No pod may do more than it needs: Pod Security "restricted" and beyond, limits, probes, images by digest."""

import re

import pytest

from tests.k8s.cluster import (
    K8S,
    OVERLAYS,
    Resource,
    containers,
    name,
    namespace,
    of_kind,
    rendered,
    schema,
    workloads,
)

UNPUBLISHED = "sha256:" + 64 * "0"


@pytest.fixture(params=OVERLAYS)
def overlay(request) -> str:
    return str(request.param)


@pytest.fixture
def resources(overlay) -> list[Resource]:
    return rendered(overlay)


def test_our_own_namespace_refuses_what_is_not_restricted():
    made = schema(K8S / "namespace.yaml")
    assert made["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("name_of", [*OVERLAYS, "runs"])
def test_no_overlay_touches_a_namespace(name_of):
    """A profile's labels open Kubeflow's network and set its Pod Security; its controller does not put them back."""
    assert not of_kind(rendered(name_of), "Namespace")


def test_everything_is_in_the_namespace(overlay, resources):
    everywhere = {"ClusterRole", "ClusterRoleBinding"}
    for resource in resources:
        inside = resource["metadata"].get("namespace") == namespace(overlay)
        assert inside != (resource["kind"] in everywhere), name(resource)


def test_pods_are_restricted(resources):
    for found, _, pod in workloads(resources):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True and context["runAsUser"] > 0 and context["fsGroup"] > 0, found
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, found
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), found
        for container in containers(pod):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, found
            assert own["readOnlyRootFilesystem"] is True, found
            assert own["capabilities"] == {"drop": ["ALL"]}, found
            assert not own.keys() - {"allowPrivilegeEscalation", "readOnlyRootFilesystem", "capabilities"}, found
            assert any(mount["mountPath"] == "/tmp" for mount in container["volumeMounts"]) or found.endswith("redis")


def test_our_images_run_as_their_own_user(resources):
    for found, _, pod in workloads(resources):
        if any("heterrec-" in container["image"] for container in containers(pod)):
            assert pod["securityContext"]["runAsUser"] == 10001, found


def test_requests_and_limits_are_given(resources):
    for found, _, pod in workloads(resources):
        for container in containers(pod):
            for kind in ("requests", "limits"):
                assert {"cpu", "memory"} <= container["resources"][kind].keys(), f"{found}, {container['name']}"


def test_servers_are_probed(resources):
    for found, _, pod in workloads(resources):
        for container in pod["containers"]:
            assert {"readinessProbe", "livenessProbe"} <= container.keys(), f"{found}, {container['name']}"
            ready, alive = container["readinessProbe"], container["livenessProbe"]
            patience = alive.get("failureThreshold", 3) * alive.get("periodSeconds", 10)
            hurry = ready.get("failureThreshold", 3) * ready.get("periodSeconds", 10)
            assert patience > hurry, f"{found}, {container['name']}: restarted before it is taken out of traffic"


def test_images_are_pinned(overlay, resources):
    for found, _, pod in workloads(resources):
        for container in containers(pod):
            image = container["image"]
            # Images that were loaded into a node by hand have no digest of a registry.
            by_hand = overlay == "local" and image.startswith("localhost/heterrec-")
            pinned = re.fullmatch(r"[\w.-]+(/[\w.-]+)+@sha256:[0-9a-f]{64}", image)
            assert pinned or (by_hand and re.search(r":\d+\.\d+\.\d+$", image)), f"{found}: {image}"
            assert UNPUBLISHED not in image or "heterrec-" in image, f"{found}: {image}"
            assert ":latest" not in image


def test_a_lost_zone_or_one_of_gpu_nodes_does_not_keep_gateways_from_being_placed(resources):
    for found, _, pod in workloads(resources):
        for spread in pod.get("topologySpreadConstraints", []):
            # By default such a zone counts as an empty one, and the others may have one pod each.
            assert spread["nodeTaintsPolicy"] == "Honor", found
            # Those that a rollout replaces would count, and where no more fit in a zone it would stand for good.
            assert spread["matchLabelKeys"] == ["pod-template-hash"], found


def test_what_must_not_run_beside_its_successor_ends_first(resources):
    strategies = {each["metadata"]["name"]: each["spec"].get("strategy") for each in of_kind(resources, "Deployment")}
    assert strategies["consumer"] == strategies["mlflow"] == {"type": "Recreate"}


def test_local_fits_a_small_node():
    cpu = memory = 0.0
    for _, _, pod in workloads(rendered("local")):
        for container in containers(pod):
            asked = container["resources"]["requests"]
            cpu += _number(asked["cpu"])
            memory += _number(asked["memory"])
    assert cpu <= 2 and memory <= 6 * 2**30, f"{cpu} cores, {memory / 2**30:.1f} GiB"


def _number(quantity: str) -> float:
    units = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "": 1}
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", str(quantity)).groups()
    return float(number) * units[unit]


def test_redis_keeps_what_it_acknowledged(resources):
    maps = [each for each in of_kind(resources, "ConfigMap") if each["metadata"]["name"].startswith("redis-")]
    (config,) = [dict(line.split(maxsplit=1) for line in _lines(each["data"]["redis.conf"])) for each in maps]
    assert (config["appendonly"], config["appendfsync"]) == ("yes", "always")
    assert config["maxmemory-policy"] == "noeviction"
    (redis,) = [each for each in of_kind(resources, "StatefulSet") if each["metadata"]["name"] == "redis"]
    limit = redis["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]
    most = re.fullmatch(r"(\d+)(mb|gb)", config["maxmemory"]).groups()
    kept = int(most[0]) * {"mb": 2**20, "gb": 2**30}[most[1]]
    assert kept <= 0.8 * _number(limit), "rewriting the append-only file needs memory besides"
    assert redis["spec"]["volumeClaimTemplates"]


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]
