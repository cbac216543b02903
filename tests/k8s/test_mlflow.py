"""MLflow's server, started by the manifest's own command on a real Postgres, takes what push tells it."""

import http.client
import os
import re
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi.testclient import TestClient
from markupsafe import escape

from components.shared.model_registry import Registry, ReleaseRecord, TrialRecord
from console.app import make_app
from console.settings import ConsoleSettings
from console.trials import Trials
from runtime import workspace
from tests.console.made import HOSTILE
from tests.k8s import postgres_server
from tests.k8s.cluster import rendered, workloads
from tests.k8s.postgres_server import Postgres


def _container() -> dict[str, Any]:
    (pod,) = [pod for found, _, pod in workloads(rendered("production")) if found == "Deployment/mlflow"]
    return dict(pod["containers"][0])


def _arguments(port: int) -> list[str]:
    container = _container()
    assert container["args"][:2] == ["mlflow", "server"]
    # As Kubernetes expands them, in a namespace whose name stands nowhere in the manifests.
    assert {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}} in container["env"]
    expanded = [word.replace("$(NAMESPACE)", "elsewhere") for word in container["args"]]
    words = [re.sub("localhost:5000", f"localhost:{port}", word) for word in expanded]
    words[words.index("--port") + 1], words[words.index("--host") + 1] = str(port), "127.0.0.1"
    words[words.index("--workers") + 1] = "1"
    return [str(workspace.ROOT / ".venv" / "bin" / words[0]), *words[1:]]


def _get(port: int, path: str, host: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if postgres_server.PROGRAMS is None:
        pytest.skip("Postgres is not installed (apt-get install postgresql; .ci/run does)")
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with Postgres() as postgres:
        postgres.client("createdb", "mlflow")
        environment = {
            **os.environ,
            "MLFLOW_BACKEND_STORE_URI": postgres.url("mlflow"),
            "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "files"),
            **{each["name"]: each["value"] for each in _container()["env"] if "value" in each},
        }
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(_arguments(port), cwd=folder, env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 600
            while True:
                try:
                    if _get(port, "/health", "mlflow:5000") == 200:
                        break
                except OSError:
                    pass
                assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.5)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def test_a_release_is_registered_with_its_files(server: int, tmp_path: Path):
    release = tmp_path / "releases" / "shop" / "1.0"
    release.mkdir(parents=True)
    (release / "shop.mar").write_bytes(b"archive")
    url = f"http://localhost:{server}"
    record = ReleaseRecord(
        version="1.0", archive_digest="d" * 64, folder=release, source=release.as_uri(),
        settings={"width": 64}, metrics={"ndcg@10": 0.1}, tags={"run_id": "r"},
    )  # fmt: skip
    registry = Registry(url, "shop")
    number = registry.register(record)
    assert registry.register(record) == number, "once, however often it is pushed"
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=url, registry_uri=url)
    run = client.get_model_version("shop", number).run_id
    assert run is not None
    # What docs/operations.md fetches when the workspace is lost.
    fetched = Path(client.download_artifacts(run, "release", str(tmp_path)))
    assert (fetched / "shop.mar").read_bytes() == b"archive"


def test_the_console_reads_what_it_keeps(server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Blocked runs too, with their reason, recipe and curve; by HTTP alone."""
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    url = f"http://localhost:{server}"
    registry = Registry(url, "kept")
    for number, outcome in enumerate(("released", "not pushed: blocked by evaluate")):
        curve = [{"epoch": epoch, "loss": 3.0 / epoch} for epoch in (1, 2, 3)]
        reason = HOSTILE if number else ""
        registry.log(
            TrialRecord(
                run_id=f"kept-{number}",
                model="HeterRec + memory",
                settings={"model.width": 64 + number, "seed": 0},
                metrics={"models.HeterRec + memory.ndcg@10": 0.1 + number / 100},
                curve=curve,
                tags={"outcome": outcome, "reason": reason},
            )
        )
    settings = ConsoleSettings(hosts=("testserver",), metrics=(), mlflow=url.replace("//", "//somebody:s3cret@"))
    trials = Trials(settings.mlflow)
    kept = trials.of("kept")
    assert [(trial.run, trial.quality) for trial in kept.trials] == [("kept-1", 0.11), ("kept-0", 0.1)]
    assert kept.differing == ["model.width"] and not kept.unknown
    assert trials.of("never run").trials == () and not trials.of("never run").unknown
    assert trials.made_by("kept", "x' OR tags.run_id = 'kept-0").trials == ()
    with TestClient(make_app(settings)) as client:
        every = client.get("/parts/trials", params={"dataset": "kept"}).text
        one = client.get("/parts/trials", params={"dataset": "kept", "run": "kept-1"}).text
    assert "not pushed: blocked by evaluate" in every and "0.1100" in every and "s3cret" not in every
    assert HOSTILE not in every and str(escape(HOSTILE)) in one
    assert "epoch 3: 1.0000" in one and "model.width" in one and "kept-0" not in one


@pytest.mark.parametrize("host", ["mlflow:5000", "mlflow.elsewhere.svc:5000"])
def test_it_answers_by_the_names_that_runs_use(server: int, host: str):
    assert _get(server, "/", host) == 200


def test_it_answers_by_no_other_name(server: int):
    assert _get(server, "/", "evil.example") == 403


def test_it_runs_its_web_server_alone(server: int):
    """And not the processes for judges of language models, each of which imports all of MLflow."""
    commands = [" ".join(each.cmdline()) for each in psutil.Process().children(recursive=True)]
    mine = [command for command in commands if str(server) in command or "mlflow" in command]
    assert mine and not [command for command in mine if "mlflow.server.jobs" in command]
