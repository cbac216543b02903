"""The `sequences` artifact (docs/contracts.md) as arrays. Letters: E events, U users, V items, N varying features."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Ints = npt.NDArray[np.int64]
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The V items, each with its features as known at `as_of`."""

    item_ids: list[str]
    available_at: Ints
    """(V,) microseconds since 1970."""
    columns: dict[str, list[Any]]
    features: list[dict[str, Any]]
    """Entries of features.json."""
    title: str | None = None

    def __len__(self) -> int:
        return len(self.item_ids)


@dataclass(frozen=True, kw_only=True)
class Queries:
    """One user each: the history [start, stop) and the targets [first, last) as ranges of event numbers."""

    user: Ints
    start: Ints
    stop: Ints
    last: Ints
    """Targets are the events [stop, last)."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, index: Ints | slice) -> "Queries":
        return Queries(user=self.user[index], start=self.start[index], stop=self.stop[index], last=self.last[index])


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """All events, sorted by user, then basket, time and position."""

    user_ids: list[str]
    offsets: Ints
    """(U + 1,) user u has the events [offsets[u], offsets[u + 1])."""
    row: Ints
    """(E,) catalogue row of the item."""
    time: Ints
    """(E,) microseconds since 1970."""
    basket: Ints
    """(E,) ordinal within the user."""
    split: Ints
    """(E,) index into SPLITS."""
    varying: dict[str, list[Any]]
    """Raw values of each varying feature, as they were at the event."""
    catalogue: Catalogue
    repeats: bool

    @property
    def training_counts(self) -> Ints:
        """(V,) training events of each item."""
        counts: Ints = np.bincount(self.row[self.split == 0], minlength=len(self.catalogue))
        return counts

    def queries(self, split: str) -> Queries:
        """Each user's first basket in `split` as targets, all earlier baskets as history (never empty).

        Where repeats are not wanted, users whose targets were all seen before have nothing to be asked.
        """
        rows = [query for user in range(len(self.user_ids)) if (query := self._query(user, SPLITS.index(split)))]
        user, start, stop, last = np.array(rows, dtype=np.int64).reshape(-1, 4).T
        return Queries(user=user, start=start, stop=stop, last=last)

    def seen(self, queries: Queries, index: int) -> Ints:
        """Catalogue rows in the history of query `index`."""
        return np.unique(self.row[queries.start[index] : queries.stop[index]])

    def targets(self, queries: Queries, index: int) -> Ints:
        """Catalogue rows that query `index` asks for; without those in its history where repeats are not wanted."""
        targets = np.unique(self.row[queries.stop[index] : queries.last[index]])
        return targets if self.repeats else np.setdiff1d(targets, self.seen(queries, index))

    def _query(self, user: int, split: int) -> tuple[int, int, int, int] | None:
        start, end = int(self.offsets[user]), int(self.offsets[user + 1])
        inside = np.flatnonzero(self.split[start:end] == split)
        if not len(inside):
            return None
        basket = self.basket[start + inside[0]]
        stop = start + int(np.searchsorted(self.basket[start:end], basket, "left"))
        last = start + int(np.searchsorted(self.basket[start:end], basket, "right"))
        if stop == start:
            return None
        if not self.repeats and np.isin(self.row[stop:last], self.row[start:stop]).all():
            return None
        return user, start, stop, last


def read_catalogue(root: Path) -> Catalogue:
    """Read `catalogue.parquet` and `features.json`; `ValueError` names a missing file or column."""
    described = json.loads(_present(root / "features.json").read_text())
    names = [feature["name"] for feature in described["features"]]
    table = _table(root / "catalogue.parquet", ["item_id", "available_at", *names])
    if not table.num_rows:
        raise ValueError(f"{root / 'catalogue.parquet'}: has no items; check what ingest accepted")
    return Catalogue(
        item_ids=table["item_id"].to_pylist(),
        available_at=_microseconds(table["available_at"]),
        columns={name: table[name].to_pylist() for name in names},
        features=described["features"],
        title=described.get("title"),
    )


def read_sequences(root: Path) -> Sequences:
    """Read a whole artifact; `ValueError` names the file or column that is missing or contradicts the catalogue."""
    catalogue = read_catalogue(root)
    varying = [feature["name"] for feature in catalogue.features if feature["varies_in_time"]]
    path = root / "events.parquet"
    table = _table(path, ["user_id", "item_id", "event_time", "position", "basket", "split", *varying])
    order = [(name, "ascending") for name in ("user_id", "basket", "event_time", "position")]
    table = table.take(pc.sort_indices(table, sort_keys=order))
    row = pc.index_in(table["item_id"], pa.array(catalogue.item_ids, type=table["item_id"].type))
    split = pc.index_in(table["split"], pa.array(SPLITS, type=table["split"].type))
    for column, found in (("item_id", row), ("split", split)):
        if found.null_count:
            value = table[column].filter(pc.is_null(found))[0].as_py()
            expected = "an item of catalogue.parquet" if column == "item_id" else f"one of {SPLITS}"
            raise ValueError(f"{path}: {column} {value!r}, expected {expected}; run the features step again")
    users = table["user_id"].combine_chunks().dictionary_encode()
    codes = np.asarray(users.indices, dtype=np.int64)
    return Sequences(
        user_ids=users.dictionary.to_pylist(),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(users.dictionary)))]).astype(np.int64),
        row=_integers(row),
        time=_microseconds(table["event_time"]),
        basket=_integers(table["basket"]),
        split=_integers(split),
        varying={name: table[name].to_pylist() for name in varying},
        catalogue=catalogue,
        repeats=bool(json.loads((root / "features.json").read_text())["repeats"]),
    )


def _present(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path}: no such file; run the features step first")
    return path


def _table(path: Path, columns: list[str]) -> pa.Table:
    known = pq.read_schema(_present(path)).names
    if absent := [name for name in columns if name not in known]:
        raise ValueError(f"{path}: columns {absent} are missing, it has {known}; run the features step again")
    return pq.read_table(path, columns=columns)


def _integers(column: pa.ChunkedArray) -> Ints:
    return np.asarray(column.cast(pa.int64()), dtype=np.int64)


def _microseconds(column: pa.ChunkedArray) -> Ints:
    return _integers(column.cast(pa.timestamp("us", "UTC") if pa.types.is_timestamp(column.type) else pa.int64()))
