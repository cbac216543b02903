"""The state of a run after any step, written so that the end of a process or a machine leaves the last whole one."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from heterrec import distributed
from heterrec.training.optimiser import Optimiser
from heterrec.training.weight_average import Average

NAME = "checkpoint.pt"
State = dict[str, Any]
Change = Callable[[State], State]


@dataclass(kw_only=True)
class Progressed:
    """What of a run is not in the weights or the optimiser."""

    epoch: int = 0
    """Epochs done."""
    losses: list[float] = field(default_factory=list)
    """Of the steps done of the epoch that is under way."""
    lists: int = 0
    seconds: float = 0.0
    best: float = float("-inf")
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    curve: list[dict[str, Any]] = field(default_factory=list)


def save(
    scratch: Path,
    identity: str,
    model: nn.Module,
    average: Average,
    optimiser: Optimiser,
    done: Progressed,
    change: Change | None = None,
) -> None:
    """Replace the checkpoint in `scratch` in one step. `identity` says of which run it is.

    `change` makes of what this process holds what is to be kept; the first process keeps it.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    state = {
        "identity": identity,
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
        "epoch": done.epoch,
        "losses": done.losses,
        "lists": done.lists,
        "seconds": done.seconds,
        "best": done.best,
        "best_epoch": done.best_epoch,
        "best_weights": done.best_weights,
        "curve": json.dumps(done.curve),
    }
    if change is not None:
        state = change(state)
    if distributed.rank():
        return
    partial = scratch / f"{NAME}.partial"
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())  # a node that fails must not leave the new name without the content
    os.replace(partial, scratch / NAME)


def load(
    scratch: Path,
    identity: str,
    model: nn.Module,
    average: Average,
    optimiser: Optimiser,
    change: Change | None = None,
) -> Progressed:
    """Restore the last checkpoint in `scratch`, or start anew where there is none.

    Raises `ValueError` where it belongs to another recipe or other data.
    """
    path = scratch / NAME
    if not path.is_file():
        return Progressed()
    state = torch.load(path, weights_only=True, map_location="cpu")
    if state["identity"] != identity:
        raise ValueError(f"{path}: is of another recipe or other data. Delete it, or give the run its own folder.")
    if change is not None:
        state = change(state)
    model.load_state_dict(state["model"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return Progressed(
        epoch=state["epoch"],
        losses=state["losses"],
        lists=state["lists"],
        seconds=state["seconds"],
        best=state["best"],
        best_epoch=state["best_epoch"],
        best_weights=state["best_weights"],
        curve=json.loads(state["curve"]),
    )
