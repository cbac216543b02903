"""A new model begins with what the champion has learned, though its items and values are not the same.

Rows of the tables are found by name. What the champion never saw begins where it is most likely to end: an item at
the ID that its features suggest, a value of a feature where the champion put all values it did not know.
"""

from dataclasses import replace

import torch
from torch import Tensor

from heterrec.data.encoder import (
    NUMBER,
    UNKNOWN,
    VECTOR,
    FeatureEncoder,
    Field,
    asking_rows,
)
from heterrec.data.slices import SLOPE
from heterrec.model.htfl import EncodedCatalogue
from heterrec.model.network import HeterRecNetwork
from heterrec.training.optimiser import ID_TABLE

VALUE_TABLE = "htfl.values.weight"
ASKER_TABLE = "asker.table"
KINDS = ("kinds.token.weight", "kinds.speaks")
RIDGE = 0.1
"""Of the map from features to IDs, against the mean square of the features."""


@torch.no_grad()
def begin_from(
    model: HeterRecNetwork,
    encoder: FeatureEncoder,
    columns: EncodedCatalogue,
    before: HeterRecNetwork,
    encoder_before: FeatureEncoder,
) -> int:
    """Give `model` the weights of `before`; the number of items whose ID was told from their features.

    `columns` are the catalogue as `encoder` has it, of whose slices the last counts. Raises `ValueError` where the two
    have other features or sizes.
    """
    old, new = before.state_dict(), model.state_dict()
    tables = {VALUE_TABLE, ID_TABLE, *KINDS, ASKER_TABLE}
    other = [name for name in new.keys() | old.keys() if name not in tables and _shape(old, name) != _shape(new, name)]
    if other or model.htfl.names != before.htfl.names or _kinds(model) != _kinds(before):
        raise ValueError(
            f"warm start: the champion has the features {list(before.htfl.names)} and width {before.config.width}, "
            f"this model has {list(model.htfl.names)} and width {model.config.width} (other in {sorted(other)[:3]}); "
            "train without warm_start once"
        )
    new.update({name: value for name, value in old.items() if name not in tables})
    new.update(_begun_kinds(model, before))
    if ASKER_TABLE in new and ASKER_TABLE in old:
        new[ASKER_TABLE] = _begun_asker(new[ASKER_TABLE], encoder, old[ASKER_TABLE], encoder_before)
    for g, part in enumerate(begun_values(model, before)):
        new[VALUE_TABLE][model.htfl.starts[g] : model.htfl.starts[g + 1]] = part
    known = {item: row for row, item in enumerate(encoder_before.ids, start=1)}
    rows = torch.tensor([0, *(known.get(item, -1) for item in encoder.ids)], device=new[ID_TABLE].device)
    ids = old[ID_TABLE][rows.clamp(min=0)]
    model.load_state_dict({**new, ID_TABLE: ids})
    fresh = rows < 0
    # What features suggest is read off the channels of this very model, so its other weights had to be in place first.
    ids[fresh] = _suggested(model, columns, fresh)
    model.load_state_dict({**new, ID_TABLE: ids})
    return int(fresh.sum())


def begun_values(model: HeterRecNetwork, before: HeterRecNetwork) -> list[Tensor]:
    """Of each feature the rows of `before` with which its part of the table of values of `model` begins."""
    table = before.htfl.values.weight
    pairs = zip(model.htfl.fields, before.htfl.fields, before.htfl.starts, strict=False)
    return [table[first + _rows(field, old).to(table.device)] for field, old, first in pairs]


def _begun_kinds(model: HeterRecNetwork, before: HeterRecNetwork) -> dict[str, Tensor]:
    """Of the kinds of events those that `before` knew, as it had them; a new kind begins as in any model."""
    if model.kinds is None or before.kinds is None:
        return {}
    known = {name: row for row, name in enumerate(before.kinds.names, start=1)}
    begun = {}
    for key in KINDS:
        table = model.state_dict()[key].clone()
        for row, name in enumerate(model.kinds.names, start=1):
            if name in known:
                table[row] = before.state_dict()[key][known[name]]
        table[0] = before.state_dict()[key][0]
        begun[key] = table
    return begun


def _begun_asker(table: Tensor, encoder: FeatureEncoder, old: Tensor, encoder_before: FeatureEncoder) -> Tensor:
    """Of what is known of who asks, each feature's rows as the champion had them; what it had not says nothing yet."""
    first, parts = 0, {}
    for field in encoder_before.asking:
        parts[field.name, field.kind] = field, old[first : (first := first + asking_rows(field))]
    begun = []
    for field in encoder.asking:
        if (field.name, field.kind) in parts:
            before, part = parts[field.name, field.kind]
            begun.append(part[_rows(field, before).to(part.device)])
        else:
            begun.append(table.new_zeros(asking_rows(field), table.shape[1]))
    return torch.cat(begun)


def _suggested(model: HeterRecNetwork, columns: EncodedCatalogue, fresh: Tensor) -> Tensor:
    """IDs of the fresh rows of the table by ridge regression of the known IDs on the items' feature channels."""
    ids = model.htfl.ids.weight
    if model.item_side is None or not fresh.any():
        return ids[:1].expand(int(fresh.sum()), -1)
    model.eval()
    channel = torch.zeros_like(ids)
    channel[columns.id_R] = model.items(replace(columns, slices=None)).channel_RD
    known = ~fresh
    known[0] = False
    # Channels x (O, D) and IDs y (O, D) of the items known to both. Centred, so that ridge pulls a new ID towards the
    # mean of all IDs and not towards zero.
    x, y = channel[known].double(), ids[known].double()
    centre, mean = x.mean(0), y.mean(0)
    x = x - centre
    gram = x.T @ x
    ridge = RIDGE * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(gram), dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(gram + ridge, x.T @ (y - mean))
    suggested: Tensor = (channel[fresh].double() - centre) @ weight + mean
    return suggested.to(ids.dtype)


def _rows(field: Field, before: Field) -> Tensor:
    """Row of the champion's part of the table for each row of the new one."""
    if field.form == VECTOR:
        return torch.zeros(1, dtype=torch.int64)
    if field.form == NUMBER:
        # The bucket of the champion that holds the middle of a new one, on the scale of the numbers themselves.
        edges = torch.tensor(field.edges, dtype=torch.float64)
        bounds = torch.cat([edges[:1] - 1, edges, edges[-1:] + 1]) if len(edges) else torch.zeros(2).double()
        # Buckets (B) are held against each other on the scale of the numbers, as each encoder has a centre and scale of
        # its own.
        middle = (bounds[:-1] + bounds[1:]) / 2 * field.scale + field.centre[0]
        there = (middle - before.centre[0]) / before.scale
        bucket = torch.bucketize(there, torch.tensor(before.edges, dtype=torch.float64))
        return torch.cat([torch.tensor([0, SLOPE]), bucket + SLOPE + 1])
    row = {value: number for number, value in enumerate(before.vocabulary, start=2)}
    return torch.tensor([0, UNKNOWN, *(row.get(value, UNKNOWN) for value in field.vocabulary)])


def _shape(state: dict[str, Tensor], name: str) -> torch.Size | None:
    return state[name].shape if name in state else None


def _kinds(model: HeterRecNetwork) -> list[str]:
    return [field.kind for field in model.htfl.fields]
