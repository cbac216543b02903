"""What only the golden loss curve held: each part of the model and the loss by what it means."""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from heterrec.data.encoder import EventType
from heterrec.data.sequences import NOW, Sequences
from heterrec.loss import fixed_lmp, lmp
from heterrec.loss.batches import TrainingBatches
from heterrec.loss.fixed_lmp import FixedLMP
from heterrec.loss.lmp import (
    DAY,
    LMP,
    NEVER,
    SampledCatalogue,
    Step,
    full_infonce,
)
from heterrec.loss.objective import Objective
from heterrec.loss.padded_batches import FixedStep
from heterrec.model.htfl import EncodedCatalogue, encode_catalogue
from heterrec.model.network import HeterRecNetwork, Items
from heterrec.recipes import LossConfig, TrainConfig
from heterrec.training.loop import Training
from heterrec.training.trained import StartingModel
from heterrec.training.warm_start import _suggested
from tests.unit.heterrec.small import SMALL, encoder_of, lively

CONFIG = TrainConfig(model=replace(SMALL, max_history=8), loss=LossConfig(token_candidates=10), batch_events=64)


@pytest.fixture
def columns(shop: Sequences, encoder) -> EncodedCatalogue:
    return encode_catalogue(encoder, shop.catalogue, NOW)


# The model


@pytest.mark.parametrize("features", [True, False])
def test_a_score_is_the_mean_of_the_channels_cosines_over_the_temperature(features: bool, encoder) -> None:
    """Two channels at one's temperature would be twice as sure of themselves as one."""
    config = replace(SMALL, features=features, token_layers=int(features), temperature=0.2)
    model = lively(HeterRecNetwork(config, encoder)).eval()
    query = model.towards(torch.randn(5, 2 * config.width), 0)
    lengths = query.view(5, model.channels, config.width).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full_like(lengths, 1 / (0.2 * model.channels)))
    torch.testing.assert_close(lengths.sum(1), torch.full((5,), 1 / 0.2)), "equal vectors score one over it"


def test_in_training_a_share_of_the_ids_is_null_and_in_evaluation_none(encoder, columns: EncodedCatalogue) -> None:
    model = lively(HeterRecNetwork(replace(SMALL, id_dropout=0.4, feature_dropout=0.0), encoder))
    null = model.htfl.ids.weight[0]

    def share() -> float:
        return (model.items(columns).tokens.id_RD[1:] == null).all(-1).double().mean().item()

    model.eval()
    without = share()
    model.train()
    shares = [share() for _ in range(40)]
    assert np.mean(shares) == pytest.approx(without + 0.4 * (1 - without), abs=0.05)
    assert len(set(shares)) > 1, "drawn anew at each step"


def test_a_newborn_stands_with_its_features_and_the_id_of_nobody(
    model: HeterRecNetwork, columns: EncodedCatalogue
) -> None:
    width, newborn = SMALL.width, torch.tensor([2, 5])
    items = model.items(columns, newborn)
    nobody = items.items_RD[0, :width]
    as_new, as_known = items.items_RD[-2:], items.items_RD[newborn]
    torch.testing.assert_close(as_new[:, :width], nobody.expand(2, -1))
    torch.testing.assert_close(as_new[:, width:], as_known[:, width:])
    assert not torch.allclose(as_known[:, :width], nobody.expand(2, -1))
    torch.testing.assert_close(items.bias_R[-2:], items.bias_R[:1].expand(2))


def test_the_taste_is_made_of_what_features_say_and_not_of_ids(
    model: HeterRecNetwork, columns: EncodedCatalogue
) -> None:
    before = model.items(columns)
    with torch.no_grad():
        model.htfl.ids.weight.add_(torch.randn_like(model.htfl.ids.weight))
    after = model.items(columns)
    torch.testing.assert_close(after.channel_RD, before.channel_RD)
    assert not torch.allclose(after.items_RD, before.items_RD)
    with torch.no_grad():
        model.htfl.values.weight.add_(torch.randn_like(model.htfl.values.weight))
    assert not torch.allclose(model.items(columns).channel_RD, before.channel_RD)


def test_what_the_token_level_finds_enters_the_states(
    model: HeterRecNetwork, columns: EncodedCatalogue, shop: Sequences, encoder
) -> None:
    batches = TrainingBatches(
        shop, encoder, steps=2, window=3, max_history=8, batch_events=64, epoch_events=None, seed=0
    )
    histories = batches.epoch(0)[0].histories()

    def states() -> Tensor:
        items = model.items(columns)
        return model.states(items.tokens, items.channel_RD, histories).items_SD.detach()

    before = states()
    with torch.no_grad():
        for parameter in model.token_blocks.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert not torch.allclose(states(), before)


# The loss


def loss_of(shop: Sequences, encoder, columns: EncodedCatalogue, model: HeterRecNetwork, config: LossConfig) -> float:
    torch.manual_seed(0)
    batches = TrainingBatches(
        shop, encoder, steps=2, window=3, max_history=8, batch_events=64, epoch_events=None, seed=0
    )
    since = torch.full((len(columns),), 0, dtype=torch.int64)
    since[0] = NEVER
    counts = torch.from_numpy(np.concatenate([[0], shop.training_counts]))
    objective = Objective(model, LMP(config, columns, since, counts), columns)
    return float(objective(batches.epoch(0)[0], seed=1).detach())


def test_lambda_weighs_the_token_level(
    shop: Sequences, encoder, columns: EncodedCatalogue, model: HeterRecNetwork
) -> None:
    without, once, twice = (
        loss_of(shop, encoder, columns, model, LossConfig(token_candidates=10, token_weight=weight))
        for weight in (0.0, 0.05, 0.1)
    )
    assert once - without > 1e-3
    assert twice - without == pytest.approx(2 * (once - without), rel=1e-3)


@pytest.mark.parametrize("way", ["packed", "fixed"])
def test_every_target_is_as_likely_in_a_share(way: str) -> None:
    torch.manual_seed(0)
    n, share, draws = 10, 0.3, 2000
    numbers, nothing = torch.arange(n), torch.zeros(0, dtype=torch.int64)
    count = torch.zeros(n)
    for _ in range(draws):
        if way == "packed":
            kept = lmp._subsample_targets(
                Step(numbers, numbers, torch.ones(n), numbers, nothing, nothing), share
            ).target_N
        else:
            step = FixedStep(numbers, torch.ones(n), numbers, torch.zeros((n, 1), dtype=torch.int64))
            kept = fixed_lmp._subsample_states(step, share)[0].target_S
        assert len(kept) == 3 and len(set(kept.tolist())) == 3
        count[kept] += 1
    assert (count / draws - share).abs().max() < 4 * math.sqrt(share * (1 - share) / draws)


def test_candidates_are_drawn_by_the_three_quarter_power_of_their_events(columns: EncodedCatalogue) -> None:
    torch.manual_seed(0)
    counts = torch.zeros(len(columns), dtype=torch.int64)
    counts[1:5] = torch.tensor([1, 16, 81, 256])
    config = LossConfig(candidates=1000, token_candidates=1)
    loss = LMP(config, columns, torch.zeros(len(columns), dtype=torch.int64), counts)
    drawn = torch.zeros(len(columns))
    for _ in range(60):
        found, _, _ = loss.draw(torch.tensor([1]), [])
        rows = found.rows_R[found.item_C]
        drawn += torch.bincount(rows, minlength=len(columns))
        expected = dict(zip(rows.tolist(), found.log_expected_C.exp().tolist(), strict=True))
    share = drawn / drawn.sum()
    wanted = torch.tensor([1.0, 8.0, 27.0, 64.0]) / 100  # counts to the power of .75
    assert (share[1:5] - wanted).abs().max() < 0.006, share[1:5]
    assert expected[4] == pytest.approx(640.0) and expected[1] == pytest.approx(10.0)


# Boundaries in time: row 2 is born at 10 and stands without its ID up to 20; twin 4 is it as a newborn.
SINCE, UNTIL = torch.tensor([NEVER, 0, 10, 0]), torch.tensor([NEVER, 0, 20, 0])
TWIN = torch.tensor([0, 0, 4, 0])
MOMENTS = [9, 10, 19, 20, 21]


class Plain:
    """A model whose states are its queries."""

    def towards(self, states: Tensor, step: int, asked: None = None) -> Tensor:
        return states


def by_hand(query: Tensor, items: Items, target: int, time: int) -> Tensor:
    """InfoNCE over what was to be had at `time`: from its first moment on, as a newborn until its days are over."""
    there = [1, 3]
    if time >= 10:
        there.append(4 if time < 20 else 2)
    positive = (4 if time < 20 else 2) if target == 2 else target
    candidates = [positive, *(row for row in there if row != positive)]
    logits = items.items_RD[candidates] @ query + items.bias_R[candidates]
    return -F.log_softmax(logits, 0)[0]


def bare(kind: type[LMP]) -> LMP:
    """A loss of which nothing is known but what is given at each call."""
    loss = object.__new__(kind)
    loss.asked = None
    return loss


def packed(query: Tensor, items: Items, step: Step) -> Tensor:
    drawn = SampledCatalogue(None, torch.tensor([2]), SINCE, UNTIL, TWIN, *(torch.zeros(0, dtype=torch.int64),) * 3)
    return LMP._item(bare(LMP), Plain(), items, drawn, query, 0, step)


def sampled(query: Tensor, items: Items, step: Step) -> Tensor:
    nothing = torch.zeros(3, dtype=torch.float64)
    drawn = SampledCatalogue(
        torch.arange(4), torch.tensor([2]), SINCE, UNTIL, TWIN, torch.tensor([1, 2, 3]), nothing, nothing[:0]
    )
    return LMP._item(bare(LMP), Plain(), items, drawn, query, 0, step)


def fixed(query: Tensor, items: Items, step: Step) -> Tensor:
    nothing = torch.zeros(0, dtype=torch.int64)
    drawn = SampledCatalogue(None, torch.tensor([2]), SINCE, UNTIL, TWIN, nothing, nothing, nothing)
    masked = torch.zeros((len(query), 1), dtype=torch.int64)
    fixed_step = FixedStep(step.target_N, step.weight_N, step.time_N, masked)
    return FixedLMP._fixed_item(bare(FixedLMP), Plain(), items, drawn, query, 0, fixed_step)


@pytest.mark.parametrize("way", [packed, sampled, fixed], ids=lambda way: way.__name__)
@pytest.mark.parametrize("time", MOMENTS)
@pytest.mark.parametrize("target", [1, 2])
def test_an_item_is_a_candidate_from_its_first_moment_and_newborn_until_its_days_end(
    way: Callable[[Tensor, Items, Step], Tensor], time: int, target: int
) -> None:
    torch.manual_seed(target)
    query, rows, bias = torch.randn(1, 6), torch.randn(5, 6), torch.randn(5)
    nothing = torch.zeros(0, dtype=torch.int64)
    step = Step(torch.zeros(1, dtype=torch.int64), torch.tensor([target]), torch.ones(1), torch.tensor([time]),
                nothing, nothing)  # fmt: skip
    items = Items(None, rows, bias, rows)  # type: ignore[arg-type]
    torch.testing.assert_close(way(query, items, step), by_hand(query[0], items, target, time))


def test_the_full_softmax_knows_both_boundaries() -> None:
    """As above without the newborns' own bookkeeping: a candidate of [since, until)."""
    query, rows, bias = torch.randn(1, 6), torch.randn(3, 6), torch.zeros(3)
    nothing = torch.zeros(0, dtype=torch.int64)
    for time, there in ((4, [1]), (5, [1, 2]), (8, [1, 2]), (9, [1])):
        step = Step(nothing, torch.tensor([1]), torch.ones(1), torch.tensor([time]), nothing, nothing)
        found = full_infonce(query, rows, bias, step, torch.tensor([NEVER, 0, 5]), torch.tensor([9]))
        logits = rows[there] @ query[0]
        torch.testing.assert_close(found, logits.logsumexp(0) - logits[0])


def test_newborn_days_are_days(columns: EncodedCatalogue) -> None:
    since = torch.zeros(len(columns), dtype=torch.int64)
    since[3] = 5 * DAY
    counts = torch.ones(len(columns), dtype=torch.int64)
    loss = LMP(LossConfig(newborn_days=7, newborn_share=0.999999), columns, since, counts, opening=0)
    drawn, _, _ = loss.draw(torch.tensor([1]), [])
    assert drawn.newborn_S.tolist() == [3] and drawn.until_R[3] == 12 * DAY and drawn.until_R[2] == 0


# Training


def test_long_histories_are_cut_at_other_places_in_every_epoch(shop: Sequences, encoder) -> None:
    batches = TrainingBatches(
        shop, encoder, steps=1, window=1, max_history=4, batch_events=64, epoch_events=None, seed=0
    )
    long = int(np.flatnonzero(batches.length > 4)[0])
    first, total = int(batches.first[long]), int(batches.length[long])
    cuts = set()
    for epoch in range(40):
        _, start, length, _ = batches.drawn(epoch)
        mine = sorted((int(s), int(n)) for s, n in zip(start, length, strict=True) if first <= s < first + total)
        assert sum(n for _, n in mine) == total and mine[0][0] == first
        cuts.add(mine[0][1])
    assert cuts == {1, 2, 3, 4}


def test_a_checkpoint_is_of_its_split_and_of_its_champion(shop: Sequences, encoder, model: HeterRecNetwork) -> None:
    """A run on another split, or begun from another champion, must not go on from it."""
    validation = int(np.flatnonzero(shop.split == 1)[0])
    split = shop.split.copy()
    split[validation] = 2
    of = {"as it is": Training(shop, CONFIG), "another split": Training(replace(shop, split=split), CONFIG)}
    assert of["as it is"].encoder.to_json() == of["another split"].encoder.to_json(), "nothing else tells them apart"
    for name in ("a champion", "another champion"):
        config = replace(CONFIG, model=replace(CONFIG.model, max_history=SMALL.max_history))
        champion = StartingModel(lively(HeterRecNetwork(config.model, encoder_of(shop))), encoder_of(shop))
        of[name] = Training(shop, config, champion=champion)
    of["no champion"] = Training(shop, of["a champion"].recipe)
    identities = [training._identity() for training in of.values()]
    assert len(set(identities)) == len(identities), list(of)
    assert Training(shop, CONFIG)._identity() == identities[0]


def test_a_checkpoint_is_of_all_its_data(changing: Sequences) -> None:
    """Whatever differs in what training was given, a run on it must not go on from here: the value that an item had in
    one slice changes no vocabulary, and so nothing else that the identity is made of."""
    catalogue = changing.catalogue
    begun = catalogue.slices[1]
    there = np.flatnonzero(catalogue.available_at <= changing.training_end)
    one, other = [item for item in there.tolist() if begun.columns["price"][item] is not None][:2]
    prices = list(begun.columns["price"])
    prices[one], prices[other] = prices[other], prices[one]
    changed: dict[str, Any] = {
        "item_ids": [*catalogue.item_ids[:-1], "another"],
        "available_at": catalogue.available_at + 1,
        "fixed": {**catalogue.fixed, "title": ["another", *catalogue.fixed["title"][1:]]},
        "slices": (
            catalogue.slices[0],
            begun._replace(columns={**begun.columns, "price": prices}),
            *catalogue.slices[2:],
        ),
        "features": catalogue.features[::-1],
        "title": "title",
        "event_types": (EventType(name="view"),),
        "asking": ({"name": "group", "kind": "categorical", "of": "user"},),
    }
    assert set(changed) == {field.name for field in fields(catalogue)}
    data = [replace(changing, catalogue=replace(catalogue, **{name: value})) for name, value in changed.items()]
    of_events: dict[str, Any] = {
        "user_ids": [*changing.user_ids[:-1], "another"],
        "offsets": np.insert(changing.offsets[1:-1], 0, [0, 1]),
        **{name: np.roll(getattr(changing, name), 1) for name in ("row", "time", "basket", "split")},
        "varying": {**changing.varying, "price": [9.5, *changing.varying["price"][1:]]},
        "repeats": not changing.repeats,
        "asked": {"group": ["a"] * len(changing.row)},
    }
    assert set(of_events) | {"catalogue"} == {field.name for field in fields(changing)}
    data += [replace(changing, **{name: value}) for name, value in of_events.items()]
    identities = {each.identity for each in (changing, *data)}
    assert len(identities) == 1 + len(data)
    as_it_is, swapped, again = (Training(each, CONFIG) for each in (changing, data[3], changing))
    assert as_it_is.encoder.to_json() == swapped.encoder.to_json(), "nothing else tells them apart"
    assert as_it_is._identity() == again._identity() != swapped._identity()


def test_the_id_of_nobody_says_nothing_of_what_a_new_items_id_is_like(
    model: HeterRecNetwork, columns: EncodedCatalogue
) -> None:
    fresh = torch.zeros(len(model.htfl.ids.weight), dtype=torch.bool)
    fresh[-3:] = True
    with torch.no_grad():
        before = _suggested(model, columns, fresh)
        model.htfl.ids.weight[0] += 100.0
        after = _suggested(model, columns, fresh)
    torch.testing.assert_close(after, before)
