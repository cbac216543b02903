"""The data gate as a task of a run."""

from pathlib import Path

from feature_repo.card import DatasetCard
from runtime.task import Report, Task


def validate(
    *, run_id: str, card: DatasetCard, events: str, facts: str, reference: str, validation: str
) -> tuple[Report, Path]:
    """Fill the output `validation`; the gate's report and its page."""
    inputs = {"events": events, "facts": facts, "reference": reference}
    task = Task("validate", run_id=run_id, module="components.validate.step", inputs=inputs)

    def make(out: Path, scratch: Path) -> Report:
        from components.validate import step  # Great Expectations, for which a run that reuses does not wait

        decision = step.run(
            card=card,
            events=task.inputs["events"],
            facts=task.inputs["facts"],
            reference=task.inputs["reference"],
            validation=out,
        )
        # By these later runs find what they are held against.
        return {**decision.summary(), **step.identity(card, task.inputs["facts"])}

    report = task.reuse_or_make(
        validation, kind="validation", config=lambda: {"card": card.model_dump(mode="json")}, make=make
    )
    return report, task.artifact / "page.html"


def numbers(report: Report) -> dict[str, int]:
    """What Kubeflow's UI shows beside the gate."""
    return {"blocked": len(report["blocked"]), "warned": len(report["warned"]), "checks": report["checks"]}
