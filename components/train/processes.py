"""Several processes of this machine that train one model, started and ended by one step."""

import json
import os
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runtime.errors import InputError
from runtime.files import replace_text

PROCESSES = "HETERREC_TRAIN_PROCESSES"
SHARDED = "HETERREC_TRAIN_SHARDED"
FAULT = "fault.json"


def wanted() -> int:
    """How many processes train: `$HETERREC_TRAIN_PROCESSES`, else one for each GPU of the machine, at least one.

    A fact of the machine and no part of a recipe: the number changes the time that training takes, and its sums by
    rounding. Raises `InputError` where it is no number, or more than the machine has GPUs.
    """
    import torch

    gpus = torch.cuda.device_count()
    named = os.environ.get(PROCESSES, "").strip()
    if not named:
        return max(1, gpus)
    if not named.isdecimal() or int(named) < 1:
        raise InputError(f"{PROCESSES}={named!r}: expected a number from 1 on; unset it for one process a GPU")
    if gpus and int(named) > gpus:
        raise InputError(f"{PROCESSES}={named}: each has a GPU of its own, and this machine {gpus}")
    return int(named)


def sharded() -> bool:
    """Whether each process holds a part of the table of item IDs alone: `$HETERREC_TRAIN_SHARDED` is 1."""
    named = os.environ.get(SHARDED, "0").strip()
    if named not in ("0", "1"):
        raise InputError(f"{SHARDED}={named!r}: expected 0 or 1")
    return named == "1"


def run_processes(count: int, fit: Callable[..., None], work: Mapping[str, Any]) -> None:
    """Run `fit(**work)`, a function of a module, in `count` processes, each with the environment that `torchrun` gives.

    The first that fails ends them all. Raises `InputError` where the data is at fault, and `RuntimeError` that names
    the process and what became of it for all else; the checkpoint stays for the next attempt. They end with this
    process, however that ends.
    """
    import torch
    from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, spawn

    threads = max(1, torch.get_num_threads() // count)
    with tempfile.TemporaryDirectory() as folder:
        fault = Path(folder) / FAULT
        try:
            run = (count, _free_port(), threads, fault, fit, dict(work))
            spawn(_process, args=run, nprocs=count)  # type: ignore[no-untyped-call]
        except ProcessExitedException as error:
            if fault.is_file():
                raise InputError(json.loads(fault.read_text())) from error
            ended = f"was ended by {error.signal_name}" if error.signal_name else f"ended with {error.exit_code}"
            raise RuntimeError(_process_fault(error.error_index, count, ended)) from error
        except ProcessRaisedException as error:
            *_, last = str(error).strip().splitlines()
            raise RuntimeError(_process_fault(error.error_index, count, f"failed: {last}")) from error


def _process_fault(number: int, count: int, what: str) -> str:
    return (
        f"training: process {number + 1} of {count} {what}. The others were ended; run the step again and it goes on "
        f"from the last checkpoint. {PROCESSES}=1 trains without company."
    )


def _process(
    number: int, count: int, port: int, threads: int, fault: Path, fit: Callable[..., None], work: dict[str, Any]
) -> None:
    import torch

    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    os.environ.update(place, RANK=str(number), LOCAL_RANK=str(number))
    torch.set_num_threads(threads)
    try:
        fit(**work)
    except InputError as error:
        replace_text(fault, json.dumps(str(error)))
        raise SystemExit(2) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
