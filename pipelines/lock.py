"""One run at a time in a workspace: a scheduled and a manual run must not interleave."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from runtime import workspace
from runtime.errors import InputError
from runtime.locks import try_lock


@contextmanager
def run_lock(run_id: str) -> Iterator[None]:
    """Hold the workspace's lock; `InputError` names the run that holds it. The kernel frees it when a run dies."""
    path = workspace.home() / "run.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        if not try_lock(file):
            file.seek(0)
            holder = file.read().strip() or "another run"
            raise InputError(
                f"{path}: {holder} is running in this workspace. Wait for it, or set HETERREC_HOME to another folder."
            )
        file.truncate(0)
        file.write(f"run {run_id} (process {os.getpid()})")
        file.flush()
        yield
        file.truncate(0)
