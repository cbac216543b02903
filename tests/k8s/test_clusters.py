"""The pipelines' side of an overlay agrees with the overlay: the same claim, account, secrets, labels and paths."""

import pytest

from pipelines import cluster
from tests.k8s.cluster import K8S, of_kind, rendered, settings
from tests.k8s.test_network import RUN_LABELS
from tests.k8s.test_references import SECRETS

FACTS = {overlay: K8S / "overlays" / overlay / "cluster.yaml" for overlay in ("local", "production", "gpu")}


@pytest.mark.parametrize("overlay", FACTS)
def test_runs_find_what_the_overlay_has(overlay, monkeypatch):
    for name in ("HETERREC_CLUSTER", "HETERREC_TRAIN_IMAGE", "HETERREC_SERVE_IMAGE"):
        monkeypatch.delenv(name, raising=False)
    facts, resources = cluster.read(FACTS[overlay]), rendered(overlay)
    served = settings(resources)
    assert facts.namespace == "heterrec"
    assert facts.workspace_path == served["HETERREC_HOME"]
    assert facts.workspace_claim in {each["metadata"]["name"] for each in of_kind(resources, "PersistentVolumeClaim")}
    assert facts.service_account in {each["metadata"]["name"] for each in of_kind(resources, "ServiceAccount")}
    assert facts.run_as_user == 10001
    for name in ("HETERREC_FEATURE_STORE", "MLFLOW_TRACKING_URI"):
        assert facts.environment[name] == served[name]
    for secret in facts.secrets:
        if not secret.optional:
            assert set(secret.env) <= SECRETS[secret.name]


@pytest.mark.parametrize("overlay", FACTS)
def test_runs_carry_the_labels_that_open_their_paths(overlay):
    assert RUN_LABELS.items() <= cluster.read(FACTS[overlay]).labels.items()


def test_training_waits_for_gpus_within_the_quota():
    (quota,) = of_kind(rendered("gpu"), "ResourceQuota")
    training = cluster.read(FACTS["gpu"]).training
    assert 0 < training.gpus <= int(quota["spec"]["hard"][f"requests.{training.gpu}"])
