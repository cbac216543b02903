"""What serves, as the rollout table has it; and the table's absence, which is no fault of a workspace that is empty."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import make_url

from experiments.document import Rollout
from experiments.table import Entry, InterimAnalysis, RolloutTable
from runtime import workspace


@contextmanager
def opened() -> Iterator[RolloutTable | None]:
    """The table; None where its file was never made: to look must not make one. Raises `TableAway`."""
    url = make_url(workspace.rollout_url())
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).is_file():
        yield None
        return
    with RolloutTable(workspace.rollout_url()) as table:
        yield table


def rows() -> list[Rollout]:
    """A row for each model. Raises `TableAway`."""
    with opened() as table:
        return [table.read(name) for name in table.models()] if table is not None else []


def last_looks() -> dict[str, InterimAnalysis]:
    """By model the latest look at the experiment that runs."""
    found: dict[str, InterimAnalysis] = {}
    with opened() as table:
        if table is None:
            return found
        for row in map(table.read, table.models()):
            if row.salt and (looks := table.decisions(row.model, row.salt)):
                found[row.model] = looks[-1]
    return found


def experiment(table: RolloutTable, model: str) -> tuple[str, list[Entry], list[InterimAnalysis]]:
    """The experiment that runs, or the latest one: its salt, its changes with the one that ended it, its looks."""
    history = table.history(model)
    salt = next((entry.rollout.salt for entry in reversed(history) if entry.rollout.salt), "")
    mine = [number for number, entry in enumerate(history) if salt and entry.rollout.salt == salt]
    changes = history[mine[0] : mine[-1] + 2] if mine else []
    return salt, changes, table.decisions(model, salt) if salt else []
