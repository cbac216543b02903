"""Kubeflow component of the data gate."""

from kfp import dsl

from components.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def validate(
    run_id: str,
    card: str,
    events: dsl.Input[dsl.Dataset],
    facts: dsl.Input[dsl.Artifact],
    reference: dsl.Input[dsl.Artifact],
    validation: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> bool:
    """Hold the data against its card with Great Expectations; False where the run must not go on."""
    import shutil
    from pathlib import Path

    from components.task import Task
    from feature_repo.card import DatasetCard

    dataset = DatasetCard.model_validate_json(card)
    inputs = {"events": events.path, "facts": facts.path, "reference": reference.path}
    task = Task("validate", run_id=run_id, module="components.validate.step", inputs=inputs)

    def make(out: Path, scratch: Path) -> dict:
        from components.validate import step

        decision = step.run(card=dataset, validation=out, **task.inputs)
        # By these later runs find what they are held against.
        return {**decision.summary(), **step.identity(dataset, task.inputs["facts"])}

    report = task.reuse_or_make(
        validation.path, kind="validation", config=lambda: {"card": dataset.model_dump(mode="json")}, make=make
    )
    shutil.copyfile(task.artifact / "page.html", page.path)
    for name in ("blocked", "warned"):
        metrics.log_metric(name, len(report[name]))
    metrics.log_metric("checks", report["checks"])
    return report["passed"]
