"""What became of the latest runs: outcome, why, how long, and where to look; for people and for scripts."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from components.shared.ending import ending, why
from runtime import workspace
from runtime.task import TaskRecord, read_records


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One run of this workspace."""

    run_id: str
    folder: Path
    records: dict[str, TaskRecord]

    @property
    def outcome(self) -> str:
        """One sentence: what became of the model."""
        return ending(self.records).sentence

    @property
    def seconds(self) -> float:
        """From the start of its first task to the end of its last; those that ran side by side count once."""
        starts = [datetime.fromisoformat(record.started).timestamp() for record in self.records.values()]
        ends = [start + record.seconds for start, record in zip(starts, self.records.values(), strict=True)]
        return max(ends) - min(starts) if starts else 0.0

    @property
    def page(self) -> Path | None:
        """The page about it; None where the run ended before there was one."""
        path = self.folder / "page.html"
        return path if path.is_file() else None

    @property
    def reasons(self) -> list[str]:
        """Why nothing was released, and what would change that; nothing of a run that came to a release."""
        return [line for reason in why(self.records) for line in reason.lines]

    def as_json(self) -> dict[str, Any]:
        """What a script would read."""
        return {
            "run_id": self.run_id,
            "outcome": self.outcome,
            "seconds": round(self.seconds, 1),
            "reasons": [
                {"task": reason.task, "check": reason.check, "message": reason.message, "remedy": reason.remedy}
                for reason in why(self.records)
            ],
            "page": str(self.page) if self.page else None,
            "tasks": [
                {"task": record.task, "status": record.status, "seconds": record.seconds, "digest": record.digest}
                for record in self.records.values()
            ],
        }


def latest(last: int) -> Iterator[RunStatus]:
    """The latest `last` runs that left a record, the newest last."""
    folders = sorted(workspace.runs().glob("*/"), key=lambda path: path.stat().st_mtime)
    for folder in folders[-last:] if last > 0 else []:
        yield RunStatus(run_id=folder.name, folder=folder, records=read_records(folder.name))
