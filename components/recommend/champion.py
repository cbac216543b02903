"""What serves a data set, opened for answers to many shoppers at once: archive, shoppers and their histories."""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow.parquet as pq

from components.recommend.shown import Wanted
from runtime import workspace
from runtime.errors import InputError

if TYPE_CHECKING:
    from feature_repo.impressions import Impressions


class HistorySource(Protocol):
    """Of some shoppers the `history` of a request each; empty where there is none. A process makes a copy of it."""

    def __call__(self, users: Sequence[str]) -> dict[str, list[dict[str, Any]]]: ...

    def features(self, users: Sequence[str]) -> list[dict[str, Any]]:
        """What is known of each beside the history, by name; asked for where the model knows of such."""

    def impressions(self, users: Sequence[str]) -> "list[Impressions]":
        """What each was shown lately and did nothing with; asked for where a rule of fatigue holds."""


@dataclass(frozen=True)
class OnlineHistorySource:
    """Histories of the online store of a data set."""

    dataset: str
    root: Path

    def __call__(self, users: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        from feature_repo.online import as_request, user_histories
        from feature_repo.store import connect

        found = user_histories(connect(self.dataset, self.root), users)
        return {user: as_request(records) for user, records in found.items()}

    def features(self, users: Sequence[str]) -> list[dict[str, Any]]:
        from feature_repo.online import users_features
        from feature_repo.store import connect

        return users_features(connect(self.dataset, self.root), users)

    def impressions(self, users: Sequence[str]) -> "list[Impressions]":
        from feature_repo.impressions import kept
        from feature_repo.store import connect

        found = kept(connect(self.dataset, self.root))
        return [found.read(user) for user in users]


@dataclass(frozen=True, kw_only=True)
class OpenedChampion:
    """What serves, opened for a batch: `content` is its unpacked archive, `users` those of the last run or refresh."""

    model: str
    version: str
    archive_digest: str
    content: Path
    users: list[str]
    histories: HistorySource
    wanted: Wanted
    """What the shop wants shown now."""


@contextmanager
def champion_of(name: str) -> Iterator[OpenedChampion]:
    """Of the data set `name`. Raises `InputError` where nothing is released, or the online store was never filled."""
    from tempfile import TemporaryDirectory

    from experiments.availability import AvailabilityCursor, AvailabilityTable
    from experiments.rules_table import RulesTable
    from experiments.table import RolloutTable
    from feature_repo.store import histories_path
    from serving.releases import Releases
    from serving.torchserve import archive

    with RolloutTable(workspace.rollout_url()) as table:
        champion = table.read(name).champion
        rules = RulesTable(table.database, name).read()
        told = AvailabilityTable(table.database, name).changes(AvailabilityCursor()).available
    if champion is None:
        raise InputError(f"{name}: no model was released yet. Run `python -m pipelines run --dataset …` first.")
    root = workspace.feature_store(name)
    known = histories_path(root)
    if not known.is_file():
        raise InputError(f"{known}: the online store was never filled. Run `python -m pipelines run` for it first.")
    mar = Releases(name, workspace.archives()).fetched(champion)
    archive.check(mar, champion.archive_digest)  # an archive is code
    with TemporaryDirectory(prefix="batch-") as folder:
        with zipfile.ZipFile(mar) as packed:
            packed.extractall(folder)
        yield OpenedChampion(
            model=name,
            version=champion.version,
            archive_digest=champion.archive_digest,
            content=Path(folder),
            users=pq.read_table(known, columns=["user_id"])["user_id"].to_pylist(),
            histories=OnlineHistorySource(name, root),
            wanted=Wanted(rules=rules, withdrawn=frozenset(item for item, there in told.items() if not there)),
        )
