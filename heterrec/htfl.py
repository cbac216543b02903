"""HTFL, the heterogeneous token flatten layer [A][F]: every item becomes F tokens of width D.

Tokens stand in this order: static features, varying features, item ID. Under plain causal attention the ID,
which comes last, so sees all features of its item. Letters: R catalogue rows, B batch, T items, D width,
F features (ID included), N varying features, M values of a bag.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterrec.encoder import BAGS, FeatureEncoder, Field
from heterrec.sequences import Catalogue

Columns = dict[str, tuple[Tensor, Tensor]]
"""Value and missing of each feature, a row for each catalogue row, after row 0 which stands for no item."""

ID = "item_id"
EMBEDDING_STD = 0.02
"""Of every embedding at the start of training."""


def encode_catalogue(encoder: FeatureEncoder, catalogue: Catalogue) -> Columns:
    """Encoded features of the V items as tensors of V + 1 rows; row 0 has the null token of every feature."""
    encoded = encoder.encode(catalogue.columns)
    ids = encoder.encode_ids(catalogue.item_ids)
    encoded[ID] = ids[:, None], ids == 0
    return {
        name: (
            torch.from_numpy(np.concatenate([np.zeros_like(value[:1]), value])),
            torch.from_numpy(np.concatenate([[True], missing])),
        )
        for name, (value, missing) in encoded.items()
    }


class BagToken(nn.Module):
    """Mean embedding of the values of a categorical, multi_categorical or text feature, or of the ID."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.values = nn.Embedding(size, width, padding_idx=0)
        nn.init.normal_(self.values.weight, std=EMBEDDING_STD)

    def forward(self, value_RM: Tensor) -> Tensor:
        """int64 (R, M), 0 where there is none, to (R, D)."""
        if value_RM.shape[1] == 1:
            return F.embedding(value_RM[:, 0], self.values.weight)
        return F.embedding_bag(value_RM, self.values.weight, mode="mean", padding_idx=0)

    def classes(self) -> Tensor:
        """One embedding for each value (values, D): what the token-level loss tells apart."""
        return self.values.weight

    def label(self, value_RM: Tensor) -> Tensor:
        """Class of each row (R,)."""
        return value_RM[:, 0]


class NumericToken(nn.Module):
    """Embedding of the number's bucket plus a linear map of its standardised value [I]."""

    def __init__(self, edges: tuple[float, ...], width: int) -> None:
        super().__init__()
        self.buckets = nn.Embedding(len(edges) + 1, width)
        self.slope = nn.Parameter(torch.zeros(width))
        self.register_buffer("edges", torch.tensor(edges, dtype=torch.float32), persistent=False)
        nn.init.normal_(self.buckets.weight, std=EMBEDDING_STD)

    def forward(self, value_R: Tensor) -> Tensor:
        """float32 (…) to (…, D)."""
        token: Tensor = self.buckets(self.label(value_R)) + value_R[..., None].to(self.slope.dtype) * self.slope
        return token

    def classes(self) -> Tensor:
        return self.buckets.weight

    def label(self, value_R: Tensor) -> Tensor:
        return torch.bucketize(value_R.contiguous(), self.get_buffer("edges"))


class VectorToken(nn.Module):
    """Linear map of a continuous modality to the width [I]."""

    def __init__(self, dimension: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(dimension, width)
        nn.init.normal_(self.project.weight, std=EMBEDDING_STD * dimension**-0.5)

    def forward(self, value_RE: Tensor) -> Tensor:
        out: Tensor = self.project(value_RE)
        return out


class HTFL(nn.Module):
    """The one embedding look-up that sequence side and item side share [F].

    A missing value is the learned null token of its feature [I]; a feature-type embedding is added [I].
    """

    def __init__(self, encoder: FeatureEncoder, width: int, *, features: bool) -> None:
        super().__init__()
        fields = encoder.fields if features else ()
        self.static = tuple(field for field in fields if not field.varies_in_time)
        self.varying = tuple(field for field in fields if field.varies_in_time)
        self.fields = (*self.static, *self.varying)
        self.width = width
        self.tokens = nn.ModuleList([*(_token(field, width) for field in self.fields), BagToken(_ids(encoder), width)])
        self.null_FD = nn.Parameter(EMBEDDING_STD * torch.randn(len(self.tokens), width))
        self.kind_FD = nn.Parameter(torch.zeros(len(self.tokens), width))
        position = {field.name: n for n, field in enumerate(encoder.varying)}
        self.source = tuple(position[field.name] for field in self.varying)
        """Where each varying token finds its value among the N of the encoder."""

    @property
    def names(self) -> tuple[str, ...]:
        return (*(field.name for field in self.fields), ID)

    def rows(self, columns: Columns) -> Tensor:
        """Tokens of catalogue rows (R, F, D), with the varying features as the catalogue has them."""
        tokens = [self._one(f, *columns[name]) for f, name in enumerate(self.names)]
        return torch.stack(tokens, dim=1)

    def histories(self, rows_RFD: Tensor, item_BT: Tensor, value_BTN: Tensor, missing_BTN: Tensor) -> Tensor:
        """Tokens of histories (B, T, F, D), with the varying features as they were at each event."""
        rows, features, width = rows_RFD.shape
        found = F.embedding(item_BT, rows_RFD.reshape(rows, features * width)).view(*item_BT.shape, features, width)
        if not self.varying:
            return found
        first = len(self.static)
        events = [self._event(first + n, value_BTN[..., s], missing_BTN[..., s]) for n, s in enumerate(self.source)]
        return torch.cat([found[:, :, :first], torch.stack(events, dim=2), found[:, :, -1:]], dim=2)

    def dropped(self, tokens: Tensor, id_rate: float, feature_rate: float) -> Tensor:
        """Replace random tokens (…, F, D) by the null token of their feature."""
        rate = torch.full((tokens.shape[-2],), feature_rate, device=tokens.device)
        rate[-1] = id_rate
        drop = torch.rand(tokens.shape[:-1], device=tokens.device) < rate
        return torch.where(drop[..., None], self.null_FD + self.kind_FD, tokens)

    def without_id(self, tokens: Tensor) -> Tensor:
        """Tokens (…, F, D) with the null token in place of the item ID's."""
        null = (self.null_FD[-1] + self.kind_FD[-1]).expand_as(tokens[..., -1:, :])
        return torch.cat([tokens[..., :-1, :], null], dim=-2)

    def _event(self, f: int, value_BT: Tensor, missing_BT: Tensor) -> Tensor:
        if self.fields[f].kind == "numeric":
            return self._one(f, value_BT, missing_BT)
        index = value_BT.long().reshape(-1, 1)
        return self._one(f, index, missing_BT.reshape(-1)).view(*value_BT.shape, self.width)

    def _one(self, f: int, value: Tensor, missing: Tensor) -> Tensor:
        token = self.tokens[f](value)
        return torch.where(missing[..., None], self.null_FD[f], token) + self.kind_FD[f]


def _token(field: Field, width: int) -> nn.Module:
    if field.kind in BAGS:
        return BagToken(field.size, width)
    if field.kind == "numeric":
        return NumericToken(field.edges, width)
    return VectorToken(len(field.centre), width)


def _ids(encoder: FeatureEncoder) -> int:
    return len(encoder.ids) + 1
