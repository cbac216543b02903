"""The temporal encoder and the causal transformer block. Letters: B batch, S tokens, T items, D width, H heads."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GAP_SECONDS = tuple(2**power for power in range(0, 26, 1))
"""Boundaries of the gap buckets: a second to about two years."""


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

    def forward(self, time_BT: Tensor) -> Tensor:
        """Microseconds (B, T), int64, to (B, T, D)."""
        before = torch.arange(-1, time_BT.shape[1] - 1, device=time_BT.device).clamp(min=0)
        seconds = (time_BT - time_BT[:, before]).clamp(min=0) // 1_000_000
        bucket = torch.bucketize(seconds, self.get_buffer("boundaries"), right=True)
        out: Tensor = self.position.weight[: time_BT.shape[1]] + self.gap(bucket)
        return out


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

    def forward(self, x_BSD: Tensor, mask_SS: Tensor | None = None) -> Tensor:
        """(B, S, D) to (B, S, D). Plain causal without a mask; with one, True marks what may be attended to.

        Right-padding needs no mask: a causal token never sees what follows it.
        """
        batch, length, width = x_BSD.shape
        qkv = self.qkv(x_BSD).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_SS, is_causal=mask_SS is None)
        attended = self.out(attended.transpose(1, 2).reshape(batch, length, width))
        x = self.attention_norm(x_BSD + F.dropout(attended, self.dropout, self.training))
        fed = self.down(F.gelu(self.up(x)))
        out: Tensor = self.feed_norm(x + F.dropout(fed, self.dropout, self.training))
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

    def forward(self, x_BSD: Tensor) -> Tensor:
        """(B, S, D) to (B, S, D), causal."""
        batch, length, width = x_BSD.shape
        u, v, q, k = F.silu(self.gates(self.norm(x_BSD))).view(batch, length, 4, width).unbind(2)
        heads = (batch, length, self.heads, width // self.heads)
        q, k, v = (part.view(heads).transpose(1, 2) for part in (q, k, v))
        position = torch.arange(length, device=x_BSD.device)
        ago = position[:, None] - position
        weight = F.silu(q @ k.transpose(-1, -2) + self.lag[ago.clamp(min=0)]) / self.max_history
        attended = (weight.masked_fill(ago < 0, 0.0) @ v).transpose(1, 2).reshape(batch, length, width)
        out = self.out(F.dropout(self.attended_norm(attended) * u, self.dropout, self.training))
        whole: Tensor = x_BSD + out
        return whole


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

    def forward(self, channel_BTD: Tensor) -> Tensor:
        """Channels of the items of histories (B, T, D) to (B, T, D)."""
        position = torch.arange(channel_BTD.shape[1], device=channel_BTD.device)
        ago = position[:, None] - position
        weight = self.lag[ago.clamp(min=0)].masked_fill(ago < 0, -torch.inf).softmax(-1)
        return self.scale * (weight @ channel_BTD)


def block_causal_mask(items: int, tokens: int, device: torch.device) -> Tensor:
    """Bool (items * tokens, items * tokens): tokens of one item see each other, and all of earlier items [I]."""
    item = torch.arange(items, device=device).repeat_interleave(tokens)
    return item[:, None] >= item[None, :]
