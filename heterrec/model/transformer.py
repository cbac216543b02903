"""The temporal encoder, the causal transformer block and the taste, over packed histories.

Letters: S events (or tokens) of all histories of a batch, one history after the other, without padding; B batch,
T the longest history, D width, H heads.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterrec.data.encoder import EventType
from heterrec.model.dropout import dropout

GAP_SECONDS = tuple(2**power for power in range(0, 26, 1))
"""Boundaries of the gap buckets: a second to about two years."""


class Layout:
    """Where the events of B histories stand among the S of a batch.

    All that is done event by event is done on the packed S alone. Attention pads its histories for itself, to the
    longest of the batch: as batches hold histories of similar lengths that is little, the fast kernels need no mask,
    and one user cannot attend to another.
    """

    def __init__(self, length_B: Tensor, longest: int, *, whole: bool) -> None:
        self.length_B, self.batch, self.longest = length_B, length_B.shape[0], longest
        self.whole = whole
        """The S are B histories of T events each, of which the first `length_B` count: nothing is ever padded."""
        steps = torch.arange(longest, device=length_B.device)
        if whole:
            self.position_S = steps.repeat(self.batch)
            return
        first_B = length_B.cumsum(0) - length_B
        inside_BT = steps < length_B[:, None]
        # Past its end a history reads its first event again, which no state inside it sees.
        self.event_BT = torch.where(inside_BT, first_B[:, None] + steps, first_B[:, None]).flatten()
        self.inside_BT = inside_BT.flatten()
        row_S = torch.repeat_interleave(length_B)
        self.position_S = torch.arange(len(row_S), device=length_B.device) - first_B[row_S]
        self.place_S = row_S * longest + self.position_S

    @classmethod
    def rectangle(cls, length_B: Tensor, longest: int) -> "Layout":
        """B histories of T events each, of which what follows the first `length_B` is padding."""
        return cls(length_B, longest, whole=True)

    def last(self) -> Tensor:
        """Where among the S the last event of each history stands (B,)."""
        if self.whole:
            return torch.arange(self.batch, device=self.length_B.device) * self.longest + self.length_B - 1
        return self.length_B.cumsum(0) - 1

    def tokens(self, features: int) -> "Layout":
        """Of the F tokens of each event, one event after the other."""
        return Layout(self.length_B * features, self.longest * features, whole=self.whole)

    def pad(self, x_SD: Tensor) -> Tensor:
        """(S, D) to (B, T, D); what stands after the end of a history has no meaning."""
        if self.whole:
            return x_SD.view(self.batch, self.longest, x_SD.shape[1])
        padded: Tensor = _Move.apply(x_SD, self.event_BT, self.place_S, None)  # type: ignore[no-untyped-call]
        return padded.view(self.batch, self.longest, x_SD.shape[1])

    def pack(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (S, D)."""
        flat = x_BTD.reshape(self.batch * self.longest, x_BTD.shape[2])
        if self.whole:
            return flat
        packed: Tensor = _Move.apply(flat, self.place_S, self.event_BT, self.inside_BT)  # type: ignore[no-untyped-call]
        return packed


class _Move(torch.autograd.Function):
    """Rows of `x` by `there`; as every row that counts stands in one place only, the gradient is a gather too, by
    `back`, of the rows that `inside` marks. That of an ordinary gather is added up row by row.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor, inside: Tensor | None) -> Tensor:
        ctx.back, ctx.inside = back, inside
        return x.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0].index_select(0, ctx.back)
        return grad if ctx.inside is None else grad * ctx.inside[:, None], None, None, None


class TemporalEncoder(nn.Module):
    """Item position + log-bucketed time since the item before [F]; the same for all tokens of one item [I].

    The gap to the item *before* is all that is used: what follows an item stays unknown to it.
    """

    def __init__(self, width: int, max_history: int) -> None:
        super().__init__()
        self.position = nn.Embedding(max_history, width)
        self.gap = nn.Embedding(len(GAP_SECONDS) + 1, width)
        self.register_buffer("boundaries", torch.tensor(GAP_SECONDS), persistent=False)
        for table in (self.position, self.gap):
            nn.init.zeros_(table.weight)

    def forward(self, time_S: Tensor, layout: Layout) -> Tensor:
        """Microseconds (S,), int64, to (S, D)."""
        before = torch.cat([time_S[:1], time_S[:-1]])
        seconds = (time_S - before).clamp(min=0).masked_fill(layout.position_S == 0, 0) // 1_000_000
        bucket = torch.bucketize(seconds, self.get_buffer("boundaries"), right=True)
        out: Tensor = self.position(layout.position_S) + self.gap(bucket)
        return out


class EventTypeEmbedding(nn.Module):
    """Of which kind each event was (viewed, bought, dismissed), as a token that is added to those of its item, and as
    how much the event speaks for the item in the taste (ours).

    Begins as if there were no kinds, but that negative events say nothing of the taste; learns from there.
    """

    def __init__(self, event_types: Sequence[EventType], width: int) -> None:
        super().__init__()
        self.names = tuple(each.name for each in event_types)
        self.token = nn.Embedding(len(event_types) + 1, width)
        nn.init.zeros_(self.token.weight)
        self.speaks = nn.Parameter(torch.tensor([1.0, *(0.0 if each.negative else 1.0 for each in event_types)]))

    def forward(self, value_SN: Tensor) -> Tensor:
        """Values of events, of which the last is their kind, to (S, D)."""
        out: Tensor = self.token(value_SN[:, -1].long())
        return out

    def liking(self, value_SN: Tensor) -> Tensor:
        """(S, 1) factor of each event's item in the taste."""
        return self.speaks[value_SN[:, -1].long()][:, None]


class CausalBlock(nn.Module):
    """Causal self-attention, add & norm, feed-forward, add & norm [F].

    Starts as the identity (up to the norm): a state begins as the item it stands after, which is already a fair
    guess. Started at random, all states fall together on what is popular and take epochs to part again (ours).
    """

    def __init__(self, width: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.dropout = dropout
        for layer in (self.out, self.down):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x_SD: Tensor, layout: Layout, mask_TT: Tensor | None = None) -> Tensor:
        """(S, D) to (S, D). Plain causal without a mask; with one, True marks what may be attended to."""
        width = x_SD.shape[1]
        qkv = layout.pad(self.qkv(x_SD)).view(layout.batch, layout.longest, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_TT, is_causal=mask_TT is None)
        attended = layout.pack(attended.transpose(1, 2).reshape(layout.batch, layout.longest, width))
        return self._feed(x_SD, attended)

    def last(self, x_SD: Tensor, layout: Layout) -> Tensor:
        """`forward` of the last event of each history alone, (S, D) to (B, D): all that a recommendation needs."""
        width, x_BD = x_SD.shape[1], x_SD[layout.last()]
        ask, tell = torch.split(self.qkv.weight, [width, 2 * width])
        ask_bias, tell_bias = torch.split(self.qkv.bias, [width, 2 * width])
        q = F.linear(x_BD, ask, ask_bias).view(layout.batch, 1, self.heads, width // self.heads).transpose(1, 2)
        told = layout.pad(F.linear(x_SD, tell, tell_bias))
        k, v = told.view(layout.batch, layout.longest, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        inside_BT = torch.arange(layout.longest, device=x_SD.device) < layout.length_B[:, None]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=inside_BT[:, None, None])
        return self._feed(x_BD, attended.reshape(layout.batch, width))

    def _feed(self, x: Tensor, attended: Tensor) -> Tensor:
        x = self.attention_norm(x + dropout(self.out(attended), self.dropout, self.training))
        fed = self.down(F.gelu(self.up(x)))
        out: Tensor = self.feed_norm(x + dropout(fed, self.dropout, self.training))
        return out


class HSTUBlock(nn.Module):
    """Pointwise gated attention with a relative bias (HSTU; Zhai et al., "Actions Speak Louder than Words", ICML
    2024, section 3): the strongest published block among the peers of the benchmark.

    Weights are SiLU in place of softmax, so that how often something came is not normalised away. Starts as the
    identity, like the block it is compared with.
    """

    def __init__(self, width: int, heads: int, max_history: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.max_history, self.dropout = heads, max_history, dropout
        self.norm = nn.LayerNorm(width)
        self.gates = nn.Linear(width, 4 * width)
        self.lag = nn.Parameter(torch.zeros(max_history))
        self.attended_norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x_SD: Tensor, layout: Layout) -> Tensor:
        """(S, D) to (S, D), causal."""
        width = x_SD.shape[1]
        u, gates = torch.split(F.silu(self.gates(self.norm(x_SD))), [width, 3 * width], dim=-1)
        heads = layout.pad(gates).view(layout.batch, layout.longest, 3, self.heads, width // self.heads)
        v, q, k = heads.permute(2, 0, 3, 1, 4).unbind(0)
        position = torch.arange(layout.longest, device=x_SD.device)
        ago = position[:, None] - position
        weight = F.silu(q @ k.transpose(-1, -2) + self.lag[ago.clamp(min=0)]) / self.max_history
        attended = (weight.masked_fill(ago < 0, 0.0) @ v).transpose(1, 2)
        attended = layout.pack(attended.reshape(layout.batch, layout.longest, width))
        out = self.out(dropout(self.attended_norm(attended) * u, self.dropout, self.training))
        whole: Tensor = x_SD + out
        return whole

    def last(self, x_SD: Tensor, layout: Layout) -> Tensor:
        """`forward` of the last event of each history, (S, D) to (B, D)."""
        states: Tensor = self(x_SD, layout)
        return states[layout.last()]


class Taste(nn.Module):
    """What the latest items of a history are like: the mean of their last channel, weighted by how many items ago
    they came (ours). The last channel is that of the features; of a model without them, the item ID's.

    At the start the vectors of features are random, and their product counts what two items have in common: the
    model begins by recommending items like the latest ones, and learns from there which features matter, and
    for how long. Read out of the item-level states alone, that takes many more steps of training.
    """

    FADE = 0.8
    SHARE = 2.0

    def __init__(self, width: int, max_history: int) -> None:
        super().__init__()
        self.lag = nn.Parameter(torch.arange(max_history) * math.log(self.FADE))
        # A state of the blocks has length sqrt(width), after the norm.
        self.scale = nn.Parameter(torch.full((1,), self.SHARE * math.sqrt(width)))

    def forward(self, channel_SD: Tensor, layout: Layout) -> Tensor:
        """Channels of the items of histories (S, D) to (S, D)."""
        position = torch.arange(layout.longest, device=channel_SD.device)
        ago = position[:, None] - position
        return self.scale * layout.pack(self._weight(ago) @ layout.pad(channel_SD))

    def last(self, channel_SD: Tensor, layout: Layout) -> Tensor:
        """`forward` of the last event of each history alone, (S, D) to (B, D)."""
        ago_BT = layout.length_B[:, None] - 1 - torch.arange(layout.longest, device=channel_SD.device)
        return self.scale * (self._weight(ago_BT)[:, None] @ layout.pad(channel_SD))[:, 0]

    def _weight(self, ago: Tensor) -> Tensor:
        return self.lag[ago.clamp(min=0)].masked_fill(ago < 0, -torch.inf).softmax(-1)


def block_causal_mask(items: int, tokens: int, device: torch.device) -> Tensor:
    """Bool (T, T) with T = items * tokens: tokens of one item see each other, and all of earlier items [I]."""
    item = torch.arange(items, device=device).repeat_interleave(tokens)
    return item[:, None] >= item[None, :]
