"""Releases a refreshed archive in the place of the version that it refreshes; nothing else of the rollout changes."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.shared.archive_artifact import find
from components.shared.model_registry import (
    Registry,
    ReleaseRecord,
    flat,
    tags,
)
from components.shared.release_store import (
    JUDGED,
    located,
    models_of,
    moment,
    require_proven,
    store_release,
    uri,
)
from experiments.document import DocumentChange, ModelVersion, Rollout
from experiments.retry import until_unmoved
from experiments.table import RolloutTable
from runtime.object_store import fetch_release


def run(
    *,
    archive: Path,
    infra_validation: Path,
    lineage: dict[str, Any],
    mlflow_url: str,
    rollout_url: str,
    store: Path,
    release: Path,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dict[str, Any]:
    """Copy the archive into `store`, record it in MLflow, and let it take its version's place in the rollout table.

    Returns (and writes into `release`) the status: refreshed, or outrun where the arm has another version by now.
    Repeated after a kill it completes what it began. Raises `InputError` where infra_validate blocked the archive.
    """
    packaged = find(archive)
    report = packaged.report
    name, version, refreshes = report["model"], report["version"], report["refreshes"]
    require_proven(infra_validation, packaged)
    book = Registry(mlflow_url, name)
    with RolloutTable(rollout_url, clock=clock) as table:
        row = table.read(name)
        arm = next((each for each in row.serving if each.version in (refreshes, version)), None)
        if arm is None:
            return _write_report(
                release, {"status": "outrun", "model": name, "version": version, "refreshes": refreshes}
            )
        models = models_of(fetch_release(arm.archive))
        stored = store_release(packaged.mar, models, store / name / version, digest=packaged.digest).resolve()
        book.register(_record(report, packaged.digest, stored, models[JUDGED], lineage))
        refreshed = ModelVersion(
            version=version,
            archive=located(stored),
            archive_digest=packaged.digest,
            recipe_digest=arm.recipe_digest,
            registered=clock(),
            # Tables are counted anew over all events; a network has learned from none that came since.
            data_until=arm.data_until if arm.network else moment(report["data_until"]),
            network=arm.network,
        )
        row = _propose(table, name, refreshes, refreshed)
    book.show(row)
    serves = any(each.version == version for each in row.serving)
    status = "refreshed" if serves else "outrun"
    return _write_report(release, {"status": status, "model": name, "version": version, "refreshes": refreshes})


def _propose(table: RolloutTable, name: str, refreshes: str, model: ModelVersion) -> Rollout:
    """Put `model` in the place of the version it refreshes, again whenever somebody else was faster."""

    def attempt() -> Rollout:
        row = table.read(name)
        arms = {arm: getattr(row, arm) for arm in ("champion", "challenger")}
        found = next((arm for arm, serving in arms.items() if serving and serving.version == refreshes), None)
        if found is None:
            return row
        changed = replace(row, champion=model) if found == "champion" else replace(row, challenger=model)
        why = f"{model.version} refreshes the {found} {refreshes}: the same weights, today's catalogue"
        return table.propose(DocumentChange(changed, "catalogue", why), row.version)

    return until_unmoved(attempt, model=name, during="during a refresh")


def _record(report: dict[str, Any], digest: str, stored: Path, model: Path, lineage: dict[str, Any]) -> ReleaseRecord:
    return ReleaseRecord(
        version=report["version"],
        archive_digest=digest,
        folder=stored.parent,
        source=uri(stored.parent),
        settings=flat(json.loads((model / "config.json").read_text())),
        metrics={},
        tags={**tags(lineage, recipe_digest=report["recipe_digest"]), "refreshes": report["refreshes"]},
    )


def _write_report(release: Path, report: dict[str, Any]) -> dict[str, Any]:
    (release / "report.json").write_text(json.dumps(report, indent=1))
    return report
