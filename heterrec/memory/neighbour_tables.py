"""Fits the tables of `heterrec.memory.neighbours`: which items are bought together, and which are alike by their
features.

Both are made part by part, so that memory is bounded by the table that is kept. Letters: V items, E events, P pairs,
W words and values.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from heterrec.data.encoder import (
    BAG,
    KINDS,
    LIST,
    WORDS,
    TokenKind,
)
from heterrec.data.sequences import Catalogue, Sequences
from heterrec.memory.neighbours import (
    LEAST,
    Floats,
    Ints,
    NeighbourTable,
)

STEP, BACK, SHRINKAGE = 0.6, 0.4, 80.0
"""Weight of a basket further on; of a pair the other way round; events by which the rare are held back."""
NEAREST = 200
ALIKE = 100
COMMON = 0.5
"""Share of the items beyond which a word or value tells no two of them apart."""
LISTED = 0.5
"""Weight of one of several values (of tags, or categories) against a word or a single value."""
_FURTHEST = 1 + math.ceil(math.log(0.02) / math.log(STEP))
_SUMS, _SORTED, _AT_ONCE = 2**24, 2**24, 2**21
"""Numbers that are summed up by their place at once, pairs that are sorted at once, and pairs that are made at once."""
_BLOCK = 256
Lags = Sequence[tuple[int, float]]
"""How many baskets further on (negative: back; 0: the same one), and what a pair at that distance counts."""
_LAGS: Lags = [
    each for lag in range(1, _FURTHEST + 1) for each in ((lag, STEP ** (lag - 1)), (-lag, BACK * STEP ** (lag - 1)))
]
_ALL_PAIRS, _SHARED = 30_000, 4e8
"""Items up to which all are compared with all, and pairs that are compared beyond."""


def soonest_after(sequences: Sequences, *, nearest: int = NEAREST) -> NeighbourTable:
    """The items bought soonest after one, by the training events.

    A pair of items counts STEP^(baskets between them), the other way round BACK times as much, and is divided by
    the root of either's events. Of each item the `nearest` are kept; the mean over all pairs is one.
    """
    baskets = _Baskets(sequences)
    return _counted(sequences, baskets, _LAGS, baskets.count(), nearest, None)


def in_baskets(sequences: Sequences, beside: NeighbourTable | None = None, *, nearest: int = ALIKE) -> NeighbourTable:
    """The items that lie in one basket with another, by the training events; counted as in `soonest_after`.

    On the scale of `beside`, what `soonest_after` gives of the same events: a pair in one basket then weighs as much as
    one in two that follow each other. Without it the mean over all pairs is one.
    """
    baskets = _Baskets(sequences)
    size_B = np.diff(baskets.first_B)
    scale = None if beside is None or not len(beside.item_N) else _scale(sequences, baskets, beside)
    return _counted(sequences, baskets, [(0, 1.0)], int(size_B @ size_B), nearest, scale)


def _scale(sequences: Sequences, baskets: "_Baskets", table: NeighbourTable) -> float:
    """What `soonest_after` has multiplied its weights with, by counting the heaviest pair of its table again."""
    place = int(table.weight_N.argmax())
    one, other = int(np.searchsorted(table.first_V, place, side="right")) - 1, int(table.item_N[place])
    event = np.flatnonzero(baskets.row_E == one)
    found = [weight * np.sum(baskets.row_E[baskets.pairs(event, ahead)[1]] == other) for ahead, weight in _LAGS]
    frequency_V = 1 / np.sqrt(sequences.training_counts + SHRINKAGE)
    return float(table.weight_N[place] / (sum(found) * frequency_V[one] * frequency_V[other]))


def _counted(
    sequences: Sequences, baskets: "_Baskets", lags: Lags, pairs_in_all: int, nearest: int, scale: float | None
) -> NeighbourTable:
    size = len(sequences.catalogue)
    frequency_V = 1 / np.sqrt(sequences.training_counts + SHRINKAGE)
    first, items, weights, total, pairs = [0], [], [], 0.0, 0
    for start, stop, item_P, neighbour_P, weight_P in _by_item(baskets, size, lags, pairs_in_all):
        weight_P = weight_P * frequency_V[item_P] * frequency_V[neighbour_P]
        total, pairs = total + float(weight_P.sum()), pairs + len(weight_P)
        kept, count = _nearest(item_P - start, weight_P, stop - start, nearest)
        items.append(neighbour_P[kept].astype(np.int32))
        weights.append(weight_P[kept].astype(np.float32))
        first.extend((first[-1] + np.cumsum(count)).tolist())
    scale = pairs / max(total, 1e-12) if scale is None else scale
    weight_N = np.concatenate(weights) if weights else np.zeros(0, dtype=np.float32)
    item_N = np.concatenate(items) if items else np.zeros(0, dtype=np.int32)
    return NeighbourTable(first_V=np.array(first), item_N=item_N, weight_N=_rounded(weight_N * scale))


class _Baskets:
    """The training events that are predicted, in order, and where the baskets after theirs stand."""

    def __init__(self, sequences: Sequences) -> None:
        kept = np.flatnonzero((sequences.split == 0) & sequences.predicted)
        self.row_E = sequences.row[kept]
        user_E = np.searchsorted(sequences.offsets, kept, side="right") - 1
        opens = np.ones(len(kept), dtype=bool)
        basket_E = sequences.basket[kept]
        opens[1:] = (user_E[1:] != user_E[:-1]) | (basket_E[1:] != basket_E[:-1])
        self.basket_E = np.cumsum(opens) - 1
        self.first_B = np.append(np.flatnonzero(opens), len(kept))
        self.owner_B = user_E[self.first_B[:-1]]

    def count(self) -> int:
        """How many pairs there are, up to the furthest."""
        size_B = np.diff(self.first_B)
        same = [self.owner_B[lag:] == self.owner_B[:-lag] for lag in range(1, _FURTHEST + 1)]
        ahead = [size_B[:-lag][kept] @ size_B[lag:][kept] for lag, kept in enumerate(same, start=1)]
        return 2 * int(sum(ahead))

    def pairs(self, event: Ints, ahead: int) -> tuple[Ints, Ints]:
        """Each of these events with all events of the basket `ahead` of its own, of the same shopper: as two
        arrays of event numbers. `ahead` may be negative."""
        basket = self.basket_E[event]
        other = basket + ahead
        inside = (other >= 0) & (other < len(self.owner_B))
        inside[inside] = self.owner_B[other[inside]] == self.owner_B[basket[inside]]
        event, other = event[inside], other[inside]
        first = self.first_B[other]
        count = self.first_B[other + 1] - first
        place = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
        return np.repeat(event, count), place


def _by_item(baskets: _Baskets, size: int, lags: Lags, pairs: int) -> Iterator[tuple[int, int, Ints, Ints, Floats]]:
    """Parts [start, stop) of the catalogue, with the pairs of their items: item, neighbour, ascending, and weight."""
    order = np.argsort(baskets.row_E, kind="stable")
    bounds = np.searchsorted(baskets.row_E[order], np.arange(size + 1))
    # Where pairs are many for the catalogue they are summed up by their place, where they are few they are sorted.
    dense = pairs > size**2 / 4
    each = 1 + pairs // (len(lags) * max(1, len(order)))
    # As many items as have room for all others; or for their pairs, of which an item has as many as it has events.
    filled = np.arange(size) // max(1, _SUMS // size) if dense else bounds[:-1] * max(1, each) // (_SORTED // len(lags))
    starts = np.flatnonzero(np.append(True, filled[1:] != filled[:-1])).tolist()
    for start, stop in zip(starts, [*starts[1:], size], strict=True):
        event = order[bounds[start] : bounds[stop]]
        keys, weights = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.float32)]
        sums = np.zeros((stop - start) * size) if dense else np.zeros(0)
        for ahead, weight in lags:
            for part in np.array_split(event, 1 + len(event) * each // _AT_ONCE):
                one, other = baskets.pairs(part, ahead)
                key = (baskets.row_E[one] - start) * size + baskets.row_E[other]
                if dense:
                    sums += weight * np.bincount(key, minlength=len(sums))
                else:
                    keys.append(key)
                    weights.append(np.full(len(key), weight, dtype=np.float32))
        if dense:
            key_P: Ints = np.flatnonzero(sums)
            weight_P: npt.NDArray[Any] = sums[key_P]
        else:
            key_P, place = np.unique(np.concatenate(keys), return_inverse=True)
            weight_P = np.bincount(place.reshape(-1), np.concatenate(weights), minlength=len(key_P))
        other_P, own_P = key_P % size, key_P // size + start
        apart = other_P != own_P  # that an item comes again is the channel `own`
        yield start, stop, own_P[apart], other_P[apart], weight_P[apart].astype(np.float32)


def _nearest(item_P: Ints, weight_P: Floats, items: int, nearest: int) -> tuple[Ints, Ints]:
    """Which pairs are kept, by item and from the heaviest on, and how many of each item."""
    order = np.lexsort((-weight_P, item_P))
    count = np.bincount(item_P, minlength=items)
    place = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
    return order[place < nearest], np.minimum(count, nearest)


def alike(catalogue: Catalogue, *, nearest: int = ALIKE) -> NeighbourTable:
    """The items most like one by the cosine of their words and values, weighted by how rare those are (TF-IDF).

    By what does not vary in time alone: so no table, of whatever moment, holds what came to be known later.

    In a catalogue of more than `_ALL_PAIRS` items two are compared by the words alone that few items have: by the
    commonest that leave `_SHARED` pairs that share one.
    """
    size = len(catalogue)
    words = _words(catalogue)
    if not words.columns or not nearest:
        return NeighbourTable(
            first_V=np.zeros(size + 1, np.int64), item_N=np.zeros(0, np.int32), weight_N=np.zeros(0, "f4")
        )
    counts, items, weights = [], [], []
    for item, weight, count in _alike_of_all(words, nearest) if size <= _ALL_PAIRS else _alike_by_rare(words, nearest):
        items.append(item.astype(np.int32))
        weights.append(weight)
        counts.append(count)
    first = np.append(0, np.cumsum(np.concatenate(counts)))
    return NeighbourTable(first_V=first, item_N=np.concatenate(items), weight_N=_rounded(np.concatenate(weights)))


class _Words(NamedTuple):
    """Words and values of V items as a matrix of rows of length one: column and weight of its X entries, where each
    row begins (V + 1,), and the number of columns."""

    word_X: Ints
    weight_X: Floats
    first_V: Ints
    columns: int


Nearest = tuple[Ints, Floats, Ints]
"""Of some items, one after the other: their neighbours, the nearest first, the cosines, and how many each has."""


def _alike_of_all(words: _Words, nearest: int) -> Iterator[Nearest]:
    """By a block of items against all others: a bag of the words of each other over the block's columns."""
    size = len(words.first_V) - 1
    index, offsets = torch.from_numpy(words.word_X), torch.from_numpy(words.first_V[:-1])
    weight = torch.from_numpy(words.weight_X)
    for start in range(0, size, _BLOCK):
        stop = min(size, start + _BLOCK)
        inside = slice(int(words.first_V[start]), int(words.first_V[stop]))
        column = np.repeat(np.arange(stop - start), np.diff(words.first_V[start : stop + 1]))
        block = torch.zeros(words.columns, stop - start)
        block[index[inside], torch.from_numpy(column)] = weight[inside]
        cosine = F.embedding_bag(index, block, offsets, mode="sum", per_sample_weights=weight).T
        cosine[torch.arange(stop - start), torch.arange(start, stop)] = 0
        best, place = cosine.topk(min(nearest, size), dim=1)
        found = best > LEAST
        yield place[found].numpy(), best[found].numpy(), found.sum(1).numpy()


def _alike_by_rare(words: _Words, nearest: int) -> Iterator[Nearest]:
    """By the lists of items of each word, of those words that few items have."""
    size = len(words.first_V) - 1
    item_X = np.repeat(np.arange(size), np.diff(words.first_V))
    shared_W = np.bincount(words.word_X, minlength=words.columns)
    allowed = np.searchsorted(np.cumsum(np.sort(shared_W).astype(np.float64) ** 2), _SHARED)
    rare_X = np.argsort(np.argsort(shared_W, kind="stable"), kind="stable")[words.word_X] < allowed
    item_X, word_X, weight_X = item_X[rare_X], words.word_X[rare_X], words.weight_X[rare_X]
    order = np.argsort(word_X, kind="stable")
    first_W = np.searchsorted(word_X[order], np.arange(words.columns + 1))
    pairs_X = np.diff(first_W)[word_X]
    bounds = [0, *np.flatnonzero(np.diff(np.cumsum(pairs_X) // _AT_ONCE)).tolist(), len(item_X)]
    # A part ends where an item ends.
    ends = np.unique(np.append(item_X, size)[bounds])
    ends[0], ends[-1] = 0, size
    for start, stop in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        own = slice(*np.searchsorted(item_X, (start, stop)).tolist())
        first = first_W[word_X[own]]
        count = first_W[word_X[own] + 1] - first
        other = order[np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())]
        key = np.repeat(item_X[own], count) * size + item_X[other]
        key_P, place = np.unique(key, return_inverse=True)
        product_P = np.bincount(place.reshape(-1), np.repeat(weight_X[own], count) * weight_X[other])
        item_P, neighbour_P = key_P // size, key_P % size
        apart = (item_P != neighbour_P) & (product_P > LEAST)
        item_P, neighbour_P, product_P = item_P[apart] - start, neighbour_P[apart], product_P[apart]
        kept, each = _nearest(item_P, product_P, stop - start, nearest)
        yield neighbour_P[kept], product_P[kept].astype(np.float32), each


def moved(table: NeighbourTable, row_V: Ints, size: int) -> NeighbourTable:
    """The table over another catalogue of `size` items: `row_V` says where in it each item stands, -1 nowhere."""
    owner_N = row_V[np.repeat(np.arange(len(row_V)), np.diff(table.first_V))]
    item_N = row_V[table.item_N]
    order = np.flatnonzero((owner_N >= 0) & (item_N >= 0))
    order = order[np.argsort(owner_N[order], kind="stable")]
    first = np.searchsorted(owner_N[order], np.arange(size + 1))
    return NeighbourTable(first_V=first, item_N=item_N[order].astype(np.int32), weight_N=table.weight_N[order])


def _rounded(weight_N: npt.NDArray[Any]) -> Floats:
    """As the file keeps it, so that what is fitted, judged and served is one table."""
    return weight_N.astype(np.float16).astype(np.float32)


def _words(catalogue: Catalogue) -> _Words:
    size, number = len(catalogue), dict[tuple[str, str], int]()
    item, word, weight = [], [], []
    for feature in catalogue.features:
        kind = KINDS[feature["kind"]]
        if kind.form == BAG and feature["name"] in catalogue.fixed:
            own = LISTED if kind.cell == LIST else 1.0
            for row, cell in enumerate(catalogue.fixed[feature["name"]]):
                for value in dict.fromkeys(_values(kind, cell)):
                    item.append(row)
                    word.append(number.setdefault((feature["name"], value), len(number)))
                    weight.append(own)
    item_X, word_X = np.array(item, dtype=np.int64), np.array(word, dtype=np.int64)
    count_W = np.bincount(word_X, minlength=len(number))
    rarity_W = np.log(size / np.maximum(count_W, 1)) * (count_W >= 2) * (count_W <= COMMON * size)
    weight_X = np.array(weight) * rarity_W[word_X]
    said = weight_X > 0
    order = np.argsort(item_X[said], kind="stable")
    item_X, word_X, weight_X = (each[said][order] for each in (item_X, word_X, weight_X))
    length_V = np.sqrt(np.bincount(item_X, weight_X**2, minlength=size))
    first_V = np.searchsorted(item_X, np.arange(size + 1))
    return _Words(word_X, (weight_X / length_V[item_X]).astype(np.float32), first_V, len(number))


def _values(kind: TokenKind, cell: Any) -> Sequence[str]:
    if cell is None or isinstance(cell, float):
        return ()
    if kind.cell == WORDS:
        return re.findall(r"\w+", str(cell).lower())
    return [str(value) for value in cell if value is not None] if kind.cell == LIST else [str(cell)]
