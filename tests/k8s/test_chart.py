"""The Helm chart, rendered by helm itself: with no values of one's own it is the overlay that it was written from."""

import copy
import functools
import itertools
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime import workspace
from scripts import chart
from tests.k8s.cluster import (
    Resource,
    name,
    namespace,
    of_kind,
    rendered,
)
from tests.k8s.test_namespaces import mentions

_VENV = workspace.ROOT / ".venv" / "bin" / "helm"
HELM = shutil.which("helm") or (str(_VENV) if _VENV.is_file() else None)
pytestmark = pytest.mark.skipif(HELM is None, reason="helm is not installed (scripts/kubectl.sh; .ci/run does)")
OVERLAYS = ("production", "profile", "local")


@pytest.fixture(scope="module", params=OVERLAYS)
def written(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An overlay and the folder of its chart."""
    folder = tmp_path_factory.mktemp(request.param) / "chart"
    chart.write(folder, rendered(request.param), request.param)
    return request.param, folder


def helm(folder: Path, where: str, **values: Any) -> subprocess.CompletedProcess[str]:
    assert HELM is not None
    command = [HELM, "template", "shop", str(folder), "--namespace", where, "--values", "-"]
    return subprocess.run(command, capture_output=True, text=True, input=json.dumps(values))


def made(folder: Path, where: str, **values: Any) -> list[Resource]:
    done = helm(folder, where, **values)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.load_all(done.stdout, yaml.CSafeLoader) if each]


def without_what_helm_adds(resources: list[Resource]) -> dict[str, Resource]:
    found = {}
    for resource in copy.deepcopy(resources):
        for metadata in (resource["metadata"], resource.get("spec", {}).get("template", {}).get("metadata", {})):
            for added in ("helm.sh/resource-policy", *(f"heterrec.io/{value}" for value in chart.SETTINGS)):
                metadata.get("annotations", {}).pop(added, None)
            if metadata.get("annotations") == {}:
                del metadata["annotations"]
        found[name(resource)] = resource
    return found


def test_without_values_of_one_s_own_the_chart_is_the_overlay(written):
    overlay, folder = written
    by_helm = without_what_helm_adds(made(folder, namespace(overlay)))
    by_kustomize = without_what_helm_adds(rendered(overlay))
    assert by_helm.keys() == by_kustomize.keys()
    for each, resource in by_kustomize.items():
        assert by_helm[each] == resource, each


def leaves(values: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every value of a chart by its place."""
    if not isinstance(values, dict):
        return {path: values}
    return {place: each for name, value in values.items() for place, each in leaves(value, (*path, name)).items()}


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    first, *rest = path
    return {first: nested(tuple(rest), value) if rest else value}


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    both = {name: merged(one[name], other[name]) for name in one.keys() & other.keys()}
    return {**one, **other, **both}


def test_helm_lints_the_chart_and_every_value_arrives_somewhere(written):
    overlay, folder = written
    assert HELM is not None
    linted = subprocess.run([HELM, "lint", "--strict", str(folder)], capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout
    values = leaves(yaml.safe_load((folder / "values.yaml").read_text()))
    assert len(values) >= 10
    switches = [path for path, value in values.items() if isinstance(value, bool)]
    # Texts and numbers that nothing else of the chart has.
    told = {
        path: 4000 + n if isinstance(value, int) else f"another-{n}"
        for n, (path, value) in enumerate(values.items())
        if path not in switches
    }
    done = helm(folder, "shop", **functools.reduce(merged, itertools.starmap(nested, told.items())))
    assert done.returncode == 0, done.stderr
    assert not [path for path, value in told.items() if str(value) not in done.stdout]
    everything = len(made(folder, "shop"))
    for path in switches:
        left = len(made(folder, "shop", **nested(path, False)))
        assert left < everything or overlay == "local", f"{path}: the overlay local alone has nothing to leave out"


def test_uninstalling_keeps_every_volume(written):
    """Helm removes what it made, but for what says keep; a StatefulSet's own claims it never made."""
    _, folder = written
    claims = of_kind(made(folder, "shop"), "PersistentVolumeClaim")
    assert claims
    for claim in claims:
        assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", name(claim)


def test_in_another_namespace_no_name_of_the_overlay_s_stays(written):
    overlay, folder = written
    assert not mentions(made(folder, "elsewhere"), namespace(overlay))


def test_a_value_arrives_where_it_belongs(written):
    _, folder = written
    images = {kind: f"registry.example/heterrec-{kind}@sha256:" + 64 * "b" for kind in ("serve", "gateway", "train")}
    found = made(folder, "shop", dataset="2024", server="plain", images=images, storage={"workspace": "7Gi"})
    (settings,) = [each for each in of_kind(found, "ConfigMap") if each["metadata"]["name"].startswith("settings-")]
    assert settings["data"]["HETERREC_DATASET"] == "2024", "a text, as ConfigMaps have them"
    assert settings["data"]["HETERREC_SERVER"] == "plain"
    pods = {name(each): each["spec"]["template"] for each in of_kind(found, "Deployment")}
    told = pods["Deployment/gateway"]["metadata"]["annotations"]
    assert (told["heterrec.io/dataset"], told["heterrec.io/server"]) == ("2024", "plain"), "or it would not restart"
    of_pod = {each["name"]: each["image"] for each in pods["Deployment/gateway"]["spec"]["containers"]}
    assert of_pod == {"gateway": images["gateway"], "torchserve": images["serve"], "reconciler": images["serve"]}
    of_consumer = {each["image"] for each in pods["Deployment/consumer"]["spec"]["containers"]}
    assert of_consumer == {images["gateway"]}
    claims = {each["metadata"]["name"]: each for each in of_kind(found, "PersistentVolumeClaim")}
    workspace_claim = claims["heterrec-workspace"]
    assert workspace_claim["spec"]["resources"]["requests"]["storage"] == "7Gi"
    assert workspace_claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", (
        "uninstalling leaves the data"
    )


def test_parts_are_left_out(written):
    overlay, folder = written
    if overlay == "local":
        pytest.skip("has neither")
    found = made(folder, "shop", monitoring={"enabled": False}, featureServer={"enabled": False})
    kinds = {each["kind"] for each in found}
    assert not kinds & set(chart.MONITORING)
    assert not [each for each in found if "feature-server" in name(each) or "dashboards" in name(each)]


@pytest.mark.parametrize("values", [{"stroage": {}}, {"storage": {"redis": 5}}, {"monitoring": False}])
def test_a_misspelt_value_is_refused(written, values):
    refused = helm(written[1], "shop", **values)
    assert refused.returncode != 0
    assert next(iter(values)) in refused.stderr
