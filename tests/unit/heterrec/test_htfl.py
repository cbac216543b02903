"""The tokens of items: from the encoder's arrays to the vectors that both sides of the model read."""

import numpy as np
import pytest
import torch

from heterrec.data.encoder import FeatureEncoder
from heterrec.data.sequences import NOW
from heterrec.model.htfl import _Bag, encode_catalogue
from heterrec.model.network import HeterRecNetwork
from tests.unit.heterrec.small import SMALL, lively


@pytest.fixture
def built(encoder: FeatureEncoder) -> HeterRecNetwork:
    torch.manual_seed(5)
    return lively(HeterRecNetwork(SMALL, encoder)).eval()


def test_no_item_has_null_tokens_only(built: HeterRecNetwork, encoder, shop):
    tokens = built.htfl.rows(encode_catalogue(encoder, shop.catalogue, NOW))
    nulls = built.htfl.values.weight[built.htfl.starts[:-1]].clone()
    image = [field.name for field in built.htfl.fields].index("image")
    torch.testing.assert_close(tokens.feature_RGD[0], nulls)
    torch.testing.assert_close(tokens.id_RD[0], built.htfl.ids.weight[0])
    assert not torch.allclose(tokens.feature_RGD[1, image], nulls[image])


def test_tokens_equal_a_plain_look_up_feature_by_feature(built: HeterRecNetwork, encoder, shop):
    """Word by word and number by number, from the encoder's own arrays."""
    tokens = built.htfl.rows(encode_catalogue(encoder, shop.catalogue, NOW))
    table = built.htfl.values.weight
    encoded = encoder.encode(shop.catalogue.columns(NOW))
    for g, field in enumerate(built.htfl.fields):
        value, missing = encoded[field.name]
        part = table[built.htfl.starts[g] : built.htfl.starts[g + 1]]
        for row in range(len(shop.catalogue)):
            if missing[row]:
                expected = part[0]
            elif field.kind == "numeric":
                bucket = int(np.searchsorted(field.edges, value[row]))
                expected = part[2 + bucket] + value[row].item() * part[1]
            elif field.kind == "embedding":
                expected = built.htfl.maps[str(g)](torch.from_numpy(value[row]))
            else:
                expected = part[value[row][value[row] > 0]].mean(0)
            torch.testing.assert_close(tokens.feature_RGD[row + 1, g], expected)


def test_some_rows_alone_are_as_among_all(built: HeterRecNetwork, encoder, shop):
    """What sampled training and chunked inference rest on."""
    columns = encode_catalogue(encoder, shop.catalogue, NOW)
    rows = torch.tensor([0, 3, 4, 17])
    whole, part = built.items(columns), built.items(columns.take(rows))
    some_columns = columns.take(rows)
    for name in ("id_R", "label_RF", "missing_RF"):
        assert torch.equal(getattr(some_columns, name), getattr(columns, name)[rows])
    for all_rows, some in zip(whole.tokens[:2] + whole[1:3], part.tokens[:2] + part[1:3], strict=True):
        torch.testing.assert_close(all_rows[rows], some)


def test_null_tokens_in_training_are_drawn_at_their_rates(built: HeterRecNetwork, encoder, shop):
    columns = encode_catalogue(encoder, shop.catalogue, NOW)
    plain = built.htfl.rows(columns)
    torch.manual_seed(0)
    count = 300
    features, ids = 0.0, 0.0
    for _ in range(count):
        dropped = built.htfl.rows(columns, id_rate=0.1, feature_rate=0.4)
        features += (dropped.feature_RGD != plain.feature_RGD).any(-1).float().mean().item() / count
        ids += (dropped.id_RD != plain.id_RD).any(-1).float().mean().item() / count
    present = 1 - columns.missing_RF.float().mean(0)
    assert abs(features - 0.4 * present[:-1].mean().item()) < 0.02
    assert abs(ids - 0.1 * present[-1].item()) < 0.02


def test_the_gradient_of_the_table_is_that_of_a_plain_sum(built: HeterRecNetwork, encoder, shop):
    built.double()
    columns = encode_catalogue(encoder, shop.catalogue, NOW)
    table, bags = built.htfl.values.weight, columns.bags
    weight = bags.weight_J.double()
    token = torch.repeat_interleave(bags.count_T)
    plain = torch.zeros(len(bags.count_T), table.shape[1], dtype=torch.float64)
    plain = plain.index_add(0, token, weight[:, None] * table[bags.value_J])
    ours = _Bag.apply(table, bags, weight, None)
    torch.testing.assert_close(ours, plain)
    pull = torch.randn_like(plain)
    both = [torch.autograd.grad(sums, table, pull)[0] for sums in (ours, plain)]
    torch.testing.assert_close(*both)
