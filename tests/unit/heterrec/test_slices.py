"""What an item is like is asked as of a moment: in the loss, in what is ranked, and in what is learned from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from heterrec.data.encoder import FeatureEncoder
from heterrec.data.sequences import NOW, Sequences, Slice
from heterrec.inference.answers import Answers, judged
from heterrec.loss.lmp import LMP, _part
from heterrec.model.htfl import encode_catalogue, encode_slices
from heterrec.model.network import HeterRecNetwork
from heterrec.recipes import LossConfig, TrainConfig
from heterrec.training.inputs import fitted_encoder, training_slices
from heterrec.training.loop import Training, train
from tests.unit.heterrec.small import SMALL, lively

MODEL = replace(SMALL, width=8, max_history=8, dropout=0.0)
CONFIG = TrainConfig(
    model=MODEL, loss=LossConfig(token_candidates=10), epochs=2, batch_events=64, patience=2, learning_rate=0.01
)
KINDS = [{}, {"tokens": "sum", "token_layers": 0}]


def built(sequences: Sequences, **changes) -> tuple[HeterRecNetwork, FeatureEncoder]:
    encoder = fitted_encoder(sequences, replace(CONFIG, model=replace(MODEL, **changes)))
    torch.manual_seed(3)
    return lively(HeterRecNetwork(replace(MODEL, **changes), encoder)).double(), encoder


def with_slices(sequences: Sequences, first: int, value: float, label: str) -> Sequences:
    """The slices from `first` on say one price and stock of all items."""
    catalogue = sequences.catalogue
    told = {"price": [value] * len(catalogue), "stock": [label] * len(catalogue)}
    slices = [each if n < first else Slice(each.since, told) for n, each in enumerate(catalogue.slices)]
    return replace(sequences, catalogue=replace(catalogue, slices=tuple(slices)))


def test_a_target_is_asked_in_the_slice_that_began_last_before_it(changing: Sequences):
    catalogue = changing.catalogue
    since = np.array([each.since for each in catalogue.slices])
    assert len(since) == 7 and (np.diff(since) > 0).all()
    assert catalogue.slices_of(since).tolist() == [0, 0, 1, 2, 3, 4, 5], "at its very begin a slice is not asked yet"
    assert catalogue.slices_of(since + 1).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert catalogue.slices_of(since[0] - 1) == 0
    for split, number in (("validation", 4), ("test", 5)):
        assert set(changing.slices(changing.queries(split))) == {number}
    assert training_slices(changing) == 4
    assert changing.time.max() <= since[NOW], "nobody is asked in what serves"


@pytest.mark.parametrize("model", KINDS, ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_each_slice_of_the_item_side_is_the_whole_of_it_as_of_then(changing: Sequences, model: dict, training: bool):
    """Newborn twins and the tokens that are drawn to be null included: a token is null as of all slices or of none."""
    heterrec, encoder = built(changing, **model)
    heterrec.train(training)
    newborn = torch.tensor([3, 9])
    torch.manual_seed(1)
    parts = heterrec.items(encode_slices(encoder, changing.catalogue, 4), newborn).by_slice()
    assert len(parts) == 4 and not torch.allclose(parts[0][0], parts[3][0])
    for number, (items, bias) in enumerate(parts):
        torch.manual_seed(1)
        alone = heterrec.items(encode_catalogue(encoder, changing.catalogue, number), newborn)
        torch.testing.assert_close(items, alone.items_RD)
        torch.testing.assert_close(bias, alone.bias_R)


@pytest.mark.parametrize("candidates", [None, 12])
@pytest.mark.parametrize("model", KINDS, ids=str)
def test_a_position_meets_the_candidates_of_its_own_slice_alone(changing: Sequences, model: dict, candidates):
    """Against a plain loop over positions, each over the catalogue encoded as of its slice."""
    config = replace(CONFIG, model=replace(MODEL, **model), loss=LossConfig(candidates=candidates))
    training = Training(changing, config)
    heterrec = lively(training.model).double().eval()
    rows = len(changing.catalogue) + 1
    lmp = LMP(LossConfig(candidates=candidates), training.columns, torch.full((rows,), -(2**62)), torch.ones(rows))
    batch = max(training.batches.epoch(0), key=lambda each: each.lists)
    histories = batch.histories()
    steps = [step._replace(weight_N=step.weight_N.double()) for step in batch.targets(histories.layout)]
    torch.manual_seed(5)
    drawn, item_S, steps = lmp.draw(histories.item_S, steps)
    columns = training.columns if drawn.rows_R is None else training.columns.take(drawn.rows_R)
    items = heterrec.items(columns, drawn.newborn_S)
    place_S = items.at(item_S, histories.time_S)
    states = heterrec.states(items.tokens, items.channel_RD, histories._replace(item_S=item_S), place_S)
    since = np.array([each.since for each in changing.catalogue.slices])
    for k, step in enumerate(steps):
        if not len(step.state_N):
            continue
        ours, plain = lmp._item(heterrec, items, drawn, states.items_SD, k, step), []
        numbers = [max(0, int((since < time).sum()) - 1) for time in step.time_N.tolist()]
        assert len(set(numbers)) > 1
        for n, number in enumerate(numbers):
            whole = encode_catalogue(training.encoder, changing.catalogue, number)
            then = heterrec.items(whole if drawn.rows_R is None else whole.take(drawn.rows_R))
            query = heterrec.towards(states.items_SD[step.state_N[n : n + 1]], k)
            one = _part(step, torch.tensor([n]))
            plain.append(lmp._against(then.items_RD, then.bias_R, drawn, query, one))
        torch.testing.assert_close(ours, torch.stack(plain).sum())


def test_the_taste_of_a_history_is_of_its_items_as_they_were_at_the_events(changing: Sequences):
    heterrec, encoder = built(changing)
    heterrec.eval()
    items = heterrec.items(encode_slices(encoder, changing.catalogue, 4))
    row, time = torch.from_numpy(changing.row + 1), torch.from_numpy(changing.time)
    found = F.embedding(items.at(row, time), items.channel_RD)
    for number in range(4):
        then = heterrec.items(encode_catalogue(encoder, changing.catalogue, number)).channel_RD
        mine = torch.from_numpy(np.minimum(changing.catalogue.slices_of(changing.time), 3) == number)
        torch.testing.assert_close(found[mine], then[row[mine]])


def test_the_token_level_asks_for_the_price_and_the_stock_of_that_time(changing: Sequences):
    heterrec, encoder = built(changing)
    columns = encode_slices(encoder, changing.catalogue, 4)
    row, time = torch.from_numpy(changing.row + 1), torch.from_numpy(changing.time)
    number = np.minimum(changing.catalogue.slices_of(changing.time), 3)
    whole = [encode_catalogue(encoder, changing.catalogue, n) for n in range(4)]
    for f in range(len(heterrec.htfl.names)):
        label, missing = heterrec.htfl.about(columns, f, row, time)
        there = ~missing
        for n in range(4):
            mine = torch.from_numpy(number == n)
            assert torch.equal(missing[mine], whole[n].missing_RF[row[mine], f])
            mine &= there
            assert torch.equal(label[mine], whole[n].label_RF[row[mine], f])


def test_what_came_to_be_known_after_a_moment_changes_nothing_before_it(changing: Sequences):
    """Other prices and stock from the validation window on leave the weights, from the test window on also the chosen
    epoch and the gate, and as of now all that is judged; what serves follows the newest."""
    queries = changing.queries("test")
    first = train(changing, CONFIG)
    numbers = np.arange(len(queries))
    scores = judged(first.loaded, changing, queries)(numbers)

    after_training = train(with_slices(changing, 4, 1e6, "gone"), CONFIG)
    assert first.encoder.to_json() == after_training.encoder.to_json()
    assert [point["loss"] for point in first.curve] == [point["loss"] for point in after_training.curve]

    after_validation = train(with_slices(changing, 5, 1e6, "gone"), CONFIG)
    assert (after_validation.best_epoch, after_validation.validation_ndcg) == (first.best_epoch, first.validation_ndcg)
    assert after_validation.memory.beside == first.memory.beside
    for name, weight in first.model.state_dict().items():
        assert torch.equal(after_validation.model.state_dict()[name], weight), name

    later = with_slices(changing, len(changing.catalogue.slices) - 1, 1e6, "gone")
    np.testing.assert_array_equal(judged(first.loaded, later, queries)(numbers), scores)
    assert (judged(first.loaded, with_slices(changing, 5, 1e6, "gone"), queries)(numbers) != scores).any()
    now, then = (Answers.to_serve(first.loaded, data).items for data in (later, changing))
    assert not np.allclose(now, then)
    newest = Answers(first.loaded, later.catalogue, NOW).items
    # But for what the memory, which is renewed, says by how often an item was sold.
    sold = changing.training_counts > 0
    np.testing.assert_array_equal(now[sold, :-1], newest[sold, :-1])
    # And of what is trusted about an item never sold: a share, in its row of the matrix.
    memory = first.loaded.memory
    memory.beside = replace(memory.beside, trust_new=0.0)
    unsure = Answers(first.loaded, later.catalogue, NOW).items
    assert (unsure[~sold, :-1] == 0).all() and (~sold).any()
    np.testing.assert_array_equal(unsure[sold], newest[sold])


def test_vocabularies_and_scales_are_of_what_was_known_in_training(changing: Sequences):
    """A brand that came after the training split is unknown; a price counts once an item and slice that it changed."""
    encoder = fitted_encoder(changing, CONFIG)
    catalogue, end = changing.catalogue, changing.training_end
    late = np.flatnonzero(catalogue.available_at > end)
    assert len(late) > 1
    brands = list(catalogue.fixed["brand"])
    for row in late:
        brands[row] = "of tomorrow"
    tomorrow = replace(changing, catalogue=replace(catalogue, fixed={**catalogue.fixed, "brand": brands}))
    assert fitted_encoder(tomorrow, CONFIG).to_json() == encoder.to_json()
    known = catalogue.known_by(end)
    there = np.flatnonzero(catalogue.available_at <= end)
    prices = {row: {each.columns["price"][row] for each in catalogue.slices[:4]} for row in there}
    assert sorted(map(str, known["price"])) == sorted(str(price) for row in there for price in prices[row])
    assert len(known["brand"]) == len(there)


def test_without_anything_that_varies_there_is_one_slice_and_nothing_is_encoded_twice(tmp_path, changing: Sequences):
    from heterrec.data.sequences import read_sequences
    from tests.unit.heterrec.shop import write_shop

    plain = read_sequences(write_shop(tmp_path, features=False))
    assert len(plain.catalogue.slices) == 1 and training_slices(plain) == 1
    assert Training(plain, CONFIG).columns.slices is None
    alone = Training(changing, replace(CONFIG, model=replace(MODEL, features=False, token_layers=0)))
    assert alone.model.items(alone.columns).slices is None
