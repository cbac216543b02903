"""A run that was killed goes on where it was, and one that cannot begin says why; each in a workspace of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.task import read_records
from runtime.workspace import ROOT
from tests.pipeline.command import command, newest_run

TINY = ["--option", "users=200", "--option", "days=20", "--option", "items=200"]


def test_run_after_a_killed_training_goes_on_from_the_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    environment = {**os.environ, "HETERREC_HOME": str(tmp_path)}
    running = subprocess.Popen(
        [sys.executable, "-m", "pipelines", "run", *TINY], cwd=ROOT, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 900  # a hang alone takes so long
        while not list((tmp_path / "scratch" / "model").glob("*/*.pt")):
            assert running.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    assert not list((tmp_path / "artifacts").glob("model/[!.]*"))
    # Kubeflow may start the model or its baseline first.
    task = next(name for name, record in read_records(newest_run(tmp_path)).items() if record.status == "running")
    checkpoint = next((tmp_path / "scratch" / "model").glob("*/*.pt"))

    result = command(tmp_path, "run", *TINY)
    assert result.returncode == 0, result.stdout + result.stderr
    records = read_records(newest_run(tmp_path))
    assert records[task].status == "done"
    assert records["features"].status == "reused"
    assert not checkpoint.exists(), "what is left of a killed attempt goes with its success"
    epochs = [point["epoch"] for point in json.loads((Path(records[task].artifact) / "curve.json").read_text())]
    assert epochs == list(range(1, len(epochs) + 1))
    log = (tmp_path / "runs" / newest_run(tmp_path) / "log.txt").read_text()
    first = next(line for line in log.splitlines() if f'"task": "{task}"' in line and '"progress"' in line)
    assert json.loads(first[first.index("{") :])["epoch"] > 1, "training began anew"


def test_nothing_released_names_no_card_that_may_not_be_there(tmp_path):
    card = ROOT / "feature_repo" / "datasets" / "example.yaml"
    result = command(tmp_path, "ask", "--dataset", str(card))
    assert result.returncode == 2
    assert "example: no model was released yet. Run `make run DATASET=...` with its card;" in result.stderr


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ("name: x\n", "description: is missing"),
        ("name: [\n", "is not valid YAML"),
        (
            "name: x\ndescription: x\nsource: {adapter: files, interactions: no.csv, items: no.csv}\n"
            "columns: {event_time: t}\nfeatures: []\nsplit: {by: time}\n",
            "no.csv",
        ),
        (
            "name: x\ndescription: x\nsource: {adapter: marketplace}\nfeatures: [{name: a, kind: picture}]\n"
            "split: {by: time}\n",
            "features.0.kind: Input should be 'categorical'",
        ),
    ],
)
def test_bad_card_gives_one_message_and_status_2(tmp_path, card, message):
    (tmp_path / "x.yaml").write_text(card)
    result = command(tmp_path / "home", "run", "--dataset", str(tmp_path / "x.yaml"))
    assert result.returncode == 2
    assert message in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
