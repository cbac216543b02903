"""The real TorchServe: answers, two versions side by side, and that nothing of it outlives its context."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from serving.scoring.scorer import Scorer
from serving.torchserve import archive
from serving.torchserve.client import TorchServeFault
from serving.torchserve.server import TorchServe
from tests.serving.test_scorer import BAD, GOOD
from tests.serving.tiny_archive import write_content

ROOT = Path(__file__).parents[2]


def test_the_server_answers_as_the_scorer_does(server: TorchServe, content: Path) -> None:
    status, answer = server.predict("shop", "1.0", GOOD)
    assert status == 200
    assert [answer] == Scorer.load(content).score([GOOD])


def test_bad_requests_get_400_and_leave_the_worker_and_their_batch_mates_alone(server: TorchServe) -> None:
    bodies = [
        GOOD,
        *(request for request, _, _ in BAD),
        b"",
        b"{no json",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"user_id": "\\ud800", "history": 1}',
        GOOD,
    ]
    with ThreadPoolExecutor(len(bodies)) as pool:
        replies = list(pool.map(lambda body: server.predict("shop", "1.0", body), bodies))
    assert [reply.status for reply in replies] == [200, *[400] * (len(bodies) - 2), 200]
    assert all(reply.body["error"].keys() == {"field", "found", "expected"} for reply in replies[1:-1])
    assert replies[0].body == replies[-1].body


def test_unknown_models_and_versions_get_404(server: TorchServe) -> None:
    assert server.predict("shop", "9", GOOD).status == server.predict("other", "1.0", GOOD).status == 404


def test_two_versions_serve_side_by_side_and_one_can_go(server: TorchServe, tmp_path: Path) -> None:
    mar = tmp_path / "second.mar"
    digest = archive.build(write_content(tmp_path / "c", version="2.0", seed=1), mar, name="shop", version="2.0")
    assert server.register(mar, digest=digest) == ("shop", "2.0")
    answers = [server.predict("shop", version, GOOD).body for version in ("1.0", "2.0")]
    assert [answer["version"] for answer in answers] == ["1.0", "2.0"]
    assert answers[0]["items"] != answers[1]["items"]
    server.unregister("shop", "2.0")
    assert [server.predict("shop", version, GOOD).status for version in ("1.0", "2.0")] == [200, 404]


def test_an_archive_that_is_not_the_approved_one_is_refused(server: TorchServe, mar: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused, an archive is code"):
        server.register(mar, digest="0" * 64)
    (tmp_path / "no.mar").write_text("no zip")
    with pytest.raises(ValueError, match="is no TorchServe archive"):
        server.register(tmp_path / "no.mar")


def test_archives_from_elsewhere_are_refused(server: TorchServe, mar: Path) -> None:
    for url in (f"file://{mar}", "http://127.0.0.1:9/shop.mar"):
        reply = server.call("management", "POST", f"/models?url={url}")
        assert reply.status >= 400, reply


def test_metrics_are_prometheus_on_a_port_of_their_own_and_workers_have_one_thread(server: TorchServe) -> None:
    assert server.predict("shop", "1.0", GOOD).status == 200
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{server._ports['metrics']}/metrics") as reply:
        text = reply.read().decode()
    assert 'ts_inference_requests_total{model_name="shop",model_version="1.0"' in text
    assert server._process is not None
    environments = []
    for each in members(server._process.pid):
        with suppress(psutil.NoSuchProcess):  # Java starts some that end at once
            environments.append(each.environ())
    # The first of them the tests' own processes have too; the second is of the server alone.
    assert len(environments) >= 2
    assert all(each["OMP_NUM_THREADS"] == each["MKL_NUM_THREADS"] == "1" for each in environments)


def test_same_content_gives_the_same_archive(content: Path, mar: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(content, tmp_path / "content", copy_function=shutil.copy)  # other times of change
    again = archive.build(copy, tmp_path / "again.mar", name="shop", version="1.0")
    assert again == archive.digest(mar)
    assert archive.identity(tmp_path / "again.mar") == ("shop", "1.0")
    names = set(zipfile.ZipFile(mar).namelist())
    assert names == {p.name for p in content.iterdir() if p.is_file()} | {*archive.code(), "MAR-INF/MANIFEST.json"}
    assert {"handler.py", "serving/scoring/scorer.py"} <= names
    with pytest.raises(ValueError, match=r"model version: found 'a/b'"):
        archive.build(content, tmp_path / "x.mar", name="shop", version="a/b")


def test_a_server_that_cannot_start_is_told_with_its_log_and_nothing_of_it_stays(
    server: TorchServe, tmp_path: Path
) -> None:
    taken = server._ports["inference"]
    second = type(server)(tmp_path / "logs", ports={"inference": taken})
    with pytest.raises(TorchServeFault, match=r"(?s) ended with status .*in use"), second:
        pass
    assert not second.folder.exists() and server.predict("shop", "1.0", GOOD).status == 200


SERVING = """
import signal, sys, time
from pathlib import Path
from serving.torchserve.server import TorchServe
# A shell starts what it runs in the background with SIGINT ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
with TorchServe(Path(sys.argv[1])) as server:
    if sys.argv[2:]:
        server.register(Path(sys.argv[2]))
    print(server._process.pid, server.folder, flush=True)
    time.sleep(60)
"""


def test_no_process_outlives_one_that_is_killed(mar: Path, tmp_path: Path) -> None:
    group, folder = start_and_signal(signal.SIGKILL, tmp_path / "logs", mar)
    shutil.rmtree(folder)
    assert within(10, lambda: not members(group))


def test_ctrl_c_stops_the_server_and_removes_its_files(tmp_path: Path) -> None:
    group, folder = start_and_signal(signal.SIGINT, tmp_path / "logs")
    assert not members(group) and not folder.exists()


def start_and_signal(number: signal.Signals, *arguments: Path) -> tuple[int, Path]:
    """Let another process serve, signal it, and return the server's process group and temporary folder."""
    command = [sys.executable, "-c", SERVING, *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        group, folder = process.stdout.readline().split()
        workers = len(arguments) - 1
        assert len(members(int(group))) == 2 + workers  # torchserve's launcher, java, and the workers
        process.send_signal(number)
        process.wait(timeout=20)
    return int(group), Path(folder)


def members(group: int) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def within(seconds: float, holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.05)
    return False
