"""Deletes users everywhere this project keeps them, and keeps them from coming back with the next ingest."""

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from markupsafe import escape

from components.ingest.latest import ingest
from feature_repo.card import DatasetCard
from feature_repo.faults import Unavailable
from feature_repo.forgotten import Forgotten
from feature_repo.keys import spelled
from pipelines.remembered import Bought, leave_releases
from runtime import object_store, workspace
from runtime.files import replace_text, replacing
from runtime.task import Task

PERSONAL = (
    "events", "sequences", "reference", "validation", "evaluation", "champion", "archive", "infra_validation",
    "materialised", "model", "served", "lists",
)  # fmt: skip
"""Kinds of stored artifacts that name users, or whose tables hold what they bought together; all can be made again,
without them."""


LOG_SECONDS = 180.0
"""So long the event log may take: gateways close a segment after half a minute."""


@dataclass(kw_only=True)
class Deleted:
    """What was done, and what a person still has to do."""

    artifacts: int = 0
    online: bool = False
    log: bool = False
    """Whether there was an event log to leave."""
    strangers: list[str] = field(default_factory=list)
    """Of the users those who had no event: another spelling, or deleted before."""
    releases: list[str] = field(default_factory=list)
    """Versions that serve or can come back, whose archive has a golden request of one of the users, or in its memory a
    pair of items that nobody else bought: release them anew."""


def forget(card: DatasetCard, users: Sequence[str], *, run_id: str) -> Deleted:
    """Delete `users` of a data set: online histories, their offline copy, the event log, day partitions and everything
    made of them.

    The source is the owner's: as long as it still names the users, ingest leaves them out. Gateways and the consumer
    may run meanwhile; without a consumer this process does its work. May be repeated after a kill. Raises
    `Unavailable` where the online store is away; then nothing but the list has changed.
    """
    deleted, users = Deleted(), list(dict.fromkeys(map(spelled, users)))
    forgotten = Forgotten(workspace.forgotten(card.name))
    # First the list: whatever writes meanwhile leaves them out already.
    shared = object_store.shared()
    if shared:
        shared.bring_file(forgotten.path)
    forgotten.add(users, datetime.now(UTC))
    if shared:
        shared.keep_file(forgotten.path)
        shared.bring_file(workspace.latest_events(card.name))
    root = workspace.feature_store(card.name)
    bought = _bought(card, users)
    known = set(bought.users)
    # Before the ingest, after which nobody knows what they bought.
    deleted.releases = leave_releases(card.name, set(users), bought)
    if (root / "registry.db").exists() or "FEAST_REGISTRY_URL" in os.environ:
        known |= _forget_online(card, users)
        deleted.online = True
        deleted.log = _leave_log(card, forgotten)
    deleted.strangers = [user for user in users if user not in known]
    if workspace.latest_events(card.name).exists():
        with TemporaryDirectory(prefix="forget-") as folder:
            task = Task("ingest", run_id=run_id, module="components.ingest.step")
            ingest(task, Path(folder) / "events", card=card, as_of="")
        deleted.artifacts = _drop_artifacts(keep=task.artifact)
    _leave_pages(users)
    return deleted


def _bought(card: DatasetCard, users: Sequence[str]) -> Bought:
    """Of those of `users` of whom the latest ingest has an event."""
    mine: dict[str, set[str]] = {}
    others: dict[str, set[str]] = {}
    for user, item in _events(card, "user_id", users):
        mine.setdefault(user, set()).add(item)
    for user, item in _events(card, "item_id", sorted({item for items in mine.values() for item in items})):
        if user not in mine:
            others.setdefault(item, set()).add(user)
    return Bought(users=mine, others=others)


def _events(card: DatasetCard, column: str, values: Sequence[str]) -> Iterator[tuple[str, str]]:
    """User and item of the events of the latest ingest whose `column` is one of `values`."""
    pointer = workspace.latest_events(card.name)
    if not pointer.is_file() or not values:
        return
    events = object_store.present(Path(json.loads(pointer.read_text())["artifact"]))
    for path in events.glob("interactions/*/*.parquet"):
        chosen = [(column, "in", list(values))]
        part = pq.read_table(path, columns=["user_id", "item_id"], filters=chosen, partitioning=None)
        yield from zip(part["user_id"].to_pylist(), part["item_id"].to_pylist(), strict=True)


def _forget_online(card: DatasetCard, users: Sequence[str]) -> set[str]:
    """Delete the histories and features of `users`; returns those who had any."""
    from events.consumer.histories import HistoryWriter
    from feature_repo.online import user_features, user_history
    from feature_repo.store import connect, histories_path

    root = workspace.feature_store(card.name)
    feast = connect(card.name, root)
    known = {user for user in users if user_history(feast, user) or user_features(feast, user)}
    HistoryWriter(feast).forget(users)
    path = histories_path(root)
    if path.is_file():
        table = pq.read_table(path)
        others = pc.invert(pc.is_in(table["user_id"], value_set=pa.array(users, pa.string())))
        with replacing(path) as partial:
            pq.write_table(table.filter(others), partial)
    return known


def _leave_log(card: DatasetCard, forgotten: Forgotten) -> bool:
    """Wait until the consumer says that nothing of the deleted is left in the log, or be that consumer.

    Returns False where there is no log. Raises `Unavailable` after `LOG_SECONDS`.
    """
    from events.consumer.command import consumer_of
    from events.consumer.consumer import Busy
    from events.consumer.erasure import erased
    from events.consumer.metrics import ConsumerMetrics

    log, asked = workspace.event_log(card.name), forgotten.until()
    if not log.is_dir() and workspace.event_log_redis() is None:
        return False
    deadline = time.monotonic() + LOG_SECONDS

    def gone() -> bool:
        done = erased(log)
        return all(done.get(user, -1) >= moment for user, moment in asked.items())

    consumer, problems = consumer_of(card, ConsumerMetrics()), "its consumer does not say so (is it alive?)"
    while not gone():
        if time.monotonic() > deadline:
            raise Unavailable(
                f"{log}: not rid of the deleted users after {LOG_SECONDS:.0f} s: {problems}. They are on the list, and "
                "the consumer goes on as soon as it can; then run this once more for all that is made of the log."
            )
        try:
            with consumer:
                consumer.run(lambda: gone() or time.monotonic() > deadline)
                problems = "; ".join(consumer.problems.values()) or "a gateway holds a segment of before (is it alive?)"
        except Busy:
            time.sleep(0.5)
    return True


def _drop_artifacts(*, keep: Path) -> int:
    """Remove every artifact that names users, and what else of past runs does."""
    dropped = 0
    for kind in PERSONAL:
        for path in (workspace.artifacts() / kind).glob("*"):
            if path != keep:
                shutil.rmtree(path)
                dropped += 1
    for folder in (workspace.home() / "kfp", workspace.scratch(), workspace.home() / "frames"):
        shutil.rmtree(folder, ignore_errors=True)
    if shared := object_store.shared():
        for kind in PERSONAL:
            for path in shared.names(workspace.artifacts() / kind):
                if path.name != keep.name:
                    shared.drop(path)
        shared.drop(workspace.scratch())
    return dropped


def _leave_pages(users: Sequence[str]) -> None:
    """Take the users out of what past runs show as evidence: cells of their pages and values of their records."""
    shared = object_store.shared()
    shown = {json.dumps(user): '"(deleted)"' for user in users}
    shown |= {f">{escape(user)}<": ">(deleted)<" for user in users}
    for path in (path for path in workspace.runs().rglob("*") if path.suffix in (".html", ".json", ".txt")):
        before = after = path.read_text()
        for named, instead in shown.items():
            after = after.replace(named, instead)
        if after != before:
            replace_text(path, after)
            if shared and path.suffix == ".json":
                shared.keep_file(path)
