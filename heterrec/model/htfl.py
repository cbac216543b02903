"""HTFL, the heterogeneous token flatten layer [A][F]: every item becomes F tokens of width D.

All values of all features stand in one table, and a token is a weighted sum of its rows: the mean over the words of
a title, the one row of a brand, a number's bucket plus the number times its slope, or the null row of its feature
where nothing is known. The item ID has a table of its own, which grows with the catalogue. A feature-type embedding
[I] would add nothing here: as the weights of a bag sum to one, it is part of the rows already.

Tokens stand in this order: static features, varying features, item ID. Under plain causal attention the ID, which
comes last, so sees all features of its item. Letters: R catalogue rows (row 0 is no item), S events, D width,
F features, G = F - 1 features beside the ID, N varying features, K slices, J entries of all bags.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from heterrec.data.encoder import (
    BAG,
    NUMBER,
    VECTOR,
    FeatureEncoder,
    Field,
)
from heterrec.data.sequences import Catalogue
from heterrec.data.slices import (
    NULL,
    SLOPE,
    Slices,
    SliceTokens,
)
from heterrec.kernels.embedding_bag import Back, summed_back
from heterrec.kernels.ragged import ranges

ID = "item_id"
EMBEDDING_STD = 0.02
"""Of every embedding at the start of training."""


class Bags(NamedTuple):
    """Tokens as weighted sums of rows of the table. The first entry of each is the null row of its feature."""

    value_J: Tensor
    weight_J: Tensor
    first_T: Tensor
    """Where each of the T = R * G tokens begins among the J entries."""
    count_T: Tensor


@dataclass(frozen=True, kw_only=True)
class EncodedCatalogue:
    """The catalogue encoded as of one slice: R rows, of which row 0 stands for no item and has null tokens only."""

    bags: Bags
    vectors: dict[int, Tensor]
    """Of the features that are embeddings: (R, E), by the feature's number."""
    id_R: Tensor
    """Row in the table of item IDs; 0 for an item without one."""
    label_RF: Tensor
    """What the token-level loss tells apart: the value of a category, the bucket of a number, else a number that
    rows with the very same value share."""
    missing_RF: Tensor
    back: Back | None = None
    """The look-up of the table's gradient, where it has been prepared."""
    slices: Slices | None = None
    """For training: what varies as of several moments. The rest of the columns is as of the last of them."""

    def __len__(self) -> int:
        return len(self.id_R)

    def to(self, device: str) -> "EncodedCatalogue":
        return EncodedCatalogue(
            bags=Bags(*(part.to(device) for part in self.bags)),
            vectors={g: value.to(device) for g, value in self.vectors.items()},
            id_R=self.id_R.to(device),
            label_RF=self.label_RF.to(device),
            missing_RF=self.missing_RF.to(device),
            back=self.back and Back(*(part.to(device) for part in self.back)),
            slices=self.slices and Slices(*(part.to(device) for part in self.slices)),
        )

    def take(self, rows_R: Tensor) -> "EncodedCatalogue":
        """These catalogue rows alone."""
        features = self.missing_RF.shape[1] - 1
        token = (rows_R[:, None] * features + torch.arange(features, device=rows_R.device)).flatten()
        count = self.bags.count_T[token]
        entry = ranges(self.bags.first_T[token], count)
        return EncodedCatalogue(
            bags=Bags(self.bags.value_J[entry], self.bags.weight_J[entry], count.cumsum(0) - count, count),
            vectors={g: value[rows_R] for g, value in self.vectors.items()},
            id_R=self.id_R[rows_R],
            label_RF=self.label_RF[rows_R],
            missing_RF=self.missing_RF[rows_R],
            slices=self.slices
            and self.slices._replace(
                value_KRN=self.slices.value_KRN[:, rows_R], missing_KRN=self.slices.missing_KRN[:, rows_R]
            ),
        )


class CatalogueTokens(NamedTuple):
    """What HTFL gives for catalogue rows: the features' tokens, and that of the ID."""

    feature_RGD: Tensor
    id_RD: Tensor
    looked: tuple[SliceTokens, ...] = ()
    """Of columns with slices: each varying feature (K, R) as of all of them."""


def encode_slices(encoder: FeatureEncoder, catalogue: Catalogue, count: int) -> EncodedCatalogue:
    """The V items as of the first `count` slices of a catalogue."""
    columns = encode_catalogue(encoder, catalogue, count - 1)
    if count == 1 or not encoder.varying:
        return columns
    since = torch.tensor([each.since for each in catalogue.slices[:count]])
    found = [encoder.encode_varying(catalogue.columns(number), len(catalogue)) for number in range(count)]
    value, missing = (torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True))
    nobody = F.pad(value, (0, 0, 1, 0)), F.pad(missing, (0, 0, 1, 0), value=True)
    return replace(columns, slices=Slices(since, *nobody))


def encode_catalogue(encoder: FeatureEncoder, catalogue: Catalogue, number: int) -> EncodedCatalogue:
    """The V items of a catalogue as of the slice `number`, as `EncodedCatalogue` of V + 1 rows."""
    fields = in_order(encoder)
    encoded = encoder.encode(catalogue.columns(number))
    ids = np.append(0, encoder.encode_ids(catalogue.item_ids))
    rows, begins = len(ids), starts(fields)
    labels, missing, vectors = [], [], {}
    # Of each feature: rows of the table, weights, which are held, and how many; none where there are no features.
    value = [tuple(np.zeros((rows, 0), dtype=kind) for kind in (np.int64, np.float64, np.bool_, np.int64))]
    for g, field in enumerate(fields):
        found, absent = (np.concatenate([np.zeros_like(part[:1]), part]) for part in encoded[field.name])
        absent[0] = True
        labels.append(_labels(field, found))
        missing.append(absent)
        if field.form == VECTOR:
            vectors[g] = torch.from_numpy(found)
        index, weight, held = _entries(field, found, absent, begins[g])
        value.append((index, weight, held, held.sum(1, keepdims=True)))
    labels.append(ids)
    missing.append(ids == 0)
    # A row's features one after the other, as its tokens stand.
    indices, weights, present, counts = (np.concatenate(part, axis=1) for part in zip(*value, strict=True))
    count = counts.flatten()
    return EncodedCatalogue(
        bags=Bags(
            torch.from_numpy(indices[present]),
            torch.from_numpy(weights[present].astype(np.float32)),
            torch.from_numpy(np.cumsum(count) - count),
            torch.from_numpy(count),
        ),
        vectors=vectors,
        id_R=torch.from_numpy(ids),
        label_RF=torch.from_numpy(np.stack(labels, axis=1)),
        missing_RF=torch.from_numpy(np.stack(missing, axis=1)),
    )


def in_order(encoder: FeatureEncoder) -> tuple[Field, ...]:
    """The G features in the order of their tokens."""
    return tuple(sorted(encoder.fields, key=lambda field: field.varies_in_time))


def starts(fields: Sequence[Field]) -> list[int]:
    """Where each feature's rows begin in the table, and the size of the whole."""
    return list(accumulate((_rows(field) for field in fields), initial=0))


class _Bag(torch.autograd.Function):
    """Weighted sums of rows of a table; the gradient of a row is a weighted sum too, of its tokens' gradients."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, bags: Bags, weight_J: Tensor, back: Back | None) -> Tensor:
        ctx.bags, ctx.weight_J, ctx.rows, ctx.back = bags, weight_J, len(table), back
        return F.embedding_bag(bags.value_J, table, bags.first_T, mode="sum", per_sample_weights=weight_J)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.back is not None:
            return summed_back(grads[0], ctx.weight_J, ctx.back), None, None, None
        value, weight, count = ctx.bags.value_J, ctx.weight_J, ctx.bags.count_T
        used = torch.nonzero(weight)[:, 0]
        sorted_value, order = value[used].sort(stable=True)
        order = used[order]
        token = torch.repeat_interleave(count)[order]
        first = torch.searchsorted(sorted_value, torch.arange(ctx.rows, device=value.device))
        grad = F.embedding_bag(token, grads[0], first, mode="sum", per_sample_weights=weight[order])
        return grad, None, None, None


class HTFL(nn.Module):
    """The one embedding look-up that sequence side and item side share [F].

    In training a random token is the null token of its feature: how the model learns to do without.
    """

    def __init__(self, encoder: FeatureEncoder, width: int, *, features: bool) -> None:
        super().__init__()
        self.fields = in_order(encoder) if features else ()
        self.width = width
        self.starts = starts(self.fields)
        self.values = nn.Embedding(self.starts[-1], width)
        self.ids = nn.Embedding(len(encoder.ids) + 1, width)
        self.maps = nn.ModuleDict(
            {str(g): _map(len(field.centre), width) for g, field in enumerate(self.fields) if field.form == VECTOR}
        )
        for table in (self.values, self.ids):
            nn.init.normal_(table.weight, std=EMBEDDING_STD)
        for field, start in zip(self.fields, self.starts, strict=False):
            if field.form == NUMBER:
                nn.init.zeros_(self.values.weight[start + SLOPE])
        position = {field.name: n for n, field in enumerate(encoder.varying)}
        self.varying = tuple((g, position[f.name]) for g, f in enumerate(self.fields) if f.varies_in_time)
        """The features that vary: number of the token, and where its value is among the N of the encoder."""
        edges = [torch.tensor(field.edges, dtype=torch.float32) for field in self.fields]
        for g, _ in self.varying:
            self.register_buffer(f"edges_{g}", edges[g], persistent=False)

    @property
    def names(self) -> tuple[str, ...]:
        return (*(field.name for field in self.fields), ID)

    def rows(self, columns: EncodedCatalogue, id_rate: float = 0.0, feature_rate: float = 0.0) -> CatalogueTokens:
        """Tokens of catalogue rows, with the varying features as the columns have them, and as of each of their slices.

        A share of `id_rate` of the ID tokens and of `feature_rate` of the others is null.
        """
        id_R = columns.id_R
        if id_rate:
            id_R = id_R.masked_fill(torch.rand(len(id_R), device=id_R.device) < id_rate, 0)
        id_RD = self.ids(id_R)
        if not self.fields:
            return CatalogueTokens(id_RD[:, None][:, :0], id_RD)
        rows, features = len(columns), len(self.fields)
        bags, weight_J = columns.bags, columns.bags.weight_J.to(id_RD.dtype)
        present_RG = ~columns.missing_RF[:, :-1]
        if feature_rate:
            kept_RG = torch.rand((rows, features), device=id_R.device) >= feature_rate
            present_RG = present_RG & kept_RG
            weight_J = weight_J * torch.repeat_interleave(
                kept_RG.flatten().to(weight_J.dtype), bags.count_T, output_size=len(weight_J)
            )
            weight_J[bags.first_T] = (~present_RG).flatten().to(weight_J.dtype)
        table = self.values.weight
        summed: Tensor = _Bag.apply(table, bags, weight_J, columns.back)  # type: ignore[no-untyped-call]
        feature_RGD = summed.view(rows, features, self.width)
        for g, vector_RE in columns.vectors.items():
            feature_RGD[:, g] += self.maps[str(g)](vector_RE.to(table.dtype)) * present_RG[:, g, None]
        if columns.slices is None:
            return CatalogueTokens(feature_RGD, id_RD)
        dropped_RG = ~kept_RG if feature_rate else torch.zeros_like(present_RG)
        return CatalogueTokens(
            feature_RGD, id_RD, tuple(self._looked(columns.slices, g, n, dropped_RG) for g, n in self.varying)
        )

    def events(self, tokens: CatalogueTokens, item_S: Tensor, value_SN: Tensor, missing_SN: Tensor) -> Tensor:
        """Tokens of events (S, F, D), with the varying features as they were at each event."""
        found = self.gather(tokens, item_S)
        if not self.varying:
            return found
        static = len(self.fields) - len(self.varying)
        varying = [self._event(g, value_SN[:, n], missing_SN[:, n])[:, None] for g, n in self.varying]
        return torch.cat([found[:, :static], *varying, found[:, -1:]], dim=1)

    @staticmethod
    def gather(tokens: CatalogueTokens, rows_N: Tensor) -> Tensor:
        """All tokens (N, F, D) of these rows."""
        rows, features, width = tokens.feature_RGD.shape
        id_NFD = F.embedding(rows_N, tokens.id_RD)[:, None]
        if not features:
            return id_NFD
        flat = tokens.feature_RGD.reshape(rows, features * width)
        return torch.cat([F.embedding(rows_N, flat).view(-1, features, width), id_NFD], dim=1)

    def classes(self, g: int) -> Tensor:
        """The rows (values, D) of a category or a number: what the token-level loss tells apart."""
        first = self.starts[g] + (SLOPE + 1 if self.fields[g].form == NUMBER else 0)
        return self.values.weight[first : self.starts[g + 1]]

    def about(self, columns: EncodedCatalogue, f: int, row: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """Label and missing of the feature `f` of catalogue rows, as they were in the slices of these times."""
        position = dict(self.varying).get(f)
        if columns.slices is None or position is None:
            return columns.label_RF[row, f], columns.missing_RF[row, f]
        number = columns.slices.of(time)
        value = columns.slices.value_KRN[number, row, position]
        missing = columns.slices.missing_KRN[number, row, position]
        return self._bucket(f, value), missing

    def _looked(self, slices: Slices, g: int, n: int, dropped_RG: Tensor) -> SliceTokens:
        missing_KR = slices.missing_KRN[..., n] | dropped_RG[:, g]
        value_KR = slices.value_KRN[..., n]
        table = self.values.weight[self.starts[g] : self.starts[g + 1]]
        if self.fields[g].form != NUMBER:
            return SliceTokens(table, value_KR.long().masked_fill(missing_KR, NULL), None)
        row_KR = (self._bucket(g, value_KR) + SLOPE + 1).masked_fill(missing_KR, NULL)
        return SliceTokens(table, row_KR, value_KR.to(table.dtype).masked_fill(missing_KR, 0.0))

    def _bucket(self, g: int, value: Tensor) -> Tensor:
        """The label of a varying value: a number's bucket, a category's index."""
        if self.fields[g].form != NUMBER:
            return value.long()
        return torch.bucketize(value.float().contiguous(), self.get_buffer(f"edges_{g}"))

    def _event(self, g: int, value_S: Tensor, missing_S: Tensor) -> Tensor:
        table, start = self.values.weight, self.starts[g]
        if self.fields[g].form != NUMBER:
            return F.embedding(start + value_S.long().masked_fill(missing_S, NULL), table)
        row = (self._bucket(g, value_S) + SLOPE + 1).masked_fill(missing_S, NULL)
        slope = value_S.to(table.dtype).masked_fill(missing_S, 0.0)[:, None] * table[start + SLOPE]
        return F.embedding(start + row, table) + slope


def _map(dimension: int, width: int) -> nn.Linear:
    """Of a continuous modality to the width [I]."""
    linear = nn.Linear(dimension, width)
    nn.init.normal_(linear.weight, std=EMBEDDING_STD * dimension**-0.5)
    return linear


def _rows(field: Field) -> int:
    if field.form == BAG:
        return field.size
    return SLOPE + 1 + len(field.edges) + 1 if field.form == NUMBER else 1


def _entries(
    field: Field, value: np.ndarray, missing: np.ndarray, start: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the table (R, M), their weights, and which of them are held; the null row first."""
    if field.form == BAG:
        held = value > 0
        index, weight = value, held / held.sum(1, keepdims=True).clip(1)
    elif field.form == NUMBER:
        bucket = np.searchsorted(np.asarray(field.edges, dtype=np.float32), value) + SLOPE + 1
        index = np.stack([bucket, np.full_like(bucket, SLOPE)], axis=1)
        weight = np.stack([np.ones_like(value), value], axis=1)
        held = np.repeat(~missing[:, None], 2, axis=1)
    else:
        index = np.zeros((len(value), 0), dtype=np.int64)
        weight, held = np.zeros(index.shape), np.zeros(index.shape, dtype=bool)
    null = np.full((len(value), 1), NULL)
    always = np.ones((len(value), 1), dtype=bool)
    return (
        start + np.concatenate([null, index], axis=1).astype(np.int64),
        np.concatenate([missing[:, None].astype(np.float64), weight], axis=1),
        np.concatenate([always, held], axis=1),
    )


def _labels(field: Field, value: np.ndarray) -> np.ndarray:
    if field.is_a.category:
        return value[:, 0]
    if field.form == NUMBER:
        return np.searchsorted(np.asarray(field.edges, dtype=np.float32), value)
    return np.unique(value.reshape(len(value), -1), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
