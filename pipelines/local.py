"""Runs the pipeline on this machine with Kubeflow's own local runner."""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.ending import (
    KILLED,
    broken,
    ending,
    why,
)
from components.shared.expected_tasks import of_training
from feature_repo.card import DatasetCard
from pipelines.terminal import Terminal
from runtime import workspace
from runtime.errors import InputError
from runtime.task import TaskRecord, read_records

ENVIRONMENT = {
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "FEAST_USAGE": "False",
    # Threads that spin while they wait starve whatever else runs on the machine, and then themselves.
    "OMP_WAIT_POLICY": "PASSIVE",
}


@dataclass(frozen=True, kw_only=True)
class RunOutcome:
    """How a run ended: its records by task, and the page about it."""

    run_id: str
    records: dict[str, TaskRecord]
    page: Path

    @property
    def failed(self) -> TaskRecord | None:
        """The task that failed, or was killed."""
        return broken(self.records)

    @property
    def blocked(self) -> bool:
        """A gate, or too little power, kept every model from a release."""
        return ending(self.records).blocked

    @property
    def ending(self) -> str:
        """One sentence: what became of the model."""
        return ending(self.records).sentence

    def last_lines(self, dataset: str) -> list[str]:
        """Why the run ended before its release, what would change that, and where all of it can be looked at."""
        reasons = why(self.records)
        lines = [line for reason in reasons for line in reason.lines]
        lines += [f"rows and pictures: {page}" for page in dict.fromkeys(each.page for each in reasons) if page]
        if reasons:
            lines.append(f"card: {dataset}")
        if self.failed:
            lines.append(f"log:  {self.page.parent / 'log.txt'}")
        return [*lines, f"page: {self.page}"]

    @property
    def serves(self) -> str:
        """Which model was judged, and which serves; empty where none came so far."""
        record = self.records.get("refit")
        return str(record.report["sentence"]) if record and record.report else ""


def run(
    *,
    run_id: str,
    card: DatasetCard,
    recipe: str,
    baseline: str,
    as_of: str,
    new_reference: bool = False,
    containers: bool = False,
) -> RunOutcome:
    """Run the training pipeline to its end; faults of tasks are in the outcome, not raised.

    With `containers` each task runs in its image, else in a process of its own.
    """
    from components.ingest.source import DATA_VARIABLE
    from pipelines.containers import choose_images, folders
    from pipelines.reach import placed, require_in_containers

    if containers:
        choose_images()
        card = placed(card, os.environ.get(DATA_VARIABLE))
        require_in_containers(card, list(folders()))
    from pipelines.training import build

    asked = {"card": card.model_dump_json(), "recipe": recipe, "baseline": baseline, "as_of": as_of}
    records = execute(build, run_id=run_id, containers=containers, **asked, new_reference=new_reference)
    outcome = RunOutcome(run_id=run_id, records=records, page=workspace.runs() / run_id / "page.html")
    if outcome.failed is None:
        assert_tasks(outcome.records, of_training(outcome.records))
    return outcome


def execute(
    build: Callable[[], Callable[..., Any]], *, run_id: str, containers: bool = False, **arguments: Any
) -> dict[str, TaskRecord]:
    """Run the pipeline that `build` makes, with `arguments`, to its end; the records of its tasks."""
    from kfp import local

    from pipelines.containers import runner

    kubeflow = workspace.home() / "kfp"
    # A folder that is not there when it is mounted is made by the engine, and is root's.
    (kubeflow / run_id).mkdir(parents=True)
    set_environment()
    with logged(run_id), warnings.catch_warnings():
        # The tasks' own faults come back through their records; Kubeflow's summary would hide the reason.
        local.init(
            runner=runner() if containers else local.SubprocessRunner(use_venv=False),
            pipeline_root=str(kubeflow / run_id),
            workspace_root=str(kubeflow / "workspace"),
            raise_on_error=False,
        )
        build()(run_id=run_id, **arguments)
    return read_records(run_id)


@contextlib.contextmanager
def logged(run_id: str) -> Iterator[None]:
    """Inside, whatever is written goes to the run's log, and its events to the terminal too."""
    folder = workspace.runs() / run_id
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as log:
        terminal = Terminal(log)
        with contextlib.redirect_stdout(terminal), contextlib.redirect_stderr(terminal):
            yield


def require_ended(records: dict[str, TaskRecord], wanted_tasks: list[str]) -> None:
    """Raise `InputError` where a task's input is at fault, RuntimeError for a fault of the system: a task that failed,
    was killed, or never ran."""
    if (record := broken(records)) is not None:
        raise (InputError if record.input_fault else RuntimeError)(record.error or f"{record.task}: {KILLED}")
    assert_tasks(records, wanted_tasks)


def assert_tasks(records: dict[str, TaskRecord], wanted_tasks: list[str]) -> None:
    """Raise RuntimeError unless exactly the wanted tasks ended: what ran is held against what the gates said."""
    wanted = set(wanted_tasks)
    ended = {name for name, record in records.items() if record.status in ("done", "reused")}
    if wanted != ended:
        raise RuntimeError(
            f"the run says success but its tasks differ: missing {sorted(wanted - ended) or 'none'}, "
            f"unexpected {sorted(ended - wanted) or 'none'}. See log.txt of the run."
        )


def set_environment() -> None:
    """What every task's process needs: quiet tools, this project's modules, this Python."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    root = str(workspace.ROOT)
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != root]
    os.environ["PYTHONPATH"] = os.pathsep.join([root, *paths])
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
