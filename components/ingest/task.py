"""Ingest as a task of a run."""

from components.ingest import latest
from feature_repo.card import DatasetCard
from runtime.task import Report, Task


def ingest(*, run_id: str, card: DatasetCard, as_of: str, events: str) -> Report:
    """Let the output `events` refer to the source's events as they are now; the step's report."""
    task = Task("ingest", run_id=run_id, module="components.ingest.step")
    return latest.ingest(task, events, card=card, as_of=as_of)
