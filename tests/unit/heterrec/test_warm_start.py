from dataclasses import replace

import numpy as np
import pytest
import torch

from heterrec.data.encoder import FeatureEncoder
from heterrec.data.sequences import NOW, Catalogue, Sequences
from heterrec.inference.answers import item_matrix, user_vectors
from heterrec.model.htfl import encode_catalogue, encode_slices
from heterrec.model.network import HeterRecNetwork
from heterrec.recipes import LossConfig, TrainConfig, warm
from heterrec.training.loop import train
from heterrec.training.trained import StartingModel
from heterrec.training.warm_start import _rows, begin_from
from tests.unit.heterrec.small import (
    SMALL,
    changed,
    encoder_of,
    lively,
)

CONFIG = TrainConfig(
    model=replace(SMALL, max_history=8), loss=LossConfig(token_candidates=10), epochs=4, batch_events=64, patience=4
)


def fitted(catalogue: Catalogue, **settings) -> FeatureEncoder:
    counts = np.full(len(catalogue), 5)
    return FeatureEncoder.fit(catalogue.features, catalogue.columns(NOW), catalogue.item_ids, counts, **settings)


def grown(old: Catalogue) -> Catalogue:
    """Other order of items and values, one new item like the fifth, and a brand that nobody had."""
    order = [*range(len(old) - 1, -1, -1), 4]
    ids = [*(old.item_ids[n] for n in order[:-1]), "new"]
    found = changed(old, lambda values: [values[n] for n in order], item_ids=ids, available_at=np.zeros(len(ids)))
    found.fixed["brand"][:2] = ["a new brand", "a new brand"]
    return found


def test_on_the_same_data_the_model_is_the_champion(shop: Sequences):
    encoder = encoder_of(shop)
    torch.manual_seed(1)
    before = lively(HeterRecNetwork(SMALL, encoder)).eval()
    after = HeterRecNetwork(SMALL, encoder)
    assert begin_from(after, encoder, encode_catalogue(encoder, shop.catalogue, NOW), before, encoder) == 0
    np.testing.assert_array_equal(
        *(item_matrix(model, encoder, shop.catalogue, NOW) for model in (before, after)),
    )
    queries = shop.queries("test")
    np.testing.assert_array_equal(*(user_vectors(model, encoder, shop, queries, NOW) for model in (before, after)))


def test_rows_are_found_by_name_and_fresh_ones_from_what_is_known(shop: Sequences):
    newer = grown(shop.catalogue)
    encoder_before, encoder = fitted(shop.catalogue), fitted(newer)
    torch.manual_seed(1)
    before = lively(HeterRecNetwork(SMALL, encoder_before)).eval()
    columns_before = encode_catalogue(encoder_before, shop.catalogue, NOW)
    with torch.no_grad():  # IDs that are what the features say, so that it is known what a fresh one should be
        channel = before.items(columns_before).channel_RD
        law = torch.randn(channel.shape[1], SMALL.width)
        before.htfl.ids.weight[columns_before.id_R[1:]] = channel[1:] @ law
    model = HeterRecNetwork(SMALL, encoder)
    columns = encode_catalogue(encoder, newer, NOW)
    assert begin_from(model, encoder, columns, before, encoder_before) == 1
    ids, ids_before = (m.htfl.ids.weight.detach() for m in (model, before))
    for item in shop.catalogue.item_ids:
        mine, theirs = (e.encode_ids([item])[0] for e in (encoder, encoder_before))
        torch.testing.assert_close(ids[mine], ids_before[theirs])
    fresh = ids[encoder.encode_ids(["new"])[0]]
    twin = ids[encoder.encode_ids([shop.catalogue.item_ids[4]])[0]]
    others = ids[1:]
    assert (fresh - twin).norm() < 0.5 * (others - twin).norm(dim=1).median()
    brand = [field.name for field in model.htfl.fields].index("brand")
    rows = {
        name: m.htfl.values.weight[m.htfl.starts[brand] : m.htfl.starts[brand + 1]].detach()
        for name, m in (("after", model), ("before", before))
    }
    value = {value: n for n, value in enumerate(model.htfl.fields[brand].vocabulary, start=2)}
    value_before = {value: n for n, value in enumerate(before.htfl.fields[brand].vocabulary, start=2)}
    assert "a new brand" in value and "a new brand" not in value_before
    torch.testing.assert_close(rows["after"][value["a new brand"]], rows["before"][1])
    for name in value.keys() & value_before.keys():
        torch.testing.assert_close(rows["after"][value[name]], rows["before"][value_before[name]])


def test_of_several_slices_the_latest_of_training_tells_what_a_fresh_item_is_like(changing: Sequences):
    encoder = encoder_of(changing)
    few = FeatureEncoder(encoder.fields, encoder.ids[2:])
    torch.manual_seed(1)
    before = lively(HeterRecNetwork(SMALL, few)).eval()
    sliced, latest = HeterRecNetwork(SMALL, encoder), HeterRecNetwork(SMALL, encoder)
    assert begin_from(sliced, encoder, encode_slices(encoder, changing.catalogue, 4), before, few) == 2
    begin_from(latest, encoder, encode_catalogue(encoder, changing.catalogue, 3), before, few)
    torch.testing.assert_close(sliced.htfl.ids.weight, latest.htfl.ids.weight)


def test_a_champion_with_other_features_is_refused(shop: Sequences):
    encoder = encoder_of(shop)
    before = HeterRecNetwork(replace(SMALL, features=False, token_layers=0), encoder)
    with pytest.raises(ValueError, match=r"champion has the features \['item_id'\].*train without warm_start"):
        begin_from(
            HeterRecNetwork(SMALL, encoder), encoder, encode_catalogue(encoder, shop.catalogue, NOW), before, encoder
        )


def test_training_from_the_champion_is_never_worse_on_validation(shop: Sequences):
    first = train(shop, CONFIG)
    champion = StartingModel(first.model, first.encoder)
    again = train(shop, warm(CONFIG), champion=champion)
    assert len(again.curve) == 2
    ruined = train(shop, replace(warm(CONFIG), learning_rate=0.5), champion=champion)
    assert ruined.best_epoch == 0
    assert ruined.validation_ndcg > max(point["validation_ndcg"] for point in ruined.curve)
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(ruined.model.state_dict()[name], value)


def test_a_number_begins_in_the_bucket_that_held_it(shop: Sequences):
    """Prices whose distribution has moved: other edges on another scale, the same numbers."""
    rng = np.random.default_rng(0)
    before, after = (
        FeatureEncoder.fit(
            [{"name": "price", "kind": "numeric", "varies_in_time": False}],
            {"price": rng.lognormal(mean, 0.7, 300).tolist()},
            [str(n) for n in range(300)],
            np.full(300, 5),
        )
        for mean in (2.0, 2.6)
    )
    (old,), (new,) = before.fields, after.fields
    rows = _rows(new, old)
    assert rows[:2].tolist() == [0, 1]
    found = rows[2:].tolist()
    assert found == sorted(found) and found[0] > 2, "dearer goods have left the lowest bucket"
    prices = np.linspace(5, 40, 200).tolist()
    bucket_new, bucket_old = (
        np.searchsorted(field.edges, encoder.encode({"price": prices})["price"][0])
        for field, encoder in ((new, after), (old, before))
    )
    off = [abs(found[n] - 2 - o) for n, o in zip(bucket_new.tolist(), bucket_old.tolist(), strict=True)]
    assert max(off) <= 2 and np.mean(off) < 1, "as near as buckets allow"
