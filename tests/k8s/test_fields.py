"""docs/fields.md names every field of the manifests that another system interprets, and what holds it."""

import pytest

from tests.field_table import (
    amiss,
    not_there,
    paths,
    rows,
    written,
)
from tests.k8s.cluster import (
    K8S,
    OVERLAYS,
    Resource,
    composed,
    rendered,
    schema,
)

TABLE = rows("Of the manifests")
ADDED = """
namespace: shop-recommendations
resources: ['{k8s}/overlays/profile']
components:
  - '{k8s}/components/console'
  - '{k8s}/components/mesh'
  - '{k8s}/components/runs-elsewhere'
  - '{k8s}/components/pull-secret'
"""
OURS = ("heterrec.io/", "heterrec/", "app.kubernetes.io/")


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[Resource]:
    made = composed(tmp_path_factory.mktemp("all") / "overlay", ADDED)
    return [*made, *(each for overlay in (*OVERLAYS, "runs") for each in rendered(overlay))]


def field(kind: str, path: str) -> str:
    """The name that the table has: a pod's fields are the same wherever it is made."""
    for template in ("spec.template.spec.", "spec.template.", "spec.predictor."):
        if path.startswith(template):
            return f"pod.{path.removeprefix(template)}"
    # These stand at the top of their resources.
    return f"{kind}.{path}"


def keys(resource: Resource) -> set[str]:
    """Keys of labels and annotations, of the resource and of its pods, that are not this project's."""
    spec = resource.get("spec", {})
    places = [resource["metadata"], spec.get("template", {}).get("metadata", {}), spec.get("predictor", {})]
    return {
        f"{kind.removesuffix('s')} {key}"
        for place in places
        for kind in ("labels", "annotations")
        for key in place.get(kind, {})
        if not key.startswith(OURS)
    }


def test_every_field_of_the_manifests_has_a_row_and_every_row_a_field(everything):
    found = {field(each["kind"], path) for each in everything for path in paths(each)}
    found |= {key for each in everything for key in keys(each)}
    without, needless = amiss(TABLE, found)
    assert not without, f"fields that docs/fields.md does not have: {sorted(without)}"
    assert not needless, f"rows of docs/fields.md that no field needs: {sorted(needless)}"


def test_every_key_that_is_somebody_else_s_has_a_row():
    """Whatever reads it: the rows are found by the test above, and the namespace's keys are Pod Security's alone."""
    namespace = keys(schema(K8S / "namespace.yaml"))
    assert namespace and all(key.startswith("label pod-security.kubernetes.io/") for key in namespace)
    planted = {"metadata": {"labels": {"istio.io/rev": "x", "heterrec.io/runs": "true"}, "annotations": {"a/b": "c"}}}
    assert keys(planted) == {"label istio.io/rev", "annotation a/b"}


def test_every_row_is_held_by_tests_that_are_there():
    assert len(TABLE) > 45
    assert all(row.tests and row.patterns for row in TABLE)
    assert not not_there(TABLE, written())


def test_a_field_without_a_row_is_found():
    found = {field("Deployment", path) for path in paths({"spec": {"template": {"spec": {"hostNetwork": True}}}})}
    assert amiss(TABLE, found)[0] == {"pod.hostNetwork"}
