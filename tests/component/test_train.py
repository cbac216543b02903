"""The train step in one process, and in two that it starts itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from components.train import step
from components.train.component import train as train_component
from components.train.processes import PROCESSES, SHARDED
from heterrec.data.encoder import MAX_WORDS, FeatureEncoder
from heterrec.recipes import LossConfig, ModelConfig, TrainConfig
from heterrec.training.export import load_model
from heterrec.training.trained import Update
from runtime.errors import InputError
from runtime.manifest import Manifest
from runtime.task import read_records
from tests.unit.heterrec.shop import write, write_shop

ROOT = Path(__file__).parents[2]
CONFIG = TrainConfig(
    model=ModelConfig(
        width=16, item_layers=1, max_history=8, min_events=1, dropout=0.0, id_dropout=0.0, feature_dropout=0.0
    ),
    loss=LossConfig(token_candidates=10, later_share=1.0, token_share=1.0),
    epochs=3,
    batch_events=64,
)
WEIGHTS = "weights.pt"
ALONE = """
import sys
from pathlib import Path
from tests.component.test_train import CONFIG, Slow
from components.train import step
sequences, model, scratch = map(Path, sys.argv[1:])
step.run(config=CONFIG, sequences=sequences, model=model, scratch=scratch, progress=Slow())
"""


class Slow:
    """Takes a while for each step, so that a signal meets a run that is under way."""

    def __call__(self, update: Update) -> None:
        time.sleep(0.1)


class KillsAnother:
    """In the second epoch, ends the other process as the kernel does that is short of memory."""

    def __call__(self, update: Update) -> None:
        if update.epoch == 2 and update.step == 2:
            for sibling in psutil.Process(os.getppid()).children():
                if sibling.pid != os.getpid() and "spawn_main" in " ".join(sibling.cmdline()):
                    sibling.kill()


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("train") / "sequences")


@pytest.fixture(autouse=True)
def two(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(PROCESSES, "2")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def run(root: Path, sequences: Path, **changes: Any) -> dict[str, Any]:
    (root / "model").mkdir(parents=True, exist_ok=True)
    settings = {"config": CONFIG, "sequences": sequences, "model": root / "model", "scratch": root / "scratch"}
    return step.run(**{**settings, **changes})


@pytest.fixture(scope="module")
def of_two(sequences: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PROCESSES, "2")
        root = tmp_path_factory.mktemp("two")
        assert run(root, sequences)["processes"] == 2
    return root / "model"


def curve(model: Path) -> list[tuple[float, float]]:
    return [(point["loss"], point["validation_ndcg"]) for point in json.loads((model / "curve.json").read_text())]


def assert_same(model: Path, other: Path) -> None:
    first, second = (torch.load(root / WEIGHTS, weights_only=True) for root in (model, other))
    assert curve(model) == curve(other)
    assert all(torch.equal(first[name], second[name]) for name in first)


def assert_close(model: Path, other: Path) -> None:
    losses = [np.array([loss for loss, _ in curve(root)]) for root in (model, other)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_two_processes_write_the_model_of_one(
    sequences: Path, of_two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whether each has the whole table of item IDs or a part of it."""
    monkeypatch.setenv(SHARDED, "1")
    run(tmp_path / "sharded", sequences)
    assert_close(tmp_path / "sharded" / "model", of_two)
    assert (
        len(load_model(tmp_path / "sharded" / "model").model.htfl.ids.weight) == len(load_model(of_two).encoder.ids) + 1
    )
    monkeypatch.setenv(SHARDED, "0")
    monkeypatch.setenv(PROCESSES, "1")
    report = run(tmp_path, sequences)
    assert report["processes"] == 1
    assert_close(tmp_path / "model", of_two)
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {path.name for path in of_two.iterdir()} == names >= {WEIGHTS, "report.json", "encoder.json"}
    load_model(of_two)


def test_when_one_is_killed_the_error_names_it_and_the_next_attempt_ends_the_same(
    sequences: Path, of_two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """And what two have begun one may end, but for rounding."""
    with pytest.raises(RuntimeError, match=r"^training: process 2 of 2 was ended by SIGKILL\. .*run the step again"):
        run(tmp_path, sequences, progress=KillsAnother())
    assert not (tmp_path / "model" / WEIGHTS).exists()
    shutil.copytree(tmp_path / "scratch", tmp_path / "alone" / "scratch")
    run(tmp_path, sequences)
    assert_same(tmp_path / "model", of_two)
    monkeypatch.setenv(PROCESSES, "1")
    epochs: list[int] = []
    run(tmp_path / "alone", sequences, progress=lambda update: epochs.append(update.epoch))
    assert min(epochs) == 2
    assert_close(tmp_path / "alone" / "model", of_two)


def test_when_the_step_is_killed_its_processes_end_and_the_next_attempt_goes_on(
    sequences: Path, of_two: Path, tmp_path: Path
):
    paths = [sequences, tmp_path / "model", tmp_path / "scratch"]
    (tmp_path / "model").mkdir()
    command = [sys.executable, "-c", ALONE, *map(str, paths)]
    killed = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    while not (tmp_path / "scratch" / "checkpoint.pt").exists():
        assert killed.poll() is None, "ended before its first checkpoint"
        time.sleep(0.05)
    company = psutil.Process(killed.pid).children()
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    _, alive = psutil.wait_procs(company, timeout=20)
    assert len(company) >= 2 and not alive
    run(tmp_path, sequences)
    assert_same(tmp_path / "model", of_two)


def test_data_at_fault_is_said_once_and_as_by_one_process(tmp_path: Path):
    nothing = write(tmp_path / "none", columns={"price": [None] * 2}, arrives=np.zeros(2), events=[])
    with pytest.raises(InputError, match=r"^sequences: no events in the training split"):
        run(tmp_path, nothing)


@pytest.mark.parametrize("named", ["0", "-1", "two", "1.5"])
def test_a_number_of_processes_that_is_none_is_refused(named: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv(PROCESSES, named)
    with pytest.raises(InputError, match=rf"{PROCESSES}='{named}': expected a number from 1 on"):
        run(tmp_path, tmp_path)


def test_the_report_names_the_features_whose_items_lose_values():
    tags = [[f"v{n}" for n in range(MAX_WORDS + 3)]] * 2 + [["other"]] * 2
    kinds = {"tags": "multi_categorical", "few": "multi_categorical"}
    encoder = FeatureEncoder.fit(
        [{"name": name, "kind": kind, "varies_in_time": False} for name, kind in kinds.items()],
        {"tags": tags, "few": [["a"], ["a"], ["b"], ["b"]]},
        [f"i{n}" for n in range(4)],
        np.ones(4, dtype=np.int64),
    )
    assert step._left_out(encoder) == [f"tags: 6 beyond the first {MAX_WORDS}"]


@pytest.mark.parametrize(
    ("recipe", "told"),
    [
        ('{"shuffle_targets": "false"}', "config.shuffle_targets: found 'false', expected bool"),
        ('{"learning_rate": NaN}', "config.learning_rate: found nan, expected float"),
    ],
)
def test_a_recipe_edited_by_hand_is_a_fault_of_the_input(
    recipe: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a run's parameter in Kubeflow's UI: "false" in quotes trained towards shuffled targets."""
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "home"))
    sequences = write_shop(tmp_path / "sequences")
    Manifest.seal(sequences, kind="sequences")
    names = ("champion", "model", "metrics", "page")
    given = {name: SimpleNamespace(path=str(tmp_path / name)) for name in names}
    with pytest.raises(SystemExit) as ended:
        train_component.python_func(
            run_id="r", task_name="train", recipe=recipe, sequences=SimpleNamespace(path=str(sequences)), **given
        )
    record = read_records("r")["train"]
    assert ended.value.code == 2 and record.input_fault and record.error.startswith(told)
