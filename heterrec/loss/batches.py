"""Training batches: packed lists of events of similar lengths, with the targets of each state, built on the device.

Letters: E events, B batch, S events of a batch, K steps, N varying features.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from heterrec.data.asking import EncodedAskers
from heterrec.data.encoder import FeatureEncoder
from heterrec.data.sequences import (
    Bools,
    Ints,
    Queries,
    Sequences,
)
from heterrec.kernels.ragged import ranges
from heterrec.loss.lmp import Step, window_weights
from heterrec.model.network import PackedHistories
from heterrec.model.transformer import Layout

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Events:
    """Encoded events, on the device of the model; `item_E` is the catalogue row + 1."""

    item_E: Tensor
    time_E: Tensor
    value_EN: Tensor
    missing_EN: Tensor
    asked: EncodedAskers | None = None
    """Who asked for each event, and last of all an asker of whom nothing is known; None where nothing ever is."""

    def asked_at(self, queries: Queries) -> EncodedAskers | None:
        """Who asks each query: as at its first target, where it has one."""
        if self.asked is None:
            return None
        nothing = len(self.asked.row_NJ) - 1
        number = np.where(queries.stop < queries.last, queries.stop, nothing)
        return self.asked.take(torch.from_numpy(number).to(self.item_E.device))

    def histories(self, start: Ints, length: Ints) -> PackedHistories:
        """The events [start, start + length) of each of B lists, packed."""
        device = self.item_E.device
        longest = int(length.max())
        whole = bool((length == longest).all())
        length_B = torch.from_numpy(length).to(device)
        index_S = ranges(torch.from_numpy(start).to(device), length_B)
        layout = Layout(length_B, longest, whole=whole)
        return PackedHistories(
            self.item_E[index_S], self.time_E[index_S], self.value_EN[index_S], self.missing_EN[index_S], layout
        )


def encode_events(sequences: Sequences, encoder: FeatureEncoder, device: str = "cpu") -> Events:
    """All events of `sequences`, in its order."""
    value, missing = encoder.encode_varying(sequences.varying, len(sequences.row))
    arrays = (sequences.row + 1, sequences.time, value, missing)
    item, time, values, absent = (torch.tensor(array, device=device) for array in arrays)
    asked = None
    if encoder.asking:
        columns = {name: [*column, None] for name, column in sequences.asked.items()}
        asked = EncodedAskers.of(encoder.encode_asking(columns, len(sequences.row) + 1), device)
    return Events(item_E=item, time_E=time, value_EN=values, missing_EN=absent, asked=asked)


def histories_of(
    events: Events, queries: Queries, max_history: int, batch_events: int
) -> Iterator[tuple[Ints, PackedHistories]]:
    """Batches of similar lengths of the queries' latest `max_history` events, with the queries' numbers."""
    length = np.minimum(queries.stop - queries.start, max_history)
    order = np.argsort(length, kind="stable")
    for part in _cut(length[order], batch_events):
        chosen = order[part]
        yield chosen, events.histories(queries.stop[chosen] - length[chosen], length[chosen])


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Per training event and step: the range [start, stop) of the A predicted events, in their order, that is the k-th
    next basket with any; empty if none."""

    start_EK: Tensor
    stop_EK: Tensor


class TrainingBatches:
    """Batches of each epoch, drawn from `seed` and the epoch alone.

    Lists longer than `max_history` are cut at places drawn anew each epoch, so that every choice is learned
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
        device: str = "cpu",
    ) -> None:
        kept = np.flatnonzero(sequences.split == 0)
        events, index = encode_events(sequences, encoder, device), torch.from_numpy(kept).to(device)
        self.events = Events(
            item_E=events.item_E[index],
            time_E=events.time_E[index],
            value_EN=events.value_EN[index],
            missing_EN=events.missing_EN[index],
        )
        user = np.searchsorted(sequences.offsets, kept, side="right") - 1
        predicted = sequences.predicted[kept]
        start, stop = _targets(user, sequences.basket[kept], predicted, steps)
        self.targets = Targets(start_EK=torch.from_numpy(start).to(device), stop_EK=torch.from_numpy(stop).to(device))
        asked = np.flatnonzero(predicted)
        asked_A = torch.from_numpy(asked).to(device)
        self.item_A, self.time_A = self.events.item_E[asked_A], self.events.time_E[asked_A]
        self.asked_A = None if events.asked is None else events.asked.take(index[asked_A])
        self.weight_A = torch.from_numpy(sequences.weight[kept][asked]).to(device)
        self.before_E = torch.from_numpy(np.cumsum(predicted) - predicted).to(device)
        """Predicted events before each event. What was merely looked at is no target, and nothing that the user has:
        it is a negative like any other."""
        inputs = np.flatnonzero(stop[:, 0] > start[:, 0])
        if not len(inputs):
            raise ValueError(
                f"sequences: {len(kept)} training events, but no user bought on two occasions in the training split; "
                "take more days or users, or a shorter validation and test window"
            )
        self.first, self.length = _runs(user[inputs])
        self.first = inputs[self.first]
        self.target_item_A = self.item_A
        if shuffle_targets:
            traded, number = torch.unique(self.item_A, return_inverse=True)
            others = np.random.default_rng(seed).permutation(traded.cpu().numpy())
            self.target_item_A = torch.from_numpy(others).to(device)[number]
        self.repeats = sequences.repeats
        self.steps, self.window, self.max_history = steps, window, max_history
        self.batch_events, self.epoch_events, self.seed = batch_events, epoch_events, seed

    def epoch(self, epoch: int) -> list["TrainingBatch"]:
        """The batches of one epoch, still to be built."""
        rng, start, length, draws = self.drawn(epoch)
        parts = _cut(length, self.batch_events)
        draws_EK = torch.from_numpy(draws).to(self.events.item_E.device)
        batches = [TrainingBatch(self, start[part], length[part], draws_EK) for part in parts]
        return [batches[n] for n in rng.permutation(len(batches))]

    def drawn(self, epoch: int) -> tuple[np.random.Generator, Ints, Ints, Floats]:
        """The lists of an epoch, the shortest first: start and length; the draws (E, K) of the positives from their
        baskets; and the generator, to go on from."""
        rng = np.random.default_rng([self.seed, epoch])
        start, length = self._lists(rng)
        order = rng.permutation(len(start))
        if self.epoch_events is not None:
            order = order[: 1 + int(np.searchsorted(np.cumsum(length[order]), self.epoch_events))]
        order = order[np.argsort(length[order], kind="stable")]
        return rng, start[order], length[order], rng.random(tuple(self.targets.start_EK.shape))

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
    """Lists of one batch; `histories` and `targets` build the tensors."""

    source: TrainingBatches
    start: Ints
    length: Ints
    draws_EK: Tensor
    weight: float = 1.0

    @property
    def lists(self) -> int:
        return len(self.length)

    def part(self, number: int, parts: int) -> "TrainingBatch":
        """Every `parts`-th list, from `number` on; where there are too few, one list that weighs nothing."""
        own = slice(number, None, parts) if number < len(self.length) else slice(0, 1)
        weight = float(number < len(self.length))
        return TrainingBatch(self.source, self.start[own], self.length[own], self.draws_EK, weight)

    def histories(self) -> PackedHistories:
        return self.source.events.histories(self.start, self.length)

    def targets(self, layout: Layout) -> list[Step]:
        """The targets of each step k = 1..K of the states of `histories`."""
        start_B = torch.from_numpy(self.start).to(layout.length_B.device)
        event_S = ranges(start_B, layout.length_B)
        return [self._step(k, event_S, start_B, layout) for k in range(self.source.steps)]

    def _step(self, k: int, event_S: Tensor, start_B: Tensor, layout: Layout) -> Step:
        source, targets = self.source, self.source.targets
        state_N = torch.nonzero(targets.stop_EK[event_S, k] > targets.start_EK[event_S, k])[:, 0]
        event_N = event_S[state_N]
        list_N = torch.repeat_interleave(layout.length_B)[state_N]
        start_N, stop_N = targets.start_EK[event_N, k], targets.stop_EK[event_N, k]
        drawn_N = start_N + (self.draws_EK[event_N, k] * (stop_N - start_N)).long()
        target_N = source.target_item_A[drawn_N]
        # What the user has and the baskets of all steps are one range; none of its items is a negative.
        ahead_N = targets.start_EK[event_N, 0]
        begin_N = ahead_N if source.repeats else source.before_E[start_B[list_N]]
        span_N = targets.stop_EK[event_N].amax(1) - begin_N
        row, index = torch.repeat_interleave(span_N), ranges(begin_N, span_N)
        other = torch.where(index < ahead_N[row], source.item_A[index], source.target_item_A[index])
        kept = other != target_N[row]
        count_N = torch.bincount(list_N, minlength=layout.batch)[list_N]
        weight_N = window_weights(layout.position_S[state_N], count_N, source.window) * self.weight
        weight_N = weight_N * source.weight_A[drawn_N]
        asked_N = None if source.asked_A is None else drawn_N
        return Step(state_N, target_N, weight_N.float(), source.time_A[drawn_N], row[kept], other[kept], asked_N)


def _targets(user: Ints, basket: Ints, predicted: Bools, steps: int) -> tuple[Ints, Ints]:
    """`Targets` of events in order."""
    change = np.ones(len(user), dtype=bool)
    change[1:] = (user[1:] != user[:-1]) | (basket[1:] != basket[:-1])
    number = np.cumsum(change) - 1
    count = np.bincount(number[predicted], minlength=number[-1] + 1 if len(number) else 0)
    asked = np.flatnonzero(count)  # the baskets with anything predicted
    owner, first = user[np.flatnonzero(change)[asked]], np.append(0, np.cumsum(count[asked]))
    after = np.searchsorted(asked, number, side="right")
    start, stop = np.zeros((len(user), steps), dtype=np.int64), np.zeros((len(user), steps), dtype=np.int64)
    for k in range(steps if len(asked) else 0):
        ahead = np.minimum(after + k, len(owner) - 1)
        exists = (after + k < len(owner)) & (owner[ahead] == user)
        start[exists, k], stop[exists, k] = first[ahead[exists]], first[ahead[exists] + 1]
    return start, stop


def _runs(user: Ints) -> tuple[Ints, Ints]:
    """Start and length of each run of equal numbers."""
    first = np.flatnonzero(np.append(True, user[1:] != user[:-1]))
    return first, np.diff(np.append(first, len(user)))


def _cut(length: Ints, batch_events: int) -> list[slice]:
    """Cut lists into batches of at most `batch_events` events (at least one list)."""
    parts, start, total = [], 0, 0
    for stop, events in enumerate(length.tolist()):
        if stop > start and total + events > batch_events:
            parts.append(slice(start, stop))
            start, total = stop, 0
        total += events
    return [*parts, slice(start, len(length))] if len(length) else []
