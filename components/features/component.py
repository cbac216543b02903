"""Kubeflow component of the features step."""

from kfp import dsl

from components.image import TRAIN


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
    from pathlib import Path

    from components.console import emit
    from components.features import power
    from components.summary import numbers
    from components.task import Task
    from feature_repo.card import DatasetCard

    dataset = DatasetCard.model_validate_json(card)
    inputs = {"events": events.path, "facts": facts.path}
    task = Task("features", run_id=run_id, module="components.features.step", inputs=inputs)

    def make(out: Path, scratch: Path) -> dict:
        from components.features import step

        return step.run(
            card=dataset,
            events=task.inputs["events"],
            facts=task.inputs["facts"],
            feast_root=scratch,
            sequences=out,
        )

    report = task.reuse_or_make(
        sequences.path, kind="sequences", config=lambda: {"card": dataset.model_dump(mode="json")}, make=make
    )
    for name, value in numbers(report).items():
        metrics.log_metric(name, value)
    found = power.of(task.artifact, dataset)
    going = power.goes_on(found, dataset)
    task.annotate(power=found.to_json(), goes_on=going)
    emit("power", enough=found.enough, going=going, sentence=found.sentence)
    metrics.log_metric("held_out_shoppers", found.queries)
    metrics.log_metric("power", found.power)
    return going
