"""HeterRec: HTFL, the hierarchical causal transformer (HCT), the item side and the heads of LMP.

Deng et al., "HeterRec", arXiv 2503.01469 (2025). Marks: [A] the abstract, [F] the architecture figure,
[I] inferred. Letters: R catalogue rows (row 0 is no item), B batch, S events of all its histories, F features,
G features beside the ID, D width, K steps (of the item side: slices), N varying features.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterrec.data.asking import AskerEmbedding, EncodedAskers
from heterrec.data.encoder import FeatureEncoder
from heterrec.data.slices import Slices
from heterrec.model.dropout import dropout
from heterrec.model.htfl import (
    EMBEDDING_STD,
    HTFL,
    CatalogueTokens,
    EncodedCatalogue,
)
from heterrec.model.towers import Fuse, ItemSide, Residual
from heterrec.model.transformer import (
    CausalBlock,
    EventTypeEmbedding,
    HSTUBlock,
    Layout,
    Taste,
    TemporalEncoder,
    block_causal_mask,
)
from heterrec.recipes import ModelConfig


class PackedHistories(NamedTuple):
    """The S events of a batch of histories, packed."""

    item_S: Tensor
    """Row of the catalogue; 0 for an item that is not in it."""
    time_S: Tensor
    """Microseconds."""
    value_SN: Tensor
    missing_SN: Tensor
    layout: Layout


class Items(NamedTuple):
    """What the item side knows of R catalogue rows."""

    tokens: CatalogueTokens
    items_RD: Tensor
    """A channel of length one for the ID, and where there are features one for them. In training R + S rows: the
    last S are newborn items without their ID."""
    bias_R: Tensor
    channel_RD: Tensor
    """The last channel of `items_RD`, which the taste is made of."""
    slices: Slices | None = None
    """Where there are K of them: `parts` are embeddings and biases as of each, `items_RD` and `bias_R` the last, and
    in `channel_RD` all rows stand as of the first, then as of the second, and so on."""
    parts: tuple[tuple[Tensor, Tensor], ...] = ()

    def by_slice(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Item embeddings and biases as of each slice."""
        return self.parts or ((self.items_RD, self.bias_R),)

    def at(self, row: Tensor, time: Tensor) -> Tensor:
        """Where these rows stand in `channel_RD`, as of the slices of these times."""
        if self.slices is None:
            return row
        return row + self.slices.of(time) * (len(self.channel_RD) // len(self.parts))


class States(NamedTuple):
    """What the sequence side knows after each event."""

    items_SD: Tensor
    """State of the item-level blocks, and beside it the taste (2 D)."""
    tokens_SFD: Tensor | None
    """None where there is no token level."""


class HeterRecNetwork(nn.Module):
    """The whole model; with `features` False and no token level it is SASRec."""

    def __init__(self, config: ModelConfig, encoder: FeatureEncoder) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.htfl = HTFL(encoder, width, features=config.features)
        self.features = len(self.htfl.names)
        fused = self.features > 1 and config.tokens == "flatten"
        self.temporal = TemporalEncoder(width, config.max_history)
        self.kinds = EventTypeEmbedding(encoder.event_types, width) if encoder.event_types else None
        self.asker: AskerEmbedding | None = None
        self.token_blocks = self._blocks(config.token_layers if fused else 0)
        gates = [config.gate] * (self.features - 1) + [1.0]
        self.fuse = Fuse(gates, width) if fused else None
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
        if encoder.asking and config.features:
            self.asker = AskerEmbedding(encoder.asking_rows, self.channels, width)
        self.heads = nn.ModuleList(
            nn.ModuleList(Residual(width) for _ in range(self.channels)) for _ in range(config.steps)
        )
        token_heads = self.features if config.token_layers and fused else 0
        self.token_heads = nn.ModuleList(
            nn.ModuleList(nn.Linear(width, width) for _ in range(config.steps)) for _ in range(token_heads)
        )

    def items(self, columns: EncodedCatalogue, newborn_S: Tensor | None = None) -> Items:
        """The item side for all rows of `columns`, and once more without their ID for those of `newborn_S`.

        Knows no history. In training some tokens are null, here and in the histories alike.
        """
        c, train = self.config, self.training
        tokens = self.htfl.rows(columns, c.id_dropout if train else 0.0, c.feature_dropout if train else 0.0)
        seen = tokens
        if newborn_S is not None and len(newborn_S):
            null_SD = tokens.id_RD[:1].expand(len(newborn_S), -1)  # row 0 is no item, and has the null ID
            features = torch.cat([tokens.feature_RGD, tokens.feature_RGD[newborn_S]])
            seen = CatalogueTokens(features, torch.cat([tokens.id_RD, null_SD]))
        if columns.slices is not None and tokens.looked:
            return self._sliced(tokens, seen.id_RD, newborn_S, columns.slices)
        if self.item_side is None:
            own = seen.feature_RGD.sum(1) + seen.id_RD
            items = F.normalize(own, dim=-1)
        else:
            own = seen.id_RD
            items = self.item_side(seen)
        # A cosine cannot say that an item is wanted by all; without a place of its own popularity takes over
        # the states, which then tell users apart only after many epochs (ours).
        bias = self.bias(own)[:, 0] * self.sharpness
        return Items(tokens, items, bias, items[:, -c.width :])

    def _sliced(self, tokens: CatalogueTokens, id_CD: Tensor, newborn_S: Tensor | None, slices: Slices) -> Items:
        """`items` as of each slice; the C rows are all rows, and then the newborn ones."""
        count, side, parts = len(slices.since_K), self.item_side, []
        if side is None:
            lasting = tokens.feature_RGD[:, : self.features - 1 - len(tokens.looked)].sum(1)
            features = [sum((looked.tokens(n) for looked in tokens.looked), lasting) for n in range(count)]
        else:
            features = side.sliced(tokens, count)
            ids_CD, bias_C = side.ids(id_CD), self.bias(id_CD)[:, 0] * self.sharpness
        for each in features:
            part = each if newborn_S is None or not len(newborn_S) else torch.cat([each, each[newborn_S]])
            if side is None:
                own = part + id_CD
                parts.append((F.normalize(own, dim=-1), self.bias(own)[:, 0] * self.sharpness))
            else:
                parts.append((torch.cat([ids_CD, part], dim=-1), bias_C))
        if side is None:
            features = [item_CD[: len(tokens.id_RD)] for item_CD, _ in parts]
        return Items(tokens, *parts[-1], torch.cat(features), slices, tuple(parts))

    def states(
        self, tokens: CatalogueTokens, channel_RD: Tensor, histories: PackedHistories, place_S: Tensor | None = None
    ) -> States:
        """The sequence side: HTFL, token-level blocks over all tokens, item-level blocks over the events [A][F].

        `place_S` says where in `channel_RD` the events' items stand (`Items.at`), where that is not by their rows.
        """
        x, level = self._fused(tokens, histories)
        for block in self.item_blocks:
            x = block(x, histories.layout)
        if self.taste is not None:
            place_S = histories.item_S if place_S is None else place_S
            x = torch.cat([x, self.taste(self._liked(place_S, channel_RD, histories), histories.layout)], dim=-1)
        return States(x, level)

    @property
    def static(self) -> bool:
        """Whether what a history is made of depends on its items alone: no token level, and nothing that varies."""
        return not self.token_blocks and not self.htfl.varying

    def own(self, tokens: CatalogueTokens) -> Tensor:
        """(R, D) what a history is made of, row by row of the catalogue; of a `static` model alone."""
        rows = torch.arange(len(tokens.id_RD), device=tokens.id_RD.device)
        tokens_RFD = self.htfl.gather(tokens, rows)
        return tokens_RFD.sum(1) if self.fuse is None else self.fuse(tokens_RFD, tokens_RFD / EMBEDDING_STD)

    def users(
        self,
        tokens: CatalogueTokens,
        channel_RD: Tensor,
        histories: PackedHistories,
        own_RD: Tensor | None = None,
        asked: EncodedAskers | None = None,
    ) -> Tensor:
        """User vectors (B, D) whose product with the item matrix is the score: MLP^1 of the last state [I], and a 1
        for the bias. Of the last block and the taste nothing else is computed. With `own_RD`, from `own`, the tokens
        are not looked at. `asked` is who asks, of each of the B."""
        x, _ = self._fused(tokens, histories, own_RD)
        for block in self.item_blocks[:-1]:
            x = block(x, histories.layout)
        x = self.item_blocks[-1].last(x, histories.layout) if len(self.item_blocks) else x[histories.layout.last()]  # type: ignore[operator]
        if self.taste is not None:
            taste = self.taste.last(self._liked(histories.item_S, channel_RD, histories), histories.layout)
            x = torch.cat([x, taste], dim=-1)
        query = self.towards(x, 0, asked)
        return torch.cat([query, torch.ones_like(query[:, :1])], dim=-1)

    def _liked(self, place_S: Tensor, channel_RD: Tensor, histories: PackedHistories) -> Tensor:
        """What the taste is made of (S, D): the items' last channel, by how much each kind of event speaks for it."""
        channel_SD = F.embedding(place_S, channel_RD)
        return channel_SD if self.kinds is None else channel_SD * self.kinds.liking(histories.value_SN)

    def _fused(
        self, tokens: CatalogueTokens, histories: PackedHistories, own_RD: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What enters the item-level blocks (S, D), and the states of the token level (S, F, D)."""
        item_S, time_S, value_SN, missing_SN, layout = histories
        when = self.temporal(time_S, layout)
        if self.kinds is not None:
            when = when + self.kinds(value_SN)
        level = None
        if own_RD is not None:
            items = F.embedding(item_S, own_RD)
        elif self.fuse is None:
            items = self.htfl.events(tokens, item_S, value_SN, missing_SN).sum(1)
        else:
            tokens_SFD = self.htfl.events(tokens, item_S, value_SN, missing_SN)
            level = self._token_level(tokens_SFD, when, layout) if self.token_blocks else None
            items = self.fuse(tokens_SFD, tokens_SFD / EMBEDDING_STD if level is None else level)
        # The temporal encoder stands inside the block: the residual starts after it [F]; first block only [I].
        return dropout(self.item_norm(items + when), self.config.dropout, self.training), level

    @staticmethod
    def matrix(items: Items) -> Tensor:
        """Item embeddings (R, D) with the bias as their last number."""
        return torch.cat([items.items_RD, items.bias_R[:, None]], dim=-1)

    def towards(self, states: Tensor, step: int, asked: EncodedAskers | None = None) -> Tensor:
        """States (…, width) as queries (…, D) for the item `step` + 1 baskets ahead, the temperature folded in; `asked`
        is who asks for that item, of each state."""
        state, *taste = torch.split(states, self.config.width, dim=-1)
        query = [head(state) for head in self.heads[step]]  # type: ignore[attr-defined]
        if taste:
            query[-1] = query[-1] + taste[0]
        if self.asker is not None and asked is not None:
            query = [part + who for part, who in zip(query, self.asker(asked), strict=True)]
        channels = [F.normalize(channel, dim=-1) for channel in query]
        return torch.cat(channels, dim=-1) * self.sharpness

    @property
    def sharpness(self) -> float:
        """What cosines are multiplied with: a score is their mean over the channels, over the temperature.

        The mean and not the sum: two channels at one's temperature would be twice as sure of themselves as one, and
        fit chance (benchmarks/NOTES.md).
        """
        return 1 / (self.config.temperature * self.channels)

    @property
    def dimension(self) -> int:
        """D of item embeddings and user vectors: the channels and the bias."""
        return self.channels * self.config.width + 1

    def _token_level(self, tokens_SFD: Tensor, when_SD: Tensor, layout: Layout) -> Tensor:
        events, features, width = tokens_SFD.shape
        x = (tokens_SFD + when_SD[:, None]).view(events * features, width)
        x = dropout(x, self.config.dropout, self.training)
        mask = None
        if self.config.token_causality == "block":
            mask = block_causal_mask(layout.longest, features, x.device)
        each = layout.tokens(features)
        for block in self.token_blocks:
            x = block(x, each, mask)
        return x.view(events, features, width)

    def _blocks(self, layers: int) -> nn.ModuleList:
        c = self.config
        return nn.ModuleList(CausalBlock(c.width, c.heads, c.expansion, c.dropout) for _ in range(layers))
