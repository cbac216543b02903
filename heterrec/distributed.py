"""Several processes that train one model, each on its part of every batch.

Started by `torchrun`, which tells each who it is; a process alone needs none of this and pays nothing for it.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as dist

LET_GO_SECONDS = 0.3
"""A pause before the group ends. Gloo's threads need the interpreter's lock (GIL) to free the tensors of their last
exchange; the call that ends the group holds that lock while it waits for those threads. Without the pause a process
that had finished its work hung for good."""


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """The device of this process, while it stands in a group with those that `torchrun` started beside it."""
    if started() == 1:
        yield device
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield device
    finally:
        time.sleep(LET_GO_SECONDS)
        dist.destroy_process_group()


def started() -> int:
    """How many processes were started beside each other, this one included, whether they stand in a group or not."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def writes() -> bool:
    """Whether this process writes what a run leaves: number 0 of those that were started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def world() -> int:
    """How many processes train."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; 0 validates, keeps checkpoints and tells of progress."""
    return dist.get_rank() if dist.is_initialized() else 0


def mean(value: Tensor) -> Tensor:
    """Mean over the processes, without a gradient.

    A sum over all states divided by the mean of the processes' weights is, after DDP has taken the mean of the
    gradients, the mean over the states of all processes.
    """
    if world() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / world()


def broadcast(value: float | None, device: str) -> float | None:
    """What process 0 says, to all."""
    if world() == 1:
        return value
    said = torch.tensor([float("nan") if value is None else value], dtype=torch.float64, device=device)
    dist.broadcast(said, 0)
    heard = float(said.item())
    return None if heard != heard else heard
