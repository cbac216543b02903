"""The cluster's file that ships fits the manifests that ship."""

import re
from typing import Any

import pytest
import yaml

from components.workspace import ROOT
from pipelines import cluster
from pipelines.packages import BUILDERS, package


@pytest.fixture(scope="module")
def facts() -> cluster.Cluster:
    return cluster.read(ROOT / "pipelines" / "production.yaml")


@pytest.fixture(scope="module")
def resources() -> list[dict[str, Any]]:
    paths = [*(ROOT / "k8s" / "base").glob("*.yaml"), *(ROOT / "k8s" / "overlays" / "gpu").glob("*.yaml")]
    return [each for path in paths for each in yaml.safe_load_all(path.read_text()) if each and "kind" in each]


def named(resources: list[dict[str, Any]], kind: str) -> set[str]:
    return {each["metadata"]["name"] for each in resources if each["kind"] == kind}


def found(value: Any, key: str) -> list[Any]:
    """Every value of `key`, at any depth."""
    if isinstance(value, list):
        return [each for part in value for each in found(part, key)]
    if not isinstance(value, dict):
        return []
    here = [value[key]] if key in value else []
    return here + [each for part in value.values() for each in found(part, key)]


def test_claim_account_and_namespace_are_there(facts, resources):
    assert facts.namespace in named(resources, "Namespace")
    assert facts.service_account in named(resources, "ServiceAccount")
    assert facts.workspace_claim in named(resources, "PersistentVolumeClaim")


def test_the_workspace_lies_where_the_servers_look_for_it(facts, resources):
    """The rollout table holds paths."""
    mounts = [each for part in found(resources, "volumeMounts") for each in part if each["name"] == "workspace"]
    assert mounts
    assert {each["mountPath"] for each in mounts} == {facts.workspace_path}
    assert {each["runAsUser"] for each in found(resources, "securityContext") if "runAsUser" in each} >= {
        facts.run_as_user
    }


def test_secrets_are_those_that_the_servers_read(facts, resources):
    read = {(each["name"], each["key"]) for each in found(resources, "secretKeyRef")}
    for secret in facts.secrets:
        if not secret.optional:
            assert {(secret.name, key) for key in secret.env} <= read, secret.name


def test_the_store_and_mlflow_are_those_of_the_servers(facts):
    text = (ROOT / "k8s" / "base" / "kustomization.yaml").read_text()
    for name, value in facts.environment.items():
        assert re.search(rf"{name}={re.escape(value)}$", text, re.MULTILINE), name


def test_network_policies_know_the_labels(facts, resources):
    chosen = [each for part in found(resources, "matchLabels") for each in part.items()]
    assert ("app.kubernetes.io/name", facts.labels["app.kubernetes.io/name"]) in chosen
    assert ("heterrec.io/uses-redis", "true") in chosen and facts.labels["heterrec.io/uses-redis"] == "true"


@pytest.mark.parametrize("kind", tuple(BUILDERS))
def test_every_pipeline_compiles_for_it(facts, kind):
    assert package(kind, facts).text.count("heterrec-workspace")
