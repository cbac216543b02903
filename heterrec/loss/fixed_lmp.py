"""LMP over all states of a rectangle: as many states, candidates and masked items at each step of training.

The same loss as `lmp.LMP` over the whole catalogue. Where that picks what counts, this weighs what does not with
nothing, so that no shape depends on a value. Letters as there, and J items that may be masked of a state, M blocks of
states whose targets are in one slice of the catalogue.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from heterrec import distributed
from heterrec.data.asking import EncodedAskers
from heterrec.loss.lmp import (
    DAY,
    LMP,
    NEVER,
    SampledCatalogue,
    Step,
)
from heterrec.loss.padded_batches import FixedStep
from heterrec.model.htfl import EncodedCatalogue
from heterrec.model.network import HeterRecNetwork, Items, States
from heterrec.recipes import LossConfig

CHUNK_LOGITS = 2**28
"""Logits that are held at once: 1 GB."""
_BLOCKS = 4
"""Of states, a slice, were they spread evenly: each slice fills up its last one with states that weigh nothing."""


class FixedLMP(LMP):
    """See `LMP`. All items that came later stand without their ID too; those that are not drawn to, for no time."""

    def __init__(
        self,
        config: LossConfig,
        columns: EncodedCatalogue,
        since_R: Tensor,
        counts_R: Tensor,
        opening: int = NEVER,
        asked: EncodedAskers | None = None,
    ) -> None:
        if config.candidates is not None:
            raise ValueError(f"candidates={config.candidates}: steps of a fixed shape take the whole catalogue")
        super().__init__(config, columns, since_R, counts_R, opening, asked)
        self.newborn_S = torch.nonzero(self.later_R)[:, 0]
        self.twin_R = torch.zeros(len(since_R), dtype=torch.int64, device=since_R.device)
        numbers = torch.arange(len(since_R), len(since_R) + len(self.newborn_S), device=since_R.device)
        self.twin_R[self.newborn_S] = numbers

    def drawn(self) -> SampledCatalogue:
        """What a step of training needs to know of the catalogue, its chance included."""
        device = self.since_R.device
        token = self.traded[torch.randint(len(self.traded), (self.config.token_candidates,), device=device)]
        nothing, until_R = token[:0], self.since_R
        if self.any_later:
            chosen = torch.rand(len(until_R), device=device) < self.config.newborn_share
            until_R = until_R + (self.later_R & chosen) * int(self.config.newborn_days * DAY)
        return SampledCatalogue(
            None, self.newborn_S, self.since_R, until_R, self.twin_R, nothing, nothing.double(), token
        )

    def total(
        self, model: HeterRecNetwork, items: Items, states: States, drawn: SampledCatalogue, steps: Sequence[FixedStep]
    ) -> Tensor:
        """`LMP.__call__` of these steps."""
        parts, factors, levels = [], [], []
        for k, step in enumerate(steps):
            kept, state_N = _subsample_states(step, self.config.later_share if k else 1.0)
            weight = distributed.mean(kept.weight_S.sum())
            there = (weight > 0).to(weight.dtype)
            item = self._fixed_item(model, items, drawn, states.items_SD[state_N], k, kept)
            parts.append(self.config.step_decay**k * there * item / weight.clamp(min=1e-6))
            factors.append(self.config.step_decay**k * there)
            if self.config.token_weight and states.tokens_SFD is not None and k < self.config.token_steps:
                part, state_N = _subsample_states(step, self.config.token_share)
                nothing = state_N[:0]
                chosen = Step(state_N, part.target_S, part.weight_S, part.time_S, nothing, nothing)
                level = self.token_level(model, items, drawn, states.tokens_SFD, k, chosen)
                levels.append((there * level, there))
        loss = torch.stack(parts).sum() / torch.stack(factors).sum()
        if not levels:
            return loss
        level, count = (torch.stack(each).sum() for each in zip(*levels, strict=True))
        return loss + self.config.token_weight * level / count

    def _fixed_item(
        self, model: HeterRecNetwork, items: Items, drawn: SampledCatalogue, states_ND: Tensor, k: int, step: FixedStep
    ) -> Tensor:
        query = model.towards(states_ND, k, self.who(step.asked_S))
        target = drawn.at(step.target_S, step.time_S)
        masked = drawn.at(step.masked_SJ, step.time_S[:, None])
        since_C = torch.cat([drawn.until_R, drawn.since_R[drawn.newborn_S]])
        until_S = drawn.until_R[drawn.newborn_S]
        step = step._replace(target_S=target, masked_SJ=masked)
        item, bias, slice_M = items.items_RD, items.bias_R, None
        if items.slices is not None:
            item, bias = (torch.stack(part) for part in zip(*items.by_slice(), strict=True))
            query, step, slice_M = _blocks(query, step, items.slices.of(step.time_S), len(item))
        total: Tensor = _Softmax.apply(query, item, bias, step, since_C, until_S, slice_M)  # type: ignore[no-untyped-call]
        return total


class _Softmax(torch.autograd.Function):
    """Cross-entropy over all candidates with its gradients, chunk by chunk; products in the precision of autocast."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        item: Tensor,
        bias: Tensor,
        step: FixedStep,
        since_C: Tensor,
        until_S: Tensor,
        slice_M: Tensor | None,
    ) -> Tensor:
        """Of states (N, D) and candidates (C, D); or of blocks of states (M, N, D) and slices of candidates (K, C, D),
        each block against its slice."""
        kind, dtype = query.device.type, query.dtype
        low = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else dtype
        lasting, each = len(since_C) - len(until_S), len(since_C) * (1 if slice_M is None else query.shape[1])
        whole, biases = item.to(low), bias.to(dtype)
        loss, grads = query.new_zeros(()), []
        grad_item, grad_bias = torch.zeros_like(item, dtype=dtype), torch.zeros_like(biases)
        with torch.autocast(kind, enabled=False):
            for start in range(0, len(query), max(1, CHUNK_LOGITS // each)):
                part = slice(start, start + max(1, CHUNK_LOGITS // each))
                own = None if slice_M is None else slice_M[part]
                there, bias_there = (whole, biases) if own is None else (whole[own], biases[own, None])
                asked, weight, target = (
                    query[part].to(low),
                    step.weight_S[part, ..., None],
                    step.target_S[part, ..., None],
                )
                time = step.time_S[part, ..., None]
                logits = (asked @ there.mT).to(dtype).add_(bias_there)
                positive = logits.gather(-1, target)
                absent = since_C > time
                absent[..., lasting:] |= until_S <= time
                # In place: each of these would otherwise copy all logits, and memory is what a GPU waits for here.
                logits.masked_fill_(absent, -torch.inf).scatter_(-1, step.masked_SJ[part], -torch.inf)
                logits.scatter_(-1, target, positive)
                total = logits.logsumexp(-1, keepdim=True)
                loss = loss + (weight * (total - positive)).sum()
                share = logits.sub_(total).exp_().mul_(weight)
                share = share.scatter_add_(-1, target, -weight.to(share.dtype)).to(low)
                grads.append((share @ there).to(dtype))
                to_item, to_bias = (share.mT @ asked).to(dtype), share.sum(-2, dtype=dtype)
                grad_item = grad_item + to_item if own is None else grad_item.index_add(0, own, to_item)
                grad_bias = grad_bias + to_bias if own is None else grad_bias.index_add(0, own, to_bias)
        ctx.save_for_backward(torch.cat(grads), grad_item, grad_bias)
        ctx.kinds = dtype, item.dtype, bias.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        found = (grads[0] * grad for grad in ctx.saved_tensors)
        return *(each.to(kind) for each, kind in zip(found, ctx.kinds, strict=True)), None, None, None, None


def _blocks(query_ND: Tensor, step: FixedStep, slice_N: Tensor, slices: int) -> tuple[Tensor, FixedStep, Tensor]:
    """The states in M blocks of one size, each of states of one slice; and the slice of each block.

    As many blocks as may be needed however the states are spread: a slice's last one, and those left over, are filled
    up with states that weigh nothing.
    """
    states = len(slice_N)
    size = max(1, math.ceil(states / (_BLOCKS * slices)))
    blocks = math.ceil(states / size) + slices
    count_K = torch.zeros(slices, dtype=torch.int64, device=slice_N.device).index_add(
        0, slice_N, torch.ones_like(slice_N)
    )
    filled_K = (count_K + size - 1) // size
    until_K = filled_K.cumsum(0)
    # The place of a state: in its slice's blocks, after those of its slice that come before it.
    sorted_N, order_N = slice_N.sort(stable=True)
    inside_N = torch.arange(states, device=slice_N.device) - (count_K.cumsum(0) - count_K)[sorted_N]
    place_N = (until_K - filled_K)[sorted_N] * size + inside_N
    state_P = torch.full((blocks * size,), states, device=slice_N.device).scatter(0, place_N, order_N)

    def laid_out(part: Tensor) -> Tensor:
        filled = torch.cat([part, torch.zeros_like(part[:1])])
        return filled[state_P].view(blocks, size, *part.shape[1:])

    slice_M = torch.searchsorted(until_K, torch.arange(blocks, device=slice_N.device), right=True)
    return (
        laid_out(query_ND),
        step.each(laid_out),
        slice_M.clamp(max=slices - 1),
    )


def _subsample_states(step: FixedStep, share: float) -> tuple[FixedStep, Tensor]:
    """A random part of the states, those with a target first, and their numbers."""
    states = len(step.target_S)
    if share >= 1:
        return step, torch.arange(states, device=step.target_S.device)
    chance = torch.rand(states, device=step.target_S.device) + (step.weight_S <= 0)
    kept = chance.argsort()[: max(1, math.ceil(share * states))].sort().values
    return step.each(lambda part: part[kept]), kept
