"""`python -m serving`: what a person who types it gets."""

import http.client
import json
import os
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from experiments.document import (
    DocumentChange,
    ModelVersion,
    Rollout,
    release,
)
from experiments.table import RolloutTable
from serving import __main__ as serving
from serving.torchserve import archive
from tests.serving.test_server import members, within
from tests.serving.tiny_archive import write_content

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 1, 5, tzinfo=UTC)
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with a champion (1.0) and a challenger (2.0) of the model "shop"."""
    first, second = tmp_path / "first.mar", tmp_path / "second.mar"
    for seed, (path, version) in enumerate(((first, "1.0"), (second, "2.0"))):
        content = write_content(tmp_path / f"content{version}", version=version, seed=seed, network=False)
        archive.build(content, path, name="shop", version=version)
    row = Rollout(model="shop")
    with RolloutTable(f"sqlite:///{tmp_path}/home/rollout.db") as table:
        for path, version in ((first, "1.0"), (second, "2.0")):
            model = ModelVersion(
                version=version, archive=str(path), archive_digest=archive.digest(path), recipe_digest=version,
                registered=NOW,
            )  # fmt: skip
            outcome = release(row, model, now=NOW, salt=lambda: "salt")
            row = table.propose(DocumentChange(outcome.rollout, "push", outcome.why), row.version)
    return tmp_path / "home"


def start(workspace: Path, *arguments: str) -> subprocess.Popen[str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HETERREC_")}
    return subprocess.Popen(
        [sys.executable, "-m", "serving", *arguments],
        cwd=ROOT,
        env={**kept, "HETERREC_HOME": str(workspace)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(workspace: Path, *arguments: str) -> tuple[int, str, str]:
    with start(workspace, *arguments) as process:
        try:
            out, error = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()  # else the block would wait for it
            raise
    return process.returncode, out, error


def ask(curl: str) -> dict[str, Any]:
    """Do what the printed command line does; a newcomer's machine need not have curl to run the tests."""
    words = shlex.split(curl)
    assert words[:2] == ["curl", "-s"] and words[3:5] == ["-H", "Content-Type: application/json"]
    url = urlsplit(words[2])
    connection = http.client.HTTPConnection(url.netloc)
    connection.request("POST", url.path, words[words.index("-d") + 1].encode(), {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.status == 200
    answer: dict[str, Any] = json.loads(response.read())
    connection.close()
    return answer


@pytest.mark.parametrize("server", ["torchserve", "plain"])
def test_up_prints_lines_that_ask_both_arms_and_ends_with_ctrl_c(workspace: Path, server: str) -> None:
    with start(workspace, "up", "--dataset", "shop", "--server", server) as process:
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line)
            if "Ctrl-C" in line:
                break
        answers = [ask(line) for line in printed if line.startswith("curl")]
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    assert [answer["version"] for answer in answers] == ["1.0", "2.0"]
    assert all(answer["items"][0]["title"].startswith("Kettle") for answer in answers)
    assert "  champion   1.0  99% of shoppers" in "".join(printed)
    assert within(10, lambda: not any(members(pid) for pid in children))


def test_up_serves_the_champion_where_the_archive_of_the_challenger_is_damaged(workspace: Path) -> None:
    second = workspace.parent / "second.mar"
    second.write_bytes(second.read_bytes()[:-100])
    with start(workspace, "up", "--dataset", "shop", "--server", "plain") as process:
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line)
            if "Ctrl-C" in line:
                break
        asked = [ask(line)["version"] for line in printed if line.startswith("curl")]
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 0 and asked == ["1.0"], error
    assert (
        f" WARNING serving.run_torchserve: {second}: found " in error
        and "The challenger 2.0 does not serve before." in error
    )


def test_a_server_that_is_none_is_told_in_one_line(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HETERREC_HOME", str(workspace))
    monkeypatch.setenv("HETERREC_SERVER", "triton")
    assert serving.main(["up", "--dataset", "shop"]) == 2
    assert "HETERREC_SERVER='triton': expected torchserve or plain" in capsys.readouterr().err


def test_up_starts_a_killed_torchserve_again_where_it_was(workspace: Path) -> None:
    with start(workspace, "up", "--dataset", "shop") as process:
        try:
            assert process.stdout is not None
            line = next(line for line in process.stdout if line.startswith("curl"))
            assert ask(line)["version"] == "1.0"
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            server = next(int(pid) for pid in children if "ts.model_server" in psutil.Process(int(pid)).cmdline())
            os.killpg(server, signal.SIGKILL)
            assert within(20, lambda: not answers(line)) and within(120, lambda: answers(line))
        finally:
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=30)
    assert process.returncode == 0 and "TorchServe is gone: starting it again" in error


def answers(curl: str) -> bool:
    try:
        return ask(curl)["version"] == "1.0"
    except (OSError, AssertionError, http.client.HTTPException):
        return False


def test_torchserve_and_its_reconciler_run_as_two_processes(workspace: Path, tmp_path: Path) -> None:
    inference, management, metrics, status = free_ports(4)
    folder = tmp_path / "torchserve"
    shared = ["--folder", str(folder)]
    ports = ["--port", inference, "--management-port", management, "--metrics-port", metrics]
    addresses = ["--torchserve", f"http://127.0.0.1:{inference}", "--management", f"http://127.0.0.1:{management}"]
    with (
        start(workspace, "torchserve", *shared, *ports) as server,
        start(workspace, "reconciler", *shared, *addresses, "--dataset", "shop", "--status-port", status) as beside,
    ):
        try:
            assert within(300, lambda: ready(int(status)))
            key = (folder / "inference.key").read_text()
            url = f"http://127.0.0.1:{inference}/predictions/shop/2.0"
            request = urllib.request.Request(url, b'{"history": []}', {"Authorization": f"Bearer {key}", **JSON})
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as reply:
                assert json.loads(reply.read())["version"] == "2.0"
            children = [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]
        finally:
            for process in (beside, server):
                process.send_signal(signal.SIGTERM)
        ended = [process.communicate(timeout=30) and process.returncode for process in (beside, server)]
    assert ended == [0, 0] and within(10, lambda: not any(members(pid) for pid in children))


def free_ports(count: int) -> list[str]:
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in listening]
    for each in listening:
        each.close()
    return ports


def ready(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False


def test_a_table_that_cannot_be_read_is_one_line_without_its_password(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = "postgresql+psycopg://shop:s3cret@127.0.0.1:1/rollout"
    damaged = f"sqlite:///{workspace}/rollout.db"
    with sqlite3.connect(workspace / "rollout.db") as connection:
        connection.execute("UPDATE rollout SET document = '{\"model\": 3'")
    connection.close()
    looks = ["rollout", "status"], ["gateway", "--torchserve", "http://127.0.0.1:1", "--port", "0", "--dataset", "shop"]
    for url, arguments, cause in (
        (away, looks[0], "refused"),
        (away, looks[1], "refused"),
        (damaged, looks[0], "shop is damaged"),
    ):
        monkeypatch.setenv("HETERREC_ROLLOUT_URL", url)
        monkeypatch.setenv("HETERREC_HOME", str(workspace))
        assert serving.main(arguments) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error rollout table ") and cause in line and "s3cret" not in line


def test_a_consumer_without_its_registry_says_so_in_one_line(tmp_path: Path) -> None:
    url = "postgresql+psycopg://shop:s3cret@127.0.0.1:1/registry"
    settings = {"HETERREC_FEATURE_STORE": "sql_registry", "FEAST_REGISTRY_URL": url, "HETERREC_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "serving", "consumer", "--dataset", "marketplace", "--metrics-port", "0"],
        cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "refused" in line and "s3cret" not in line


def test_rollout_status_says_what_serves_and_how_it_came_to_be(workspace: Path) -> None:
    status, out, _ = run(workspace, "rollout", "status")
    assert status == 0
    assert "  challenger 2.0  1% of shoppers, registered 2026-01-05" in out
    assert "UTC  push: 1.0 is the first model of shop" in out
    assert out.startswith(f"rollout table sqlite:///{workspace}/rollout.db\n"), "it says where it looks"


def test_a_script_reads_what_serves(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HETERREC_HOME", str(workspace))
    assert serving.main(["rollout", "status", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (shop,) = told["models"]
    assert (
        told["table"].endswith("/rollout.db")
        and Rollout.from_json(
            {name: value for name, value in shop.items() if name not in ("changes", "looks")}
        ).champion
    )
    assert [change["who"] for change in shop["changes"]] == ["push", "push"] and shop["looks"] == []


def test_a_person_pauses_resumes_and_rolls_back_and_the_history_says_who_and_why(workspace: Path) -> None:
    def rollout(what: str, *options: str) -> tuple[int, str, str]:
        return run(workspace, "rollout", what, "--dataset", "shop", *options)

    assert rollout("pause", "--why", "a sale", "--who", "anna")[1].startswith("shop  (row 3, paused)\n")
    assert "it is paused already" in rollout("pause", "--why", "again")[2]
    status, _, error = rollout("rollback", "--why", "late", "--expected-version", "2")
    assert status == 2 and "no longer at version 2. Nothing was changed" in error
    status, out, _ = rollout("rollback", "--why", "shoppers complain", "--who", "ben")
    assert status == 0 and "challenger" not in out and "  champion   1.0  100% of shoppers" in out
    with RolloutTable(f"sqlite:///{workspace}/rollout.db") as table:
        entries = [(entry.who, entry.why) for entry in table.history("shop")[2:]]
    assert entries == [("anna", "pause: a sale"), ("ben", "rollback: shoppers complain")]
    assert "  sent back  " in out and "its recipe was sent back once, and rests until" in out
    assert rollout("readmit", "--why", "it was the log", "--who", "ben")[0] == 0
    assert "no recipe rests" in rollout("readmit", "--why", "again")[2]
    status, _, error = rollout("promote", "--why", "too late")
    assert status == 2 and error.startswith("error shop: no challenger serves, so there is nothing to promote.")


def test_what_cannot_be_served_is_told_in_one_line_with_status_2(workspace: Path, tmp_path: Path) -> None:
    status, _, error = run(tmp_path / "empty", "up", "--dataset", "beauty")
    assert status == 2
    advice = "Run `make run DATASET=...` with its card."
    assert error == f"error beauty: no model was released yet (released: nothing). {advice}\n"
    altered = tmp_path / "second.mar"
    arm = ModelVersion(
        version="2.0", archive=str(altered), archive_digest=archive.digest(altered), recipe_digest="2", registered=NOW
    )
    (tmp_path / "alone").mkdir()
    with RolloutTable(f"sqlite:///{tmp_path}/alone/rollout.db") as table:
        table.propose(
            DocumentChange(release(Rollout(model="shop"), arm, now=NOW, salt=lambda: "").rollout, "push", "first"), 0
        )
    altered.write_bytes(altered.read_bytes() + b" ")  # of the champion; without a challenger that is damaged it serves
    status, _, error = run(tmp_path / "alone", "up", "--dataset", "shop")
    assert status == 2
    assert error.startswith(f"error {altered}: found ") and error.endswith("Restore the release folder.\n")
