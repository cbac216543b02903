"""A training frame without a run of its own process, for tests that begin with one."""

from pathlib import Path
from tempfile import TemporaryDirectory

from components.prepare.tasks import prepare
from feature_repo.card import DatasetCard
from runtime import reference


def training_frame(card: DatasetCard, *, run_id: str, as_of: str = "") -> Path:
    """Where the frame of `as_of` is stored, made by the tasks of a run in this process."""
    with TemporaryDirectory() as folder:
        made = prepare(run_id=run_id, card=card, as_of=as_of, folder=Path(folder))
        assert made.accepted, made.page
        return reference.follow(Path(made.outputs["sequences"]))
