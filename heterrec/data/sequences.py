"""The `sequences` artifact (docs/contracts.md) as arrays. Letters: E events, U users, V items, N varying features.

What an item is like is always asked as of a moment: of the features that vary, a catalogue holds a few slices, each as
of when it begins. Who is asked at some time sees the slice that began last before it, so never what came after.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import (
    asdict,
    dataclass,
    field,
    fields,
)
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from heterrec.data.encoder import EVENT_TYPE, EventType

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
SPLITS = ("train", "validation", "test")
SINCE = "__since"
"""Column of slices.parquet: when the slice begins; no feature can have this name."""
NOW = -1
"""The slice that serves: the values as of the run, which no target may see."""
EVER = np.iinfo(np.int64).min


class Slice(NamedTuple):
    """The varying features of all items as they were at one moment; of an item that came later, when it came."""

    since: int
    """Microseconds since 1970: of targets after it."""
    columns: dict[str, list[Any]]


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """The V items, and what they are like as of each slice."""

    item_ids: list[str]
    available_at: Ints
    """(V,) microseconds since 1970."""
    fixed: dict[str, list[Any]]
    """The features that do not vary."""
    slices: tuple[Slice, ...] = (Slice(EVER, {}),)
    """In order; the last is `NOW`. One where nothing varies."""
    features: list[dict[str, Any]]
    """Entries of features.json."""
    title: str | None = None
    event_types: tuple[EventType, ...] = ()
    """The kinds of events of a history; none where they are of one kind alone."""
    asking: tuple[dict[str, str], ...] = ()
    """What is known of who asks: `name` and `kind` of each, from features.json."""

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def described(self) -> Any:
        """What a recipe's identity has of the data: the features, and where there are any the kinds of events and what
        is known of who asks."""
        types = {"event_types": [asdict(each) for each in self.event_types]} if self.event_types else {}
        asking = {"asking": list(self.asking)} if self.asking else {}
        return {"features": self.features, **types, **asking} if types or asking else self.features

    def columns(self, number: int) -> dict[str, list[Any]]:
        """Every feature of the V items as of a slice: that of a target (`slices_of`), or `NOW` for what serves."""
        return {**self.fixed, **self.slices[number].columns}

    def slices_of(self, time: npt.ArrayLike) -> Ints:
        """The slice that began last before each time; of what came before all of them, the first."""
        since = [each.since for each in self.slices]
        found: Ints = np.maximum(np.searchsorted(since, time, side="left") - 1, 0)
        return found

    def known_by(self, time: int) -> dict[str, list[Any]]:
        """Of each feature the values that vocabularies and scales may be learned from: of the items that were there
        by `time`, and of a varying feature each value that an item had in the slices up to then, once."""
        there = np.flatnonzero(self.available_at <= time).tolist()
        slices = self.slices[: 1 + int(self.slices_of(time))]
        fixed = {name: [column[row] for row in there] for name, column in self.fixed.items()}
        varying = {
            name: [cell for row in there for cell in dict.fromkeys(each.columns[name][row] for each in slices)]
            for name in slices[0].columns
        }
        return {**fixed, **varying}


@dataclass(frozen=True, kw_only=True)
class Queries:
    """One user each: the history [start, stop) and the targets [first, last) as ranges of event numbers."""

    user: Ints
    start: Ints
    stop: Ints
    last: Ints
    """Targets are the events [stop, last): of those that are predicted."""

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
    """Raw values of each varying feature, as they were at the event; and of `EVENT_TYPE`, where there are several."""
    catalogue: Catalogue
    repeats: bool
    asked: dict[str, list[Any]] = field(default_factory=dict)
    """Of each feature of who asks its raw values, as they were at the event."""

    @cached_property
    def kind(self) -> Ints:
        """(E,) number of the event's kind among those of the catalogue, from 1; 0 where all are of one kind."""
        if not self.catalogue.event_types:
            return np.zeros(len(self.row), dtype=np.int64)
        number = {each.name: n for n, each in enumerate(self.catalogue.event_types, start=1)}
        return np.array([number[name] for name in self.varying[EVENT_TYPE]], dtype=np.int64)

    @cached_property
    def predicted(self) -> Bools:
        """(E,) whether the event is a target, and its item one that the shopper has from then on."""
        return np.array([True, *(each.predict for each in self.catalogue.event_types)])[self.kind]

    @cached_property
    def weight(self) -> Floats:
        """(E,) of the loss of an event that is predicted."""
        return np.array([1.0, *(each.weight for each in self.catalogue.event_types)])[self.kind]

    @property
    def training_counts(self) -> Ints:
        """(V,) training events of each item, of those that are predicted."""
        counts: Ints = np.bincount(self.row[(self.split == 0) & self.predicted], minlength=len(self.catalogue))
        return counts

    @property
    def known_counts(self) -> Ints:
        """(V,) training events of each item that was ever a target there, of whatever kind that does not speak
        against it: from how many on its own ID can be learned."""
        against = np.array([False, *(each.negative for each in self.catalogue.event_types)])[self.kind]
        counts: Ints = np.bincount(self.row[(self.split == 0) & ~against], minlength=len(self.catalogue))
        return np.where(self.training_counts > 0, counts, 0)

    @property
    def training_asked(self) -> dict[str, list[Any]]:
        """`asked` at the training events."""
        kept = np.flatnonzero(self.split == 0).tolist()
        return {name: [values[event] for event in kept] for name, values in self.asked.items()}

    @property
    def training_end(self) -> int:
        """Time of the last training event, in microseconds; what came to be known later, training knows nothing of."""
        return int(self.time[self.split == 0].max())

    @property
    def identity(self) -> str:
        """SHA-256 of all that is here: another value of one item, or of one slice, is other data."""
        digest = hashlib.sha256()
        for part in _parts(self):
            digest.update(part)
        return digest.hexdigest()

    def slices(self, queries: Queries) -> Ints:
        """(Q,) the slice of the catalogue that each query is asked in: that of its first target."""
        return self.catalogue.slices_of(self.time[queries.stop])

    def queries(self, split: str) -> Queries:
        """Each user's first basket in `split` with something predicted: that as targets, all earlier baskets as
        history (never empty).

        Where repeats are not wanted, users whose targets were all seen before have nothing to be asked.
        """
        rows = [query for user in range(len(self.user_ids)) if (query := self._query(user, SPLITS.index(split)))]
        user, start, stop, last = np.array(rows, dtype=np.int64).reshape(-1, 4).T
        return Queries(user=user, start=start, stop=stop, last=last)

    def seen(self, queries: Queries, index: int) -> Ints:
        """Catalogue rows that the shopper of query `index` has: of the history's predicted events. What was merely
        looked at may be wanted all the more."""
        history = slice(queries.start[index], queries.stop[index])
        return np.unique(self.row[history][self.predicted[history]])

    def targets(self, queries: Queries, index: int) -> Ints:
        """Catalogue rows that query `index` asks for; without those in its history where repeats are not wanted."""
        asked = slice(queries.stop[index], queries.last[index])
        targets = np.unique(self.row[asked][self.predicted[asked]])
        return targets if self.repeats else np.setdiff1d(targets, self.seen(queries, index))

    def _query(self, user: int, split: int) -> tuple[int, int, int, int] | None:
        start, end = int(self.offsets[user]), int(self.offsets[user + 1])
        asked = self.predicted[start:end]
        inside = np.flatnonzero((self.split[start:end] == split) & asked)
        if not len(inside):
            return None
        basket = self.basket[start + inside[0]]
        stop = start + int(np.searchsorted(self.basket[start:end], basket, "left"))
        last = start + int(np.searchsorted(self.basket[start:end], basket, "right"))
        if stop == start:
            return None
        has, wanted = (self.row[a:b][self.predicted[a:b]] for a, b in ((start, stop), (stop, last)))
        if not self.repeats and np.isin(wanted, has).all():
            return None
        return user, start, stop, last


_LATER = ("asking", "asked")


def _parts(data: Sequences | Catalogue) -> Iterator[bytes]:
    """Field by field, so that a new one is part of the identity, too."""
    for part in fields(data):
        value = getattr(data, part.name)
        if part.name in _LATER and not value:
            continue  # so that data of before there was such a thing is the same data
        yield f"\n{part.name} ".encode()
        if isinstance(value, Catalogue):
            yield from _parts(value)
        else:
            yield value.tobytes() if isinstance(value, np.ndarray) else json.dumps(value, default=asdict).encode()


def read_catalogue(root: Path) -> Catalogue:
    """Read `catalogue.parquet`, `slices.parquet` and `features.json`; `ValueError` names a missing file or column."""
    described = json.loads(_present(root / "features.json").read_text())
    names = [feature["name"] for feature in described["features"]]
    varying = [feature["name"] for feature in described["features"] if feature["varies_in_time"]]
    table = _table(root / "catalogue.parquet", ["item_id", "available_at", *names])
    if not table.num_rows:
        raise ValueError(f"{root / 'catalogue.parquet'}: has no items; check what ingest accepted")
    columns = {name: table[name].to_pylist() for name in names}
    now = Slice(_since(described["as_of"]) if varying else EVER, {})
    now.columns.update({name: columns.pop(name) for name in varying})
    return Catalogue(
        item_ids=table["item_id"].to_pylist(),
        available_at=_microseconds(table["available_at"]),
        fixed=columns,
        slices=(*(_slices(root / "slices.parquet", table["item_id"], varying) if varying else ()), now),
        features=described["features"],
        title=described.get("title"),
        event_types=tuple(EventType(**each) for each in described.get("event_types", ())),
        asking=tuple(described.get("asking", ())),
    )


def _since(moment: str) -> int:
    return (datetime.fromisoformat(moment) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _slices(path: Path, items: pa.ChunkedArray, varying: list[str]) -> Iterator[Slice]:
    table = _table(path, [SINCE, "item_id", *varying])
    since = _microseconds(table[SINCE])
    for moment in np.unique(since).tolist():
        part = table.filter(pa.array(since == moment)).sort_by("item_id")
        if not part["item_id"].equals(items.cast(part["item_id"].type)):
            raise ValueError(f"{path}: not the items of catalogue.parquet; run the features step again")
        yield Slice(moment, {name: part[name].to_pylist() for name in varying})


def read_sequences(root: Path) -> Sequences:
    """Read a whole artifact; `ValueError` names the file or column that is missing or contradicts the catalogue."""
    catalogue = read_catalogue(root)
    varying = [feature["name"] for feature in catalogue.features if feature["varies_in_time"]]
    varying += [EVENT_TYPE] if catalogue.event_types else []
    asking = [each["name"] for each in catalogue.asking]
    path = root / "events.parquet"
    table = _table(path, ["user_id", "item_id", "event_time", "position", "basket", "split", *varying, *asking])
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
        asked={name: table[name].to_pylist() for name in asking},
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
