"""The pipelines' side of an overlay agrees with the overlay: the same claim, account, secrets, labels and paths."""

import pytest

from pipelines import cluster
from runtime import object_store
from tests.k8s.cluster import (
    K8S,
    namespace,
    of_kind,
    rendered,
    settings,
    workloads,
)
from tests.k8s.test_network import RUN_LABELS
from tests.k8s.test_references import SECRETS

FACTS = {overlay: K8S / "overlays" / overlay / "cluster.yaml" for overlay in ("local", "production", "gpu", "profile")}


@pytest.mark.parametrize("overlay", FACTS)
def test_runs_find_what_the_overlay_has(overlay, monkeypatch):
    for name in ("HETERREC_CLUSTER", "HETERREC_TRAIN_IMAGE", "HETERREC_SERVE_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    facts, resources = cluster.read(FACTS[overlay]), rendered(overlay)
    served = settings(resources)
    assert facts.namespace == namespace(overlay)
    assert facts.workspace_path == served["HETERREC_HOME"]
    assert facts.workspace_claim in {each["metadata"]["name"] for each in of_kind(resources, "PersistentVolumeClaim")}
    assert facts.service_account in {each["metadata"]["name"] for each in of_kind(resources, "ServiceAccount")}
    assert facts.run_as_user == 10001
    for name in ("HETERREC_FEATURE_STORE", "MLFLOW_TRACKING_URI"):
        assert facts.environment[name] == served[name]
    for secret in facts.secrets:
        if not secret.optional:
            assert set(secret.env) <= SECRETS[secret.name]


@pytest.mark.parametrize("overlay", [*FACTS, "kserve"])
def test_where_runs_release_to_is_where_gateways_read(overlay):
    """From a bucket, which they may reach, into a folder of their own; or from the claim, which they only read."""
    facts = cluster.read(FACTS.get(overlay, FACTS["production"]))
    (found,) = [
        (labels, pod)
        for what, labels, pod in workloads(rendered(overlay))
        if what.endswith(("/gateway", "/recommender"))
    ]
    labels, pod = found
    (workspace,) = [volume for volume in pod["volumes"] if volume["name"] == "workspace"]
    for container in pod["containers"]:
        if container["name"] == "torchserve":
            continue  # loads what the reconciler gives it
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == "workspace"]
        variables = {each["name"] for each in container["env"]}
        assert mount["mountPath"] == facts.workspace_path
        assert mount.get("readOnly", False) == (not facts.store)
        assert ({object_store.ENDPOINT, object_store.KEY, object_store.SECRET} <= variables) == bool(facts.store)
    assert ("emptyDir" in workspace) == bool(facts.store) == ("persistentVolumeClaim" not in workspace)
    assert ("heterrec.io/uses-object-store" in labels) == bool(facts.store)


@pytest.mark.parametrize("overlay", [*FACTS, "runs"])
def test_runs_are_in_the_very_images_of_the_servers(overlay, monkeypatch):
    for name in ("HETERREC_TRAIN_IMAGE", "HETERREC_SERVE_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    facts = cluster.read(K8S / "overlays" / overlay / "cluster.yaml")
    servers = rendered("production" if overlay == "runs" else overlay)
    images = {
        each["image"] for _, _, pod in workloads(servers) for each in pod["containers"] if "heterrec-" in each["image"]
    }
    # No task of a run is in the image of gateway and consumer.
    assert {each for each in images if "heterrec-gateway" not in each} == {facts.train_image, facts.serve_image}


@pytest.mark.parametrize("overlay", FACTS)
def test_runs_carry_the_labels_that_open_their_paths(overlay):
    assert RUN_LABELS.items() <= cluster.read(FACTS[overlay]).labels.items()


def test_training_waits_for_gpus_within_the_quota():
    (quota,) = of_kind(rendered("gpu"), "ResourceQuota")
    training = cluster.read(FACTS["gpu"]).training
    assert 0 < training.gpus <= int(quota["spec"]["hard"][f"requests.{training.gpu}"])
