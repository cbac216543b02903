"""HeterRec: HTFL, the hierarchical causal transformer (HCT), the item side and the heads of LMP.

Deng et al., "HeterRec", arXiv 2503.01469 (2025). Marks: [A] the abstract, [F] the architecture figure,
[I] inferred. Letters: R catalogue rows (row 0 is no item), B batch, T items, F features, D width, K steps,
N varying features.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterrec.encoder import FeatureEncoder
from heterrec.htfl import HTFL, Columns
from heterrec.recipes import ModelConfig
from heterrec.towers import Fuse, ItemSide, Residual
from heterrec.transformer import CausalBlock, HSTUBlock, Taste, TemporalEncoder, block_causal_mask


class Items(NamedTuple):
    """What the item side knows of R catalogue rows."""

    tokens_RFD: Tensor
    towers_RFD: Tensor
    items_RD: Tensor
    """A channel of length one for the ID, where there are features one for them, and the item's bias. In training
    R + S rows: the last S are the items of `newborn_S` without their ID."""
    channel_RD: Tensor
    """The last channel of `items_RD`, which the taste is made of."""
    newborn_S: Tensor | None = None
    """Catalogue rows that also stand there as they were on their first days."""


class States(NamedTuple):
    """What the sequence side knows after each event."""

    items_BTD: Tensor
    """State of the item-level blocks, and beside it the taste (2 D)."""
    tokens_BTFD: Tensor | None
    """None where there is no token level."""


class HeterRec(nn.Module):
    """The whole model; with `features` False and no token level it is SASRec."""

    def __init__(self, config: ModelConfig, encoder: FeatureEncoder) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.htfl = HTFL(encoder, width, features=config.features)
        self.features = len(self.htfl.names)
        fused = self.features > 1 and config.tokens == "flatten"
        self.temporal = TemporalEncoder(width, config.max_history)
        self.token_blocks = self._blocks(config.token_layers if fused else 0)
        gates = [config.gate] * (self.features - 1) + [1.0]
        self.fuse = Fuse(gates, width, deep=False) if fused else None
        self.item_norm = nn.LayerNorm(width)
        if config.block == "hstu":
            blocks = (
                HSTUBlock(width, config.heads, config.max_history, config.dropout) for _ in range(config.item_layers)
            )
            self.item_blocks = nn.ModuleList(blocks)
        else:
            self.item_blocks = self._blocks(config.item_layers)
        self.item_side = ItemSide(self.features, width) if fused else None
        self.bias = nn.Linear(width, 1, bias=False)
        self.channels = 2 if fused else 1
        self.taste = Taste(width, config.max_history) if config.taste else None
        self.heads = nn.ModuleList(
            nn.ModuleList(Residual(width) for _ in range(self.channels)) for _ in range(config.steps)
        )
        token_heads = self.features if config.token_layers and fused else 0
        self.token_heads = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, width) for _ in range(config.steps)) for _ in range(token_heads)
        )

    def items(self, columns: Columns, newborn_S: Tensor | None = None) -> Items:
        """The item side for all rows of `columns`, and once more without their ID for those of `newborn_S`.

        Knows no history.
        """
        tokens = self.htfl.rows(columns)
        seen = self._dropped(tokens)
        if newborn_S is not None:
            seen = torch.cat([seen, self.htfl.without_id(seen[newborn_S])])
        if self.item_side is None:
            own = seen.sum(1)
            towers, items = seen, F.normalize(own, dim=-1)
        else:
            towers, items = self.item_side(seen)
            own = towers[:, -1]
        channel = items[:, -self.config.width :]
        return Items(tokens, towers, self._with_bias(items, own), channel, newborn_S)

    def states(
        self,
        tokens_RFD: Tensor,
        channel_RD: Tensor,
        item_BT: Tensor,
        time_BT: Tensor,
        value_BTN: Tensor,
        missing_BTN: Tensor,
    ) -> States:
        """The sequence side: HTFL, token-level blocks over T * F tokens, item-level blocks over T items [A][F].

        Right-padded; what stands at a padded position has no meaning.
        """
        tokens = self._dropped(self.htfl.histories(tokens_RFD, item_BT, value_BTN, missing_BTN))
        when = self.temporal(time_BT)
        level = None
        if self.fuse is None:
            items = tokens.sum(2)
        else:
            level = self._token_level(tokens, when) if self.token_blocks else None
            items = self.fuse(tokens, tokens if level is None else level)
        # The temporal encoder stands inside the block: the residual starts after it [F]; first block only [I].
        x = F.dropout(self.item_norm(items + when), self.config.dropout, self.training)
        for block in self.item_blocks:
            x = block(x)
        if self.taste is not None:
            x = torch.cat([x, self.taste(F.embedding(item_BT, channel_RD))], dim=-1)
        return States(x, level)

    def users(self, states_BTD: Tensor, length_B: Tensor) -> Tensor:
        """User vector (B, D) whose product with the item matrix is the score: MLP^1 of the last state [I]."""
        last = (length_B - 1)[:, None, None].expand(-1, 1, states_BTD.shape[2])
        return self.towards(states_BTD.gather(1, last)[:, 0], 0)

    def towards(self, states: Tensor, step: int) -> Tensor:
        """States (…, width) as queries (…, D) for the item `step` + 1 baskets ahead, the temperature folded in."""
        state, *taste = torch.split(states, self.config.width, dim=-1)
        query = [head(state) for head in self.heads[step]]  # type: ignore[attr-defined]
        if taste:
            query[-1] = query[-1] + taste[0]
        channels = [F.normalize(channel, dim=-1) for channel in query]
        return torch.cat([*channels, torch.ones_like(state[..., :1])], dim=-1) / self.config.temperature

    @property
    def dimension(self) -> int:
        """D of item embeddings and user vectors: the channels and the bias."""
        return self.channels * self.config.width + 1

    def _with_bias(self, items_RD: Tensor, own_RD: Tensor) -> Tensor:
        # A cosine cannot say that an item is wanted by all; without a place of its own popularity takes over
        # the states, which then tell users apart only after many epochs (ours).
        return torch.cat([items_RD, self.bias(own_RD)], dim=-1)

    def _token_level(self, tokens_BTFD: Tensor, when_BTD: Tensor) -> Tensor:
        batch, length, features, width = tokens_BTFD.shape
        x = (tokens_BTFD + when_BTD[:, :, None]).view(batch, length * features, width)
        x = F.dropout(x, self.config.dropout, self.training)
        mask = block_causal_mask(length, features, x.device) if self.config.token_causality == "block" else None
        for block in self.token_blocks:
            x = block(x, mask)
        return x.view(batch, length, features, width)

    def _dropped(self, tokens: Tensor) -> Tensor:
        if not self.training:
            return tokens
        return self.htfl.dropped(tokens, self.config.id_dropout, self.config.feature_dropout)

    def _blocks(self, layers: int) -> nn.ModuleList:
        c = self.config
        return nn.ModuleList(CausalBlock(c.width, c.heads, c.expansion, c.dropout) for _ in range(layers))
