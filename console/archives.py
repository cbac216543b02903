"""The archives that serve, opened in this process: what they answer is what shoppers get, and nobody is told of it."""

import io
import json
import tempfile
import threading
import weakref
import zipfile
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from console import rollouts
from console.runs import UnknownName
from experiments.document import ModelVersion, Rollout
from runtime import workspace
from runtime.errors import InputError
from serving.releases import Releases, Unreached
from serving.torchserve import archive

_KEPT = 4
"""Archives that are kept open: two models' champions and challengers."""
_MOST_FOUND = 20
Answer = list[dict[str, Any]]


class Opened:
    """One archive: its catalogue at once, its model when it is first asked."""

    def __init__(self, mar: Path, arm: ModelVersion) -> None:
        archive.check(mar, arm.archive_digest)  # an archive is code
        self.version, self._mar, self._lock = arm.version, mar, threading.Lock()
        self.items: dict[str, Any] = json.loads(archive.read(mar, "items.json"))
        self.contract: dict[str, Any] = json.loads(archive.read(mar, "serving.json"))
        self.ids: list[str] = self.items["item_id"]
        self.titles: list[str | None] = self.items.get("title") or [None] * len(self.ids)
        self.row = {item: row for row, item in enumerate(self.ids)}

    @cached_property
    def scorer(self) -> Any:
        from serving.scoring.scorer import Scorer

        folder = tempfile.TemporaryDirectory(prefix="console-")
        with zipfile.ZipFile(self._mar) as content:
            content.extractall(folder.name)
        scorer = Scorer.load(Path(folder.name))
        weakref.finalize(self, folder.cleanup)
        return scorer

    @cached_property
    def tables(self) -> Any:
        """The neighbour tables alone; None where it has none."""
        from serving.gateway.tables import NeighbourAnswers

        return NeighbourAnswers.read(self._mar)

    @cached_property
    def vectors(self) -> NDArray[np.float32] | None:
        """Directions of the items (V, D), without what is added for how often they were sold; None of tables alone."""
        if not self.contract.get("network", True):
            return None
        matrix = np.load(io.BytesIO(archive.read(self._mar, "item_matrix.npy")), allow_pickle=False)
        # Last is the memory's bias, where there is one, and before it the network's own.
        matrix = matrix[:, : -2 if "memory.npz" in self.contract["digests"] else -1]
        length = np.linalg.norm(matrix, axis=1, keepdims=True)
        found: NDArray[np.float32] = matrix / np.where(length > 0, length, 1)
        return found

    def open_all(self) -> None:
        """All that is otherwise opened when it is first asked. Raises `InputError` where it cannot be."""
        try:
            _ = self.scorer, self.tables, self.vectors
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{self._mar}: cannot be opened: {error}") from error

    def answer(self, request: dict[str, Any]) -> Answer:
        """What the model answers. Raises `InputError` for a request that it refuses."""
        with self._lock:  # torch would share the cores with itself
            (found,) = self.scorer.score([request])
        if "error" in found:
            raise InputError(f"{self.version}: {found['error']}")
        items: Answer = found["items"]
        return items

    def popular(self, k: int) -> Answer:
        """The items with the most events."""
        best = np.argsort(-np.array(self.items["events"]), kind="stable")[:k]
        return [
            {"item_id": self.ids[row], "title": self.titles[row], "score": self.items["events"][row]}
            for row in best.tolist()
        ]

    def title(self, item: str) -> str:
        """The item's title, or its id."""
        row = self.row.get(item)
        return item if row is None or not self.titles[row] else str(self.titles[row])

    def features(self, item: str) -> dict[str, Any]:
        """The values as of the catalogue; empty for an item that it does not hold."""
        row = self.row.get(item)
        return {} if row is None else {name: column[row] for name, column in self.items["features"].items()}

    def search(self, text: str) -> list[str]:
        """Items whose id or title has `text` in it, whatever the case; the most sold first."""
        wanted = text.casefold()
        rows = [
            row
            for row, (item, title) in enumerate(zip(self.ids, self.titles, strict=True))
            if wanted in item.casefold() or (title and wanted in title.casefold())
        ]
        rows.sort(key=lambda row: (self.ids[row].casefold() != wanted, -self.items["events"][row]))
        return [self.ids[row] for row in rows[:_MOST_FOUND]]


class OpenArchives:
    """Of one console; the last few that were asked for stay open."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Opened] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, model: str, arm: ModelVersion) -> Opened:
        """The archive of `arm`. Raises `InputError` where it cannot be had or is another than the one released."""
        with self._lock:
            if arm.archive_digest not in self._open:
                try:
                    mar = Releases(model, workspace.archives()).fetched(arm)
                    self._open[arm.archive_digest] = Opened(mar, arm)
                except (OSError, ValueError, Unreached) as error:
                    raise InputError(f"the archive of {arm.version} cannot be opened: {error}") from error
                while len(self._open) > _KEPT:
                    self._open.popitem(last=False)
            self._open.move_to_end(arm.archive_digest)
            return self._open[arm.archive_digest]


def chosen(model: str) -> tuple[list[str], Rollout | None]:
    """The models that serve, and the row of `model` (of the first). Raises `UnknownName` for one that does not."""
    serving = [row for row in rollouts.rows() if row.champion is not None]
    if model and model not in {row.model for row in serving}:
        raise UnknownName(f"model {model!r}: nothing was released under that name")
    return [row.model for row in serving], next((row for row in serving if not model or row.model == model), None)
