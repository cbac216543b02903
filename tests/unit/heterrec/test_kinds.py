"""Events of several kinds: what is predicted is asked for and masked; the model and the tables tell them apart."""

import json
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks.model.typed_events_pay import predicted_alone
from heterrec.data.encoder import FeatureEncoder
from heterrec.data.sequences import (
    NOW,
    Queries,
    Sequences,
    read_sequences,
)
from heterrec.evaluation.metrics import rank
from heterrec.inference.answers import Answers, user_vectors
from heterrec.loss.batches import TrainingBatches, encode_events, histories_of
from heterrec.memory.gates import recalled
from heterrec.memory.neighbour_tables import soonest_after
from heterrec.memory.neighbours import Memory, ages
from heterrec.model.htfl import encode_catalogue
from heterrec.model.network import HeterRecNetwork
from heterrec.recipes import LossConfig, TrainConfig, neighbours
from heterrec.training.export import export_program, load_model, save_model
from heterrec.training.loop import Training, train
from heterrec.training.warm_start import begin_from
from runtime.manifest import digest_json
from tests.unit.heterrec.shop import write_shop
from tests.unit.heterrec.small import SMALL, lively
from tests.unit.heterrec.test_fixed_step import (
    assert_same,
    both,
    outcome,
    packed_batch,
)

TYPES = [
    {"name": "buy", "predict": True, "weight": 2.0, "negative": False},
    {"name": "view", "predict": False, "weight": 0.5, "negative": False},
    {"name": "order", "predict": True, "weight": 0.5, "negative": False},
    {"name": "wave", "predict": False, "weight": 1.0, "negative": True},
]
CONFIG = TrainConfig(
    model=replace(SMALL, max_history=8), loss=LossConfig(token_candidates=10), epochs=1, batch_events=64
)


def typed(root: Path, types=TYPES, *, repeats: bool, seed: int = 0, **shop) -> Sequences:
    """A shop whose events are of kinds by chance; with baskets, of several kinds in one."""
    write_shop(root, seed=seed, **shop)
    events = pq.read_table(root / "events.parquet")
    kinds = np.random.default_rng(seed).choice([each["name"] for each in types], len(events))
    pq.write_table(events.append_column("event_type", pa.array(kinds)), root / "events.parquet")
    about = json.loads((root / "features.json").read_text())
    (root / "features.json").write_text(json.dumps({**about, "repeats": repeats, "event_types": types}))
    return read_sequences(root)


@pytest.fixture(scope="module", params=[(1, True), (1, False), (3, True), (3, False)], ids=str)
def data(request, tmp_path_factory) -> Sequences:
    basket, repeats = request.param
    return typed(tmp_path_factory.mktemp("typed"), repeats=repeats, basket=basket)


def names(data: Sequences) -> list[str]:
    return data.varying["event_type"]


def test_queries_targets_and_what_is_masked_by_the_plain_meaning(data: Sequences):
    """Against a reading event by event, of every shopper and split."""
    predicted = {"buy", "order"}
    for split in ("validation", "test"):
        queries = data.queries(split)
        found = {int(user): number for number, user in enumerate(queries.user)}
        for user in range(len(data.user_ids)):
            own = range(int(data.offsets[user]), int(data.offsets[user + 1]))
            bought = [e for e in own if names(data)[e] in predicted]
            first = next((e for e in bought if ("train", "validation", "test")[data.split[e]] == split), None)
            before = [] if first is None else [e for e in own if data.basket[e] < data.basket[first]]
            has = {int(data.row[e]) for e in before if e in bought}
            wanted = {int(data.row[e]) for e in bought if first is not None and data.basket[e] == data.basket[first]}
            wanted = wanted if data.repeats else wanted - has
            assert (user in found) == bool(before and wanted)
            if user in found:
                number = found[user]
                assert set(data.targets(queries, number).tolist()) == wanted
                assert set(data.seen(queries, number).tolist()) == has
                assert (queries.start[number], queries.stop[number]) == (own[0], own[0] + len(before))


def test_every_state_is_asked_for_the_next_baskets_that_have_anything_predicted(data: Sequences):
    """Targets and masks of each state and step, against a reading event by event."""
    encoder = FeatureEncoder.fit(
        data.catalogue.features, data.catalogue.columns(NOW), data.catalogue.item_ids, data.known_counts,
        min_events=1, event_types=data.catalogue.event_types,
    )  # fmt: skip
    source = TrainingBatches(
        data, encoder, steps=3, window=1, max_history=200, batch_events=10**6, epoch_events=None, seed=0
    )
    kept = np.flatnonzero(data.split == 0)
    user = np.searchsorted(data.offsets, kept, side="right") - 1
    asked = [number for number, event in enumerate(kept) if names(data)[event] in ("buy", "order")]
    compared = 0
    for batch in source.epoch(0):
        histories = batch.histories()
        event_S = np.concatenate([np.arange(a, a + n) for a, n in zip(batch.start, batch.length, strict=True)])
        for k, step in enumerate(batch.targets(histories.layout)):
            for n, state in enumerate(step.state_N.tolist()):
                here = event_S[state]
                mine = [e for e in asked if user[e] == user[here] and data.basket[kept[e]] > data.basket[kept[here]]]
                ahead = sorted({int(data.basket[kept[e]]) for e in mine})
                of_step = [e for e in mine if data.basket[kept[e]] == ahead[k]]
                target = int(step.target_N[n]) - 1
                drawn = [e for e in of_step if data.row[kept[e]] == target]
                assert drawn
                had = [e for e in asked if user[e] == user[here] and data.basket[kept[e]] <= data.basket[kept[here]]]
                spared = [e for e in mine if data.basket[kept[e]] in ahead[:3]] + ([] if data.repeats else had)
                masked = (step.mask_item[step.mask_row == n] - 1).tolist()
                assert set(masked) == {int(data.row[kept[e]]) for e in spared} - {target}
                compared += 1
    assert compared > 300


def test_steps_of_fixed_shapes_are_those_of_packed_ones(data: Sequences):
    quiet = replace(SMALL, max_history=8, dropout=0.0, id_dropout=0.0, feature_dropout=0.0)
    loss = LossConfig(token_candidates=10, token_weight=0.3, later_share=1.0, token_share=1.0, token_steps=2)
    config = TrainConfig(model=quiet, loss=loss, epochs=1, batch_events=48)
    packed, fixed = both(data, config)
    batch = fixed._batches(0)[0]
    results = outcome(packed, packed_batch(packed, batch), 7), outcome(fixed, batch, 7)
    assert_same(*results, rtol=2e-4, atol=2e-5)


def test_a_target_weighs_as_its_kind(tmp_path: Path):
    """The loss of a shop in which one kind weighs nearly nothing is that of the other kind's targets."""
    light = [{**TYPES[0], "weight": 1.0}, TYPES[1], {**TYPES[2], "weight": 1e-9}, TYPES[3]]
    data = typed(tmp_path, light, repeats=True)
    training = Training(data, CONFIG)
    batch = training.batches.epoch(0)[0]
    for step in batch.targets(batch.histories().layout):
        event = {int(time): n for n, time in enumerate(data.time)}
        kinds = [names(data)[event[int(time)]] for time in step.time_N]
        assert all(
            (weight > 1e-6) == (kind == "buy") for weight, kind in zip(step.weight_N.tolist(), kinds, strict=True)
        )
        assert {"buy", "order"} == set(kinds)


def asked_with(data: Sequences, model: HeterRecNetwork, encoder: FeatureEncoder, kinds: list[str]) -> np.ndarray:
    other = replace(data, varying={**data.varying, "event_type": kinds})
    length = np.diff(data.offsets)
    queries = Queries(
        user=np.arange(len(length)), start=data.offsets[:-1], stop=data.offsets[1:], last=data.offsets[1:]
    )
    return user_vectors(model, encoder, other, queries, NOW)


@pytest.mark.parametrize("features", [True, False], ids=["HeterRec", "item ID only"])
def test_the_model_sees_of_which_kind_an_event_was(data: Sequences, features: bool):
    training = Training(data, replace(CONFIG, model=replace(CONFIG.model, features=features)))
    model, encoder = training.model.eval(), training.encoder
    same = ["buy"] * len(data.row)
    fresh = [asked_with(data, model, encoder, kinds) for kinds in (same, ["view"] * len(data.row))]
    np.testing.assert_array_equal(*fresh, err_msg="a model begins as if there were no kinds")
    lively(model)
    spoken, told = model.kinds.speaks.detach().clone(), model.kinds.token.weight.detach().clone()
    for speaks, token in ((spoken, 0 * told), (torch.ones_like(spoken), told)):  # either says it by itself
        model.kinds.speaks.data, model.kinds.token.weight.data = speaks, token
        first, other = (asked_with(data, model, encoder, kinds) for kinds in (same, names(data)))
        assert not np.allclose(first, other, atol=1e-3)


def test_the_program_and_the_saved_model_tell_kinds_apart_as_the_model_does(tmp_path: Path):
    data = typed(tmp_path / "shop", repeats=False, basket=3)
    trained = train(data, CONFIG)
    lively(trained.model)
    save_model(trained, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.encoder.event_types == data.catalogue.event_types
    answers = Answers(loaded, data.catalogue, NOW)
    queries = data.queries("test").take(slice(0, 6))
    program = export_program(answers).module()
    expected, events = answers.users(data, queries), encode_events(data, loaded.encoder)
    for n in range(len(queries)):
        ((_, one),) = histories_of(events, queries.take(np.array([n])), 8, 10**6)
        found = program(*(part[None] for part in one[:4]), one.layout.length_B)
        np.testing.assert_allclose(found.detach().numpy(), expected[n : n + 1], atol=2e-5)
    scores = answers.scores(data, data.queries("test"))
    assert rank(scores, data, data.queries("test")).rank.min() >= 1


def test_a_champion_of_other_kinds_is_begun_from_by_name(data: Sequences):
    torch.manual_seed(0)
    first = Training(data, CONFIG)
    before = lively(first.model).eval()
    fewer = tuple(each for each in reversed(data.catalogue.event_types) if each.name != "order")
    encoder = FeatureEncoder(first.encoder.fields, first.encoder.ids, fewer)
    after = HeterRecNetwork(first.model.config, encoder)
    begin_from(after, encoder, encode_catalogue(encoder, data.catalogue, NOW), before, first.encoder)
    other = replace(data.catalogue, event_types=fewer)
    assert len({digest_json(each.described) for each in (data.catalogue, other, replace(other, event_types=()))}) == 3
    known = {name: row for row, name in enumerate(before.kinds.names, start=1)}
    for row, name in enumerate(after.kinds.names, start=1):
        torch.testing.assert_close(after.kinds.token.weight[row], before.kinds.token.weight[known[name]])
        assert after.kinds.speaks[row] == before.kinds.speaks[known[name]]
    none = FeatureEncoder(first.encoder.fields, first.encoder.ids)
    plain = lively(HeterRecNetwork(first.model.config, none)).eval()
    begin_from(after, encoder, encode_catalogue(encoder, data.catalogue, NOW), plain, none)


def test_tables_are_of_what_is_predicted_and_reminded_by_the_rest(data: Sequences, tmp_path: Path):
    memory, alone = train(data, neighbours()).memory, predicted_alone(data)
    assert memory.count_V.sum() == (alone.split == 0).sum()
    for part, expected in zip(astuple(memory.tables[0]), astuple(soonest_after(alone)), strict=True):
        np.testing.assert_array_equal(part, expected)
    assert memory.kinds.names == ["buy", "view", "order", "wave"]
    for weight_T in memory.kinds.weight_CT:
        unknown, buy, view, order, wave = weight_T
        assert (unknown, buy, order, wave) == (1.0, 1.0, 1.0, 0.0) and 0 <= view <= 0.5
    memory.save(tmp_path / "memory.npz")
    read = Memory.load(tmp_path / "memory.npz")
    queries = data.queries("test")
    first, second = recalled(memory, data, queries), recalled(read, data, queries)
    np.testing.assert_array_equal(first.item_J, second.item_J)
    np.testing.assert_array_equal(first.value_JC, second.value_JC)


def test_what_speaks_against_an_item_reminds_of_nothing_and_ages_nothing(data: Sequences):
    memory = train(data, neighbours()).memory
    wave, buy = 4, 1
    rows, kinds = np.array([3, 5]), np.array([buy, wave])
    times = np.array([10, 20])
    with_it = memory.recall(rows, ages(times, kinds), np.zeros(2, np.int64), 1, kinds)
    without = memory.recall(rows[:1], ages(times[:1], kinds[:1]), np.zeros(1, np.int64), 1, kinds[:1])
    np.testing.assert_array_equal(with_it.item_J, without.item_J)
    np.testing.assert_array_equal(with_it.value_JC, without.value_JC)
