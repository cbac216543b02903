"""Kubeflow component of the data gate."""

from kfp import dsl

from components.shared.image import TRAIN


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

    from components.validate import task
    from feature_repo.card import DatasetCard

    report, shown = task.validate(
        run_id=run_id,
        card=DatasetCard.model_validate_json(card),
        events=events.path,
        facts=facts.path,
        reference=reference.path,
        validation=validation.path,
    )
    shutil.copyfile(shown, page.path)
    for name, value in task.numbers(report).items():
        metrics.log_metric(name, value)
    return report["passed"]
