"""Push: release an archive that passed every gate."""

import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.shared.archive_artifact import Packaged, find
from components.shared.choice import describe_choice
from components.shared.model_registry import (
    Registry,
    ReleaseRecord,
    flat,
    metrics,
    tags,
)
from components.shared.release_store import (
    JUDGED,
    SERVED,
    located,
    moment,
    released_version,
    require_proven,
    store_release,
    uri,
)
from experiments.document import DocumentChange, ModelVersion, ReleaseOutcome, Rollout
from experiments.document import release as decide
from experiments.retry import until_unmoved
from experiments.table import RolloutTable
from runtime.decision import Decision
from runtime.errors import InputError


def run(
    *,
    archive: Path,
    model: Path,
    served: Path,
    evaluation: Path,
    infra_validation: Path,
    lineage: dict[str, Any],
    mlflow_url: str,
    rollout_url: str,
    store: Path,
    release: Path | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dict[str, Any]:
    """Copy the archive into `store/<name>/<version>/`, record it in MLflow, and propose it to the rollout table.

    A release keeps two models: `model`, which was judged, and which the next nights judge and begin from; and `served`,
    of which the archive was made.

    Returns (and writes into `release`) the status: champion, refreshed, challenger, queued, resting, or already
    released. A model whose recipe rests is neither stored nor recorded.
    Every part finds what it made before, so that a push after a killed one completes it. Raises `InputError` where
    evaluate did not bless the model, infra_validate did not prove this archive, or it is not what its report promises.
    """
    packaged = find(archive)
    name, version = packaged.report["model"], packaged.report["version"]
    if not Decision.read(evaluation).passed:
        raise InputError(f"{evaluation}: evaluate blocked this model; only a blessed model is pushed")
    require_proven(infra_validation, packaged)
    judged = json.loads((evaluation / "report.json").read_text())
    book = Registry(mlflow_url, name)
    with RolloutTable(rollout_url, clock=clock) as table:
        if (before := released_version(rollout_url, name, packaged.digest)) is not None:
            version = before
            outcome = ReleaseOutcome("already released", table.read(name), f"this archive was released as {before}")
        else:
            target = store / name / version
            outcome = _decided(table.read(name), _candidate(packaged, target, clock()), clock)
            if outcome.status != "resting":
                models = {JUDGED: model, SERVED: served}
                stored = store_release(packaged.mar, models, target, digest=packaged.digest).resolve()
                book.register(_record(packaged, stored, model, judged, lineage))
                # What was released in place of the model that was judged, and why, is part of the row's history.
                chosen = judged.get("release") or {}
                about = f"{instead}: {chosen['why']}" if (instead := describe_choice(chosen)) else ""
                candidate, better = _candidate(packaged, stored, clock()), bool(judged.get("rises"))
                outcome = _propose(table, name, candidate, clock, better=better, about=about)
    # Last, and also where nothing was released: a push that was killed here left the view behind.
    book.show(outcome.rollout)
    report = {
        "status": outcome.status,
        "model": name,
        "version": version,
        "why": outcome.why,
        "archive_digest": packaged.digest,
        "rollout_version": outcome.rollout.version,
    }
    if release is not None:
        (release / "report.json").write_text(json.dumps(report, indent=1))
    return report


def _candidate(packaged: Packaged, stored: Path, now: datetime) -> ModelVersion:
    report = packaged.report
    return ModelVersion(
        version=report["version"],
        archive=located(stored),
        archive_digest=packaged.digest,
        recipe_digest=report["recipe_digest"],
        registered=now,
        data_until=moment(report.get("data_until")),
        network=report.get("network", True),
    )


def _decided(
    row: Rollout, model: ModelVersion, clock: Callable[[], datetime], *, better: bool = False
) -> ReleaseOutcome:
    return decide(row, model, now=clock(), salt=lambda: secrets.token_hex(8), better=better)


def _record(
    packaged: Packaged, stored: Path, model: Path, judged: dict[str, Any], lineage: dict[str, Any]
) -> ReleaseRecord:
    named = {key: str(judged["release"][key]) for key in ("judged", "released", "why")} if "release" in judged else {}
    return ReleaseRecord(
        version=packaged.report["version"],
        archive_digest=packaged.digest,
        folder=stored.parent,
        source=uri(stored.parent),
        settings=flat(json.loads((model / "config.json").read_text())),
        metrics=metrics(judged),
        tags={**tags(lineage, recipe_digest=packaged.report["recipe_digest"]), **named},
    )


def _propose(
    table: RolloutTable,
    name: str,
    model: ModelVersion,
    clock: Callable[[], datetime],
    *,
    better: bool,
    about: str = "",
) -> ReleaseOutcome:
    """Decide on the row as it is, and again whenever somebody else was faster."""

    def attempt() -> ReleaseOutcome:
        row = table.read(name)
        outcome = _decided(row, model, clock, better=better)
        outcome = outcome._replace(why=f"{outcome.why} ({about})" if about else outcome.why)
        if outcome.rollout == row:  # already released, or somebody sent its recipe back a moment ago
            return outcome
        changed = table.propose(DocumentChange(outcome.rollout, "push", outcome.why), row.version)
        return outcome._replace(rollout=changed)

    return until_unmoved(attempt, model=name, during="while a model was being pushed")
