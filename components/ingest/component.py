"""Kubeflow component of the ingest step."""

from kfp import dsl

from components.shared.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def ingest(run_id: str, card: str, as_of: str, events: dsl.Output[dsl.Dataset], metrics: dsl.Output[dsl.Metrics]):
    """Read the source into day partitions; bad rows are set aside with their reasons."""
    from components.ingest import task
    from feature_repo.card import DatasetCard

    dataset = DatasetCard.model_validate_json(card)
    report = task.ingest(run_id=run_id, card=dataset, as_of=as_of, events=events.path)
    for name in ("rows", "accepted", "rejected", "users", "items"):
        metrics.log_metric(name, report[name])
