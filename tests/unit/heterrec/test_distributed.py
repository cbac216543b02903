"""Two real processes with gloo, started as `torchrun` starts them, against one process."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from heterrec.recipes import LossConfig, TrainConfig
from tests.unit.heterrec.small import SMALL

MODEL = replace(SMALL, max_history=8, dropout=0.0, id_dropout=0.0, feature_dropout=0.0)
LOSS = LossConfig(token_candidates=10, token_weight=0.3, later_share=1.0, token_share=1.0)
CONFIG = TrainConfig(model=MODEL, loss=LOSS, epochs=2, batch_events=24, patience=2)
PROCESS = """
import json, os, sys
from pathlib import Path
import torch
from heterrec import distributed
from heterrec.training.optimiser import ID_TABLE
from heterrec.recipes import TrainConfig
from heterrec.data.sequences import read_sequences
from heterrec.training.loop import Training
torch.set_num_threads(1)
sequences, config, out, options = sys.argv[1:]
options, rank, steps = json.loads(options), os.environ.get("RANK", "0"), []
scratch = options.get("scratch")
with distributed.together("cpu") as own:
    training = Training(read_sequences(Path(sequences)), TrainConfig.from_json(config), device=own,
                        sharded=options.get("sharded", False))
    before, count = training._step, [0]
    def step(*arguments):
        count[0] += 1
        if rank == "1" and count[0] == options.get("dies_in_step"):
            os._exit(9)
        return before(*arguments)
    training._step = step
    table = training.optimiser.named[ID_TABLE]
    trained = training.run(scratch and Path(scratch), lambda update: steps.append(update.loss * update.step), 0.0)
    part, index = training.optimiser.place_of(ID_TABLE)
    moments = training.optimiser.parts[part].state[table]
    held = sum(each.numel() for name, each in moments.items() if name.startswith("exp_avg")) + table.numel()
found = {"held": held, "steps": steps}
if rank == "0":
    found["curve"] = [[point["loss"], point["validation_ndcg"]] for point in trained.curve]
    found["weights"] = {name: value.tolist() for name, value in trained.model.state_dict().items()}
Path(f"{out}.{rank}").write_text(json.dumps(found))
"""
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def run(shop_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Train in `count` processes; what each of them tells. A run without a scratch is made once."""
    root = tmp_path_factory.mktemp("processes")
    script = root / "process.py"
    script.write_text(PROCESS)
    made: dict[str, list[dict[str, Any]]] = {}

    def train(count: int, candidates: int | None, *, fails: bool = False, **options: Any) -> list[dict[str, Any]]:
        config = replace(CONFIG, loss=replace(LOSS, candidates=candidates, newborn_share=0.0))
        key = f"{count}-{candidates}-{options}"
        if key not in made or "scratch" in options:
            out = root / f"out-{len(made)}"
            command = [sys.executable, *(TWO if count == 2 else []), str(script), str(shop_root), config.to_json()]
            environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
            done = subprocess.run(
                [*command, str(out), json.dumps(options)], env=environment, capture_output=True, text=True, timeout=240
            )
            assert bool(done.returncode) == fails and ("exitcode  : 9 " in done.stderr) == fails, done.stderr[-3000:]
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
