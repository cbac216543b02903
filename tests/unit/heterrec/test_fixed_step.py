"""Steps of fixed shapes, eager and compiled, against the packed ones of the same lists."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from heterrec.data.sequences import Sequences
from heterrec.kernels.embedding_bag import prepared, summed_back
from heterrec.loss.batches import TrainingBatch
from heterrec.loss.padded_batches import Rectangle, Rectangles, padded_lengths
from heterrec.recipes import LossConfig, TrainConfig
from heterrec.training.fixed_step import HOW, FixedObjective
from heterrec.training.loop import Training, train
from tests.unit.heterrec.small import SMALL, lively

# Chance is off, but for the choice of newborn items and candidates, which both draw alike.
MODEL = replace(SMALL, max_history=8, dropout=0.0, id_dropout=0.0, feature_dropout=0.0)
LOSS = LossConfig(token_candidates=10, token_weight=0.3, later_share=1.0, token_share=1.0, token_steps=2)
CONFIG = TrainConfig(model=MODEL, loss=LOSS, epochs=2, batch_events=48, patience=2)


def both(sequences: Sequences, config: TrainConfig) -> tuple[Training, Training]:
    """A packed and a fixed training with the same lively weights."""
    packed, fixed = (Training(sequences, config, graphs=graphs) for graphs in (None, "none"))
    torch.manual_seed(4)
    lively(packed.model)
    fixed.model.load_state_dict(packed.model.state_dict())
    return packed, fixed


def packed_batch(packed: Training, batch: Rectangle) -> TrainingBatch:
    """The same lists as the packed path has them."""
    (first, *_) = packed.batches.epoch(0)
    kept = batch.length_B > 0
    return TrainingBatch(packed.batches, batch.start_B[kept].numpy(), batch.length_B[kept].numpy(), first.draws_EK)


def outcome(training: Training, batch, seed: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    training.model.zero_grad()
    loss = training.objective(batch, seed)
    loss.backward()
    grads = {name: p.grad.to_dense() for name, p in training.model.named_parameters() if p.grad is not None}
    return loss.detach(), grads


def assert_same(first, second, **tolerance) -> None:
    torch.testing.assert_close(second[0], first[0], **tolerance)
    for name, grad in first[1].items():
        torch.testing.assert_close(second[1][name], grad, **tolerance)


@pytest.mark.parametrize(
    ("kind", "repeats", "model"),
    [
        ("shop", True, {}),
        ("shop", False, {}),
        ("baskets", True, {"token_causality": "block"}),
        ("baskets", False, {"block": "hstu"}),
        ("shop", False, {"features": False, "token_layers": 0}),
        ("changing", True, {}),
        ("changing", False, {"tokens": "sum", "token_layers": 0}),
    ],
)
def test_a_fixed_step_has_the_loss_and_gradients_of_the_packed_one(kind, repeats, model, request):
    sequences = replace(request.getfixturevalue(kind), repeats=repeats)
    loss = replace(LOSS, token_weight=0.0 if model.get("features") is False else 0.3)
    packed, fixed = both(sequences, replace(CONFIG, model=replace(MODEL, **model), loss=loss))
    batches = fixed._batches(0)
    shapes = {(len(batch.start_B), batch.longest) for batch in batches}
    assert len(shapes) > 1 and any(batch.lists < len(batch.start_B) for batch in batches)
    for number, batch in enumerate(batches):
        assert_same(
            outcome(packed, packed_batch(packed, batch), number), outcome(fixed, batch, number), rtol=1e-4, atol=1e-5
        )


def test_rectangles_hold_each_list_of_an_epoch_once(shop: Sequences):
    packed, fixed = both(shop, CONFIG)
    for epoch in (0, 1):
        ours, theirs = ([], [])
        for batch in fixed._batches(epoch):
            assert (batch.length_B <= batch.longest).all() and batch.lists == (batch.length_B > 0).sum()
            ours += [pair for pair in zip(batch.start_B.tolist(), batch.length_B.tolist(), strict=True) if pair[1]]
        for batch in packed._batches(epoch):
            theirs += zip(batch.start.tolist(), batch.length.tolist(), strict=True)
        assert sorted(ours) == sorted(theirs)


def test_lists_are_padded_to_the_lengths_that_cost_least():
    rng = np.random.default_rng(0)
    for shapes, _ in itertools.product((1, 2, 3), range(5)):
        length = rng.geometric(0.3, 40).clip(max=9).astype(np.int64)
        costs = {}
        for chosen in itertools.combinations(range(1, 9), shapes - 1):
            bounds = np.array([*chosen, 9])
            costs[chosen] = int((bounds[np.searchsorted(bounds, length)] - length).sum())
        found = np.array(padded_lengths(length, 9, shapes))
        assert len(found) <= shapes and found[-1] == 9
        assert int((found[np.searchsorted(found, length)] - length).sum()) == min(costs.values())


def test_the_look_up_of_a_gradient_is_a_plain_sum():
    """Rows that nothing reads, one that almost all tokens read, and a weight of nothing."""
    torch.manual_seed(0)
    count = torch.randint(1, 4, (400,))
    value = torch.where(torch.rand(int(count.sum())) < 0.6, 3, torch.randint(1, 9, (int(count.sum()),)))
    weight, grad = torch.randn(len(value), dtype=torch.float64), torch.randn(400, 5, dtype=torch.float64)
    weight[::7] = 0
    token = torch.repeat_interleave(count)
    plain = torch.zeros(11, 5, dtype=torch.float64).index_add(0, value, weight[:, None] * grad[token])
    torch.testing.assert_close(summed_back(grad, weight, prepared(value, count, 11)), plain)


def test_a_step_as_a_gpu_runs_it_is_one_graph_for_each_shape(shop: Sequences, monkeypatch: pytest.MonkeyPatch):
    """With dropout and all other chance, and products in bfloat16. `fullgraph` is the proof that nothing in a step
    waits for the device or depends on a value.

    The graphs are run as they are traced: kernels made of them would need a compiler, and minutes.
    """
    monkeypatch.setitem(HOW, "compiled", {"backend": "aot_eager"})
    torch._dynamo.reset()
    model = replace(MODEL, dropout=0.3, id_dropout=0.2, feature_dropout=0.2)
    _, fixed = both(shop, replace(CONFIG, model=model, loss=replace(LOSS, later_share=0.5, token_share=0.5)))
    loss, rectangles = fixed.objective.loss, Rectangles(fixed.batches, shapes=2)
    eager, compiled = (
        FixedObjective(fixed.model, loss, fixed.columns, rectangles, graphs=graphs, low=True)
        for graphs in ("none", "compiled")
    )
    fixed.model.train()
    torch._dynamo.utils.counters.clear()
    for epoch in (0, 1):
        for number, batch in enumerate(rectangles.epoch(epoch)):
            with monkeypatch.context() as graph:
                graph.setattr(torch.compiler, "is_compiling", lambda: True)  # dropout as the graph draws it
                fixed.objective = eager
                expected = outcome(fixed, batch, number)
            fixed.objective = compiled
            found = outcome(fixed, batch, number)
            torch.testing.assert_close(found[0], expected[0], rtol=1e-3, atol=1e-5)
            for name, grad in expected[1].items():  # the roundings of bfloat16 come in another order
                torch.testing.assert_close(found[1][name], grad, rtol=0.02, atol=0.02 * float(grad.abs().max()))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == len(rectangles.lengths)
    assert not torch._dynamo.utils.counters["graph_break"]


def test_bfloat16_changes_the_loss_by_its_rounding_only(shop: Sequences):
    _, fixed = both(shop, CONFIG)
    exact = fixed.objective
    low = FixedObjective(fixed.model, exact.loss, fixed.columns, exact.rectangles, graphs="none", low=True)
    for number, batch in enumerate(fixed._batches(0)):
        expected, found = exact(batch, number), low(batch, number)
        assert found.dtype == torch.float32 and expected != found
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_training_by_fixed_steps_learns_as_packed_training_does(shop: Sequences):
    config = replace(CONFIG, epochs=4, patience=4)
    fixed, packed = (train(shop, config, graphs=graphs) for graphs in ("none", None))
    losses = [[point["loss"] for point in trained.curve] for trained in (fixed, packed)]
    np.testing.assert_allclose(*losses, rtol=0.1)
    again = train(shop, config, graphs="none")
    assert [point["loss"] for point in again.curve] == losses[0]


def test_what_fixed_steps_cannot_do_is_said(shop: Sequences):
    with pytest.raises(ValueError, match="candidates=5: steps of a fixed shape take the whole catalogue"):
        train(shop, replace(CONFIG, loss=replace(LOSS, candidates=5)), graphs="none")
    with pytest.raises(ValueError, match="graphs='fast' is unknown"):
        train(shop, CONFIG, graphs="fast")
