"""Kubeflow component of the features step."""

from kfp import dsl

from components.shared.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def features(
    run_id: str,
    card: str,
    events: dsl.Input[dsl.Dataset],
    facts: dsl.Input[dsl.Artifact],
    sequences: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> bool:
    """Join every event with the feature values of its moment, through Feast; False where what is held out could
    decide nothing and the card wants no training then."""
    from components.features import task
    from feature_repo.card import DatasetCard

    dataset = DatasetCard.model_validate_json(card)
    going, told = task.features(
        run_id=run_id, card=dataset, events=events.path, facts=facts.path, sequences=sequences.path
    )
    for name, value in told.items():
        metrics.log_metric(name, value)
    return going
