"""Deletes users everywhere this project keeps them, and keeps them from coming back with the next ingest."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from components import store, workspace
from components.ingest.latest import ingest
from components.task import Task
from feature_repo.card import DatasetCard
from feature_repo.forgotten import Forgotten
from serving.rollout.table import RolloutTable
from serving.torchserve import archive as archives

PERSONAL = ("events", "sequences", "validation", "evaluation", "archive", "materialised")
"""Kinds of stored artifacts that name users; all can be made again, without them."""


@dataclass(kw_only=True)
class Deleted:
    """What was done, and what a person still has to do."""

    artifacts: int = 0
    online: bool = False
    releases: list[str] = field(default_factory=list)
    """Versions that serve and whose golden requests hold a history of one of the users: release them anew."""


def forget(card: DatasetCard, users: Sequence[str], *, run_id: str) -> Deleted:
    """Delete `users` of a data set: online histories, their offline copy, day partitions and everything made of them.

    The source is the owner's: as long as it still names the users, ingest leaves them out. May be repeated after a
    kill. Raises `Unavailable` where the online store is away; then nothing but the list has changed.
    """
    deleted = Deleted()
    forgotten = Forgotten(workspace.forgotten(card.name))
    # First the list: whatever writes meanwhile leaves them out already.
    shared = store.shared()
    if shared:
        shared.bring_file(forgotten.path)
    forgotten.add(users, datetime.now(UTC))
    if shared:
        shared.keep_file(forgotten.path)
    root = workspace.feature_store(card.name)
    if (root / "registry.db").exists() or "FEAST_REGISTRY_URL" in os.environ:
        _forget_online(card, users)
        deleted.online = True
    if shared:
        shared.bring_file(workspace.latest_events(card.name).with_suffix(".json"))
    if workspace.latest_events(card.name).with_suffix(".json").exists():
        with TemporaryDirectory(prefix="forget-") as folder:
            task = Task("ingest", run_id=run_id, module="components.ingest.step")
            ingest(task, Path(folder) / "events", card=card, as_of="")
        deleted.artifacts = _drop_artifacts(keep=task.artifact)
    deleted.releases = _in_releases(card.name, set(users))
    return deleted


def _forget_online(card: DatasetCard, users: Sequence[str]) -> None:
    from feature_repo.store import connect, histories_path
    from serving.consumer.histories import HistoryWriter

    root = workspace.feature_store(card.name)
    HistoryWriter(connect(card.name, root)).forget(users)
    path = histories_path(root)
    if path.is_file():
        table = pq.read_table(path)
        partial = path.with_suffix(".partial")
        others = pc.invert(pc.is_in(table["user_id"], value_set=pa.array(users, pa.string())))
        pq.write_table(table.filter(others), partial)
        os.replace(partial, path)


def _drop_artifacts(*, keep: Path) -> int:
    """Remove every artifact that names users, and the pipelines' copies, which are links to the same files."""
    dropped = 0
    for kind in PERSONAL:
        for path in (workspace.artifacts() / kind).glob("*"):
            if path != keep:
                shutil.rmtree(path)
                dropped += 1
    for folder in (workspace.home() / "kfp", workspace.scratch(), workspace.home() / "frames"):
        shutil.rmtree(folder, ignore_errors=True)
    if shared := store.shared():
        for kind in PERSONAL:
            for path in shared.names(workspace.artifacts() / kind):
                if path.name != keep.name:
                    shared.drop(path)
        shared.drop(workspace.scratch())
    return dropped


def _in_releases(name: str, users: set[str]) -> list[str]:
    with RolloutTable(workspace.rollout_url()) as table:
        known = table.read(name).known
    found = []
    for version in known:
        lines = archives.read(
            store.released(version.archive) / Path(version.archive).name, "goldens.jsonl"
        ).splitlines()
        if users & {json.loads(line)["request"].get("user_id") for line in lines}:
            found.append(version.version)
    return found
