"""LMP, listwise multi-step prediction [A][F], at item level and at token level.

Windows of L consecutive user states slide by one; for each step k, MLP^k maps a window's states onto the items k
baskets ahead, with InfoNCE. A window's loss is the mean over its positions, a step's the mean over its windows,
LMP the mean over steps. As windows overlap, no window is ever built: position p counts with its share in all
windows (`window_weights`), which gives the same sum.

Letters: N states that have a target, C candidates, D width, F features, R catalogue rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from heterrec.htfl import Columns
from heterrec.model import HeterRec, Items, States
from heterrec.recipes import LossConfig

DAY = 86_400_000_000
"""Microseconds."""
NEVER = 2**63 - 1


class Step(NamedTuple):
    """The targets k baskets ahead of N states of a batch."""

    state_N: Tensor
    """Where the state is in the flattened (B * T) states."""
    target_N: Tensor
    """Catalogue row, from 1."""
    weight_N: Tensor
    time_N: Tensor
    """Microseconds of the target event: what was not available by then is no negative."""
    mask_row: Tensor
    mask_item: Tensor
    """Pairs (index into N, ascending; catalogue row) that are no negatives: the user's other targets,
    and what the user has where repeats are not wanted."""


def window_weights(position: Tensor, count: Tensor, window: int) -> Tensor:
    """Share of a position in all windows of its list: (windows that hold it) / (length of a window).

    `position` and `count` (N,): index in the list and how many states with a target the list has. Lists shorter
    than `window` are one window.
    """
    length = count.clamp(max=window)
    edges = torch.stack([position, count - 1 - position, length - 1, count - length])
    return (edges.amin(0) + 1) / length


class _FullSoftmax(torch.autograd.Function):
    """Cross-entropy over all candidates that never holds N x C logits: gradients are taken chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, query_ND: Tensor, item_CD: Tensor, step: Step, since_C: Tensor, until_S: Tensor, chunk: int
    ) -> Tensor:
        loss = query_ND.new_zeros(())
        grad_query, grad_item = torch.empty_like(query_ND), torch.zeros_like(item_CD)
        # Ranks in place of times: a quarter of the memory to compare.
        moments, ranks = torch.unique(torch.cat([since_C, until_S]), return_inverse=True)
        now_N = torch.searchsorted(moments, step.time_N, right=True).to(torch.int32)
        born_C, gone_S = ranks.to(torch.int32).split([len(since_C), len(until_S)])
        lasting = len(since_C) - len(until_S)
        starts = torch.arange(0, len(query_ND) + chunk, chunk, device=query_ND.device)
        bounds = torch.searchsorted(step.mask_row, starts).tolist()
        for n, start in enumerate(range(0, len(query_ND), chunk)):
            part = slice(start, start + chunk)
            query, target, weight = query_ND[part], step.target_N[part], step.weight_N[part]
            pairs = slice(bounds[n], bounds[n + 1])
            logits = query @ item_CD.T
            row = torch.arange(len(query), device=query.device)
            positive = logits[row, target]
            logits.masked_fill_(born_C >= now_N[part, None], -torch.inf)
            logits[:, lasting:].masked_fill_(gone_S < now_N[part, None], -torch.inf)
            logits[step.mask_row[pairs] - start, step.mask_item[pairs]] = -torch.inf
            logits[row, target] = positive
            top = logits.amax(1, keepdim=True)
            share = logits.sub_(top).exp_()
            total = share.sum(1)
            loss += (weight * (total.log() + top[:, 0] - positive)).sum()
            share *= (weight / total)[:, None]
            share[row, target] -= weight
            grad_query[part] = share @ item_CD
            grad_item.addmm_(share.T, query)
        ctx.save_for_backward(grad_query, grad_item)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_query, grad_item = ctx.saved_tensors
        return grads[0] * grad_query, grads[0] * grad_item, None, None, None, None


def full_infonce(
    query_ND: Tensor, item_CD: Tensor, step: Step, since_C: Tensor, until_S: Tensor, chunk: int = 256
) -> Tensor:
    """Weighted mean of InfoNCE over all candidates.

    `since_C` is the time from which one is a candidate, `until_S` the time from which the last S no longer are; the
    positive always is one.
    """
    total: Tensor = _FullSoftmax.apply(query_ND, item_CD, step, since_C, until_S, chunk)  # type: ignore[no-untyped-call]
    return total / step.weight_N.sum()


def sampled_infonce(
    query_ND: Tensor,
    positive_ND: Tensor,
    candidate_CD: Tensor,
    log_expected_C: Tensor,
    banned_NC: Tensor,
    weight_N: Tensor,
) -> Tensor:
    """Weighted mean of InfoNCE against C drawn candidates with logQ correction.

    `log_expected_C` is the log of how often each candidate is expected among the drawn; `banned_NC` marks
    candidates that are no negatives of a state (its positive, the user's other targets, duplicates).
    """
    positive = (query_ND * positive_ND).sum(-1, keepdim=True)
    negatives = query_ND @ candidate_CD.T - log_expected_C
    logits = torch.cat([positive, negatives.masked_fill(banned_NC, -torch.inf)], dim=1)
    return (weight_N * (logits.logsumexp(1) - positive[:, 0])).sum() / weight_N.sum()


class Candidates(NamedTuple):
    """Who stands to be chosen at a step of training: R catalogue rows, then S of them as they were when new."""

    since_C: Tensor
    until_S: Tensor
    twin_R: Tensor
    """Where a row stands among the last S; 0 for those that do not."""
    until_R: Tensor

    def at(self, rows: Tensor, time: Tensor) -> Tensor:
        """Catalogue rows as the candidates they are at these times."""
        new = (self.twin_R[rows] > 0) & (time < self.until_R[rows])
        return torch.where(new, self.twin_R[rows], rows)


class LMP:
    """The loss of a batch; holds what is fixed over a run.

    `columns` are the encoded catalogue (R rows), `since_R` the time from which a row is a candidate (the largest
    integer: never), `counts_R` its training events, and `opening` the time of the first of all of them.

    An item that came later was once without a past, as the new items are that the model will be asked about. So, at
    each step of training, a share of those is drawn that for their first days are represented, as target and as
    negative, without their ID (ours). Only so does the model learn how much a new item is wanted against an old one.
    """

    def __init__(
        self, config: LossConfig, columns: Columns, since_R: Tensor, counts_R: Tensor, opening: int = NEVER
    ) -> None:
        self.config = config
        self.columns = columns
        self.since_R = since_R
        self.groups = {name: _groups(value) for name, (value, _) in columns.items()}
        self.traded = torch.nonzero(counts_R)[:, 0]
        draw = counts_R.double() ** 0.75
        self.draw_R = draw / draw.sum()
        self.draw_up_to_R = self.draw_R.cumsum(0)
        self.later = torch.nonzero((since_R > opening) & (since_R < NEVER))[:, 0]

    def newborn(self) -> Tensor:
        """Rows (S,) that stand without their ID for their first days, at this step of training."""
        chosen = torch.rand(len(self.later), device=self.later.device) < self.config.newborn_share
        return self.later[chosen]

    def candidates(self, newborn_S: Tensor | None) -> Candidates:
        rows = len(self.since_R)
        twin_R = torch.zeros(rows, dtype=torch.int64, device=self.since_R.device)
        if newborn_S is None:
            return Candidates(self.since_R, self.since_R[:0], twin_R, self.since_R)
        twin_R[newborn_S] = torch.arange(rows, rows + len(newborn_S), device=newborn_S.device)
        born_S = self.since_R[newborn_S]
        until_S = born_S + int(self.config.newborn_days * DAY)
        until_R = self.since_R.index_copy(0, newborn_S, until_S)
        return Candidates(torch.cat([until_R, born_S]), until_S, twin_R, until_R)

    def __call__(self, model: HeterRec, items: Items, states: States, steps: Sequence[Step]) -> Tensor:
        """`LMP_item + token_weight * mean over features of LMP_feature` [F]; the weight is [I]."""
        used = [(k, step) for k, step in enumerate(steps) if len(step.state_N)]
        flat = states.items_BTD.flatten(0, 1)
        there = self.candidates(items.newborn_S)
        each = [
            self._item(model, items, there, flat, k, _share(step, self.config.later_share if k else 1))
            for k, step in used
        ]
        decay = [self.config.step_decay**k for k, _ in used]
        loss = torch.stack([weight * part for weight, part in zip(decay, each, strict=True)]).sum() / sum(decay)
        if not self.config.token_weight or states.tokens_BTFD is None:
            return loss
        tokens = states.tokens_BTFD.flatten(0, 1)
        level = [
            self._token(model, items, tokens, k, _share(step, self.config.token_share))
            for k, step in used
            if k < self.config.token_steps
        ]
        return loss + self.config.token_weight * torch.stack(level).mean()

    def _item(self, model: HeterRec, items: Items, there: Candidates, states: Tensor, k: int, step: Step) -> Tensor:
        query = model.towards(states[step.state_N], k)
        target = there.at(step.target_N, step.time_N)
        masked = there.at(step.mask_item, step.time_N[step.mask_row])
        if self.config.candidates is None:
            step = step._replace(target_N=target, mask_item=masked)
            return full_infonce(query, items.items_RD, step, there.since_C, there.until_S)
        rows = len(self.since_R)
        chance = torch.rand(self.config.candidates, dtype=torch.float64, device=query.device)
        drawn = torch.searchsorted(self.draw_up_to_R, chance).clamp(max=rows - 1)
        share = self.draw_R[drawn]
        # The newborn all stand as candidates, each once.
        newborn = torch.arange(rows, len(there.since_C), device=drawn.device)
        drawn, order = torch.cat([drawn, newborn]).sort()
        expected = torch.cat([(share * self.config.candidates).log(), torch.zeros_like(newborn)]).float()[order]
        banned = (target[:, None] == drawn) | (there.since_C[drawn] > step.time_N[:, None])
        gone = torch.cat([torch.full_like(self.since_R, NEVER), there.until_S])[drawn]
        banned |= gone <= step.time_N[:, None]
        first, last = torch.searchsorted(drawn, masked), torch.searchsorted(drawn, masked, right=True)
        pair = torch.repeat_interleave(last - first)
        place = torch.arange(len(pair), device=drawn.device) - (last - first).cumsum(0)[pair] + last[pair]
        banned[step.mask_row[pair], place] = True
        found = items.items_RD
        return sampled_infonce(query, found[target], found[drawn], expected, banned, step.weight_N)

    def _token(self, model: HeterRec, items: Items, states: Tensor, k: int, step: Step) -> Tensor:
        """Mean over the features' LMP: token states regrouped by feature, against that feature's tower [F]."""
        # A few candidates for all features: the towers' outputs are gathered once.
        drawn = self.traded[torch.randint(len(self.traded), (self.config.token_candidates,), device=states.device)]
        log_expected = torch.full(drawn.shape, len(drawn) / len(self.traded), device=states.device).log()
        losses = []
        for f, name in enumerate(model.htfl.names):
            query = model.token_heads[f][k](states[step.state_N, f])  # type: ignore[index]
            query = F.normalize(query, dim=-1) / self.config.token_temperature
            value, missing = self.columns[name]
            weight = step.weight_N * ~missing[step.target_N]
            token = model.htfl.tokens[f]
            if self._of_few_values(model, f):
                classes = model.item_side.towers[f](token.classes() + model.htfl.kind_FD[f])  # type: ignore
                logits = query @ F.normalize(classes, dim=-1).T
                each = F.cross_entropy(logits, token.label(value)[step.target_N], reduction="none")  # type: ignore
                losses.append((weight * each).sum() / weight.sum().clamp(min=1e-6))
                continue
            tower = F.normalize(items.towers_RFD[:, f], dim=-1)
            same = self.groups[name]
            banned = same[step.target_N][:, None] == same[drawn]
            if weight.any():
                losses.append(sampled_infonce(query, tower[step.target_N], tower[drawn], log_expected, banned, weight))
        return torch.stack(losses).mean()

    @staticmethod
    def _of_few_values(model: HeterRec, f: int) -> bool:
        """Categories and buckets are told apart among all values: drawn negatives would mostly be false."""
        last = f == len(model.htfl.fields)
        return not last and model.htfl.fields[f].kind in ("categorical", "numeric")


def _share(step: Step, share: float) -> Step:
    """A random part of the targets, for a loss that need not see all of them at each step of training."""
    if share >= 1:
        return step
    total = len(step.state_N)
    kept = torch.randperm(total, device=step.state_N.device)[: max(1, int(share * total))].sort().values
    number = torch.full((total,), -1, device=step.state_N.device)
    number[kept] = torch.arange(len(kept), device=number.device)
    row = number[step.mask_row]
    return Step(
        step.state_N[kept],
        step.target_N[kept],
        step.weight_N[kept],
        step.time_N[kept],
        row[row >= 0],
        step.mask_item[row >= 0],
    )


def _groups(value: Tensor) -> Tensor:
    """A number for each distinct row (R,): rows with the same title or picture are no negatives of one another."""
    groups: Tensor = torch.unique(value.reshape(len(value), -1), dim=0, return_inverse=True)[1]
    return groups
