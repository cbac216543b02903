"""Kubeflow component that fills the online store; never reused."""

from kfp import dsl

from components.shared.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def materialise(
    run_id: str,
    card: str,
    events: dsl.Input[dsl.Dataset],
    facts: dsl.Input[dsl.Artifact],
    sequences: dsl.Input[dsl.Dataset],
    materialised: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
):
    """Write item features and user histories into Feast's online store, as of the run's moment."""
    from components.materialise import task
    from components.shared.summary import numbers
    from feature_repo.card import DatasetCard

    report = task.materialise(
        run_id=run_id,
        card=DatasetCard.model_validate_json(card),
        events=events.path,
        facts=facts.path,
        sequences=sequences.path,
        materialised=materialised.path,
    )
    for name, value in numbers(report).items():
        metrics.log_metric(name, value)
