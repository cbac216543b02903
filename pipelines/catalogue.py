"""What a run of the catalogue pipeline came to on this machine: new items and prices, served without training."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.shared.ending import why
from components.shared.expected_tasks import of_catalogue
from experiments.document import Rollout
from experiments.table import RolloutTable
from feature_repo.card import DatasetCard
from pipelines import local
from pipelines.catalogue_run import build
from runtime import workspace
from runtime.errors import InputError
from runtime.task import TaskRecord


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """What became of one arm: `status` is refreshed, unchanged, blocked or outrun."""

    arm: str
    before: str
    version: str
    status: str
    report: dict[str, Any]
    """Of the refreshed archive: items, new_items, bytes."""


def refresh(card: DatasetCard, as_of: str, *, run_id: str) -> tuple[dict[str, TaskRecord], list[Refreshed]]:
    """Run the pipeline that a cluster runs; the records of its tasks, and each arm that serves as it was refreshed.

    Raises `InputError` where nothing was released yet, a task's input is at fault, or the data gate blocked: then what
    serves stays as it is. Raises RuntimeError for a fault of the system.
    """
    with RolloutTable(workspace.rollout_url()) as table:
        row = table.read(card.name)
    if row.champion is None:
        raise InputError(f"{card.name}: no model was released yet. Run `make run DATASET=...` with its card first.")
    records = local.execute(build, run_id=run_id, card=card.model_dump_json(), as_of=as_of)
    local.require_ended(records, of_catalogue(records, serving(row)))
    if not records["validate"].report["passed"]:
        reasons = "\n".join(line for reason in why(records) for line in reason.lines)
        page = Path(records["validate"].artifact) / "page.html"
        raise InputError(f"{card.name}: the data gate blocked, what serves stays as it is.\n{reasons}\npage: {page}")
    return records, list(_arms(records, row))


def serving(row: Rollout) -> list[str]:
    """The arms that are refreshed. A former champion is kept as it was, for the way back."""
    return [arm for arm in ("champion", "challenger") if getattr(row, arm) is not None]


def _arms(records: dict[str, TaskRecord], row: Rollout) -> Iterator[Refreshed]:
    for arm in serving(row):
        if (record := records.get(f"refresh-{arm}")) is not None:
            report, before = record.report, getattr(row, arm).version
            pushed, changed = records.get(f"release-{arm}"), report["changed"]
            status = pushed.report["status"] if pushed else "blocked" if changed else "unchanged"
            version = report["version"] if changed else before
            yield Refreshed(arm=arm, before=before, version=version, status=status, report=report)
