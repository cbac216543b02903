"""The catalogue pipeline: new items and new prices are served without training.

Features are refreshed and materialised, the item matrix of what serves is computed anew with the same weights, and
released as a patch version once a real TorchServe has answered its golden requests.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from components import workspace
from components.decision import Decision
from components.errors import InputError
from components.task import Task, lineage
from feature_repo.card import DatasetCard
from feature_repo.forgotten import Forgotten
from pipelines.frames import Frame, frame
from serving.rollout.document import ModelVersion
from serving.rollout.table import RolloutTable


@dataclass(frozen=True, kw_only=True)
class Refreshed:
    """What became of one arm: `status` is refreshed, unchanged, blocked or outrun."""

    arm: str
    before: str
    version: str
    status: str
    report: dict[str, Any]
    """Of the refreshed archive: items, new_items, bytes."""


def refresh(card: DatasetCard, as_of: str, *, run_id: str) -> tuple[Frame, Iterator[Refreshed]]:
    """The frame as of `as_of` (already materialised), and each arm that serves as it is refreshed.

    Raises `InputError` where nothing was released yet, or the data gate blocked: then what serves stays as it is.
    """
    with RolloutTable(workspace.rollout_url()) as table:
        row = table.read(card.name)
    if row.champion is None:
        raise InputError(f"{card.name}: no model was released yet. Run `make run DATASET=...` with its card first.")
    made = frame(card, as_of, run_id=run_id)
    if made.sequences is None:
        reasons = " ".join(reason.message for reason in made.decision.blocking)
        raise InputError(f"{card.name}: the data gate blocked, what serves stays as it is. {reasons}")
    _materialise(card, made, run_id)
    # A former champion is kept as it was, for the way back.
    arms = ((role, serving) for role, serving in row.roles.items() if role != "former")
    return made, (_refresh(card, made.sequences, arm, serving, run_id) for arm, serving in arms)


def _materialise(card: DatasetCard, made: Frame, run_id: str) -> None:
    from components.materialise import step

    assert made.sequences is not None
    inputs: dict[str, Any] = {"events": made.events, "facts": made.facts, "sequences": made.sequences}
    task = Task("materialise", run_id=run_id, module="components.materialise.step", inputs=inputs)
    with TemporaryDirectory(prefix="catalogue-") as folder:
        task.make_always(
            Path(folder) / "materialised",
            kind="materialised",
            make=lambda at, scratch: step.run(
                card=card,
                **inputs,
                feast_root=workspace.feature_store(card.name),
                materialised=at,
                forgotten=Forgotten(workspace.forgotten(card.name)),
            ),
        )


def _refresh(card: DatasetCard, sequences: Path, arm: str, serving: ModelVersion, run_id: str) -> Refreshed:
    from components.infra_validate import step as infra_step
    from components.push import refresh as push_step
    from components.refresh import step as refresh_step

    with TemporaryDirectory(prefix="catalogue-") as folder:
        out = Path(folder)
        task = Task(f"refresh-{arm}", run_id=run_id, module="components.refresh.step", inputs={"sequences": sequences})
        report = task.make_always(
            out / "archive",
            kind="archive",
            make=lambda at, scratch: refresh_step.run(card=card, sequences=sequences, serving=serving, archive=at),
        )
        archive = task.artifact
        told = {"arm": arm, "before": serving.version, "version": report["version"], "report": report}
        if not report["changed"]:
            return Refreshed(status="unchanged", **{**told, "version": serving.version})
        task = Task(f"proof-{arm}", run_id=run_id, module="components.infra_validate.step", inputs={"archive": archive})
        task.make_always(
            out / "proof",
            kind="infra_validation",
            make=lambda at, scratch: infra_step.run(archive=archive, validation=at).summary(),
        )
        proof = task.artifact
        if not Decision.read(proof).passed:
            return Refreshed(status="blocked", **told)
        inputs: dict[str, Any] = {"archive": archive, "infra_validation": proof}
        task = Task(f"release-{arm}", run_id=run_id, module="components.push.refresh", inputs=inputs)
        pushed = task.make_always(
            out / "release",
            kind="release",
            make=lambda at, scratch: push_step.run(
                **inputs,
                lineage=lineage(run_id),
                mlflow_url=workspace.mlflow_url(),
                rollout_url=workspace.rollout_url(),
                store=workspace.releases(),
                release=at,
            ),
        )
        return Refreshed(status=pushed["status"], **told)
