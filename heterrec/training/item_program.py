"""The item side as a program that needs none of this package: the vector of an item that no catalogue has yet.

Letters: R items, F features, G = F - 1 features beside the ID, M values of a bag, E numbers of a vector, W width,
D width of the item matrix without a memory's bias.
"""

import copy
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from heterrec.data.encoder import (
    BAG,
    MAX_WORDS,
    NUMBER,
    FeatureEncoder,
)
from heterrec.data.slices import NULL, SLOPE
from heterrec.inference.answers import Loaded
from heterrec.model.htfl import HTFL, CatalogueTokens, EncodedCatalogue
from heterrec.model.network import HeterRecNetwork

MOST = 4096
"""Items of one call."""


class EncodedItems(NamedTuple):
    """What `FeatureEncoder.encode_ids` and `encode` give of R items, in the order of the encoder's fields."""

    id_R: Tensor
    missing_RG: Tensor
    value_G: tuple[Tensor, ...]
    """Of a bag int64 (R, M), padded with 0; of a number float32 (R,), of a vector float32 (R, E)."""
    slices: None = None
    """As `EncodedCatalogue` have them: these items are as of now alone."""


class ItemTokens(nn.Module):
    """HTFL's tables, looked up in rectangles: its own look-up is of as many entries as there are, and no such shape can
    be exported."""

    def __init__(self, htfl: HTFL, encoder: FeatureEncoder) -> None:
        super().__init__()
        self.values, self.ids, self.maps = htfl.values, htfl.ids, htfl.maps
        self.fields, self.starts, self.width = htfl.fields, htfl.starts, htfl.width
        place = {field.name: g for g, field in enumerate(encoder.fields)}
        self._place = [place[field.name] for field in htfl.fields]
        for g, field in enumerate(htfl.fields):
            self.register_buffer(f"edges_{g}", torch.tensor(field.edges, dtype=torch.float32))

    def rows(self, items: EncodedItems, id_rate: float = 0.0, feature_rate: float = 0.0) -> CatalogueTokens:
        """The tokens of these items; nothing is dropped, whatever the rates."""
        id_RW = self.ids(items.id_R)
        tokens = [
            self._token(g, items.value_G[place], items.missing_RG[:, place]) for g, place in enumerate(self._place)
        ]
        return CatalogueTokens(torch.stack(tokens, dim=1) if tokens else id_RW[:, None][:, :0], id_RW)

    def _token(self, g: int, value: Tensor, missing_R: Tensor) -> Tensor:
        field, start, table = self.fields[g], self.starts[g], self.values.weight
        null_RW = missing_R[:, None] * table[start + NULL]
        there_R1 = ~missing_R[:, None]
        if field.form == BAG:
            held_RM = (value > 0).to(table.dtype)
            weight_RM = held_RM / held_RM.sum(1, keepdim=True).clamp(min=1)
            token: Tensor = (F.embedding(start + value, table) * weight_RM[..., None]).sum(1) + null_RW
            return token
        if field.form == NUMBER:
            row_R = torch.bucketize(value, self.get_buffer(f"edges_{g}")) + SLOPE + 1
            found = F.embedding(start + row_R, table) + value[:, None] * table[start + SLOPE]
            return found * there_R1 + null_RW
        # The null row of a vector is the only row of its feature, and the map has its own constant.
        return cast(Tensor, self.maps[str(g)](value)) * there_R1 + null_RW


class ItemProgram(nn.Module):
    """The model's own item side over tokens that were looked up in rectangles."""

    def __init__(self, model: HeterRecNetwork, encoder: FeatureEncoder) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).eval()
        self.model.htfl = cast(HTFL, ItemTokens(self.model.htfl, encoder))
        for name in ("temporal", "kinds", "asker", "token_blocks", "fuse", "item_norm", "item_blocks", "taste",
                     "heads", "token_heads"):  # fmt: skip
            setattr(self.model, name, None)

    def forward(self, id_R: Tensor, missing_RG: Tensor, *value_G: Tensor) -> Tensor:
        """`EncodedItems` to float32 (R, D), rows as those of `HeterRecNetwork.matrix`."""
        return self.model.matrix(self.model.items(cast(EncodedCatalogue, EncodedItems(id_R, missing_RG, value_G))))


def export_item_program(loaded: Loaded) -> ExportedProgram | None:
    """`program(id, missing, *values)` of any number of items; None where there is no network, or one that looks at no
    feature, to which new items are all the same."""
    model, encoder = loaded.model, loaded.encoder
    if model is None or model.features < 2:
        return None
    items = {0: Dim("items", min=1, max=MOST)}
    values = tuple(
        {**items, 1: Dim(f"values_{g}", min=1, max=MAX_WORDS)} if field.is_a.several else items
        for g, field in enumerate(encoder.fields)
    )
    return torch.export.export(
        ItemProgram(model, encoder),
        example_items(encoder),
        dynamic_shapes=(items, items, values),
        strict=False,
    )


def example_items(encoder: FeatureEncoder, count: int = 3) -> tuple[Tensor, ...]:
    """Input of the program's shapes and types: items of which nothing is known."""
    values: list[Any] = []
    for field in encoder.fields:
        if field.form == BAG:
            values.append(torch.zeros(count, 1 if field.is_a.category else 2, dtype=torch.int64))
        elif field.form == NUMBER:
            values.append(torch.zeros(count))
        else:
            values.append(torch.zeros(count, len(field.centre)))
    missing = torch.ones(count, len(encoder.fields), dtype=torch.bool)
    return torch.zeros(count, dtype=torch.int64), missing, *values
