"""What a history brings to mind: items bought together with its own, items like them, and its own once more.

Training, evaluation and serving look items up with this very file: it is copied into the serving archive beside
`memory.npz`, so it imports numpy and the standard library only. The form of the score is ours; co-occurrence with decay
by distance and age is item-kNN for sequences (Ludewig & Jannach, "Evaluation of session-based recommendation
algorithms", 2018). Letters: V items, B histories, S events of all of them, J pairs of a history and an item,
C channels, K buckets.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

VERSION = 1
CHANNELS = ("together", "content", "own")
"""Bought together, alike by their features, bought before by this shopper. The first two have a table."""
BUCKETS = 16
HISTORY = 200
"""Latest events of a history that are asked about: what the online store keeps."""
LEAST = 1e-3
"""Weight of an event by its age below which a table is not asked about it."""
_DENSE = 2**22
"""Numbers in one array of sums for all items of some histories."""
_FEW, _DENSER = 2**16, 8
"""Numbers up to which, or as many times as there are values, that array is quicker than sorting."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class NeighbourTable:
    """The nearest neighbours of V items; those of item v are the entries [first[v], first[v + 1])."""

    first_V: Ints
    """(V + 1,)"""
    item_N: npt.NDArray[np.int32]
    weight_N: Floats


@dataclass(frozen=True, kw_only=True)
class Gate:
    """How far each channel is trusted for a candidate, by how often that item was seen in training.

    The score of an item is `trust * model + bias[bucket] + gain[bucket] * log(1 + sum over channels of
    weight[channel, bucket] * value[channel])`: the channels are a mixture, and that is an expert beside the model.
    Of an item that was never sold the model's score has the factor `trust_new` as well.
    """

    trust: float
    """Factor of the model's own score; 0 where the tables answer alone."""
    bias_K: list[float]
    gain_K: list[float]
    weight_CK: list[list[float]]
    trust_new: float = 1.0


class Recalled(NamedTuple):
    """J pairs of a history and an item that it brings to mind, sorted by history, then item."""

    history_J: Ints
    item_J: Ints
    value_JC: Floats


@dataclass(frozen=True, kw_only=True)
class EventTypeWeights:
    """How much an event of each kind reminds, by channel, against one that is predicted."""

    names: list[str]
    weight_CT: list[list[float]]
    """Of the kinds by their number, from 1; at 0 of an event whose kind is not known."""


class Memory:
    """Tables over a catalogue of V items, and two gates: beside a model's score, and alone."""

    def __init__(
        self,
        *,
        tables: Sequence[NeighbourTable],
        decay_C: Sequence[float],
        count_V: Ints,
        beside: Gate,
        alone: Gate,
        kinds: EventTypeWeights | None = None,
    ) -> None:
        self.tables, self.decay_C, self.count_V = tuple(tables), tuple(decay_C), count_V
        self.bucket_V = buckets(count_V)
        self.beside, self.alone = beside, alone
        self.kinds = kinds

    def recall(self, row_S: Ints, age_S: Ints, history_S: Ints, histories: int, kind_S: Ints | None = None) -> Recalled:
        """What B histories bring to mind, of the events `row_S` (rows of the catalogue), `age_S` (see `ages`),
        `history_S` (number of the history, ascending) and, of a memory of several kinds, `kind_S`."""
        kind_S = np.zeros_like(row_S) if kind_S is None else kind_S
        size = len(self.bucket_V)
        each = max(1, _DENSE // size)
        if histories > each:
            bounds = np.searchsorted(history_S, np.arange(0, histories + each, each))
            parts = [
                self._recall(
                    row_S[a:b], age_S[a:b], history_S[a:b] - n * each, min(each, histories - n * each), kind_S[a:b]
                )
                for n, (a, b) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True))
            ]
            return Recalled(
                np.concatenate([part.history_J + n * each for n, part in enumerate(parts)]),
                np.concatenate([part.item_J for part in parts]),
                np.concatenate([part.value_JC for part in parts]),
            )
        return self._recall(row_S, age_S, history_S, histories, kind_S)

    def bonus(self, gate: Gate, recalled: Recalled) -> Floats:
        """(J,) what memory adds to the score of each pair."""
        bucket_J = self.bucket_V[recalled.item_J]
        weight_JC = np.asarray(gate.weight_CK, dtype=np.float32).T[bucket_J]
        gain_J = np.asarray(gate.gain_K, dtype=np.float32)[bucket_J]
        out: Floats = gain_J * np.log1p((weight_JC * recalled.value_JC).sum(1))
        return out

    def share(self, gate: Gate) -> Floats:
        """(V,) by which the model's score of every item is multiplied beside `trust`."""
        out: Floats = np.where(self.bucket_V == 0, np.float32(gate.trust_new), np.float32(1))
        return out

    def bias(self, gate: Gate) -> Floats:
        """(V,) of every item, whatever the history."""
        out: Floats = np.asarray(gate.bias_K, dtype=np.float32)[self.bucket_V]
        return out

    def _weight(self, channel: int, age_S: Ints, kind_S: Ints) -> Floats:
        """How much each event reminds, by its age and kind."""
        weight_S: Floats = np.power(self.decay_C[channel], age_S, dtype=np.float32)
        if self.kinds is None:
            return weight_S
        return weight_S * np.asarray(self.kinds.weight_CT[channel], dtype=np.float32)[kind_S]

    def _recall(self, row_S: Ints, age_S: Ints, history_S: Ints, histories: int, kind_S: Ints) -> Recalled:
        size = len(self.bucket_V)
        keys, values = [], []
        for channel, table in enumerate(self.tables):
            weight_S = self._weight(channel, age_S, kind_S)
            asked = np.flatnonzero(weight_S >= LEAST)
            first = table.first_V[row_S[asked]]
            count = table.first_V[row_S[asked] + 1] - first
            place = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
            keys.append(np.repeat(history_S[asked] * size, count) + table.item_N[place])
            values.append(np.repeat(weight_S[asked], count) * table.weight_N[place])
        own_S = self._weight(len(self.decay_C) - 1, age_S, kind_S)
        reminds = slice(None) if self.kinds is None else own_S > 0
        keys.append((history_S * size + row_S)[reminds])
        values.append(own_S[reminds])
        key_J, value_JC = _sums(keys, values, histories * size)
        return Recalled(key_J // size, key_J % size, value_JC)

    def about(self) -> dict[str, Any]:
        """What was chosen and fitted, for a page."""
        return {
            "decay": dict(zip(CHANNELS, self.decay_C, strict=True)),
            "beside": asdict(self.beside),
            "alone": asdict(self.alone),
            **({} if self.kinds is None else {"kinds": asdict(self.kinds)}),
        }

    def save(self, path: Path) -> None:
        """Write `memory.npz`; the same memory gives the same bytes."""
        arrays: dict[str, Any] = {"count": self.count_V}
        for name, table in zip(CHANNELS, self.tables, strict=False):
            arrays |= {f"{name}_first": table.first_V, f"{name}_item": table.item_N}
            arrays[f"{name}_weight"] = table.weight_N.astype(np.float16)
        about = {"version": VERSION, **self.about()}
        arrays["about"] = np.frombuffer(json.dumps(about).encode(), dtype=np.uint8)
        np.savez_compressed(path, **arrays)

    @classmethod
    def load(cls, path: Path | IO[bytes]) -> "Memory":
        """Read `save`'s file; `ValueError` where it is of another version."""
        with np.load(path, allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            if about["version"] != VERSION:
                raise ValueError(f"{path}: version {about['version']}, expected {VERSION}; train the model again")
            tables = [
                NeighbourTable(
                    first_V=arrays[f"{name}_first"],
                    item_N=arrays[f"{name}_item"],
                    weight_N=arrays[f"{name}_weight"].astype(np.float32),
                )
                for name in CHANNELS
                if f"{name}_first" in arrays
            ]
            gates = {name: Gate(**about[name]) for name in ("beside", "alone")}
            kinds = EventTypeWeights(**about["kinds"]) if "kinds" in about else None
            return cls(
                tables=tables, decay_C=list(about["decay"].values()), count_V=arrays["count"], kinds=kinds, **gates
            )


def ages(time_S: Ints, kind_S: Ints | None = None) -> Ints:
    """Of the events of one history in the order of time: how many later moments it has. Events of one moment are of
    one age, and the latest are of age 0. Of several kinds each has ages of its own: a purchase is no older for what
    was looked at since."""
    if kind_S is not None:
        aged = np.zeros(len(time_S), dtype=np.int64)
        for kind in np.unique(kind_S):
            aged[kind_S == kind] = ages(time_S[kind_S == kind])
        return aged
    if not len(time_S):
        return np.zeros(0, dtype=np.int64)
    later = np.append(time_S[1:] != time_S[:-1], False)
    out: Ints = later[::-1].cumsum()[::-1]
    return out


def buckets(count_V: Ints) -> Ints:
    """(V,) the logarithm of how often each item was seen: 0 never, 1 once, 2 up to three times, 3 up to seven, ..."""
    exponent = np.frexp(count_V.astype(np.float64))[1]  # of 0 it is 0, of 1 it is 1, of 2 and 3 it is 2
    return np.minimum(exponent, BUCKETS - 1).astype(np.int64)


def _sums(keys: list[Ints], values: list[Floats], size: int) -> tuple[Ints, Floats]:
    """The distinct keys, ascending, and the sums of each channel's values by key."""
    if size <= max(_FEW, _DENSER * sum(map(len, keys))):
        sums = [np.bincount(key, value, minlength=size) for key, value in zip(keys, values, strict=True)]
        found = np.flatnonzero(np.logical_or.reduce([each > 0 for each in sums]))
        return found, np.stack([each[found] for each in sums], axis=1).astype(np.float32)
    found, place = np.unique(np.concatenate(keys), return_inverse=True)
    bounds = np.cumsum([len(key) for key in keys])[:-1]
    parts = zip(np.split(place.reshape(-1), bounds), values, strict=True)
    sums = [np.bincount(where, value, minlength=len(found)) for where, value in parts]
    return found, np.stack(sums, axis=1).astype(np.float32)
