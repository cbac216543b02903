"""Kubeflow component of the ingest step."""

from kfp import dsl

from components.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def ingest(run_id: str, card: str, as_of: str, events: dsl.Output[dsl.Dataset], metrics: dsl.Output[dsl.Metrics]):
    """Read the source into day partitions; bad rows are set aside with their reasons."""
    from datetime import datetime

    from components.ingest import step
    from components.task import Task
    from feature_repo.card import DatasetCard

    dataset = DatasetCard.model_validate_json(card)
    moment = datetime.fromisoformat(as_of) if as_of else None
    task = Task("ingest", run_id=run_id, module="components.ingest.step")
    report = task.reuse_or_make(
        events.path,
        kind="events",
        config=lambda: {"card": dataset.model_dump(mode="json"), "as_of": as_of, "source": step.fingerprint(dataset)},
        make=lambda out, scratch: step.run(card=dataset, events=out, as_of=moment),
    )
    for name in ("rows", "accepted", "rejected", "users", "items"):
        metrics.log_metric(name, report[name])
