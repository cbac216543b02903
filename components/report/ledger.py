"""Every run that trained is written down in MLflow, blocked ones too: recipe, numbers, curve, data and the reason."""

import json
from pathlib import Path
from typing import Any

from components.shared.model_names import model_name
from components.shared.model_registry import (
    Registry,
    TrialRecord,
    flat,
    metrics,
    tags,
)
from runtime.log import emit
from runtime.object_store import present
from runtime.task import TaskRecord, lineage, read_records


def run(*, run_id: str, mlflow_url: str, outcome: str) -> bool:
    """Log the run; False where it trained nothing. A fault of MLflow is told, and never hides how the run ended."""
    records = read_records(run_id)
    if not _ended(records, "train") or not _ended(records, "validate"):
        return False
    name = str(records["validate"].report["dataset"])
    try:
        Registry(mlflow_url, name).log(_trial(run_id, records, outcome))
    except Exception as error:  # each of MLflow's stores has its own
        emit("mlflow_failed", run=run_id, error=f"{type(error).__name__}: {str(error).splitlines()[:1]}")
        return False
    return True


def _trial(run_id: str, records: dict[str, TaskRecord], outcome: str) -> TrialRecord:
    model = present(Path(records["train"].artifact))
    evaluation = present(Path(records["evaluate"].artifact)) if _ended(records, "evaluate") else None
    report: dict[str, Any] = json.loads((evaluation / "report.json").read_text()) if evaluation else {}
    blocked = [message for record in records.values() for message in record.report.get("blocked", [])]
    # The recipe's identity is that of evaluate; a run that did not come so far has the digest of its training.
    recipe = report.get("recipe") or records["train"].key
    release = report.get("release") or {}
    blocked += [release["why"]] if release.get("released") and release["why"] else []
    about = {
        **tags(lineage(run_id), recipe_digest=recipe),
        "dataset": str(records["validate"].report["dataset"]),
        "as_of": str(records["validate"].report["as_of"]),
        "outcome": outcome,
        "reason": " ".join(blocked),
    }
    return TrialRecord(
        run_id=run_id,
        model=model_name(model),
        settings=flat(json.loads((model / "config.json").read_text())),
        metrics=metrics(report),
        curve=json.loads((model / "curve.json").read_text()),
        tags=about,
    )


def _ended(records: dict[str, TaskRecord], task: str) -> bool:
    return task in records and records[task].status in ("done", "reused")
