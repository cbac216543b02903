"""Training batches: lists of events cut to the longest history, of similar lengths, with the targets of each state.

Letters: E training events, B batch, T items, K steps, N varying features.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from heterrec.encoder import FeatureEncoder
from heterrec.lmp import Step, window_weights
from heterrec.sequences import Ints, Queries, Sequences


class Histories(NamedTuple):
    """Right-padded model input; see docs/contracts.md, "archive"."""

    item_BT: Tensor
    time_BT: Tensor
    value_BTN: Tensor
    missing_BTN: Tensor
    length_B: Tensor

    def to(self, device: str) -> "Histories":
        return Histories(*(tensor.to(device, non_blocking=True) for tensor in self))


@dataclass(frozen=True, kw_only=True)
class Events:
    """Encoded events; `item` is the catalogue row + 1."""

    item: Ints
    time: Ints
    value: npt.NDArray[np.float32]
    missing: npt.NDArray[np.bool_]

    def histories(self, start: Ints, length: Ints) -> Histories:
        """The events [start, start + length) of each of B lists."""
        steps = np.arange(length.max())
        inside = steps < length[:, None]
        index = np.where(inside, start[:, None] + steps, 0)
        # Padding repeats the time before it, so that it stays in range; no valid state sees it.
        return Histories(
            torch.from_numpy(np.where(inside, self.item[index], 0)),
            torch.from_numpy(np.where(inside, self.time[index], self.time[(start + length - 1)][:, None])),
            torch.from_numpy(self.value[index]),
            torch.from_numpy(self.missing[index] | ~inside[..., None]),
            torch.from_numpy(length),
        )


def encode_events(sequences: Sequences, encoder: FeatureEncoder) -> Events:
    """All events of `sequences`, in its order."""
    value, missing = encoder.encode_varying(sequences.varying, len(sequences.row))
    return Events(item=sequences.row + 1, time=sequences.time, value=value, missing=missing)


def histories_of(
    events: Events, queries: Queries, max_history: int, batch_events: int
) -> Iterator[tuple[Ints, Histories]]:
    """Batches of similar lengths of the queries' latest `max_history` events, with the queries' numbers."""
    length = np.minimum(queries.stop - queries.start, max_history)
    order = np.argsort(length, kind="stable")
    for part in _cut(length[order], batch_events):
        chosen = order[part]
        yield chosen, events.histories(queries.stop[chosen] - length[chosen], length[chosen])


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Per training event and step: the range [start, stop) of events that is the k-th next basket; empty if none."""

    start_EK: Ints
    stop_EK: Ints


class TrainingBatches:
    """Batches of each epoch, drawn from `seed` and the epoch alone.

    Histories longer than `max_history` are cut at places drawn anew each epoch, so that every choice is learned
    from over time. The positive of a step is drawn from the k-th next basket. Where repeats are not wanted, what a
    user has is no negative either, as it is masked in ranking: a state may stay close to the items it is made of.
    """

    def __init__(
        self,
        sequences: Sequences,
        encoder: FeatureEncoder,
        *,
        steps: int,
        window: int,
        max_history: int,
        batch_events: int,
        epoch_events: int | None,
        seed: int,
        shuffle_targets: bool = False,
    ) -> None:
        kept = np.flatnonzero(sequences.split == 0)
        events = encode_events(sequences, encoder)
        self.events = Events(
            item=events.item[kept], time=events.time[kept], value=events.value[kept], missing=events.missing[kept]
        )
        user = np.searchsorted(sequences.offsets, kept, side="right") - 1
        self.targets = _targets(user, sequences.basket[kept], steps)
        inputs = np.flatnonzero(self.targets.stop_EK[:, 0] > self.targets.start_EK[:, 0])
        if not len(inputs):
            raise ValueError(
                f"sequences: {len(kept)} training events, but no user bought on two occasions in the training split; "
                "take more days or users, or a shorter validation and test window"
            )
        self.first, self.length = _runs(user[inputs])
        self.first = inputs[self.first]
        self.target_item = self.events.item
        if shuffle_targets:
            others = np.random.default_rng(seed).permutation(np.unique(self.events.item))
            self.target_item = others[np.searchsorted(np.unique(self.events.item), self.events.item)]
        self.repeats = sequences.repeats
        self.steps, self.window, self.max_history = steps, window, max_history
        self.batch_events, self.epoch_events, self.seed = batch_events, epoch_events, seed

    def epoch(self, epoch: int) -> list["TrainingBatch"]:
        """The batches of one epoch, still to be built."""
        rng = np.random.default_rng([self.seed, epoch])
        start, length = self._lists(rng)
        order = rng.permutation(len(start))
        if self.epoch_events is not None:
            order = order[: 1 + int(np.searchsorted(np.cumsum(length[order]), self.epoch_events))]
        order = order[np.argsort(length[order], kind="stable")]
        parts = _cut(length[order], self.batch_events)
        draws = rng.random((len(self.events.item), self.steps))
        batches = [TrainingBatch(self, start[order[part]], length[order[part]], draws) for part in parts]
        return [batches[n] for n in rng.permutation(len(batches))]

    def _lists(self, rng: np.random.Generator) -> tuple[Ints, Ints]:
        start, length = [], []
        for first, total in zip(self.first.tolist(), self.length.tolist(), strict=True):
            cut = int(rng.integers(1, self.max_history + 1)) if total > self.max_history else total
            bounds = [0, *range(cut, total, self.max_history), total]
            start += [first + bound for bound in bounds[:-1]]
            length += [stop - begin for begin, stop in pairwise(bounds)]
        return np.array(start, dtype=np.int64), np.array(length, dtype=np.int64)


@dataclass(frozen=True)
class TrainingBatch:
    """Lists of one batch; `histories` and `steps` build the tensors."""

    source: TrainingBatches
    start: Ints
    length: Ints
    draws: npt.NDArray[np.float64]

    def histories(self) -> Histories:
        return self.source.events.histories(self.start, self.length)

    def targets(self) -> list[Step]:
        """The targets of each step k = 1..K."""
        width = int(self.length.max())
        steps = np.arange(width)
        inside = steps < self.length[:, None]
        event = (self.start[:, None] + steps)[inside]
        state = np.flatnonzero(inside)
        return [self._step(k, event, state, width) for k in range(self.source.steps)]

    def _step(self, k: int, event: Ints, state: Ints, width: int) -> Step:
        source, targets = self.source, self.source.targets
        known = targets.stop_EK[event, k] > targets.start_EK[event, k]
        event, state = event[known], state[known]
        start, stop = targets.start_EK[event, k], targets.stop_EK[event, k]
        drawn = start + (self.draws[event, k] * (stop - start)).astype(np.int64)
        target = source.target_item[drawn]
        # The history and the baskets of all steps are one range of events; none of its items is a negative.
        ahead = targets.start_EK[event, 0]
        begin = ahead if source.repeats else self.start[state // width]
        span = targets.stop_EK[event].max(1) - begin
        row = np.repeat(np.arange(len(event)), span)
        index = begin[row] + np.arange(len(row)) - np.repeat(np.cumsum(span) - span, span)
        other = np.where(index < ahead[row], source.events.item[index], source.target_item[index])
        kept = other != target[row]
        count = np.bincount(state // width, minlength=len(self.length))[state // width]
        weight = window_weights(torch.from_numpy(state % width), torch.from_numpy(count), source.window)
        return Step(
            torch.from_numpy(state),
            torch.from_numpy(target),
            weight.float(),
            torch.from_numpy(source.events.time[drawn]),
            torch.from_numpy(row[kept]),
            torch.from_numpy(other[kept]),
        )


def _targets(user: Ints, basket: Ints, steps: int) -> Targets:
    change = np.ones(len(user), dtype=bool)
    change[1:] = (user[1:] != user[:-1]) | (basket[1:] != basket[:-1])
    number = np.cumsum(change) - 1
    first = np.append(np.flatnonzero(change), len(user))
    owner = user[first[:-1]]
    start, stop = np.zeros((len(user), steps), dtype=np.int64), np.zeros((len(user), steps), dtype=np.int64)
    for k in range(steps):
        ahead = np.minimum(number + k + 1, len(owner) - 1)
        exists = (number + k + 1 < len(owner)) & (owner[ahead] == user)
        start[exists, k], stop[exists, k] = first[ahead[exists]], first[ahead[exists] + 1]
    return Targets(start_EK=start, stop_EK=stop)


def _runs(user: Ints) -> tuple[Ints, Ints]:
    """Start and length of each run of equal numbers."""
    first = np.flatnonzero(np.append(True, user[1:] != user[:-1]))
    return first, np.diff(np.append(first, len(user)))


def _cut(length: Ints, batch_events: int) -> list[slice]:
    """Cut lists sorted by length into batches of at most `batch_events` padded positions (at least one list)."""
    parts, start = [], 0
    for stop in range(1, len(length) + 1):
        if stop == len(length) or (stop + 1 - start) * length[stop] > batch_events:
            parts.append(slice(start, stop))
            start = stop
    return parts
