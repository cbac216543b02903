"""What releases remember of deleted users: golden requests, and pairs of items that nobody else bought.

An archive is pinned by its digest: it is named, and made anew. The models beside it are read when a night is judged and
when a training begins from them: the pairs are taken out of them where they lie. A pair that others bought, too, is
theirs, and stays.
"""

import json
from collections.abc import (
    Iterator,
    Mapping,
    Sequence,
    Set,
)
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from components.shared.model_registry import Registry, has_copies
from components.shared.release_store import models_of
from experiments.document import ModelVersion
from experiments.table import RolloutTable
from heterrec.memory.neighbours import Memory, NeighbourTable
from runtime import object_store, workspace
from runtime.files import replacing
from runtime.manifest import NAME, Manifest
from serving.scoring.shelves import BASKETS
from serving.torchserve import archive as archives

MEMORY, ITEMS = "memory.npz", "memory_items.json"


@dataclass(frozen=True, kw_only=True)
class Bought:
    """What the deleted users bought, and who else bought it."""

    users: Mapping[str, Set[str]]
    """Of each of them who had an event, the items."""
    others: Mapping[str, set[str]]
    """Of each of those items the other shoppers."""

    def alone(self, table: NeighbourTable, items: Sequence[str]) -> npt.NDArray[np.bool_]:
        """(N,) which entries of the table over `items` only the deleted users can have left."""
        row = {item: number for number, item in enumerate(items)}
        gone_N = np.zeros(len(table.item_N), dtype=bool)
        for mine in self.users.values():
            rows = [row[item] for item in mine if item in row]
            for one in rows:
                start, stop = table.first_V[one], table.first_V[one + 1]
                for place in start + np.flatnonzero(np.isin(table.item_N[start:stop], rows)):
                    one_of, other_of = (self.others.get(items[each], set()) for each in (one, table.item_N[place]))
                    gone_N[place] = gone_N[place] or one_of.isdisjoint(other_of)
        return gone_N


def leave_releases(name: str, users: Set[str], bought: Bought) -> list[str]:
    """Take the pairs out of the models of every release of `name` on this machine, and of the reference and those that
    serve or can come back wherever they lie, in MLflow too; returns the versions that serve or can come back whose
    archive has to be made anew."""
    with RolloutTable(workspace.rollout_url()) as table:
        row = table.read(name)
    of_known = {object_store.fetch_release(version.archive): version for version in row.known}
    # The reference serves nobody, and each night's model is judged by it.
    reference = {object_store.fetch_release(row.held_against.archive)} if row.held_against else set()
    here = {path.parent for path in (workspace.releases() / name).glob("*/*.mar")}
    for release in sorted(here | reference | of_known.keys()):
        if left := [model for model in models_of(release).values() if _leave(model, bought)]:
            _keep(name, release, left)
    return [version.version for release, version in of_known.items() if _shows(release, version, users, bought)]


def _leave(model: Path, bought: Bought) -> bool:
    """Whether the model's memory had a pair of theirs; it has none now."""
    path = model / MEMORY
    if not path.is_file():
        return False
    memory = Memory.load(path)
    together = memory.tables[0]
    gone_N = bought.alone(together, json.loads((model / ITEMS).read_text()))
    if not gone_N.any():
        return False
    left = Memory(
        tables=(_without(together, gone_N), *memory.tables[1:]),
        decay_C=memory.decay_C,
        count_V=memory.count_V,
        beside=memory.beside,
        alone=memory.alone,
    )
    with replacing(path) as partial:
        left.save(partial)
    return True


def _without(table: NeighbourTable, gone_N: npt.NDArray[np.bool_]) -> NeighbourTable:
    kept = np.append(0, np.cumsum(~gone_N))
    return NeighbourTable(first_V=kept[table.first_V], item_N=table.item_N[~gone_N], weight_N=table.weight_N[~gone_N])


def _keep(name: str, release: Path, models: Sequence[Path]) -> None:
    """Let every copy of the release be the changed one."""
    Manifest.seal(release, kind="released")
    if shared := object_store.shared():
        shared.keep(release)
    if has_copies(url := workspace.mlflow_url()):
        changed = [*(model / MEMORY for model in models), release / NAME]
        Registry(url, name).replace(archives.digest(release / f"{name}.mar"), release, changed)


def _shows(release: Path, version: ModelVersion, users: Set[str], bought: Bought) -> bool:
    """Whether the archive has a golden request of one of `users`, or a pair that only they bought."""
    mar = release / Path(version.archive).name
    lines = archives.read(mar, "goldens.jsonl").splitlines()
    if users & {json.loads(line)["request"].get("user_id") for line in lines}:
        return True
    items = json.loads(archives.read(mar, "items.json"))["item_id"]
    return any(bought.alone(table, items).any() for table in _pairs(mar))


def _pairs(mar: Path) -> Iterator[NeighbourTable]:
    """The archive's tables of items that shoppers bought: one after the other, and in one basket."""
    files = json.loads(archives.read(mar, "serving.json"))["digests"]
    if MEMORY in files:
        yield Memory.load(BytesIO(archives.read(mar, MEMORY))).tables[0]
    if BASKETS in files:
        with np.load(BytesIO(archives.read(mar, BASKETS)), allow_pickle=False) as arrays:
            yield NeighbourTable(first_V=arrays["first"], item_N=arrays["item"], weight_N=arrays["weight"])
