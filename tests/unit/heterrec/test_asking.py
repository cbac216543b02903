"""Who asks: known values of the user and the moment move the answer, unknown ones nothing, and no other event's do."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from heterrec.data.asking import EncodedAskers
from heterrec.data.encoder import MAX_ASKED, FeatureEncoder
from heterrec.data.sequences import (
    NOW,
    Sequences,
    _parts,
    read_sequences,
)
from heterrec.inference.answers import user_vectors
from heterrec.model.htfl import encode_catalogue
from heterrec.model.network import HeterRecNetwork
from heterrec.recipes import LossConfig, TrainConfig
from heterrec.training.loop import Training
from heterrec.training.warm_start import begin_from
from runtime.manifest import digest_json
from tests.unit.heterrec.shop import write_shop
from tests.unit.heterrec.small import SMALL, lively
from tests.unit.heterrec.test_fixed_step import CONFIG as NO_CHANCE
from tests.unit.heterrec.test_fixed_step import (
    assert_same,
    both,
    outcome,
    packed_batch,
)

ASKING = [
    {"name": "group", "kind": "categorical", "of": "user"},
    {"name": "age", "kind": "numeric", "of": "user"},
    {"name": "likes", "kind": "multi_categorical", "of": "user"},
]
CONFIG = TrainConfig(
    model=replace(SMALL, max_history=8), loss=LossConfig(token_candidates=10), epochs=1, batch_events=64
)
NOBODY = {"group": None, "age": None, "likes": None}


def asking(root: Path, seed: int = 0, **shop) -> Sequences:
    """A shop whose askers are drawn by chance, event by event."""
    write_shop(root, seed=seed, **shop)
    events = pq.read_table(root / "events.parquet")
    rng, count = np.random.default_rng(seed), len(events)
    columns = {
        "group": pa.array(rng.choice(["a", "b", None], count).tolist(), pa.string()),
        "age": pa.array([None if x < 0.2 else 60 * x for x in rng.random(count)], pa.float64()),
        "likes": pa.array([rng.choice(["x", "y", "z"], n).tolist() for n in rng.integers(0, 3, count)]),
    }
    for name, values in columns.items():
        events = events.append_column(name, values)
    pq.write_table(events, root / "events.parquet")
    about = json.loads((root / "features.json").read_text())
    (root / "features.json").write_text(json.dumps({**about, "asking": ASKING}))
    return read_sequences(root)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Sequences:
    return asking(tmp_path_factory.mktemp("asking"), basket=3)


def told(data: Sequences, event: int, **others: object) -> Sequences:
    """The same data, but for who asked for one event."""
    asked = {name: list(values) for name, values in data.asked.items()}
    for name, value in {**NOBODY, **others}.items():
        asked[name][event] = value
    return replace(data, asked=asked)


def test_the_encoding_is_one_row_a_category_two_a_number_and_a_mean_of_a_bag(data: Sequences):
    encoder = Training(data, CONFIG).encoder
    rows, weights = encoder.encode_asking(
        {"group": ["b", "?", None], "age": [30.0, None, 1e9], "likes": [["x", "z"]] * 3}, 3
    )
    assert rows.shape == weights.shape == (3, 1 + 2 + MAX_ASKED) and rows.max() < encoder.asking_rows
    assert rows[:, 0].tolist() == [3, 1, 0] and weights[:, 0].tolist() == [1, 1, 1]
    assert weights[1, 1:3].tolist() == [1, 0] and rows[1, 1] == rows[:, 1].min(), "a missing number has no slope"
    np.testing.assert_allclose(weights[:, 3:].sum(1), 1)
    assert sorted(weights[0, 3:].tolist())[-2:] == [0.5, 0.5]
    again = FeatureEncoder.from_json(encoder.to_json())
    for found, expected in zip(
        again.encode_asking(data.asked, len(data.row)), encoder.encode_asking(data.asked, len(data.row)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    nothing, _ = encoder.encode_asking({}, 2)
    np.testing.assert_array_equal(nothing, encoder.encode_asking({name: [None] * 2 for name in NOBODY}, 2)[0])


def test_who_asks_for_the_target_counts_and_who_asked_for_any_other_event_does_not(data: Sequences):
    training = Training(data, CONFIG)
    model, encoder, queries = training.model.eval(), training.encoder, data.queries("test").take(slice(0, 1))
    event = int(queries.stop[0])

    def answer(other: Sequences) -> np.ndarray:
        return user_vectors(model, encoder, other, queries, NOW)

    np.testing.assert_array_equal(answer(data), answer(told(data, event)), err_msg="it begins as if nothing were known")
    lively(model)
    first = answer(told(data, event, group="a"))
    for name, value in (("group", "b"), ("age", 50.0), ("likes", ["y"])):
        assert not np.allclose(first, answer(told(data, event, **{"group": "a", name: value})), atol=1e-4), name
    for other in (event - 1, event + 1):
        changed = told(told(data, event, group="a"), other, group="b", age=3.0)
        np.testing.assert_array_equal(first, answer(changed))


def test_training_asks_with_the_asker_of_each_target(data: Sequences):
    training = Training(data, CONFIG)
    for batch in training.batches.epoch(0):
        for step in batch.targets(batch.histories().layout):
            who = training.batches.asked_A.take(step.asked_N)
            moment = training.batches.time_A[step.asked_N]
            assert torch.equal(moment, step.time_N) and torch.equal(
                training.batches.item_A[step.asked_N], step.target_N
            )
            for row, time, item in zip(who.row_NJ.tolist(), step.time_N.tolist(), step.target_N.tolist(), strict=True):
                events = np.flatnonzero((data.time == time) & (data.row == item - 1) & (data.split == 0))
                columns = {name: [values[event] for event in events] for name, values in data.asked.items()}
                assert row in training.encoder.encode_asking(columns, len(events))[0].tolist()


def test_item_id_only_knows_of_no_asker(data: Sequences):
    training = Training(data, replace(CONFIG, model=replace(CONFIG.model, features=False)))
    assert training.model.asker is None and training.batches.asked_A is None and training.encoder.asking == ()


def test_the_fixed_step_asks_as_the_packed_one_does(data: Sequences):
    packed, fixed = both(data, NO_CHANCE)
    rectangle = next(iter(fixed._batches(0)))
    ours, theirs = outcome(packed, packed_batch(packed, rectangle), 0), outcome(fixed, rectangle, 0)
    assert_same(ours, theirs, rtol=1e-4, atol=1e-5)
    assert packed.model.asker is not None and ours[1]["asker.table"].abs().sum() > 0


def test_a_champion_of_other_askers_is_begun_from_by_name(data: Sequences):
    first = Training(data, CONFIG)
    before = lively(first.model).eval()
    fewer = [field for field in reversed(first.encoder.asking) if field.name != "likes"]
    grown = [replace(field, vocabulary=("0", *field.vocabulary)) if field.vocabulary else field for field in fewer]
    encoder = FeatureEncoder(first.encoder.fields, first.encoder.ids, (), grown)
    after = HeterRecNetwork(first.model.config, encoder)
    begin_from(after, encoder, encode_catalogue(encoder, data.catalogue, NOW), before, first.encoder)
    values = {"group": ["a", None, "b"], "age": [4.0, None, 55.0]}
    expected, found = (
        model.asker(EncodedAskers.of(each.encode_asking({**values, "likes": [None] * 3}, 3)))
        for model, each in ((before, first.encoder), (after, encoder))
    )
    missing = before.asker(EncodedAskers.of(first.encoder.encode_asking({}, 1)))[0]
    assert not torch.allclose(expected[0], missing)
    without = EncodedAskers.of(first.encoder.encode_asking({}, 1))
    likes = before.asker(EncodedAskers(without.row_NJ[:, 3:], without.weight_NJ[:, 3:]))
    for ours, theirs, nobody in zip(found, expected, likes, strict=True):
        torch.testing.assert_close(ours, theirs - nobody)


def test_data_without_askers_is_the_data_that_it_was(data: Sequences, tmp_path: Path):
    write_shop(tmp_path, seed=0)
    plain = read_sequences(tmp_path)
    assert plain.catalogue.described == plain.catalogue.features
    named = [part.split()[0] for part in _parts(plain) if part.startswith(b"\n")]
    assert {b"catalogue", b"repeats"} < set(named) and not {b"asking", b"asked"} & set(named)
    assert digest_json(data.catalogue.described) != digest_json(replace(data.catalogue, asking=()).described)
    assert data.identity != told(data, 0, group="a", age=1.0).identity
