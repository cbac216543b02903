"""The tasks from the source to the training frame, one after the other in one process.

Each is recorded, reused or made as it is in a pod of its own: only where they run differs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.features.task import features
from components.ingest.task import ingest
from components.resolve.task import resolve
from components.validate import task as gate
from feature_repo.card import DatasetCard


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What came of it: `accepted` by the data gate or not, and what Kubeflow's UI shows."""

    accepted: bool
    page: Path
    """The gate's."""
    summary: Mapping[str, Any]
    numbers: Mapping[str, float]
    """By task and name: ingest_rows, validate_blocked, …"""
    outputs: Mapping[str, str] = field(repr=False)
    """Paths of the references: events, facts, champion, reference, validation and, where accepted, sequences."""


def prepare(
    *, run_id: str, card: DatasetCard, as_of: str, folder: Path, new_reference: bool = False, sequences: str = ""
) -> Prepared:
    """Ingest, resolve, hold against the card and, where the gate lets it through, join the features.

    References are written below `folder`, that to the training frame to `sequences`, where it is named.
    """
    names = ("events", "facts", "champion", "reference", "validation", "sequences")
    out = {name: str(folder / name) for name in names}
    if sequences:
        out["sequences"] = sequences
    asked: dict[str, Any] = {"run_id": run_id, "card": card}
    read = ingest(**asked, as_of=as_of, events=out["events"])
    now: dict[str, Any] = {name: out[name] for name in ("events", "facts", "champion", "reference")}
    summary = resolve(**asked, as_of=as_of, new_reference=new_reference, **now)
    known: dict[str, Any] = {name: out[name] for name in ("events", "facts")}
    report, page = gate.validate(**asked, **known, reference=out["reference"], validation=out["validation"])
    told = {"ingest": {name: read[name] for name in ("rows", "accepted", "rejected", "users", "items")}}
    told["validate"] = gate.numbers(report)
    if report["passed"]:
        _, told["features"] = features(**asked, **known, sequences=out["sequences"])
    else:
        del out["sequences"]
    numbers = {f"{task}_{name}": value for task, found in told.items() for name, value in found.items()}
    return Prepared(accepted=report["passed"], page=page, summary=summary, numbers=numbers, outputs=out)
