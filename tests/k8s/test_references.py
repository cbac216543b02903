"""What one resource says of another is so: selectors, ports, accounts, keys, claims, commands."""

import re
import shlex
from pathlib import Path

import pytest

from pipelines import __main__ as pipelines
from serving import __main__ as serving
from tests.k8s.cluster import (
    OVERLAYS,
    Resource,
    containers,
    matches,
    name,
    of_kind,
    rendered,
    settings,
    workloads,
)

SECRETS = {
    "database": {"rollout-url", "registry-url", "mlflow-url", "password"},
    "redis-auth": {"users.acl", "password", "address", "url"},
    "object-store": {"destination", "access-key", "secret-key", "endpoint"},
    "api-tokens": {"shops", "testers"},
}
"""What docs/operations.md has people make; nothing secret is in the manifests."""
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


@pytest.fixture(params=OVERLAYS)
def resources(request) -> list[Resource]:
    return rendered(request.param)


def _port_names(pod: Resource) -> set[str | int]:
    ports = [port for container in containers(pod) for port in container.get("ports", [])]
    return {port["name"] for port in ports} | {port["containerPort"] for port in ports}


def test_every_selector_finds_pods_that_have_its_ports(resources):
    pods = list(workloads(resources))
    for service in of_kind(resources, "Service"):
        chosen = [pod for _, labels, pod in pods if matches({"matchLabels": service["spec"]["selector"]}, labels)]
        assert len(chosen) == 1, f"{name(service)} chooses {len(chosen)} workloads"
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in _port_names(chosen[0]), f"{name(service)}: {port}"
    for budget in of_kind(resources, "PodDisruptionBudget"):
        assert any(matches(budget["spec"]["selector"], labels) for _, labels, _ in pods), name(budget)


def test_a_workload_chooses_its_own_pods_and_no_others(resources):
    for resource in of_kind(resources, "Deployment", "StatefulSet"):
        chosen = [found for found, labels, _ in workloads(resources) if matches(resource["spec"]["selector"], labels)]
        assert chosen == [name(resource)]


def test_monitors_find_a_port_to_scrape(resources):
    services = of_kind(resources, "Service")
    for monitor in of_kind(resources, "ServiceMonitor"):
        (service,) = [each for each in services if matches(monitor["spec"]["selector"], each["metadata"]["labels"])]
        named = {port["name"] for port in service["spec"]["ports"]}
        assert {each["port"] for each in monitor["spec"]["endpoints"]} <= named, name(monitor)
    for monitor in of_kind(resources, "PodMonitor"):
        (pod,) = [pod for _, labels, pod in workloads(resources) if matches(monitor["spec"]["selector"], labels)]
        assert {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]} <= _port_names(pod), name(monitor)


def test_everything_that_can_be_scraped_is(resources):
    if not of_kind(resources, "ServiceMonitor"):
        pytest.skip("no monitoring in this overlay")
    scraped = {each["metadata"]["name"] for each in of_kind(resources, "ServiceMonitor", "PodMonitor")}
    assert scraped == {"gateway", "consumer", "exporter", "torchserve"}


def test_an_autoscaler_scales_what_is_there_and_nothing_else_counts_it(resources):
    for scaler in of_kind(resources, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        (found,) = [each for each in resources if name(each) == f"{target['kind']}/{target['name']}"]
        assert "replicas" not in found["spec"], "a fixed number would undo the autoscaler at every apply"
        named = {container["name"] for container in found["spec"]["template"]["spec"]["containers"]}
        assert {metric["containerResource"]["container"] for metric in scaler["spec"]["metrics"]} <= named


def test_one_account_a_workload_and_a_token_for_none_that_need_none(resources):
    accounts = {each["metadata"]["name"]: each for each in of_kind(resources, "ServiceAccount")}
    used = [pod["serviceAccountName"] for _, _, pod in workloads(resources)]
    assert len(used) == len(set(used))
    assert set(used) | {"pipelines"} == set(accounts)
    for account in used:
        assert accounts[account]["automountServiceAccountToken"] is False
    for _, _, pod in workloads(resources):
        assert pod["automountServiceAccountToken"] is False
    for binding in of_kind(resources, "RoleBinding", "ClusterRoleBinding"):
        assert {subject["name"] for subject in binding["subjects"]} == {"pipelines"}
        wanted = f"{binding['roleRef']['kind']}/{binding['roleRef']['name']}"
        (role,) = [each for each in resources if name(each) == wanted]
        for rule in role["rules"]:
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
            if "secrets" in rule["resources"]:
                assert rule["resourceNames"] == ["mlpipeline-minio-artifact"] and rule["verbs"] == ["get"]


def test_a_run_may_read_what_kubeflow_keeps_for_it(resources):
    """What its launcher asks for in kubeflow/pipelines, backend/src/v2/objectstore/object_store.go and config.go."""
    (role,) = [each for each in of_kind(resources, "Role") if each["metadata"]["name"] == "pipelines"]
    readable = {
        (kind, which)
        for rule in role["rules"]
        for kind in rule["resources"]
        for which in rule.get("resourceNames", [])
        if "get" in rule["verbs"]
    }
    assert readable == {("configmaps", "kfp-launcher"), ("secrets", "mlpipeline-minio-artifact")}


def test_config_maps_secrets_and_claims_are_there_with_their_keys(resources):
    maps = {each["metadata"]["name"]: set(each.get("data", {})) for each in of_kind(resources, "ConfigMap")}
    claims = {each["metadata"]["name"] for each in of_kind(resources, "PersistentVolumeClaim")}
    for found, _, pod in workloads(resources):
        for container in containers(pod):
            for source in container.get("envFrom", []):
                assert source["configMapRef"]["name"] in maps, f"{found}: {source}"
            for variable in container.get("env", []):
                if key := (variable.get("valueFrom") or {}).get("configMapKeyRef"):
                    assert key["key"] in maps[key["name"]], f"{found}: {key}"
                if reference := (variable.get("valueFrom") or {}).get("secretKeyRef"):
                    assert reference["key"] in SECRETS[reference["name"]], f"{found}: {reference}"
            for mount in container["volumeMounts"]:
                (volume,) = [each for each in _volumes(resources, found, pod) if each["name"] == mount["name"]]
                if "configMap" in volume and "subPath" in mount:
                    assert mount["subPath"] in maps[volume["configMap"]["name"]]
        for volume in pod.get("volumes", []):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps, f"{found}: {volume}"
            elif "secret" in volume:
                keys = {item["key"] for item in volume["secret"].get("items", [])}
                assert keys <= SECRETS[volume["secret"]["secretName"]], f"{found}: {volume}"
            elif "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, f"{found}: {volume}"
            else:
                assert volume["emptyDir"]["sizeLimit"], f"{found}: {volume} may fill the node"


def _volumes(resources: list[Resource], found: str, pod: Resource) -> list[Resource]:
    (resource,) = [each for each in resources if name(each) == found]
    made = [{"name": each["metadata"]["name"]} for each in resource["spec"].get("volumeClaimTemplates", [])]
    return [*pod.get("volumes", []), *made]


def test_no_secret_is_in_the_manifests(resources):
    assert not of_kind(resources, "Secret")
    for found, _, pod in workloads(resources):
        for container in containers(pod):
            for variable in container.get("env", []):
                secret = re.search(r"PASSWORD|SECRET|ACCESS_KEY|_URL$|_URI$", variable["name"])
                assert not (secret and variable.get("value")), f"{found}: {variable}"


def test_operations_tell_how_each_secret_is_made():
    told = OPERATIONS.read_text()
    for secret, keys in SECRETS.items():
        assert f"create secret generic {secret}" in told, secret
        for key in keys:
            assert re.search(rf"--from-(literal|file)=\W?{re.escape(key)}=", told), f"{secret}: {key}"


def test_ports_that_are_probed_are_the_container_s_own(resources):
    for found, _, pod in workloads(resources):
        for container in containers(pod):
            named = {port["name"] for port in container.get("ports", [])}
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container.get(kind, {})
                for way in ("httpGet", "tcpSocket"):
                    if way in probe:
                        assert probe[way]["port"] in named, f"{found}, {container['name']}: {kind}"


def test_every_command_is_one_that_the_project_has(resources):
    """The very parser of the command line takes the arguments, and the ports that they name are the container's."""
    parsers = {"serving": serving._parser(), "pipelines": pipelines._parser()}
    known = settings(resources)
    seen = set()
    for found, _, pod in workloads(resources):
        for container in containers(pod):
            args = [
                re.sub(r"\$\((\w+)\)", lambda match: known.get(match[1], match[0]), word)
                for word in container.get("args", [])
            ]
            if args[:2] != ["python", "-m"]:
                continue
            options = vars(parsers[args[2]].parse_args(args[3:]))
            seen.add(f"{args[2]} {args[3]}")
            named = ("port", "metrics_port", "status_port", "operation_port")
            listening = {options[key] for key in named if options.get(key)}
            assert listening == {port["containerPort"] for port in container["ports"]}, f"{found}, {container['name']}"
    assert seen == {
        "serving gateway",
        "serving torchserve",
        "serving reconciler",
        "serving consumer",
        "pipelines exporter",
    }


def test_torchserve_is_managed_from_its_own_pod_only(resources):
    (pod,) = [pod for found, _, pod in workloads(resources) if "torchserve" in {c["name"] for c in pod["containers"]}]
    servers = {container["name"]: container for container in pod["containers"]}
    management = servers["torchserve"]["args"][servers["torchserve"]["args"].index("--management-port") + 1]
    assert f"http://127.0.0.1:{management}" in servers["reconciler"]["args"]
    assert int(management) not in _port_names(pod)
    for service in of_kind(resources, "Service"):
        for port in service["spec"]["ports"]:
            assert str(port["targetPort"]) not in (management, "8080", "inference"), name(service)


def test_who_writes_the_workspace_is_the_consumer_alone(resources):
    writers = set()
    for found, _, pod in workloads(resources):
        volumes = {each["name"] for each in pod.get("volumes", []) if "persistentVolumeClaim" in each}
        for container in containers(pod):
            for mount in container["volumeMounts"]:
                if mount["name"] in volumes & {"workspace"} and not mount.get("readOnly"):
                    writers.add(found)
    assert writers == {"Deployment/consumer"}


def test_every_command_line_of_operations_is_one_that_the_project_has(capsys):
    parsers = {"serving": serving._parser(), "pipelines": pipelines._parser()}
    lines = re.findall(r"python -m (serving|pipelines) ([^`#\n]*)", OPERATIONS.read_text())
    assert len(lines) > 20
    for module, rest in lines:
        words = shlex.split(rest.replace("--apply …", "--apply").replace("--host …", "--host http://x"))
        if words[0] == "rollout" and module == "serving" and words[1] != "status" and "--why" not in words:
            continue  # named in passing
        if words[0] in ("schedule", "submit", "list", "unschedule", "resume") and "--host" not in words:
            words += ["--host", "http://x"]
        parsers[module].parse_args(words)
