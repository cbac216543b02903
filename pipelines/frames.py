"""The data side of a run, in this process: from the source to the training frame of one moment.

The tasks are those of the pipelines: whichever comes second reuses what the first has made.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import (
    UTC,
    date,
    datetime,
    time,
    timedelta,
)
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from feature_repo.card import DatasetCard
from runtime import workspace
from runtime.decision import Decision
from runtime.files import replace_text
from runtime.manifest import Manifest
from runtime.task import read_records


@dataclass(frozen=True, kw_only=True)
class Frame:
    """Stored artifacts of one moment; `sequences` is None where the data gate blocked."""

    as_of: str
    events: Path
    facts: Path
    decision: Decision
    sequences: Path | None
    report: dict[str, Any]
    """Of the features step: events, users, items."""


@dataclass(frozen=True, kw_only=True)
class Day:
    """The frame of one day: `digest` identifies it, `before` is what an earlier backfill of that day had."""

    day: date
    frame: Frame
    digest: str | None
    before: str | None


def end_of(day: date) -> datetime:
    """The last moment of a day, UTC."""
    return datetime.combine(day, time.max, tzinfo=UTC)


def backfill(card: DatasetCard, first: date, last: date, *, run_id: str) -> Iterator[Day]:
    """The training frame of each day from `first` to `last`, as that day's run saw it: what came later is left out.

    Each is written down in the workspace (frames/<data set>/<day>.json), and compared with what was there.
    """
    for number in range((last - first).days + 1):
        day = first + timedelta(days=number)
        made = frame(card, end_of(day).isoformat(), run_id=f"{run_id}-{day}")
        path = workspace.home() / "frames" / card.name / f"{day}.json"
        before = json.loads(path.read_text())["digest"] if path.is_file() else None
        digest = Manifest.read(made.sequences).digest if made.sequences is not None else None
        if digest is not None and digest != before:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, json.dumps({"digest": digest, "artifact": str(made.sequences), "as_of": made.as_of}))
        yield Day(day=day, frame=made, digest=digest, before=before)


def frame(card: DatasetCard, as_of: str, *, run_id: str) -> Frame:
    """Ingest what is new, hold it against the card and the last accepted run, and join the features as of `as_of`
    ("" for the newest event).

    The tasks are those of the pipelines, in this process: what is blocked on a cluster is blocked here. Raises
    `InputError` where the source is missing, contradicts the card or has no event by then.
    """
    from components.prepare.tasks import prepare

    with TemporaryDirectory(prefix="frame-") as folder:
        prepare(run_id=run_id, card=card, as_of=as_of, folder=Path(folder))
    records = read_records(run_id)
    stored = {name: Path(record.artifact) for name, record in records.items()}
    return Frame(
        as_of=json.loads((stored["resolve"] / "facts.json").read_text())["as_of"],
        events=stored["ingest"],
        facts=stored["resolve"],
        decision=Decision.read(stored["validate"]),
        sequences=stored.get("features"),
        report=records["features"].report if "features" in records else {},
    )
