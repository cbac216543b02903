"""Trainings as `torchrun` starts them, in forks of one process that has imported everything: torch is imported once
and not three times for each of twenty trainings.

A job is a line of JSON on standard input; the answer, a line on standard output, is the exit status of the process
that failed first, or 0. What each process tells lies in `OUT.RANK`.
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from heterrec import distributed
from heterrec.data.sequences import read_sequences
from heterrec.recipes import TrainConfig
from heterrec.training.loop import Training
from heterrec.training.optimiser import ID_TABLE

TWO = LaunchConfig(
    min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="fork",
    max_restarts=0,
)  # fmt: skip
"""`torchrun --standalone --nproc-per-node=2`."""


def train(sequences: str, config: str, out: str, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    rank, scratch = os.environ.get("RANK", "0"), options.get("scratch")
    steps: list[float] = []
    with distributed.process_group("cpu") as own:
        training = Training(
            read_sequences(Path(sequences)), TrainConfig.from_json(config), device=own,
            sharded=options.get("sharded", False),
        )  # fmt: skip
        before, count = training._step, [0]

        def step(*arguments: Any) -> Any:
            count[0] += 1
            if rank == "1" and count[0] == options.get("dies_in_step"):
                os._exit(9)
            return before(*arguments)

        training._step = step  # type: ignore[method-assign]
        table = training.optimiser.named[ID_TABLE]
        trained = training.run(scratch and Path(scratch), lambda update: steps.append(update.loss * update.step), 0.0)
        part, _ = training.optimiser.place_of(ID_TABLE)
        moments = training.optimiser.parts[part].state[table]
        held = sum(each.numel() for name, each in moments.items() if name.startswith("exp_avg")) + table.numel()
    found: dict[str, Any] = {"held": held, "steps": steps}
    if rank == "0":
        found["curve"] = [[point["loss"], point["validation_ndcg"]] for point in trained.curve]
        found["weights"] = {name: value.tolist() for name, value in trained.model.state_dict().items()}
    Path(f"{out}.{rank}").write_text(json.dumps(found))


def status_of(count: int, *job: Any) -> int:
    """Exit status of the first of `count` processes that failed, or 0."""
    if count == 1:
        alone = multiprocessing.get_context("fork").Process(target=train, args=job)
        alone.start()
        alone.join()
        return int(alone.exitcode or 0)
    try:
        elastic_launch(TWO, train)(*job)
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    return 0


if __name__ == "__main__":
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(status_of(*json.loads(line)), file=answers, flush=True)
