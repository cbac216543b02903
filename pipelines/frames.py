"""Training frames of past moments, each as its run saw it: the pipeline that makes them, and what came of it.

No schedule has it and no cluster is sent it: there every night's training leaves the frame of its own day.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from kfp import dsl
from kfp.dsl.base_component import BaseComponent

from components.prepare.component import frames
from components.shared.expected_tasks import of_frame
from feature_repo.card import DatasetCard
from pipelines import local
from pipelines.placement import Placement
from runtime import clocks, workspace
from runtime.decision import Decision
from runtime.files import replace_text
from runtime.manifest import Manifest
from runtime.task import read_records

NAME = "heterrec-frames"


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Stored artifacts of one moment; `sequences` is None where the data gate blocked."""

    as_of: str
    decision: Decision
    sequences: Path | None
    report: dict[str, Any]
    """Of the features step: events, users, items."""


@dataclass(frozen=True, kw_only=True)
class DayFrame:
    """The frame of one day: `digest` identifies it, `before` is what an earlier backfill of that day had."""

    day: date
    frame: Frame
    digest: str | None
    before: str | None


def build() -> BaseComponent:
    """The pipeline, for this machine."""
    place = Placement(None, NAME)

    @dsl.pipeline(name=NAME, description="The training frames of past moments")
    def training_frames(card: str, moments: str, run_id: str = "") -> None:
        """Make the frame of each moment, in their order.

        Args:
            card: The dataset card, as JSON.
            moments: The end of each moment's run's name, to the moment, as JSON.
            run_id: What the names of those runs begin with.
        """
        place.reading(frames(run_id=run_id, card=card, moments=moments))

    return training_frames


def backfill(card: DatasetCard, first: date, last: date, *, run_id: str) -> Iterator[DayFrame]:
    """The training frame of each day from `first` to `last`, as that day's run saw it: what came later is left out.

    Each is written down in the workspace (frames/<data set>/<day>.json), and compared with what was there. Raises as
    `frame` does, once the days before the fault were given.
    """
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    _make(card, {f"-{day}": clocks.end_of(day).isoformat() for day in days}, run_id=run_id)
    for day in days:
        made = _read(f"{run_id}-{day}")
        path = workspace.home() / "frames" / card.name / f"{day}.json"
        before = json.loads(path.read_text())["digest"] if path.is_file() else None
        digest = Manifest.read(made.sequences).digest if made.sequences is not None else None
        if digest is not None and digest != before:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, json.dumps({"digest": digest, "artifact": str(made.sequences), "as_of": made.as_of}))
        yield DayFrame(day=day, frame=made, digest=digest, before=before)


def frame(card: DatasetCard, as_of: str, *, run_id: str) -> Frame:
    """Ingest what is new, hold it against the card and the last accepted run, and join the features as of `as_of`
    ("" for the newest event).

    Raises `InputError` where the source is missing, contradicts the card or has no event by then, RuntimeError for a
    fault of the system.
    """
    _make(card, {"": as_of}, run_id=run_id)
    return _read(run_id)


def _make(card: DatasetCard, moments: Mapping[str, str], *, run_id: str) -> None:
    local.execute(build, run_id=run_id, card=card.model_dump_json(), moments=json.dumps(moments))


def _read(run_id: str) -> Frame:
    """What became of one moment."""
    records = read_records(run_id)
    local.require_ended(records, of_frame(records))
    stored = {name: Path(record.artifact) for name, record in records.items()}
    return Frame(
        as_of=records["resolve"].report["as_of"],
        decision=Decision.read(stored["validate"]),
        sequences=stored.get("features"),
        report=records["features"].report if "features" in records else {},
    )
