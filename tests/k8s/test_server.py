"""One setting of an overlay puts the plain server in TorchServe's place, and everything beside it follows."""

from pathlib import Path

import pytest

from serving import __main__ as serving
from serving.run_torchserve import _server, _tokens
from tests.k8s.cluster import (
    OVERLAYS,
    Resource,
    composed,
    of_kind,
    rendered,
    settings,
    workloads,
)

PLAIN = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [{k8s}/overlays/%s]
configMapGenerator:
  - {name: settings, namespace: heterrec, behavior: merge, literals: [HETERREC_SERVER=plain]}
"""


def containers_of(resources: list[Resource]) -> dict[str, Resource]:
    """Of the gateway's pod, by name."""
    (pod,) = [pod for what, _, pod in workloads(resources) if what.endswith(("/gateway", "/recommender"))]
    return {each["name"]: each for each in pod["containers"]}


def chosen(resources: list[Resource], container: Resource) -> str:
    """What HETERREC_SERVER is in a container of the pod: a key, or all, of the settings as they are called there."""
    (name,) = [
        each["metadata"]["name"] for each in of_kind(resources, "ConfigMap") if "HETERREC_SERVER" in each["data"]
    ]
    keys = [each["valueFrom"]["configMapKeyRef"] for each in container["env"] if each["name"] == "HETERREC_SERVER"]
    assert (
        keys == [{"name": name, "key": "HETERREC_SERVER"}] or {"configMapRef": {"name": name}} in container["envFrom"]
    )
    return settings(resources)["HETERREC_SERVER"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_runs_torchserve(overlay: str) -> None:
    found = containers_of(resources := rendered(overlay))
    assert {chosen(resources, found[name]) for name in ("torchserve", "reconciler")} == {"torchserve"}


@pytest.mark.parametrize("overlay", ["production", "kserve"])
def test_one_setting_of_an_overlay_of_ones_own_runs_the_plain_server(
    overlay: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = containers_of(resources := composed(tmp_path / "overlay", PLAIN % overlay))
    for name in ("torchserve", "reconciler"):
        monkeypatch.setenv("HETERREC_SERVER", chosen(resources, found[name]))
        options = serving._parser().parse_args(found[name]["args"][3:])
        assert _server(options).__name__ == "PlainServer" and not _tokens(options), "which asks for no key"
    # Its only port beyond loopback, where the kubelet looks.
    probes = [found["torchserve"][f"{kind}Probe"]["tcpSocket"]["port"] for kind in ("startup", "liveness", "readiness")]
    assert set(probes) == {"ts-metrics"}
