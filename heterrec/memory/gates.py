"""Fits how far memory and model are trusted, on the validation window, which neither has seen.

The weights of the model fit what they were trained on better than what comes after, and the tables hold the very pairs
that training asks for: whoever learns there how far to trust either trusts both too much. Learned with the network on
training targets (each shopper's own pairs taken out of the tables), the mixture reached .0677 on Beauty's test, learned
here .0744 (benchmarks/NOTES.md). Letters: Q queries, B of them at once, V items, J pairs of a query and an item that it
recalls, C channels, K buckets, P targets.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterrec.data.sequences import Catalogue, Queries, Sequences
from heterrec.evaluation.metrics import Scores
from heterrec.memory.neighbour_tables import (
    ALIKE,
    NEAREST,
    alike,
    moved,
    soonest_after,
)
from heterrec.memory.neighbours import (
    BUCKETS,
    CHANNELS,
    HISTORY,
    EventTypeWeights,
    Gate,
    Ints,
    Memory,
    Recalled,
    ages,
)

WEIGHTS = (1.0, 10.0, 3.0)
"""Of the channels, where a gate starts: a usual value times its weight is near one."""
DECAYS = ((0.4, 0.6, 0.8, 0.9), (0.5, 0.7, 0.85), (0.6, 0.8, 0.9, 0.96))
"""Of a channel, by the age of an event: what is tried."""
FACTORS = (1.0, 0.3, 0.1, 0.03, 0.0)
"""Of the weight that the card gives a kind of event that is not predicted: what is tried."""
_QUERIES, _SCORES, _SCORED = 10_000, 2**28, 2**25
"""Queries that a gate is fitted on at most, scores in one pass over them, and scores at once."""
_BATCH, _STEPS, _RATE = 256, 240, 0.1
TRUSTS, GAINS = (0.5, 0.75, 1.0, 1.3), (0.7, 1.0, 1.5, 2.0)
"""Factors of what was fitted, that are tried."""
LOOSE = 3.0
SURE = 2.0
"""Standard errors by which others than 1 must be better."""
BOOSTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""What is tried to be added to the scores of items that were never sold."""
_SEARCHED = 20
"""Batches that they are tried on."""
_GAIN = 0.7
"""Where a gate starts, and what it falls back to where the validation window says little."""


def remember(sequences: Sequences, channels: Sequence[str] = CHANNELS) -> Memory:
    """The tables of the training events, each channel's decay and the gate of the tables alone chosen on validation.

    Of the `channels` alone; the others are empty. The gate beside a model is still to be fitted; see `fit`.
    """
    tables = (
        soonest_after(sequences, nearest=NEAREST if "together" in channels else 0),
        alike(sequences.catalogue, nearest=ALIKE if "content" in channels else 0),
    )
    start = _Gate(torch.zeros(0), alone=False).frozen()
    counts = sequences.training_counts
    memory = Memory(
        tables=tables,
        decay_C=[each[0] for each in DECAYS],
        count_V=counts,
        beside=start,
        alone=start,
        kinds=_kinds_of(sequences),
    )
    queries = _sample(sequences.queries("validation"), _QUERIES // 4)
    memory.decay_C = tuple(_decays(memory, sequences, queries))
    if memory.kinds is not None and len(queries):
        memory.kinds = _weighed(memory, memory.kinds, sequences, queries)
    memory.alone = fit(memory, sequences, None, channels)
    return memory


def by_itself(memory: Memory) -> Memory:
    """The memory as `remember` gives it: without a gate that was fitted beside a model."""
    return Memory(
        tables=memory.tables,
        decay_C=memory.decay_C,
        count_V=memory.count_V,
        beside=_Gate(torch.zeros(0), alone=False).frozen(),
        alone=memory.alone,
        kinds=memory.kinds,
    )


def over(memory: Memory, item_ids: Sequence[str], catalogue: Catalogue) -> Memory:
    """The memory of the items `item_ids` over another catalogue: what is alike is looked at anew, as items come, go
    and change; what was bought together stays as it was."""
    if list(item_ids) == catalogue.item_ids:
        place = np.arange(len(catalogue))
    else:
        row = {item: number for number, item in enumerate(catalogue.item_ids)}
        place = np.array([row.get(item, -1) for item in item_ids], dtype=np.int64)
    content = any(memory.beside.weight_CK[CHANNELS.index("content")])
    count_V = np.zeros(len(catalogue), dtype=np.int64)
    count_V[place[place >= 0]] = memory.count_V[place >= 0]
    return Memory(
        tables=(moved(memory.tables[0], place, len(catalogue)), alike(catalogue, nearest=ALIKE if content else 0)),
        decay_C=memory.decay_C,
        count_V=count_V,
        beside=memory.beside,
        alone=memory.alone,
        kinds=memory.kinds,
    )


def renewed(memory: Memory, sequences: Sequences) -> Memory:
    """The memory with what is bought together counted anew over all events of `sequences`, held out or not: for what
    serves, which asks about tomorrow. Nothing is left in it of whom `sequences` does not name."""
    everything = replace(sequences, split=np.zeros_like(sequences.split))
    kept = any(memory.beside.weight_CK[CHANNELS.index("together")])
    return Memory(
        tables=(soonest_after(everything, nearest=NEAREST if kept else 0), memory.tables[1]),
        decay_C=memory.decay_C,
        count_V=everything.training_counts,
        beside=memory.beside,
        alone=memory.alone,
        kinds=memory.kinds,
    )


def recalled(memory: Memory, sequences: Sequences, queries: Queries) -> Recalled:
    """What the histories of `queries` bring to mind."""
    start = np.maximum(queries.start, queries.stop - HISTORY)
    length = queries.stop - start
    event_S = np.repeat(start - (np.cumsum(length) - length), length) + np.arange(length.sum())
    kind = None if memory.kinds is None else sequences.kind
    parts = zip(start, queries.stop, strict=True)
    age_S = np.concatenate([ages(sequences.time[a:b], None if kind is None else kind[a:b]) for a, b in parts])
    history_S = np.repeat(np.arange(len(queries)), length)
    kind_S = None if kind is None else kind[event_S]
    return memory.recall(sequences.row[event_S], age_S, history_S, len(queries), kind_S)


def fit(memory: Memory, sequences: Sequences, model: Scores | None, channels: Sequence[str] = CHANNELS) -> Gate:
    """The gate beside `model` (the scores of all validation queries), or that of the tables alone.

    Cross-entropy over the whole catalogue, candidates as in ranking, with a normal prior around the gate's start: what
    a small window cannot tell stays as it was.
    """
    queries = sequences.queries("validation")
    most = min(_QUERIES, max(_BATCH, _SCORES // len(sequences.catalogue)))
    chosen = np.arange(len(queries))
    if len(queries) > most:
        chosen = np.sort(np.random.default_rng(0).permutation(len(queries))[:most])
    gate = _Gate(torch.from_numpy(memory.bucket_V), alone=model is None, channels=channels)
    if len(chosen):
        batches = list(_batches(memory, sequences, queries, chosen, model))
        optimiser = torch.optim.Adam(gate.parameters(), lr=_RATE)
        steps = len(batches) * max(2, math.ceil(_STEPS / len(batches)))
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = _RATE * (1 - step / steps)
            optimiser.zero_grad()
            loss = gate(batches[step % len(batches)]) + gate.prior() / len(chosen)
            loss.backward()
            optimiser.step()
        return _sharpened(gate, batches[:_SEARCHED])
    return gate.frozen()


@torch.no_grad()
def _sharpened(gate: "_Gate", batches: Sequence["_Batch"]) -> Gate:
    """The gate, its trust and its gain times the factors that surely rank better by NDCG@10, where there are such.

    Cross-entropy wants every target to be likely, also those that no list will show; where a basket has many of them,
    the best list trusts memory more. Where every query has one target, the fit is as good as any of the factors.

    Items that were never sold get the benefit of the doubt: of the boosts that rank better than none the greatest. The
    optimum is flat there: what new items gain and old ones lose is nearly the same over a wide range.
    """
    tried = list(product((1.0,) if gate.alone else TRUSTS, GAINS))
    quality: list[list[Tensor]] = [[] for _ in tried]
    for batch in batches:
        parts = gate.parts(batch)
        for (trust, gain), each in zip(tried, quality, strict=True):
            each.append(batch.ndcg(gate.mixed(parts, trust, gain)))
    quality_FQ = torch.stack([torch.cat(each) for each in quality])
    better_FQ = quality_FQ - quality_FQ[tried.index((1.0, 1.0))]
    best = int(better_FQ.mean(1).argmax())
    surely = better_FQ[best].mean() > SURE * better_FQ[best].std() / math.sqrt(better_FQ.shape[1])
    trust, gain = tried[best] if surely else (1.0, 1.0)
    boost = _boost(gate, batches, trust, gain)
    found = gate.frozen()
    return replace(
        found,
        trust=trust * found.trust,
        gain_K=[gain * each for each in found.gain_K],
        bias_K=[found.bias_K[0] + boost, *found.bias_K[1:]],
    )


def _boost(gate: "_Gate", batches: Sequence["_Batch"], trust: float, gain: float) -> float:
    """The greatest of `BOOSTS` that ranks better than none, else none. Without a target that was never sold no boost
    can rank better."""
    never_V = (gate.bucket_V == 0).float()
    quality = torch.zeros(len(BOOSTS))
    for batch in batches:
        score = gate.mixed(gate.parts(batch), trust, gain)
        quality += torch.stack([batch.ndcg(score + boost * never_V).sum() for boost in BOOSTS])
    return max((boost for boost, found in zip(BOOSTS, quality, strict=True) if found > quality[0]), default=0.0)


@dataclass(frozen=True, kw_only=True)
class _Batch:
    base_BV: Tensor | None
    banned_BV: Tensor
    """No candidates: what is no answer, and the query's targets, which are no negatives of one another."""
    recalled: Recalled
    query_P: Tensor
    target_P: Tensor
    weight_P: Tensor
    """One over the targets of the query."""

    def ndcg(self, score_BV: Tensor, k: int = 10) -> Tensor:
        """(B,) mean over the targets of each query."""
        own_P = score_BV[self.query_P, self.target_P]
        others_BV = score_BV.masked_fill(self.banned_BV, -torch.inf)
        rank_P = 1 + (others_BV[self.query_P] >= own_P[:, None]).sum(1)
        value_P = self.weight_P * (rank_P <= k) / torch.log2(1.0 + rank_P)
        return torch.zeros(len(score_BV)).index_add(0, self.query_P, value_P)


def _batches(
    memory: Memory, sequences: Sequences, queries: Queries, chosen: Ints, model: Scores | None
) -> Iterator[_Batch]:
    order = np.random.default_rng(1).permutation(chosen)
    size = max(1, min(_BATCH, _SCORED // len(sequences.catalogue)))
    for begin in range(0, len(order), size):
        numbers = order[begin : begin + size]
        part = queries.take(numbers)
        targets = [sequences.targets(part, number) for number in range(len(part))]
        count = np.array([len(each) for each in targets])
        query_P, target_P = np.repeat(np.arange(len(part)), count), np.concatenate(targets)
        banned_BV = sequences.catalogue.available_at[None] > sequences.time[part.stop][:, None]
        if not sequences.repeats:
            for number in range(len(part)):
                banned_BV[number, sequences.seen(part, number)] = True
        banned_BV[query_P, target_P] = True
        base = None if model is None else torch.from_numpy(model(numbers))
        yield _Batch(
            base_BV=base,
            banned_BV=torch.from_numpy(banned_BV),
            recalled=recalled(memory, sequences, part),
            query_P=torch.from_numpy(query_P),
            target_P=torch.from_numpy(target_P),
            weight_P=torch.from_numpy(1 / count[query_P]).float(),
        )


class _Gate(nn.Module):
    """`Gate` as parameters that start at nought."""

    def __init__(self, bucket_V: Tensor, *, alone: bool, channels: Sequence[str] = CHANNELS) -> None:
        super().__init__()
        self.start_C = torch.tensor(
            [at if name in channels else 0.0 for name, at in zip(CHANNELS, WEIGHTS, strict=True)]
        )
        self.bucket_V, self.alone = bucket_V, alone
        self.trust, self.trust_new = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))
        self.bias_K = nn.Parameter(torch.zeros(BUCKETS))
        self.gain, self.gain_K = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(BUCKETS))
        self.weight_C, self.weight_CK = (
            nn.Parameter(torch.zeros(len(CHANNELS))),
            nn.Parameter(torch.zeros(len(CHANNELS), BUCKETS)),
        )

    def prior(self) -> Tensor:
        """Normal, of deviation `LOOSE` for what holds for all items and one for what some of them add to it."""
        parts = [
            (each**2).sum() / (1 if name.endswith(("_K", "CK", "_new")) else LOOSE**2)
            for name, each in self.named_parameters()
        ]
        return torch.stack(parts).sum() / 2

    def gains(self) -> Tensor:
        return F.softplus(math.log(math.expm1(_GAIN)) + self.gain + self.gain_K)

    def weights(self) -> Tensor:
        return self.start_C[:, None] * (self.weight_C[:, None] + self.weight_CK).exp()

    def parts(self, batch: _Batch) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Scores (B, V) without memory, what memory adds (J,), and where."""
        found = batch.recalled
        bias_V = self.bias_K[self.bucket_V]
        base = bias_V.expand(batch.banned_BV.shape)
        if batch.base_BV is not None:
            share_V = torch.where(self.bucket_V == 0, self.trust_new.exp(), 1.0)
            base = batch.base_BV * (self.trust.exp() * share_V) + bias_V
        item_J = torch.from_numpy(found.item_J)
        bucket_J = self.bucket_V[item_J]
        mixed_J = (self.weights().T[bucket_J] * torch.from_numpy(found.value_JC)).sum(1)
        bonus_J = self.gains()[bucket_J] * torch.log1p(mixed_J)
        return base, bonus_J, (torch.from_numpy(found.history_J), item_J)

    def mixed(self, parts: tuple[Tensor, Tensor, tuple[Tensor, Tensor]], trust: float, gain: float) -> Tensor:
        """(B, V) scores of what `parts` gave, with factors of the trust in the model and of the gain."""
        base, bonus_J, place = parts
        bias_V = self.bias_K[self.bucket_V]
        return (bias_V + trust * (base - bias_V)).index_put(place, gain * bonus_J, accumulate=True)

    def forward(self, batch: _Batch) -> Tensor:
        """Mean over the queries of the mean cross-entropy of their targets."""
        base, bonus_J, place = self.parts(batch)
        score = base.index_put(place, bonus_J, accumulate=True)
        others_B = score.masked_fill(batch.banned_BV, -torch.inf).logsumexp(1)
        own_P = score[batch.query_P, batch.target_P]
        each_P = torch.logaddexp(others_B[batch.query_P], own_P) - own_P
        return (batch.weight_P * each_P).sum() / len(batch.banned_BV)

    @torch.no_grad()
    def frozen(self) -> Gate:
        return Gate(
            trust=0.0 if self.alone else float(self.trust.exp()),
            trust_new=float(self.trust_new.exp()),
            bias_K=self.bias_K.tolist(),
            gain_K=self.gains().tolist(),
            weight_CK=self.weights().tolist(),
        )


def _decays(memory: Memory, sequences: Sequences, queries: Queries) -> list[float]:
    """Of each channel that by which it ranks best by itself."""
    best = [tried[0] for tried in DECAYS]
    if not len(queries):
        return best
    for channel, tried in enumerate(DECAYS):
        quality = []
        for decay in tried:
            memory.decay_C = tuple(decay if c == channel else 1e-6 for c in range(len(DECAYS)))
            quality.append(_ndcg(recalled(memory, sequences, queries), channel, sequences, queries))
        best[channel] = tried[int(np.argmax(quality))]
    return best


def _kinds_of(sequences: Sequences) -> EventTypeWeights | None:
    """As the card weighs them: what is predicted in full, what speaks against an item not at all."""
    types = sequences.catalogue.event_types
    if not types:
        return None
    weights = [1.0, *(1.0 if each.predict else 0.0 if each.negative else min(each.weight, 1.0) for each in types)]
    return EventTypeWeights(names=[each.name for each in types], weight_CT=[list(weights) for _ in CHANNELS])


def _weighed(memory: Memory, kinds: EventTypeWeights, sequences: Sequences, queries: Queries) -> EventTypeWeights:
    """Of each channel and kind that is neither predicted nor negative the factor of the card's weight by which the
    channel ranks best by itself; of those as good the greatest."""
    chosen = EventTypeWeights(names=kinds.names, weight_CT=[list(each) for each in kinds.weight_CT])
    memory.kinds = chosen
    for channel, weight_T in enumerate(chosen.weight_CT):
        for number, each in enumerate(sequences.catalogue.event_types, start=1):
            if each.predict or each.negative:
                continue
            tried = [factor * kinds.weight_CT[channel][number] for factor in FACTORS]
            quality = []
            for weight in tried:
                weight_T[number] = weight
                quality.append(_ndcg(recalled(memory, sequences, queries), channel, sequences, queries))
            weight_T[number] = tried[int(np.argmax(quality))]
    return chosen


def _ndcg(found: Recalled, channel: int, sequences: Sequences, queries: Queries, k: int = 10) -> float:
    """Sum of NDCG@k of the targets by one channel's values, among the items that it recalls."""
    value_J = found.value_JC[:, channel]
    total = 0.0
    bounds = np.searchsorted(found.history_J, np.arange(len(queries) + 1))
    for number in range(len(queries)):
        part = slice(bounds[number], bounds[number + 1])
        item, value = found.item_J[part], value_J[part]
        if not sequences.repeats:
            value = np.where(np.isin(item, sequences.seen(queries, number)), 0, value)
        targets = sequences.targets(queries, number)
        mine = value[np.isin(item, targets)]
        mine = mine[mine > 0]
        others = np.sort(value[~np.isin(item, targets)])
        rank = 1 + len(others) - np.searchsorted(others, mine, side="left")
        total += float((1 / np.log2(1 + rank[rank <= k])).sum()) / len(targets)
    return total


def _sample(queries: Queries, count: int) -> Queries:
    if len(queries) <= count:
        return queries
    return queries.take(np.sort(np.random.default_rng(0).permutation(len(queries))[:count]))
