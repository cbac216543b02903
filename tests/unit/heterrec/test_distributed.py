"""Two real processes with gloo, started as `torchrun` starts them, against one process."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from heterrec.recipes import LossConfig, TrainConfig
from runtime.workspace import ROOT
from tests.unit.heterrec.small import SMALL

MODEL = replace(SMALL, max_history=8, dropout=0.0, id_dropout=0.0, feature_dropout=0.0)
LOSS = LossConfig(token_candidates=10, token_weight=0.3, later_share=1.0, token_share=1.0)
CONFIG = TrainConfig(model=MODEL, loss=LOSS, epochs=2, batch_events=24, patience=2)
Run = Callable[..., list[dict[str, Any]]]
Launcher = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Trains by `torchrun_forks.py` and tells the exit status."""
    errors = tmp_path_factory.mktemp("launcher") / "errors.txt"
    command = [sys.executable, "-m", "tests.unit.heterrec.torchrun_forks"]
    with errors.open("w") as told, subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=told, text=True
    ) as process:  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        asked, answers = process.stdin, process.stdout

        def launch(*job: Any) -> tuple[int, str]:
            hangs = threading.Timer(600, process.kill)
            hangs.start()
            print(json.dumps(job), file=asked, flush=True)
            status = int(answers.readline() or -1)
            hangs.cancel()
            return status, errors.read_text()[-3000:]

        yield launch


@pytest.fixture(scope="module")
def run(shop_root: Path, launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train in `count` processes; what each of them tells. A run without a scratch is made once."""
    root = tmp_path_factory.mktemp("processes")
    made: dict[str, list[dict[str, Any]]] = {}

    def train(count: int, candidates: int | None, *, fails: bool = False, **options: Any) -> list[dict[str, Any]]:
        config = replace(CONFIG, loss=replace(LOSS, candidates=candidates, newborn_share=0.0))
        key = f"{count}-{candidates}-{options}"
        if key not in made or "scratch" in options:
            out = root / f"out-{len(made)}"
            status, told = launcher(count, str(shop_root), config.to_json(), str(out), options)
            assert status == (9 if fails else 0), told
            made[key] = [] if fails else [json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(count)]
        return made[key]

    return train


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    first, second = (torch.tensor(each["curve"]) for each in (found, expected))
    torch.testing.assert_close(first[:, 0], second[:, 0], rtol=1e-5, atol=1e-5)
    for name, weight in expected["weights"].items():
        torch.testing.assert_close(torch.tensor(found["weights"][name]), torch.tensor(weight), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("candidates", [None, 12])
def test_two_processes_give_the_loss_curve_of_one(candidates: int | None, sharded: bool, run: Run):
    """The global batch is the same, chance is off; a step of 24 events has lists for both, the last ones may not.

    With sampled candidates each process knows other rows, and the table of item IDs has sparse gradients.
    """
    one, two = run(1, candidates)[0], run(2, candidates, sharded=sharded)
    assert len(one["steps"]) == len(two[0]["steps"]) > 10
    torch.testing.assert_close(torch.tensor(two[0]["steps"]), torch.tensor(one["steps"]), rtol=1e-5, atol=1e-5)
    assert_close(two[0], one)
    rows = -(-one["held"] // (2 * 3 * MODEL.width)) * 3 * MODEL.width
    assert [each["held"] for each in two] == ([rows, rows] if sharded else [one["held"]] * 2)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("candidates", [None, 12])
def test_two_processes_of_which_one_dies_end_as_if_none_had(
    candidates: int | None, sharded: bool, run: Run, tmp_path: Path
):
    """Bitwise, from the middle of an epoch on; and one process alone can go on from the very checkpoint."""
    whole = run(2, candidates, sharded=sharded)[0]
    dies = len(whole["steps"]) * 3 // 4
    options = {"sharded": sharded, "scratch": str(tmp_path / "scratch")}
    run(2, candidates, fails=True, dies_in_step=dies, **options)
    shutil.copytree(tmp_path / "scratch", tmp_path / "copy")
    resumed = run(2, candidates, **options)[0]
    assert 0 < len(resumed["steps"]) <= len(whole["steps"]) - dies + 2, "went on from the checkpoint"
    assert resumed["curve"] == whole["curve"] and resumed["weights"] == whole["weights"]
    alone = run(1, candidates, scratch=str(tmp_path / "copy"))[0]
    assert len(alone["steps"]) == len(resumed["steps"])
    assert_close(alone, whole)
