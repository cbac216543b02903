"""The reference: the profile of the last accepted run, fixed for this run, so that the data gate can be repeated."""

import json
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from components.resolve.exposures import copy_exposures
from components.shared.reference_files import PROFILE, read_profile, source_digest
from feature_repo.card import DatasetCard
from runtime.errors import InputError
from runtime.manifest import Manifest
from runtime.object_store import present

REPORT = "reference.json"


@dataclass(frozen=True, kw_only=True)
class ReferenceRun:
    """A run whose data the gate let pass."""

    run: str
    as_of: datetime
    started: str
    validation: Path


def run(
    *, card: DatasetCard, facts: Path, runs: Path, exposures: Path, asked: str | None, anew: bool, reference: Path
) -> dict[str, Any]:
    """Write `reference/` (docs/contracts.md) and return its reference.json.

    `runs` holds the records of all runs. The last accepted one is that with the latest as_of, of the same source
    and on other data than this run's `facts`; where `asked` names this run's as_of, later ones do not count.
    An accepted profile that is damaged or of another schema is left out, which is said; the one before it counts then.
    `anew`: there is to be no reference, because what changed is meant.
    """
    reference.mkdir(parents=True, exist_ok=True)
    as_of = datetime.fromisoformat(json.loads((facts / "facts.json").read_text())["as_of"])
    report: dict[str, Any] = {"accepted": None, "notes": []}
    if anew:
        report["notes"].append("Asked to begin anew: nothing is held against an earlier run.")
    else:
        for candidate in _candidates(card, facts, runs, as_of if asked else None):
            validation = present(candidate.validation)
            try:
                Manifest.verify(validation, kind="validation")
                read_profile(validation)
            except InputError as error:
                report["notes"].append(f"The accepted profile of run {candidate.run} is left out: {error}")
                continue
            shutil.copyfile(validation / PROFILE, reference / PROFILE)
            report["accepted"] = candidate.as_of.isoformat()
            break
        else:
            report["notes"].append(
                "No usable run was accepted before this one on this source: drift, changes and losses cannot be judged."
            )
    report |= copy_exposures(card, exposures, as_of, reference)
    (reference / REPORT).write_text(json.dumps(report, indent=1))
    return report


def _candidates(card: DatasetCard, facts: Path, runs: Path, latest: datetime | None) -> list[ReferenceRun]:
    """Accepted runs, the last one first."""
    here = Manifest.read(facts, kind="facts").digest
    found = [
        accepted
        for path in runs.glob("*/validate.json")
        if (accepted := _accepted(path, card, here)) and (latest is None or accepted.as_of <= latest)
    ]
    return sorted(found, key=lambda accepted: (accepted.as_of, accepted.started), reverse=True)


def _accepted(path: Path, card: DatasetCard, here: str) -> ReferenceRun | None:
    record = json.loads(path.read_text())
    report = record["report"]
    if record["status"] not in ("done", "reused") or not report.get("passed"):
        return None
    if report.get("dataset") != card.name or report.get("source") != source_digest(card):
        return None
    if record["parents"].get("facts") == here:
        # The same data once more: against itself nothing would ever differ.
        return None
    return ReferenceRun(
        run=path.parent.name,
        as_of=datetime.fromisoformat(report["as_of"]),
        started=record["started"],
        validation=Path(record["artifact"]),
    )
