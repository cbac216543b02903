"""Runs the pipeline on this machine with Kubeflow's own local runner."""

import contextlib
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import workspace
from components.announce.expected import of_training
from components.evaluate.choice import told
from components.task import Record, read_records
from feature_repo.card import DatasetCard
from pipelines.terminal import Terminal

ENVIRONMENT = {
    "GX_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "FEAST_USAGE": "False",
    # Threads that spin while they wait starve whatever else runs on the machine, and then themselves.
    "OMP_WAIT_POLICY": "PASSIVE",
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended: its records by task, and the page about it."""

    run_id: str
    records: dict[str, Record]
    page: Path

    @property
    def failed(self) -> Record | None:
        return next((record for record in self.records.values() if record.status == "failed"), None)

    @property
    def ending(self) -> str:
        """One sentence: what became of the model."""
        if self.failed:
            return f"failed in {self.failed.task}"
        for gate in ("validate", "evaluate", "infra_validate"):
            if gate in self.records and not self.records[gate].report["passed"]:
                return f"not pushed: blocked by {gate}"
        if "evaluate" not in self.records:
            return "not trained: the held-out shoppers could decide nothing"
        instead = f", {found}" if (found := told(self.records["evaluate"].report.get("release"))) else ""
        if version := self.records["package"].notes.get("released_as"):
            return f"already released as version {version}{instead}: nothing to push"
        push = self.records["push"].report
        return f"pushed: version {push['version']} ({push['status']}){instead}"

    def blocked(self, dataset: str) -> list[str]:
        """Where a gate stopped the run, or the model that was judged: each check with its numbers, what would change
        it, and the gate's own page."""
        lines = []
        release = self.records["evaluate"].report.get("release") if "evaluate" in self.records else None
        if release is not None and told(release):
            lines.append(f"{release['judged']} is not what is released: {release['why']}")
        for gate in ("validate", "evaluate", "infra_validate"):
            record = self.records.get(gate)
            if record is None or not (messages := record.report.get("blocked", [])):
                continue
            names = record.report.get("blocking") or [gate] * len(messages)
            lines += [f"{gate}: {name}: {message}" for name, message in zip(names, messages, strict=True)]
            if gate == "validate":
                lines.append(
                    f"to change it: correct the source, or the field in brackets in the card {dataset}; where the "
                    f"change is meant: python -m pipelines run --dataset {dataset} --new-reference"
                )
            if (page := Path(record.artifact) / "page.html").is_file():
                lines.append(f"rows and pictures: {page}")
        return lines


def run(
    *,
    run_id: str,
    card: DatasetCard,
    recipe: str,
    baseline: str,
    as_of: str,
    new_reference: bool = False,
    containers: bool = False,
) -> Outcome:
    """Run the training pipeline to its end; faults of tasks are in the outcome, not raised.

    With `containers` each task runs in its image, else in a process of its own.
    """
    from pipelines.containers import choose_images

    if containers:
        choose_images()
    from pipelines.training import build

    asked = {"card": card.model_dump_json(), "recipe": recipe, "baseline": baseline, "as_of": as_of}
    records = execute(build, run_id=run_id, containers=containers, **asked, new_reference=new_reference)
    outcome = Outcome(run_id=run_id, records=records, page=workspace.runs() / run_id / "page.html")
    if outcome.failed is None:
        assert_tasks(outcome.records, of_training(outcome.records))
    return outcome


def execute(
    build: Callable[[], Callable[..., Any]], *, run_id: str, containers: bool = False, **arguments: Any
) -> dict[str, Record]:
    """Run the pipeline that `build` makes, with `arguments`, to its end; the records of its tasks."""
    from kfp import local

    from pipelines.containers import runner

    folder = workspace.runs() / run_id
    folder.mkdir(parents=True, exist_ok=True)
    kubeflow = workspace.home() / "kfp"
    # A folder that is not there when it is mounted is made by the engine, and is root's.
    (kubeflow / run_id).mkdir(parents=True)
    set_environment()
    with (folder / "log.txt").open("w") as log:
        terminal = Terminal(log)
        with contextlib.redirect_stdout(terminal), contextlib.redirect_stderr(terminal), warnings.catch_warnings():
            # The tasks' own faults come back through their records; Kubeflow's summary would hide the reason.
            local.init(
                runner=runner() if containers else local.SubprocessRunner(use_venv=False),
                pipeline_root=str(kubeflow / run_id),
                workspace_root=str(kubeflow / "workspace"),
                raise_on_error=False,
            )
            build()(run_id=run_id, **arguments)
    return read_records(run_id)


def assert_tasks(records: dict[str, Record], wanted_tasks: list[str]) -> None:
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
