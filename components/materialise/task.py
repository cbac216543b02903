"""Filling the online store as a task of a run; never reused."""

from components.materialise import step
from feature_repo.card import DatasetCard
from feature_repo.forgotten import Forgotten
from runtime import object_store, workspace
from runtime.task import Report, Task


def materialise(
    *, run_id: str, card: DatasetCard, events: str, facts: str, sequences: str, materialised: str
) -> Report:
    """Write item features and user histories into the online store, and what was written into `materialised`."""
    if shared := object_store.shared():
        shared.bring_file(workspace.forgotten(card.name))
    inputs = {"events": events, "facts": facts, "sequences": sequences}
    task = Task("materialise", run_id=run_id, module="components.materialise.step", inputs=inputs)
    return task.make_always(
        materialised,
        kind="materialised",
        make=lambda out, scratch: step.run(
            card=card,
            events=task.inputs["events"],
            facts=task.inputs["facts"],
            sequences=task.inputs["sequences"],
            feast_root=workspace.feature_store(card.name),
            materialised=out,
            forgotten=Forgotten(workspace.forgotten(card.name)),
        ),
    )
