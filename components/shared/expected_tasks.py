"""Which tasks a run has to have ended with, by what its gates decided.

Kubeflow's own word is not enough: a condition that it cannot evaluate becomes False and the run a success, and both a
pod that never started and a branch that was rightly not taken leave the state RUNNING.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from runtime.task import TaskRecord

ALWAYS = ("ingest", "resolve", "champion", "reference", "validate")
Records = Mapping[str, TaskRecord]


def missing(pipeline: str, records: Records, state: str) -> list[str]:
    """Tasks that had to end and did not; of a pipeline without records of its own, "every task" where `state`
    (Kubeflow's word) is not that it succeeded."""
    if pipeline not in EXPECTED:
        return [] if state.upper() == "SUCCEEDED" else ["every task"]
    ended = {name for name, record in records.items() if record.status in ("done", "reused")}
    return [task for task in EXPECTED[pipeline](records) if task not in ended]


def of_frame(records: Records) -> list[str]:
    """What leads to the training frame of one moment, where the data gate let it through."""
    return [*ALWAYS, *(["features"] if _said(records, "validate", "passed") else [])]


def of_training(records: Records) -> list[str]:
    """What the decisions taken in this run of the training pipeline call for."""
    tasks = list(ALWAYS)
    if not _said(records, "validate", "passed"):
        return tasks
    tasks += ["features", "materialise"]
    if "features" in records and records["features"].notes.get("goes_on") is False:
        return tasks
    tasks += ["train", "train-baseline", "tables", "evaluate"]
    if not _said(records, "evaluate", "passed"):
        return tasks
    tasks += ["refit", "package"]
    if "package" not in records or records["package"].notes.get("released_as"):
        return tasks
    tasks.append("infra_validate")
    return [*tasks, "push"] if _said(records, "infra_validate", "passed") else tasks


def of_catalogue(records: Records, arms: Iterable[str] = ("champion",)) -> list[str]:
    """The same of the catalogue pipeline, where these `arms` serve."""
    tasks = list(ALWAYS)
    if not _said(records, "validate", "passed"):
        return tasks
    tasks += ["features", "materialise"]
    for arm in arms:
        tasks.append(f"refresh-{arm}")
        if _said(records, f"refresh-{arm}", "changed"):
            tasks.append(f"proof-{arm}")
            if _said(records, f"proof-{arm}", "passed"):
                tasks.append(f"release-{arm}")
    return tasks


def of_lists(records: Records) -> list[str]:
    """Of the pipeline that makes lists for all shoppers: its one task."""
    return ["recommend"]


EXPECTED = {
    "heterrec-training": of_training,
    "heterrec-catalogue": of_catalogue,
    "heterrec-recommend": of_lists,
}


def _said(records: Records, task: str, what: str) -> Any:
    return task in records and records[task].report.get(what)
