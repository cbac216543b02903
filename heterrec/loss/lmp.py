"""LMP, listwise multi-step prediction [A][F], at item level and at token level.

Windows of L consecutive user states slide by one; for each step k, MLP^k maps a window's states onto the items k
baskets ahead, with InfoNCE. A window's loss is the mean over its positions, a step's the mean over its windows,
LMP the mean over steps. As windows overlap, no window is ever built: position p counts with its share in all
windows (`window_weights`), which gives the same sum.

Letters: N states that have a target, C candidates, D width, F features, R catalogue rows.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from heterrec import distributed
from heterrec.data.asking import EncodedAskers
from heterrec.data.encoder import NUMBER
from heterrec.kernels.matmul import fast_products
from heterrec.kernels.ragged import ranges
from heterrec.model.htfl import EncodedCatalogue
from heterrec.model.network import HeterRecNetwork, Items, States
from heterrec.recipes import LossConfig

DAY = 86_400_000_000
"""Microseconds."""
NEVER = 2**63 - 1
_LEAST = torch.finfo(torch.float32).tiny
"""Share of a positive whose loss can still be told; its gradient needs none."""


class Step(NamedTuple):
    """The targets k baskets ahead of N states of a batch."""

    state_N: Tensor
    """Where the state is among the S of the batch."""
    target_N: Tensor
    """Catalogue row, from 1."""
    weight_N: Tensor
    time_N: Tensor
    """Microseconds of the target event: what was not available by then is no negative."""
    mask_row: Tensor
    mask_item: Tensor
    """Pairs (index into N, ascending; catalogue row) that are no negatives: the user's other targets,
    and what the user has where repeats are not wanted."""
    asked_N: Tensor | None = None
    """Who asks for the target, by number among `LMP.asked`; None where nothing is known of askers."""


def window_weights(position: Tensor, count: Tensor, window: int) -> Tensor:
    """Share of a position in all windows of its list: (windows that hold it) / (length of a window).

    `position` and `count` (N,): index in the list and how many states with a target the list has. Lists shorter
    than `window` are one window.
    """
    length = count.clamp(max=window)
    # Windows begin at 0 .. count - length. Those that hold position p begin at p - length + 1 .. p: as many as the
    # least of the places up to p, the places from p on, the length of a window, and the number of windows.
    edges = torch.stack([position, count - 1 - position, length - 1, count - length])
    return (edges.amin(0) + 1) / length


class _FullSoftmax(torch.autograd.Function):
    """Cross-entropy over all candidates that never holds N x C logits: gradients are taken chunk by chunk."""

    @staticmethod
    @fast_products()
    def forward(
        ctx: Any,
        query_ND: Tensor,
        item_CD: Tensor,
        bias_C: Tensor,
        step: Step,
        since_C: Tensor,
        until_S: Tensor,
        chunk: int,
    ) -> Tensor:
        loss = query_ND.new_zeros(())
        grad_query, grad_item = torch.empty_like(query_ND), torch.zeros_like(item_CD)
        grad_bias = torch.zeros_like(bias_C)
        never = torch.nonzero(since_C == NEVER)[:, 0]
        # To compare all candidates' times with all states' is dear, and in vain where all are there from the start.
        opened = torch.where(since_C == NEVER, -NEVER, since_C).amax()
        dated = bool(len(until_S)) or bool((opened > step.time_N).any())
        # Ranks in place of times: a quarter of the memory to compare.
        moments, ranks = torch.unique(torch.cat([since_C, until_S]), return_inverse=True)
        now_N = torch.searchsorted(moments, step.time_N, right=True).to(torch.int32)
        born_C, gone_S = ranks.to(torch.int32).split([len(since_C), len(until_S)])
        lasting = len(since_C) - len(until_S)
        starts = torch.arange(0, len(query_ND) + chunk, chunk, device=query_ND.device)
        bounds = torch.searchsorted(step.mask_row, starts).tolist()
        block, shares = query_ND.new_empty((2, min(chunk, len(query_ND)), len(item_CD)))
        for n, start in enumerate(range(0, len(query_ND), chunk)):
            part = slice(start, start + chunk)
            query, target, weight = query_ND[part], step.target_N[part], step.weight_N[part].to(query_ND.dtype)
            pairs = slice(bounds[n], bounds[n + 1])
            # One block of memory for all chunks: to have new pages mapped in takes longer than to fill them.
            logits = torch.mm(query, item_CD.T, out=block[: len(query)]).add_(bias_C)
            row = torch.arange(len(query), device=query.device)
            # The positive is kept aside and put back below: no mask may take it out, be it new or one of the user's
            # targets.
            positive = logits[row, target]
            if dated:
                logits.masked_fill_(born_C >= now_N[part, None], -torch.inf)
                logits[:, lasting:].masked_fill_(gone_S < now_N[part, None], -torch.inf)
            else:
                logits[:, never] = -torch.inf
            logits[step.mask_row[pairs] - start, step.mask_item[pairs]] = -torch.inf
            logits[row, target] = positive
            # Of the library's kernels softmax alone passes over its input once, with a quick exponential.
            share = torch.softmax(logits, 1, out=shares[: len(query)])
            loss -= (weight * share[row, target].clamp(min=_LEAST).log()).sum()
            # The gradient of softmax cross-entropy by the logits is softmax less one-hot (N, C). It is taken now, while
            # the logits of the chunk are there: `backward` has three small tensors to scale and computes nothing anew.
            share[row, target] -= 1
            grad_query[part] = (share @ item_CD).mul_(weight[:, None])
            grad_item.addmm_(share.T, weight[:, None] * query)
            grad_bias += weight @ share
        ctx.save_for_backward(grad_query, grad_item, grad_bias)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *(grads[0] * grad for grad in ctx.saved_tensors), None, None, None, None


def full_infonce(
    query_ND: Tensor,
    item_CD: Tensor,
    bias_C: Tensor,
    step: Step,
    since_C: Tensor,
    until_S: Tensor,
    chunk: int = 256,
) -> Tensor:
    """Weighted sum of InfoNCE over all candidates.

    `since_C` is the time from which one is a candidate, `until_S` the time from which the last S no longer are; the
    positive always is one.
    """
    total: Tensor = _FullSoftmax.apply(query_ND, item_CD, bias_C, step, since_C, until_S, chunk)  # type: ignore[no-untyped-call]
    return total


def sampled_infonce(positive_N: Tensor, negative_NC: Tensor, banned_NC: Tensor, weight_N: Tensor) -> Tensor:
    """Weighted sum of InfoNCE against C drawn candidates, from the logits.

    From those of the candidates the log of how often each is expected among the drawn has been taken off (logQ; Yi et
    al., RecSys 2019). The positive has no such term: it is there with certainty.
    `banned_NC` marks candidates that are no negatives of a state (its positive, the user's other targets).
    """
    logits = torch.cat([positive_N[:, None], negative_NC.masked_fill(banned_NC, -torch.inf)], dim=1)
    return (weight_N * (logits.logsumexp(1) - positive_N)).sum()


class SampledCatalogue(NamedTuple):
    """What a step of training knows of the catalogue: R rows, and of them S as they were when new."""

    rows_R: Tensor | None
    """Catalogue rows, ascending; None for all of them."""
    newborn_S: Tensor
    """Numbers of the rows that also stand without their ID, for their first days."""
    since_R: Tensor
    until_R: Tensor
    """Time up to which a newborn row stands without its ID; of another, as `since_R`."""
    twin_R: Tensor
    """Where a row stands among the last S; 0 for those that do not."""
    item_C: Tensor
    """Numbers of the rows drawn as candidates of the item-level loss, ascending; none where all are candidates."""
    log_expected_C: Tensor
    token_C: Tensor
    """Numbers of the rows drawn as candidates of the token-level loss."""

    def at(self, rows: Tensor, time: Tensor) -> Tensor:
        """Rows as the candidates they are at these times."""
        new = (self.twin_R[rows] > 0) & (time < self.until_R[rows])
        return torch.where(new, self.twin_R[rows], rows)


class LMP:
    """The loss of a batch; holds what is fixed over a run.

    `columns` are the encoded catalogue (R rows), `since_R` the time from which a row is a candidate (the largest
    integer: never), `counts_R` its training events, `opening` the time of the first of all of them, and `asked` who
    asked for each event that is predicted, where anything is known of that.

    An item that came later was once without a past, as the new items are that the model will be asked about. So, at
    each step of training, a share of those is drawn that for their first days are represented, as target and as
    negative, without their ID (ours). Only so does the model learn how much a new item is wanted against an old one.
    """

    def __init__(
        self,
        config: LossConfig,
        columns: EncodedCatalogue,
        since_R: Tensor,
        counts_R: Tensor,
        opening: int = NEVER,
        asked: EncodedAskers | None = None,
    ) -> None:
        self.config = config
        self.asked = asked
        self.columns = columns
        self.since_R = since_R
        self.traded = torch.nonzero(counts_R)[:, 0]
        # Drawn by popularity to the power 3/4, as word2vec draws its negatives (Mikolov et al., 2013), and scaled to
        # how often each is expected among the candidates. In doubles, as the cumulative sum runs over a whole
        # catalogue.
        self.expected_R = counts_R.double() ** 0.75
        self.expected_R *= (config.candidates or 0) / self.expected_R.sum()
        self.draw_up_to_R = self.expected_R.cumsum(0)
        self.later_R = (since_R > opening) & (since_R < NEVER)
        self.any_later = bool(self.later_R.any())

    def draw(self, item_S: Tensor, steps: Sequence[Step]) -> tuple[SampledCatalogue, Tensor, list[Step]]:
        """What a step of training with these items in its histories and these targets needs to know, and the items
        and targets as numbers of its rows.

        Without sampling that is the catalogue. With it, it is what the histories hold, what is asked for, and what
        is drawn: then nothing in a step grows with the catalogue.
        """
        device = item_S.device
        token = self.traded[torch.randint(len(self.traded), (self.config.token_candidates,), device=device)]
        if self.config.candidates is None:
            nothing = token[:0]
            return self._drawn(None, self.since_R, self.later_R, nothing, nothing.double(), token), item_S, list(steps)
        # Drawn with replacement, by inverting the cumulative sum: an item that comes twice counts twice, as logQ takes
        # it.
        chance = self.config.candidates * torch.rand(self.config.candidates, dtype=torch.float64, device=device)
        drawn = torch.searchsorted(self.draw_up_to_R, chance).clamp(max=len(self.since_R) - 1)
        nobody = torch.zeros(1, dtype=torch.int64, device=device)
        # Ascending, so that a row's number is found by binary search; row 0, which is no item, stays number 0.
        rows = torch.unique(torch.cat([nobody, item_S, token, drawn, *(step.target_N for step in steps)]))
        number = functools.partial(torch.searchsorted, rows)
        log_expected = self.expected_R[drawn].log()
        drawn, order = number(drawn).sort()
        found = self._drawn(rows, self.since_R[rows], self.later_R[rows], drawn, log_expected[order], number(token))
        return found, number(item_S), [_renumbered(step, rows) for step in steps]

    def _drawn(
        self,
        rows_R: Tensor | None,
        since_R: Tensor,
        later_R: Tensor,
        item_C: Tensor,
        log_expected_C: Tensor,
        token_C: Tensor,
    ) -> SampledCatalogue:
        twin_R = torch.zeros(len(since_R), dtype=torch.int64, device=since_R.device)
        if not self.any_later:
            return SampledCatalogue(rows_R, twin_R[:0], since_R, since_R, twin_R, item_C, log_expected_C, token_C)
        chosen = torch.rand(len(since_R), device=since_R.device) < self.config.newborn_share
        newborn_S = torch.nonzero(later_R & chosen)[:, 0]
        twin_R[newborn_S] = torch.arange(len(since_R), len(since_R) + len(newborn_S), device=since_R.device)
        until_R = since_R.index_add(0, newborn_S, torch.full_like(newborn_S, int(self.config.newborn_days * DAY)))
        return SampledCatalogue(rows_R, newborn_S, since_R, until_R, twin_R, item_C, log_expected_C, token_C)

    def __call__(
        self, model: HeterRecNetwork, items: Items, states: States, drawn: SampledCatalogue, steps: Sequence[Step]
    ) -> Tensor:
        """`LMP_item + token_weight * mean over features of LMP_feature` [F]; the weight is [I]."""
        shares = [_subsample_targets(step, self.config.later_share if k else 1) for k, step in enumerate(steps)]
        # The sum of weights over all processes, by their mean: DDP takes the mean of gradients, so that a target counts
        # alike on whichever process it lies.
        weights = [distributed.mean(step.weight_N.sum()) for step in shares]
        used = [(k, step, weight) for k, (step, weight) in enumerate(zip(shares, weights, strict=True)) if weight > 0]
        # A mean over steps in which each counts `step_decay` times the one before [I]: the paper's is a plain mean.
        decay = [self.config.step_decay**k for k, _, _ in used]
        each = [self._item(model, items, drawn, states.items_SD, k, step) / weight for k, step, weight in used]
        loss = torch.stack([factor * part for factor, part in zip(decay, each, strict=True)]).sum() / sum(decay)
        if not self.config.token_weight or states.tokens_SFD is None:
            return loss
        level = [
            self.token_level(
                model, items, drawn, states.tokens_SFD, k, _subsample_targets(steps[k], self.config.token_share)
            )
            for k, _, _ in used
            if k < self.config.token_steps
        ]
        return loss + self.config.token_weight * torch.stack(level).mean()

    def who(self, asked_N: Tensor | None) -> EncodedAskers | None:
        return None if self.asked is None or asked_N is None else self.asked.take(asked_N)

    def _item(
        self, model: HeterRecNetwork, items: Items, drawn: SampledCatalogue, states_SD: Tensor, k: int, step: Step
    ) -> Tensor:
        """Each state against the candidates as they were in the slice of its target."""
        query = model.towards(states_SD[step.state_N], k, self.who(step.asked_N))
        if items.slices is None:
            return self._against(items.items_RD, items.bias_R, drawn, query, step)
        number_N = items.slices.of(step.time_N)
        parts = []
        for number, (item_CD, bias_C) in enumerate(items.by_slice()):
            kept = torch.nonzero(number_N == number)[:, 0]
            if len(kept):
                parts.append(self._against(item_CD, bias_C, drawn, query[kept], _part(step, kept)))
        return torch.stack(parts).sum()

    def _against(self, item_RD: Tensor, bias_R: Tensor, drawn: SampledCatalogue, query: Tensor, step: Step) -> Tensor:
        target = drawn.at(step.target_N, step.time_N)
        masked = drawn.at(step.mask_item, step.time_N[step.mask_row])
        if drawn.rows_R is None:
            step = step._replace(target_N=target, mask_item=masked)
            since_C = torch.cat([drawn.until_R, drawn.since_R[drawn.newborn_S]])
            return full_infonce(query, item_RD, bias_R, step, since_C, drawn.until_R[drawn.newborn_S])
        # A newborn item is two candidates, a row without its ID and one with it. Before `until_R` only the first may be
        # shown to a target, from then on only the second: no target ever meets both.
        twins = torch.nonzero(drawn.twin_R[drawn.item_C])[:, 0]
        candidate = torch.cat([drawn.item_C, drawn.twin_R[drawn.item_C[twins]]])
        since = torch.cat([drawn.until_R[drawn.item_C], drawn.since_R[drawn.item_C[twins]]])
        banned = (target[:, None] == candidate) | (since > step.time_N[:, None])
        if len(twins):
            banned[:, len(drawn.item_C) :] |= drawn.until_R[drawn.item_C[twins]] <= step.time_N[:, None]
        candidate, order = candidate.sort()
        banned = banned[:, order]
        expected = torch.cat([drawn.log_expected_C, drawn.log_expected_C[twins]])[order].to(query.dtype)
        first, last = torch.searchsorted(candidate, masked), torch.searchsorted(candidate, masked, right=True)
        pair = torch.repeat_interleave(last - first)
        banned[step.mask_row[pair], ranges(first, last - first)] = True
        positive, negative = F.embedding(target, item_RD), F.embedding(candidate, item_RD)
        positive_N = (query * positive).sum(-1) + bias_R[target]
        negative_NC = torch.addmm(bias_R[candidate] - expected, query, negative.T)
        return sampled_infonce(positive_N, negative_NC, banned, step.weight_N)

    def token_level(
        self, model: HeterRecNetwork, items: Items, drawn: SampledCatalogue, states_SFD: Tensor, k: int, step: Step
    ) -> Tensor:
        """Mean over the features' LMP: token states regrouped by feature, against that feature's tower [F]."""
        columns = self.columns
        rows = drawn.rows_R
        target, token = (step.target_N, drawn.token_C) if rows is None else (rows[step.target_N], rows[drawn.token_C])
        # Drawn evenly among the items that were traded, so one logQ holds for all of them.
        log_expected = math.log(len(token) / len(self.traded))
        known = model.htfl.gather(items.tokens, torch.cat([step.target_N, drawn.token_C]))
        losses = []
        for f in range(len(model.htfl.names)):
            query = model.token_heads[f][k](states_SFD[step.state_N, f])  # type: ignore[index]
            query = F.normalize(query, dim=-1) / self.config.token_temperature
            label_N, missing_N = model.htfl.about(columns, f, target, step.time_N)
            weight = step.weight_N * ~missing_N
            if self._of_few_values(model, f):
                classes = model.item_side.tower(model.htfl.classes(f), f)  # type: ignore[union-attr]
                logits = query @ F.normalize(classes, dim=-1).T
                each = F.cross_entropy(logits, label_N, reduction="none")
                total = (weight * each).sum()
            else:
                tower = F.normalize(model.item_side.tower(known[:, f], f), dim=-1)  # type: ignore[union-attr]
                positive, negative = tower[: len(target)], tower[len(target) :]
                # At the level of a feature, items with the same value are one class: a drawn one is no negative of it.
                banned = label_N[:, None] == columns.label_RF[token, f]
                logits = query @ negative.T - log_expected
                total = sampled_infonce((query * positive).sum(-1), logits, banned, weight)
            losses.append(total / distributed.mean(weight.sum()).clamp(min=1e-6))
        return torch.stack(losses).mean()

    @staticmethod
    def _of_few_values(model: HeterRecNetwork, f: int) -> bool:
        """Categories and buckets are told apart among all values: drawn negatives would mostly be false."""
        last = f == len(model.htfl.fields)
        return not last and (model.htfl.fields[f].form == NUMBER or model.htfl.fields[f].is_a.category)


def _subsample_targets(step: Step, share: float) -> Step:
    """A random part of the targets, for a loss that need not see all of them at each step of training."""
    if share >= 1:
        return step
    # Sorted, so that the masked pairs stay in ascending order of their target, by which chunks find theirs.
    total = len(step.state_N)
    return _part(step, torch.randperm(total, device=step.state_N.device)[: max(1, int(share * total))].sort().values)


def _part(step: Step, kept: Tensor) -> Step:
    """These targets alone, by their numbers, ascending."""
    number = torch.full((len(step.state_N),), -1, device=kept.device)
    number[kept] = torch.arange(len(kept), device=kept.device)
    row = number[step.mask_row]
    return Step(
        step.state_N[kept],
        step.target_N[kept],
        step.weight_N[kept],
        step.time_N[kept],
        row[row >= 0],
        step.mask_item[row >= 0],
        None if step.asked_N is None else step.asked_N[kept],
    )


def _renumbered(step: Step, rows: Tensor) -> Step:
    """Targets and masked items as numbers of `rows`; what is not among them needs no mask."""
    number = torch.searchsorted(rows, step.mask_item).clamp(max=len(rows) - 1)
    kept = rows[number] == step.mask_item
    target = torch.searchsorted(rows, step.target_N)
    return step._replace(target_N=target, mask_row=step.mask_row[kept], mask_item=number[kept])
