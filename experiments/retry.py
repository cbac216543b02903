"""Optimistic concurrency over the rollout table: read the row, decide, propose, and again where somebody was faster."""

from collections.abc import Callable
from typing import TypeVar

from experiments.table import StaleRollout

ATTEMPTS = 20
"""Far more than the writers of one row: who loses so often meets a fault and no crowd."""
Result = TypeVar("Result")


def until_unmoved(attempt: Callable[[], Result], *, model: str, during: str) -> Result:
    """What `attempt` returns, which reads the row of `model`, decides and proposes.

    It is called anew, and so decides on the row as it is then, each time that its proposal comes too late
    (`StaleRollout`). Raises `StaleRollout` after `ATTEMPTS` of them; `during` says what was being done.
    """
    for _ in range(ATTEMPTS):
        try:
            return attempt()
        except StaleRollout:
            continue
    raise StaleRollout(f"{model}: the rollout table changed {ATTEMPTS} times {during}; try again")
