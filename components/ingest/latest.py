"""The ingest of a run: which events artifact it takes over from.

The same source asked again is the same artifact, however often; a changed one is made from the latest before it.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.ingest import spark, step
from feature_repo.card import DatasetCard
from feature_repo.forgotten import Forgotten
from runtime import object_store, workspace
from runtime.code_digest import code_digest
from runtime.errors import InputError
from runtime.files import replace_text
from runtime.manifest import Manifest, digest_json
from runtime.task import Report, Task


def ingest(task: Task, output: str | Path, *, card: DatasetCard, as_of: str) -> Report:
    """Give `output` the events artifact of the card's source as it is now, and let the next ingest start from it."""
    moment = datetime.fromisoformat(as_of) if as_of else None
    if shared := object_store.shared():
        shared.bring_file(workspace.latest_events(card.name))
        shared.bring_file(workspace.forgotten(card.name))
    latest = Latest(workspace.latest_events(card.name))
    forgotten = Forgotten(workspace.forgotten(card.name))
    log = workspace.event_log(card.name)

    def config() -> Report:
        # A moment that has passed changes nothing of what is good data, so that every day has the same artifact.
        ahead = as_of if moment is not None and moment > datetime.now(UTC) else ""
        deleted = sorted(forgotten.until().items())
        asked = {"card": card.model_dump(mode="json"), "ahead": ahead, "forgotten": deleted}
        if spark.wanted():
            asked["engine"] = code_digest("components.ingest.spark")
        return latest.basis({**asked, "source": step.fingerprint(card, log)})

    def make(out: Path, scratch: Path) -> Report:
        if spark.wanted():
            return spark.run(card=card, events=out, as_of=moment, forgotten=forgotten)
        return step.run(card=card, events=out, as_of=moment, previous=latest.artifact, forgotten=forgotten, log=log)

    report = task.reuse_or_make(output, kind="events", config=config, make=make)
    latest.point_to(task.artifact)
    if shared:
        shared.keep_file(workspace.latest_events(card.name))
    return report


class Latest:
    """The pointer of one data set: a small file that names the artifact, what was asked and what it was made from."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asked = self._from = ""
        self.artifact: Path | None = None
        """The artifact to take over from; None where there is none, or it is damaged and everything is read anew."""

    def basis(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The configuration that makes the artifact: what is asked, and the artifact it is made from."""
        before = json.loads(self._path.read_text()) if self._path.is_file() else {}
        self._asked = digest_json(asked)
        if before.get("asked") == self._asked:
            self._from, named = before["from"], before["from_artifact"]
        elif before:
            self._from, named = before["digest"], before["artifact"]
        else:
            self._from, named = "", ""
        self.artifact = _whole(Path(named), self._from) if named else None
        if self.artifact is None and before.get("asked") != self._asked:
            self._from = ""
        return {**asked, "previous": self._from}

    def point_to(self, artifact: Path) -> None:
        """Let the next ingest take over from `artifact`, which answers what was asked last."""
        found = {
            "artifact": str(artifact),
            "digest": Manifest.read(artifact).digest,
            "asked": self._asked,
            "from": self._from,
            "from_artifact": str(self.artifact or ""),
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self._path, json.dumps(found, indent=1))


def _whole(artifact: Path, digest: str) -> Path | None:
    artifact = object_store.present(artifact)
    try:
        return artifact if Manifest.verify(artifact, kind="events").digest == digest else None
    except InputError:
        return None
