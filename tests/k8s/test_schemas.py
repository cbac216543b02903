"""Every resource is one that a server which validates fields would take."""

import copy
import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest

from tests.k8s.cluster import (
    OVERLAYS,
    Resource,
    name,
    rendered,
    schema,
)
from tests.strict_schema import validator

PUBLISHED = Path(__file__).parent / "schemas"
KUBERNETES = "1.31"
"""The oldest release that the manifests are held against; the newest is the package's own."""


def check(resource: Resource) -> None:
    """Raise where the resource is wrong, or of a kind that nothing here describes."""
    _check(json.dumps(resource, sort_keys=True))


@functools.cache  # overlays have most resources in common
def _check(text: str) -> None:
    resource = json.loads(text)
    for version in (KUBERNETES, kubernetes_validate.latest_version()):
        try:
            kubernetes_validate.validate(resource, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            _check_custom(resource)
            return


def _check_custom(resource: Resource) -> None:
    group, _, version = resource["apiVersion"].partition("/")
    described = _custom(group, version, resource["kind"])
    assert described is not None, f"{name(resource)}: no schema describes {resource['apiVersion']}"
    described.validate(resource)


@functools.cache
def _custom(group: str, version: str, kind: str) -> Any:
    for path in PUBLISHED.glob(f"{group}_*.yaml"):
        spec = schema(path)["spec"]
        if spec["names"]["kind"] == kind:
            (found,) = [each for each in spec["versions"] if each["name"] == version]
            return validator(found["schema"]["openAPIV3Schema"])
    return None


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_server_would_take_every_resource(overlay):
    for resource in rendered(overlay):
        try:
            check(resource)
        except (kubernetes_validate.ValidationError, jsonschema.ValidationError) as error:
            pytest.fail(f"{overlay}, {name(resource)}: {error}")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_is_there_twice(overlay):
    names = [(name(each), each["metadata"].get("namespace")) for each in rendered(overlay)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Deployment", ("spec", "template", "spec", "containers", 0)),
        ("ServiceMonitor", ("spec", "endpoints", 0)),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0)),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0)),
        ("InferenceService", ("spec", "predictor", "containers", 0)),
    ],
)
def test_a_misspelt_field_is_found(kind, path):
    found = next(each for each in rendered("kserve") if each["kind"] == kind)
    resource = copy.deepcopy(found)
    place: Any = resource
    for step in path:
        place = place[step]
    place["imagePullPolicies"] = "Always"
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        check(resource)


def test_a_kind_that_nothing_describes_is_found():
    unknown = {"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "x"}}
    with pytest.raises(AssertionError, match="no schema"):
        check(unknown)
