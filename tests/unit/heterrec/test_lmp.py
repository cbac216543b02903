from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from heterrec.data.sequences import Sequences
from heterrec.loss.batches import TrainingBatch, TrainingBatches
from heterrec.loss.lmp import (
    DAY,
    LMP,
    Step,
    full_infonce,
    sampled_infonce,
    window_weights,
)
from heterrec.model.htfl import Bags, CatalogueTokens, EncodedCatalogue
from heterrec.model.network import Items
from heterrec.recipes import LossConfig


def step_of(target, weight, time, pairs=()) -> Step:
    rows = torch.tensor([row for row, _ in pairs], dtype=torch.int64)
    items = torch.tensor([item for _, item in pairs], dtype=torch.int64)
    return Step(torch.arange(len(target)), torch.tensor(target), torch.tensor(weight), torch.tensor(time), rows, items)


@pytest.mark.parametrize("window", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_weights_equal_a_loop_over_windows(window: int, count: int):
    losses = torch.randn(count, dtype=torch.float64)
    length = min(window, count)
    windows = [losses[start : start + length].mean() for start in range(count - length + 1)]
    weight = window_weights(torch.arange(count), torch.full((count,), count), window).double()
    torch.testing.assert_close((weight * losses).sum() / weight.sum(), torch.stack(windows).mean())
    torch.testing.assert_close(weight.sum(), torch.tensor(float(len(windows)), dtype=torch.float64))


def test_lists_of_one_batch_weigh_by_their_windows():
    """Two lists, of 1 and 5 states, L = 3: one window and three, all four alike."""
    first, second = torch.randn(1, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    windows = [first.mean(), *(second[start : start + 3].mean() for start in range(3))]
    position, count = torch.tensor([0, 0, 1, 2, 3, 4]), torch.tensor([1, 5, 5, 5, 5, 5])
    weight = window_weights(position, count, 3).double()
    losses = torch.cat([first, second])
    torch.testing.assert_close((weight * losses).sum() / weight.sum(), torch.stack(windows).mean())


def reference(query, item, bias, step: Step, since) -> torch.Tensor:
    total = torch.zeros((), dtype=torch.float64)
    masked = set(zip(step.mask_row.tolist(), step.mask_item.tolist(), strict=True))
    for n, target in enumerate(step.target_N.tolist()):
        candidates = [
            c for c in range(len(item)) if c == target or (since[c] <= step.time_N[n] and (n, c) not in masked)
        ]
        logits = torch.stack([query[n] @ item[c] + bias[c] for c in candidates])
        total = total - step.weight_N[n] * F.log_softmax(logits, 0)[candidates.index(target)]
    return total / step.weight_N.sum()


@pytest.mark.parametrize("since", [[2**63 - 1, 0, 0, 5, 9, 0], [2**63 - 1, 0, 0, 0, 2**63 - 1, 0]])
@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_full_infonce_equals_a_loop_and_so_do_its_gradients(chunk: int, since: list[int]):
    torch.manual_seed(0)
    query = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    item = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    since = torch.tensor(since)
    weight = torch.rand(7, dtype=torch.float64).tolist()
    pairs = [(0, 2), (0, 5), (3, 1), (6, 4)]
    step = step_of([1, 2, 3, 4, 5, 1, 4], weight, [0, 5, 5, 3, 9, 10, 7], pairs)
    step = step._replace(weight_N=step.weight_N.double())
    ours = full_infonce(query, item, bias, step, since, since[:0], chunk) / step.weight_N.sum()
    theirs = reference(query, item, bias, step, since)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(3 * ours, (query, item, bias)),
        torch.autograd.grad(3 * theirs, (query, item, bias)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_log_q_correction_makes_sampling_unbiased():
    torch.manual_seed(0)
    query, items = torch.randn(1, 4), torch.randn(50, 4)
    q = torch.rand(50)
    q = q / q.sum()
    drawn = torch.multinomial(q, 200_000, replacement=True)
    negative = query @ items[drawn].T - (q[drawn] * len(drawn)).log()
    loss = sampled_infonce(query @ items[0], negative, (drawn == 0)[None], torch.ones(1))
    full = F.cross_entropy(query @ items.T, torch.tensor([0]))
    torch.testing.assert_close(loss, full, atol=0.02, rtol=0)


def targets_of(batch: TrainingBatch) -> list[int]:
    return batch.targets(batch.histories().layout)[0].target_N.tolist()


def batches_of(sequences: Sequences, encoder, **settings) -> TrainingBatches:
    defaults = {"steps": 2, "window": 3, "max_history": 6, "batch_events": 40, "epoch_events": None, "seed": 0}
    return TrainingBatches(sequences, encoder, **{**defaults, **settings})


@pytest.mark.parametrize("kind", ["shop", "baskets"])
def test_targets_are_of_the_kth_next_basket_and_the_rest_is_masked(kind: str, request: pytest.FixtureRequest):
    from tests.unit.heterrec.small import encoder_of

    sequences: Sequences = request.getfixturevalue(kind)
    batches = batches_of(sequences, encoder_of(sequences))
    train = np.flatnonzero(sequences.split == 0)
    user = np.searchsorted(sequences.offsets, train, side="right") - 1
    basket, item = sequences.basket[train], sequences.row[train] + 1
    covered, targets_seen = 0, 0
    for batch in batches.epoch(0):
        layout = batch.histories().layout
        events = np.concatenate([start + np.arange(n) for start, n in zip(batch.start, batch.length, strict=True)])
        for k, step in enumerate(batch.targets(layout)):
            for n, state in enumerate(step.state_N.tolist()):
                event = events[state]
                same = user == user[event]
                later = np.unique(basket[same & (basket > basket[event])])
                ahead = [set(item[same & (basket == number)]) for number in later[:2]]
                target = int(step.target_N[n])
                assert target in ahead[k]
                masked = step.mask_item[step.mask_row == n].tolist()
                assert set(masked) == set().union(*ahead) - {target}
                targets_seen += 1
            covered += len(step.state_N) if k == 0 else 0
    last = [basket[user == u].max() if (user == u).any() else -1 for u in range(len(sequences.user_ids))]
    assert covered == sum(b < last[u] for u, b in zip(user, basket, strict=True))
    assert targets_seen > covered


@pytest.mark.parametrize("kind", ["shop", "baskets"])
def test_where_repeats_are_not_wanted_nothing_a_user_has_is_a_negative(kind: str, request: pytest.FixtureRequest):
    """The list's own history, duplicates included, beside the targets of all steps; never anybody else's."""
    from tests.unit.heterrec.small import encoder_of

    sequences = replace(request.getfixturevalue(kind), repeats=False)
    batches = batches_of(sequences, encoder_of(sequences))
    train = np.flatnonzero(sequences.split == 0)
    user = np.searchsorted(sequences.offsets, train, side="right") - 1
    basket, item = sequences.basket[train], sequences.row[train] + 1
    events = np.arange(len(train))
    checked = 0
    for batch in batches.epoch(0):
        layout = batch.histories().layout
        inside = np.concatenate([start + np.arange(n) for start, n in zip(batch.start, batch.length, strict=True)])
        first = np.repeat(batch.start, batch.length)
        for step in batch.targets(layout):
            for n, state in enumerate(step.state_N.tolist()):
                event = inside[state]
                same = user == user[event]
                ahead = np.unique(basket[same & (basket > basket[event])])[:2]
                held = same & (events >= first[state]) & (basket <= basket[event])
                expected = set(item[held | (same & np.isin(basket, ahead))]) - {int(step.target_N[n])}
                assert set(step.mask_item[step.mask_row == n].tolist()) == expected
                checked += 1
    assert checked > 50


def test_positives_of_a_basket_are_drawn_anew_each_epoch_but_from_the_seed(baskets: Sequences):
    from tests.unit.heterrec.small import encoder_of

    encoder = encoder_of(baskets)

    def targets(epoch: int) -> list[int]:
        found = batches_of(baskets, encoder).epoch(epoch)
        return sorted(item for batch in found for item in targets_of(batch))

    assert targets(0) == targets(0) != targets(1)


def test_an_epoch_has_no_more_events_than_allowed(shop: Sequences, encoder):
    sizes = [sum(int(b.length.sum()) for b in batches_of(shop, encoder, epoch_events=e).epoch(0)) for e in (50, None)]
    assert 50 <= sizes[0] < 50 + 6 < sizes[1]


def test_shuffled_targets_are_other_items(shop: Sequences, encoder):
    right, wrong = batches_of(shop, encoder), batches_of(shop, encoder, shuffle_targets=True)
    same = [
        np.mean([x == y for x, y in zip(targets_of(a), targets_of(b), strict=True)])
        for a, b in zip(right.epoch(0), wrong.epoch(0), strict=True)
    ]
    assert float(sum(same) / len(same)) < 0.3


def newborn_reference(query, items, step: Step, since, newborn, until) -> torch.Tensor:
    """A plain loop: who is new at the time of the choice stands there without its ID, everyone else with it."""
    total, rows = torch.zeros((), dtype=torch.float64), len(since)
    masked = set(zip(step.mask_row.tolist(), step.mask_item.tolist(), strict=True))
    for n, target in enumerate(step.target_N.tolist()):
        now, logits, right = int(step.time_N[n]), [], None
        for row in range(1, rows):
            if row != target and (since[row] > now or (n, row) in masked):
                continue
            new = row in newborn and now < until
            if row == target:
                right = len(logits)
            logits.append(query[n] @ items[rows + newborn.index(row) if new else row])
        total = total - step.weight_N[n] * F.log_softmax(torch.stack(logits), 0)[right]
    return total / step.weight_N.sum()


class Towards:
    """Stands for the model: states are queries already."""

    @staticmethod
    def towards(states, step, asked):
        return states


@pytest.mark.parametrize("candidates", [None, 200_000])
def test_items_that_came_later_stand_without_their_id_for_their_first_days(candidates):
    torch.manual_seed(0)
    since = torch.tensor([2**63 - 1, 0, 0, 0, 10 * DAY, 10 * DAY, 0])
    newborn = [4, 5]
    query = torch.randn(6, 4, dtype=torch.float64)
    items = torch.randn(len(since) + len(newborn), 4, dtype=torch.float64)
    step = step_of(
        [4, 4, 1, 2, 6, 5], [1.0] * 6, [11 * DAY, 18 * DAY, 12 * DAY, 20 * DAY, 5 * DAY, 12 * DAY], [(2, 5), (3, 4)]
    )
    config = LossConfig(candidates=candidates, newborn_days=7)
    nothing = torch.zeros(0, dtype=torch.int64)
    columns = EncodedCatalogue(
        bags=Bags(nothing, nothing, nothing, nothing),
        vectors={},
        id_R=torch.arange(7),
        label_RF=torch.arange(7)[:, None],
        missing_RF=torch.zeros(7, 1, dtype=torch.bool),
    )
    lmp = LMP(config, columns, since, torch.tensor([0, 1, 1, 1, 1, 1, 1]), opening=0)
    assert torch.nonzero(lmp.later_R)[:, 0].tolist() == newborn
    lmp.config = replace(config, newborn_share=0.999999)
    drawn, _, (renumbered,) = lmp.draw(torch.arange(7), [step])
    assert drawn.newborn_S.tolist() == newborn
    known = Items(CatalogueTokens(items, items), items, torch.zeros(len(items), dtype=torch.float64), items)
    ours = lmp._item(Towards(), known, drawn, query, 0, renumbered) / step.weight_N.sum()
    theirs = newborn_reference(query, items, step, since.tolist(), newborn, 17 * DAY)
    torch.testing.assert_close(ours, theirs, atol=0.02 if candidates else 1e-9, rtol=0, check_dtype=False)
