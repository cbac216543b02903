"""A cluster's facts: bad ones are told with file and field, and those that ship compile to what their cluster has."""

import pytest
import yaml

from pipelines import __main__ as command_line
from pipelines import cluster
from pipelines.packages import BUILDERS, package
from runtime.errors import InputError
from runtime.workspace import ROOT
from tests.pipeline.test_compile import containers


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gpus: 4", "gpus: Unexpected keyword argument, found 4"),
        ("training: {gpus: many}", "training.gpus: Input should be a valid integer"),
        ("secrets: [{name: x}]", "say how it is used"),
        ("environment: {MY_SECRET_ACCESS_KEY: x}", "looks like a secret"),
        ("environment: {AWS_ENDPOINT_URL: 'http://s3'}", "would also be read by Kubeflow's launcher"),
        ("secrets: [{name: s3, env: {key: AWS_ACCESS_KEY_ID}}]", "Name it HETERREC_S3_ENDPOINT"),
        ("secrets: [{name: s3, env: {key: MINIO_ACCESS_KEY}}]", "would also be read by Kubeflow's launcher"),
        ("deadlines: {rollout: 0}", "expected seconds above 0"),
        ("{deadlines: {training: 3600}, training: {timeout_seconds: 7200}}", "before one attempt of training"),
        ("{workspace_claim: '', store: ''}", "would share nothing"),
        ("image_pull_policy: Sometimes", "Input should be 'IfNotPresent', 'Always' or 'Never'"),
        ("- a", "found list, expected a mapping"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_bad_facts_are_told_with_file_and_field(tmp_path, text, told):
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"cluster\.yaml") as error:
        cluster.read(path)
    assert told in str(error.value)


@pytest.mark.parametrize("kubernetes", [False, True])
def test_the_command_writes_every_pipeline_beside_the_first(tmp_path, kubernetes):
    arguments = ["compile", "--output", str(tmp_path / "out" / "training.yaml"), *(["--kubernetes"] * kubernetes)]
    assert command_line.main(arguments) == 0
    for kind in BUILDERS:
        first, *_ = yaml.safe_load_all((tmp_path / "out" / f"{kind}.yaml").read_text())
        assert first.get("kind") == ("Pipeline" if kubernetes else None)


@pytest.mark.parametrize(("overlay", "gpu"), [("local", ""), ("production", ""), ("gpu", "nvidia.com/gpu")])
def test_the_clusters_that_ship_train_on_a_gpu_only_where_they_have_one(overlay, gpu):
    facts = cluster.read(ROOT / "k8s" / "overlays" / overlay / "cluster.yaml")
    spec, _ = yaml.safe_load_all(package("training", facts).text)
    asked = {name for name, each in containers(spec).items() if "accelerator" in each["resources"]}
    assert facts.training.gpu == gpu
    assert asked == ({"exec-train", "exec-train-2", "exec-refit"} if gpu else set())
