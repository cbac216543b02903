"""The features step as a task of a run."""

from pathlib import Path

from components.features import power
from components.shared.summary import numbers
from feature_repo.card import DatasetCard
from runtime.log import emit
from runtime.task import Report, Task


def features(
    *, run_id: str, card: DatasetCard, events: str, facts: str, sequences: str
) -> tuple[bool, dict[str, float]]:
    """Fill the output `sequences`; False where what is held out could decide nothing and the card wants no training
    then, and the numbers to show."""
    task = Task("features", run_id=run_id, module="components.features.step", inputs={"events": events, "facts": facts})

    def make(out: Path, scratch: Path) -> Report:
        from components.features import step  # Feast, for which a run that reuses does not wait

        return step.run(
            card=card, events=task.inputs["events"], facts=task.inputs["facts"], feast_root=scratch, sequences=out
        )

    report = task.reuse_or_make(
        sequences, kind="sequences", config=lambda: {"card": card.model_dump(mode="json")}, make=make
    )
    found = power.of(task.artifact, card)
    going = power.goes_on(found, card)
    task.annotate(power=found.to_json(), goes_on=going)
    emit("power", enough=found.enough, going=going, sentence=found.sentence)
    return going, {**numbers(report), "held_out_shoppers": found.queries, "power": found.power}
