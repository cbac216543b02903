"""Training batches of a few shapes known ahead: what a compiled step or a CUDA graph needs.

A batch is B lists of at most T events, each padded to T. T is one of a few lengths that are chosen to pad as little as
possible; B * T is about the same for all. Nothing but the starts and lengths of its lists goes to the device: all else
is read there, without a shape that depends on a value, and so without a wait. Letters: B lists, T their padded length,
S = B * T states, K steps, J items that may be masked of a state, E events.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from heterrec.data.sequences import Ints
from heterrec.loss.batches import TrainingBatches
from heterrec.loss.lmp import window_weights
from heterrec.model.network import PackedHistories
from heterrec.model.transformer import Layout

SHAPES = 8
"""Lengths that lists are padded to: one more is one graph more to capture."""


class Rectangle(NamedTuple):
    """B lists of at most `longest` events; those of length 0 fill up the shape."""

    start_B: Tensor
    length_B: Tensor
    longest: int
    lists: int
    """Those that are not empty."""


class FixedStep(NamedTuple):
    """The targets k baskets ahead of all S states; a state without one weighs nothing."""

    target_S: Tensor
    """Catalogue row, from 1; 0 where there is none."""
    weight_S: Tensor
    time_S: Tensor
    """Microseconds of the target event."""
    masked_SJ: Tensor
    """Catalogue rows that are no negatives; 0, which is no item, where there are fewer."""
    asked_S: Tensor | None = None
    """As `Step.asked_N`."""

    def each(self, change: Callable[[Tensor], Tensor]) -> "FixedStep":
        """`change` of all its parts."""
        target_S, weight_S, time_S, masked_SJ = map(change, self[:4])
        asked_S = None if self.asked_S is None else change(self.asked_S)
        return FixedStep(target_S, weight_S, time_S, masked_SJ, asked_S)


class Rectangles:
    """The batches of `source` as rectangles: the same lists of the same epochs, in other company."""

    def __init__(self, source: TrainingBatches, shapes: int = SHAPES) -> None:
        self.source = source
        _, _, length, draws = source.drawn(0)
        self.lengths = padded_lengths(length, source.max_history, shapes)
        # One tensor for all epochs: a graph that was captured reads it where it was.
        self.draws_EK = torch.from_numpy(draws).to(source.events.item_E.device)
        stop = source.targets.stop_EK.amax(1).cpu().numpy()
        here = (source.targets.start_EK[:, 0] if source.repeats else source.before_E).cpu().numpy()
        self.reach = max(1, int((stop - here)[stop > 0].max()))
        """How far behind a state's event, or where repeats are wanted behind the begin of its next basket, the last
        event lies that may be masked."""

    def epoch(self, epoch: int) -> list[Rectangle]:
        """The batches of one epoch, on the device."""
        rng, start, length, draws = self.source.drawn(epoch)
        self.draws_EK.copy_(torch.from_numpy(draws))
        found = []
        for shorter, longest in zip([0, *self.lengths], self.lengths, strict=False):
            fitting = np.flatnonzero((length > shorter) & (length <= longest))
            size = max(1, self.source.batch_events // longest)
            for first in range(0, len(fitting), size):
                own = fitting[first : first + size]
                lists = np.zeros((2, size), dtype=np.int64)
                lists[:, : len(own)] = start[own], length[own]
                found.append((lists, longest))
        return [self._on_device(*found[n]) for n in rng.permutation(len(found))]

    def _on_device(self, lists: Ints, longest: int) -> Rectangle:
        start_B, length_B = torch.from_numpy(lists).to(self.draws_EK.device)
        return Rectangle(start_B, length_B, longest, int((lists[1] > 0).sum()))

    def histories(self, batch: Rectangle) -> tuple[PackedHistories, Tensor, Tensor]:
        """The padded events, their numbers (S,) and which of them are inside their list (S,)."""
        events = self.source.events
        step_T = torch.arange(batch.longest, device=batch.start_B.device)
        inside_BT = step_T < batch.length_B[:, None]
        event_S = torch.where(inside_BT, batch.start_B[:, None] + step_T, 0).flatten()
        inside_S = inside_BT.flatten()
        layout = Layout.rectangle(batch.length_B, batch.longest)
        item_S = events.item_E[event_S] * inside_S
        varying = events.value_EN[event_S], events.missing_EN[event_S]
        return PackedHistories(item_S, events.time_E[event_S], *varying, layout), event_S, inside_S

    def targets(self, batch: Rectangle, event_S: Tensor, inside_S: Tensor, position_S: Tensor) -> list[FixedStep]:
        """The targets of each step k = 1..K of the states of `histories`."""
        start_SK, stop_SK = self.source.targets.start_EK[event_S], self.source.targets.stop_EK[event_S]
        masked_SJ = self._masked(batch, start_SK[:, 0], stop_SK)
        item_A, steps = self.source.target_item_A, []
        for k in range(self.source.steps):
            has_S = inside_S & (stop_SK[:, k] > start_SK[:, k])
            span_S = stop_SK[:, k] - start_SK[:, k]
            drawn_S = start_SK[:, k] + (self.draws_EK[event_S, k] * span_S).long()
            target_S = item_A[drawn_S] * has_S
            count_B = has_S.view(-1, batch.longest).sum(1)
            count_S = count_B[:, None].expand(-1, batch.longest).flatten().clamp(min=1)
            weight_S = window_weights(position_S, count_S, self.source.window) * has_S
            weight_S = weight_S * self.source.weight_A[drawn_S]
            other_SJ = torch.where(masked_SJ == target_S[:, None], 0, masked_SJ)
            asked_S = None if self.source.asked_A is None else drawn_S
            steps.append(FixedStep(target_S, weight_S.float(), self.source.time_A[drawn_S], other_SJ, asked_S))
        return steps

    def _masked(self, batch: Rectangle, ahead_S: Tensor, stop_SK: Tensor) -> Tensor:
        """The history, unless repeats are wanted, and the baskets of all steps: one range of events."""
        source = self.source
        most = self.reach if source.repeats else batch.longest + self.reach
        begin_S = ahead_S
        if not source.repeats:
            begin_S = source.before_E[batch.start_B][:, None].expand(-1, batch.longest).flatten()
        index_SJ = begin_S[:, None] + torch.arange(most, device=begin_S.device)
        inside_SJ = index_SJ < stop_SK.amax(1)[:, None]
        index_SJ = torch.where(inside_SJ, index_SJ, 0)
        item_SJ = torch.where(index_SJ < ahead_S[:, None], source.item_A[index_SJ], source.target_item_A[index_SJ])
        return item_SJ * inside_SJ


def padded_lengths(length: Ints, longest: int, shapes: int) -> list[int]:
    """At most `shapes` lengths, the last of them `longest`, to which `length` are padded at the least cost."""
    count = np.bincount(np.minimum(length, longest), minlength=longest + 1)
    lists, events = np.cumsum(count), np.cumsum(count * np.arange(longest + 1))
    place = np.arange(longest + 1)
    # padding[s, t]: of the lists longer than s and up to t, to t.
    padding = place * (lists[None, :] - lists[:, None]) - (events[None, :] - events[:, None])
    padding = np.where(place[:, None] <= place, padding, np.iinfo(np.int64).max // 2)
    cost, before = padding[0], []
    for _ in range(shapes - 1):
        whole = cost[:, None] + padding
        before.append(whole.argmin(0))
        cost = whole.min(0)
    found = [longest]
    for choice in reversed(before):
        found.append(int(choice[found[-1]]))
    return sorted({each for each in found if each > 0})
