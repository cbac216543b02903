"""Kubeflow component that fills the online store; never reused."""

from kfp import dsl

from components.image import TRAIN


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
    from components import store, workspace
    from components.materialise import step
    from components.summary import numbers
    from components.task import Task
    from feature_repo.card import DatasetCard
    from feature_repo.forgotten import Forgotten

    dataset = DatasetCard.model_validate_json(card)
    if shared := store.shared():
        shared.bring_file(workspace.forgotten(dataset.name))
    inputs = {"events": events.path, "facts": facts.path, "sequences": sequences.path}
    task = Task("materialise", run_id=run_id, module="components.materialise.step", inputs=inputs)
    report = task.make_always(
        materialised.path,
        kind="materialised",
        make=lambda out, scratch: step.run(
            card=dataset,
            **task.inputs,
            feast_root=workspace.feature_store(dataset.name),
            materialised=out,
            forgotten=Forgotten(workspace.forgotten(dataset.name)),
        ),
    )
    for name, value in numbers(report).items():
        metrics.log_metric(name, value)
