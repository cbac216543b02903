"""The commands of a cluster against a server that holds every request against the published API."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipelines import __main__ as command_line
from pipelines.cluster_commands import ASKED_FOR, CRONS
from runtime.workspace import ROOT
from tests.pipeline.kfp_server import KubeflowServer, kubeflow_server

USUAL = {kind: cron for kind, cron in CRONS.items() if kind not in ASKED_FOR}
NAMES = {f"heterrec-{kind}-marketplace": cron for kind, cron in USUAL.items()}


@pytest.fixture
def server() -> Iterator[KubeflowServer]:
    with kubeflow_server() as server:
        yield server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No setting of this machine's user or of another test has a say."""
    for name in ("HETERREC_CLUSTER", "HETERREC_KFP_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for kind in ("train", "serve"):
        monkeypatch.setenv(f"HETERREC_{kind.upper()}_IMAGE", f"registry.example/heterrec-{kind}@sha256:{64 * 'a'}")
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    return tmp_path


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    def ask(server: KubeflowServer | str, *arguments: str) -> tuple[int, str]:
        host = server if isinstance(server, str) else server.host
        command, *rest = arguments
        status = command_line.main([command, "--host", host, *rest])
        return status, re.sub(r"\s+", " ", "".join(capsys.readouterr()))

    return ask


def test_a_dry_run_shows_what_would_be_made_and_makes_nothing(server, ask):
    status, told = ask(server, "schedule")
    assert status == 0
    assert server.writes == []
    for kind, cron in USUAL.items():
        assert f"create pipeline heterrec-{kind}" in told
        assert f"create recurring run heterrec-{kind}-marketplace: {cron}" in told
    assert "Pass --apply" in told


def test_lists_recur_where_they_are_asked_for_and_go_with_all_else(server, ask):
    ask(server, "schedule", "--apply", "--only", "recommend", "--k", "7")
    (found,) = server.recurring.values()
    assert found["display_name"] == "heterrec-recommend-marketplace" and CRONS["recommend"] in str(found)
    assert found["runtime_config"]["parameters"] == {"model": "marketplace", "k": 7}
    assert "heterrec-recommend" in ask(server, "list")[1]
    there = json.loads(ask(server, "list", "--json")[1])
    (recurring,) = there["scheduled"]
    newest = {each["name"]: each["newest"] for each in there["pipelines"]}
    versions = {each["name"]: each["versions"] for each in there["pipelines"]}
    assert versions.pop("heterrec-recommend") == 1 and not any(versions.values()) and there["server"] == server.host
    assert recurring == {"name": "heterrec-recommend-marketplace", "status": "enabled", "cron": CRONS["recommend"],
                         "version": newest.pop("heterrec-recommend")}  # fmt: skip
    assert not any(newest.values()), "what was not asked for is not there"
    ask(server, "unschedule", "--apply")
    assert not server.recurring


@pytest.mark.parametrize("command", ["schedule", "submit"])
@pytest.mark.parametrize("kind", ["train", "serve"])
@pytest.mark.parametrize("where", ["environment", "production"])
def test_a_server_is_sent_no_image_that_does_not_exist(server, ask, monkeypatch, command, kind, where):
    """Every task would fail to start, and the exit handler, which would tell, in the same image."""
    cluster = () if where == "environment" else ("--cluster", str(ROOT / "k8s/overlays/production/cluster.yaml"))
    monkeypatch.delenv(f"HETERREC_{kind.upper()}_IMAGE")
    status, told = ask(server, command, "--apply", *cluster)
    assert status == 2 and f"{kind}_image: found" in told and "which is no image" in told
    assert server.requests == []


def test_a_run_that_failed_goes_on_under_its_own_id(server, ask):
    ask(server, "submit", "--apply", "--run")
    (run,) = server.runs
    assert f"resume run {run}" in ask(server, "resume", run)[1] and server.resumed == []
    assert ask(server, "resume", run, "--apply")[0] == 0
    assert server.resumed == [run]
    assert ask(server, "resume", "no-such-run", "--apply")[0] == 1


def test_what_is_scheduled_twice_is_scheduled_once(server, ask):
    assert ask(server, "schedule", "--apply")[0] == 0
    assert {
        each["display_name"]: each["trigger"]["cron_schedule"]["cron"] for each in server.recurring.values()
    } == NAMES
    for each in server.recurring.values():
        assert (each["no_catchup"], each["max_concurrency"], each["status"]) == (True, "1", "ENABLED")
    assert len(server.pipelines) == len(server.versions) == 3
    assert len(server.experiments) == 1
    before = len(server.writes)
    for arguments in (("schedule", "--apply"), ("schedule",), ("submit", "--apply")):
        status, told = ask(server, *arguments)
        assert status == 0
        assert "nothing to do" in told
    assert len(server.writes) == before


def test_a_changed_pipeline_is_a_new_version_and_the_recurring_run_moves_to_it(server, ask, home, monkeypatch):
    ask(server, "schedule", "--apply")
    before = {each["display_name"]: each for each in server.recurring.values()}
    monkeypatch.setenv("HETERREC_TRAIN_IMAGE", "registry.example/heterrec-train@sha256:" + "b" * 64)
    told = ask(server, "schedule", "--only", "training")[1]
    assert "move recurring run heterrec-training-marketplace: to the new version of the pipeline" in told
    ask(server, "schedule", "--apply", "--only", "training")
    after = {each["display_name"]: each for each in server.recurring.values()}
    assert len(server.recurring) == len(after) == 3
    for name in NAMES:
        moved = after[name]["recurring_run_id"] != before[name]["recurring_run_id"]
        assert moved == (name == "heterrec-training-marketplace")
    reference = after["heterrec-training-marketplace"]["pipeline_version_reference"]
    (spec, _) = server.packages[reference["pipeline_version_id"]]
    assert spec["deploymentSpec"]["executors"]["exec-train"]["container"]["image"].endswith("b" * 64)
    assert len([each for each in server.versions.values() if each["pipeline_id"] == reference["pipeline_id"]]) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--cron", "training=0 0 4 * * *"], "cron 0 0 3 * * * -> 0 0 4 * * *"),
        (["--seed", "7"], "other parameters (baseline, recipe)"),
        (["--option", "users=900"], "other parameters (card)"),
    ],
)
def test_another_clock_or_recipe_replaces_the_recurring_run(server, ask, arguments, told):
    ask(server, "schedule", "--apply", "--only", "training")
    assert told in ask(server, "schedule", "--apply", "--only", "training", *arguments)[1]
    assert len(server.recurring) == 1
    assert "nothing to do" in ask(server, "schedule", "--apply", "--only", "training", *arguments)[1]


def test_a_stopped_or_doubled_recurring_run_is_put_right(server, ask):
    ask(server, "schedule", "--apply", "--only", "rollout")
    (run,) = server.recurring.values()
    run["status"] = "DISABLED"
    assert "status DISABLED -> ENABLED" in ask(server, "schedule", "--apply", "--only", "rollout")[1]
    (run,) = server.recurring.values()
    # As after a kill between the new one and the removal of the old one.
    server.recurring["double"] = {**run, "recurring_run_id": "double"}
    assert "remove recurring run heterrec-rollout-marketplace (double)" in ask(server, "schedule", "--apply")[1]
    assert len([each for each in server.recurring.values() if "rollout" in each["display_name"]]) == 1


def test_the_new_recurring_run_is_there_before_the_old_one_goes(server, ask, monkeypatch):
    ask(server, "schedule", "--apply", "--only", "rollout")
    server.failing[("DELETE", "")] = 503
    status, told = ask(server, "schedule", "--apply", "--only", "rollout", "--cron", "rollout=0 0 * * * *")
    assert status == 1
    assert "✓ move recurring run" in told
    assert len(server.recurring) == 2
    server.failing.clear()
    assert ask(server, "schedule", "--apply", "--only", "rollout", "--cron", "rollout=0 0 * * * *")[0] == 0
    assert [each["trigger"]["cron_schedule"]["cron"] for each in server.recurring.values()] == ["0 0 * * * *"]


def test_unschedule_removes_the_recurring_runs_alone(server, ask):
    ask(server, "schedule", "--apply")
    assert "heterrec-training-marketplace enabled 0 0 3 * * * version" in ask(server, "list")[1]
    assert "remove recurring run heterrec-training-marketplace" in ask(server, "unschedule")[1]
    assert len(server.recurring) == 3
    ask(server, "unschedule", "--apply", "--only", "rollout")
    assert len(server.recurring) == 2
    ask(server, "unschedule", "--apply")
    assert not server.recurring
    assert "nothing to do" in ask(server, "unschedule", "--apply")[1]
    assert "nothing is scheduled for marketplace" in ask(server, "list")[1]
    assert len(server.pipelines) == 3


def test_submit_starts_a_run_only_where_asked(server, ask):
    assert "start a run of training" in ask(server, "submit", "--run")[1]
    assert server.writes == []
    ask(server, "submit", "--apply", "--only", "training")
    assert not server.runs
    ask(server, "submit", "--apply", "--only", "training", "--run")
    (run,) = server.runs.values()
    assert set(run["runtime_config"]["parameters"]) == {"card", "recipe", "baseline"}


def test_every_command_takes_namespace_and_account_from_the_cluster_s_file(server, ask, tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text("namespace: shop\nservice_account: pipelines\n")
    where = ("--cluster", str(file))
    ask(server, "submit", "--apply", "--run", *where)
    assert [run["service_account"] for run in server.runs.values()] == ["pipelines"]
    ask(server, "schedule", "--apply", *where)
    assert "heterrec-training-marketplace" in ask(server, "list", *where)[1]
    assert "nothing is scheduled for marketplace in namespace other" in ask(server, "list", "--namespace", "other")[1]
    ask(server, "unschedule", "--apply", *where)
    assert not server.recurring


@pytest.mark.parametrize("how", ["file", "environment", "projected"])
def test_every_request_carries_the_token_and_nothing_shows_it(ask, home, monkeypatch, how):
    secret = "very-secret-token"
    path = home / "token"
    path.write_text(secret + "\n")
    arguments = {
        "file": ["--token-file", str(path)],
        "environment": [],
        "projected": ["--service-account-token", str(path)],
    }[how]
    if how == "environment":
        monkeypatch.setenv("HETERREC_KFP_TOKEN", secret)
    arguments += ["--only", "rollout"]
    with kubeflow_server(token=secret, multi_user=True) as server:
        status, told = ask(server, "schedule", "--apply", "--namespace", "team-a", *arguments)
        assert status == 0, told
        assert {each["namespace"] for each in (*server.pipelines.values(), *server.experiments.values())} == {"team-a"}
        assert secret not in told
        path.write_text("stale")
        monkeypatch.setenv("HETERREC_KFP_TOKEN", "stale")
        status, told = ask(server, "schedule", "--namespace", "team-a", *arguments)
        assert status == 1
        assert "does not know you (401" in told
        assert "stale" not in told


def test_two_profiles_of_one_server_do_not_meet(ask):
    with kubeflow_server(multi_user=True) as server:
        assert "has several users. Pass --namespace" in ask(server, "schedule", "--apply")[1]
        for namespace in ("team-a", "team-b"):
            ask(server, "schedule", "--apply", "--only", "rollout", "--namespace", namespace)
        assert len(server.pipelines) == len(server.experiments) == len(server.recurring) == 2


@pytest.mark.parametrize(
    ("failing", "status", "told"),
    [
        (("GET", "/healthz"), 503, "failed (503: told to fail GET /healthz)"),
        (("GET", "/pipelines"), 403, "does not let you (403"),
        (("POST", "/pipelines"), 409, "has it already, or somebody changed it meanwhile (409"),
        (("POST", "/upload_version"), 500, "What was done stays"),
        (("POST", "/recurringruns"), 503, "run the command again when the server is well"),
    ],
)
def test_a_server_that_refuses_is_told_in_one_message_and_the_next_time_goes_on(server, ask, failing, status, told):
    server.failing[failing] = status
    returned, message = ask(server, "schedule", "--apply", "--only", "rollout")
    assert returned == 1
    assert told in message
    assert message.count("error http") == 1 and "nothing to do" not in message
    assert "Traceback" not in message
    server.failing.clear()
    assert ask(server, "schedule", "--apply", "--only", "rollout")[0] == 0
    assert len(server.pipelines) == len(server.versions) == len(server.recurring) == 1


def test_a_server_that_is_away_is_told_in_one_line(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "pipelines", "list", "--host", "http://127.0.0.1:9"],
        cwd=ROOT, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.startswith("error http://127.0.0.1:9: cannot be reached (")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--cron", "training=0 3 * * *"], "CRON six fields"),
        (["--cron", "nightly=0 0 3 * * *"], "KIND one of training, catalogue, rollout"),
        (["--cluster", "no.yaml"], "no.yaml: cannot be read"),
        (["--token-file", "no-token"], "no-token: cannot be read"),
        (["--service-account-token", "no-token"], "no-token: no token there"),
        (["--policy", "no.json"], "no.json: no such file"),
    ],
)
def test_bad_settings_are_told_before_anything_is_changed(server, ask, arguments, told):
    status, message = ask(server, "schedule", "--apply", *arguments)
    assert status == 2
    assert told in message
    assert server.writes == []


def test_a_login_page_is_no_server_that_has_nothing(ask):
    class LoginPage(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>log in</html>")

        def log_message(self, *_) -> None:
            pass

    page = HTTPServer(("127.0.0.1", 0), LoginPage)
    thread = threading.Thread(target=page.serve_forever, args=(0.02,))
    thread.start()
    try:
        status, told = ask(f"http://127.0.0.1:{page.server_port}", "schedule", "--apply", "--only", "rollout")
    finally:
        page.shutdown()
        page.server_close()
        thread.join()
    assert status == 1
    assert "answered with text/html where JSON was expected" in told
