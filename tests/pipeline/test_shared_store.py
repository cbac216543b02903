"""Runs on machines that share a bucket and no disk, as the pods of a cluster do."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runtime import object_store
from runtime.task import read_records
from runtime.workspace import ROOT
from tests.s3_server import s3_bucket

OPTIONS = ("users=200", "days=20", "items=200")
"""Small, and trained towards other items: evaluate blocks it, which is no matter here."""
RUN = [
    sys.executable, "-m", "pipelines", "run", "--shuffle-targets",
    *(part for each in OPTIONS for part in ("--option", each)),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of every machine: one bucket, one rollout table, one MLflow."""
    shared = tmp_path_factory.mktemp("shared")
    with s3_bucket("models") as environment:
        yield {
            **os.environ,
            **environment,
            "HETERREC_ROLLOUT_URL": f"sqlite:///{shared / 'rollout.db'}",
            "MLFLOW_TRACKING_URI": f"sqlite:///{shared / 'mlflow.db'}",
            "HETERREC_EXPOSURES": str(shared / "exposures"),
            "HETERREC_STORE_SECONDS": "0.2",
            "COLUMNS": "200",
        }


@pytest.fixture(scope="module")
def killed(place: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that was killed with its machine while it trained; returns the task."""
    home = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in place.items():
            patch.setenv(name, value)
        patch.setenv("HETERREC_HOME", str(home))
        bucket = object_store.shared()
        running = subprocess.Popen(
            RUN, cwd=ROOT, env=dict(os.environ), start_new_session=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 900  # a hang alone takes so long
            while not bucket._files.glob(f"{bucket._root}/scratch/model/*/*.pt"):
                assert running.poll() is None, "the run ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()
        assert not bucket._files.glob(f"{bucket._root}/artifacts/model/*/manifest.json")
        records = read_records(next((home / "runs").iterdir()).name)
    home.rename(home.with_name("first-gone"))
    return next(name for name, record in records.items() if record.status == "running")


def run_on(home: Path, place: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict, str]:
    """A whole run on a fresh machine: what it printed, its records, its log."""
    result = subprocess.run(
        RUN,
        cwd=ROOT,
        env={**place, "HETERREC_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HETERREC_HOME", str(home))
    (log,) = (home / "runs").glob("*/log.txt")
    return result.stdout, read_records(log.parent.name), log.read_text()


def test_fresh_machines_go_on_from_the_bucket(killed, place, tmp_path, monkeypatch):
    told, records, log = run_on(tmp_path / "second", place, monkeypatch)
    assert "not pushed: blocked by evaluate" in told
    assert {name for name, record in records.items() if record.status == "reused"} >= {"ingest", "validate", "features"}
    assert records[killed].status == "done"
    first = next(line for line in log.splitlines() if f'"task": "{killed}"' in line and '"progress"' in line)
    assert json.loads(first[first.index("{") :])["epoch"] > 1, "training began anew"

    (tmp_path / "second").rename(tmp_path / "second-gone")
    told, records, _ = run_on(tmp_path / "third", place, monkeypatch)
    reused = {name for name, record in records.items() if record.status == "reused"}
    assert reused == {"ingest", "validate", "features", "train", "train-baseline", "tables", "evaluate"}, told
