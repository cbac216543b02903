"""Two real processes with gloo, started as `torchrun` starts them, against one process."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SMALL

from heterrec.recipes import LossConfig, TrainConfig

MODEL = replace(SMALL, max_history=8, dropout=0.0, id_dropout=0.0, feature_dropout=0.0)
LOSS = LossConfig(token_candidates=10, token_weight=0.3, later_share=1.0, token_share=1.0)
CONFIG = TrainConfig(model=MODEL, loss=LOSS, epochs=2, batch_events=24, patience=2)
PROCESS = """
import json, os, sys
from pathlib import Path
import torch
from heterrec.recipes import TrainConfig
from heterrec.sequences import read_sequences
from heterrec.training import train
torch.set_num_threads(1)
steps = []
trained = train(read_sequences(Path(sys.argv[1])), TrainConfig.from_json(sys.argv[2]),
                progress=lambda update: steps.append(update.loss * update.step))
if os.environ.get("RANK", "0") == "0":
    weights = {name: value.tolist() for name, value in trained.model.state_dict().items()}
    Path(sys.argv[3]).write_text(json.dumps({"steps": steps, "curve": trained.curve, "weights": weights}))
"""


@pytest.mark.parametrize("candidates", [None, 12])
def test_two_processes_give_the_loss_curve_of_one(candidates, shop_root: Path, tmp_path: Path):
    """The global batch is the same, chance is off; a step of 24 events has lists for both, the last ones may not.

    With sampled candidates each process knows other rows, and the table of item IDs has sparse gradients.
    """
    config = replace(CONFIG, loss=replace(LOSS, candidates=candidates, newborn_share=0.0))
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    found = []
    for name, start in (
        ("one", [sys.executable]),
        ("two", [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]),
    ):
        out = tmp_path / f"{name}.json"
        command = [*start, str(script), str(shop_root), config.to_json(), str(out)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(json.loads(out.read_text()))
    one, two = found
    assert len(one["steps"]) == len(two["steps"]) > 10
    torch.testing.assert_close(torch.tensor(two["steps"]), torch.tensor(one["steps"]), rtol=1e-5, atol=1e-5)
    for name, weight in one["weights"].items():
        torch.testing.assert_close(torch.tensor(two["weights"][name]), torch.tensor(weight), rtol=1e-3, atol=1e-4)
