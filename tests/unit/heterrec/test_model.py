from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import SMALL, lively
from torch import nn
from torch.nn import functional as F

from heterrec.batches import Histories, TrainingBatches, encode_events
from heterrec.encoder import FeatureEncoder
from heterrec.htfl import encode_catalogue
from heterrec.lmp import LMP
from heterrec.model import HeterRec, Items
from heterrec.recipes import LossConfig
from heterrec.sequences import Sequences
from heterrec.transformer import Taste

SHAPES = [
    {},
    {"token_causality": "block"},
    {"tokens": "sum"},
    {"features": False, "token_layers": 0},
    {"features": False, "token_layers": 0, "taste": False},
    {"token_layers": 0},
    {"block": "hstu"},
    {"item_layers": 0},
    {"taste": False},
]


@pytest.fixture
def histories(shop: Sequences, encoder: FeatureEncoder) -> Histories:
    """Four users' first events, all of length 4 or more."""
    return encode_events(shop, encoder).histories(shop.offsets[:4], np.array([4, 6, 9, 5]).clip(max=4))


def built(encoder: FeatureEncoder, **shape) -> HeterRec:
    torch.manual_seed(5)
    return lively(HeterRec(replace(SMALL, **shape), encoder)).eval()


def items_of(model: HeterRec, encoder: FeatureEncoder, shop: Sequences) -> Items:
    return model.items(encode_catalogue(encoder, shop.catalogue))


@pytest.mark.parametrize("shape", SHAPES)
def test_changing_the_future_leaves_the_past_alone(shape, encoder, shop, histories: Histories):
    """At both levels; what does change shows that the test can see."""
    model = built(encoder, **shape)
    known = items_of(model, encoder, shop)
    changed = Histories(*(part.clone() for part in histories))
    changed.item_BT[:, 3] = (changed.item_BT[:, 3] % len(shop.catalogue)) + 1
    changed.time_BT[:, 3] += 10**12
    changed.missing_BTN[:, 3] ^= True
    before, after = (model.states(known.tokens_RFD, known.channel_RD, *h[:4]) for h in (histories, changed))
    torch.testing.assert_close(before.items_BTD[:, :3], after.items_BTD[:, :3])
    assert not torch.allclose(before.items_BTD[:, 3], after.items_BTD[:, 3])
    if before.tokens_BTFD is not None:
        torch.testing.assert_close(before.tokens_BTFD[:, :3], after.tokens_BTFD[:, :3])
        assert not torch.allclose(before.tokens_BTFD[:, 3], after.tokens_BTFD[:, 3])


def test_within_an_item_plain_causality_follows_the_flattened_order(encoder, shop, histories: Histories):
    """Other than with `block`, an item's first token does not see its ID, which comes last."""
    for causality, same in (("plain", True), ("block", False)):
        model = built(encoder, token_causality=causality)
        known = items_of(model, encoder, shop)
        other = known.tokens_RFD.clone()
        other[:, -1] += torch.randn_like(other[:, -1])
        both = (known, known._replace(tokens_RFD=other))
        first = [model.states(k.tokens_RFD, k.channel_RD, *histories[:4]).tokens_BTFD[:, 0, 0] for k in both]
        assert torch.allclose(*first, atol=1e-5) == same


@pytest.mark.parametrize("shape", SHAPES)
def test_a_user_does_not_depend_on_who_shares_the_batch(shape, encoder, shop):
    """Padding and other users change nothing: attention never crosses users."""
    model = built(encoder, **shape)
    known = items_of(model, encoder, shop)
    lengths = np.array([1, 3, 4, 2])
    events = encode_events(shop, encoder)
    together = events.histories(shop.offsets[:4], lengths)
    vectors = model.users(model.states(known.tokens_RFD, known.channel_RD, *together[:4]).items_BTD, together.length_B)
    for user, length in enumerate(lengths):
        alone = events.histories(shop.offsets[user : user + 1], np.array([length]))
        vector = model.users(model.states(known.tokens_RFD, known.channel_RD, *alone[:4]).items_BTD, alone.length_B)
        torch.testing.assert_close(vector[0], vectors[user], atol=1e-5, rtol=1e-4)


def test_varying_features_are_read_at_the_event(encoder, shop, histories: Histories):
    model = built(encoder)
    known = items_of(model, encoder, shop)
    price = torch.tensor([1.0, 0.0])
    dearer = histories._replace(value_BTN=histories.value_BTN + price)
    first, second = (model.states(known.tokens_RFD, known.channel_RD, *h[:4]).items_BTD for h in (histories, dearer))
    assert not torch.allclose(first, second)


def test_no_item_and_unknown_items_have_null_tokens(encoder, shop):
    model = built(encoder)
    columns = encode_catalogue(encoder, shop.catalogue)
    torch.testing.assert_close(model.htfl.rows(columns)[0], model.htfl.null_FD + model.htfl.kind_FD)


def test_all_features_missing_still_ranks(shop: Sequences):
    catalogue = replace(shop.catalogue, columns={name: [None] * len(shop.catalogue) for name in shop.catalogue.columns})
    encoder = FeatureEncoder.fit(
        catalogue.features, catalogue.columns, catalogue.item_ids, shop.training_counts, min_events=1
    )
    model = built(encoder)
    assert torch.isfinite(model.items(encode_catalogue(encoder, catalogue)).items_RD).all()


class PlainSASRec(nn.Module):
    """Kang and McAuley (2018) with cosine similarity and a bias, written apart from the library."""

    def __init__(self, ours: HeterRec) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, h: Histories, rows: torch.Tensor) -> torch.Tensor:
        o, table = self.ours, self.ours.htfl.tokens[0].values.weight
        seconds = torch.diff(h.time_BT, prepend=h.time_BT[:, :1], dim=1) // 1_000_000
        gap = (seconds[..., None] >= o.temporal.get_buffer("boundaries")).sum(-1)
        null, kind = o.htfl.null_FD[0], o.htfl.kind_FD[0]
        item = torch.where((rows[h.item_BT] == 0)[..., None], null, table[rows[h.item_BT]]) + kind
        x = o.item_norm(item + o.temporal.position.weight[: item.shape[1]] + o.temporal.gap.weight[gap])
        for block in o.item_blocks:
            q, k, v = block.qkv(x).chunk(3, -1)
            heads = []
            for a, b, c in zip(*(t.chunk(block.heads, -1) for t in (q, k, v)), strict=True):
                logits = a @ b.transpose(1, 2) / a.shape[-1] ** 0.5
                future = torch.ones(logits.shape[1:], dtype=torch.bool).triu(1)
                heads.append(logits.masked_fill(future, -torch.inf).softmax(-1) @ c)
            x = block.attention_norm(x + block.out(torch.cat(heads, -1)))
            x = block.feed_norm(x + block.down(F.gelu(block.up(x))))
        head = o.heads[0][0]
        x = F.normalize(x + head.down(F.gelu(head.up(x))), dim=-1)
        items = torch.where((rows == 0)[:, None], null, table[rows]) + kind
        return (x @ F.normalize(items, dim=-1).T + o.bias(items)[:, 0]) / o.config.temperature


def test_one_token_one_step_and_no_token_level_is_sasrec_with_cross_entropy(shop: Sequences, encoder: FeatureEncoder):
    model = built(encoder, features=False, token_layers=0, steps=1, taste=False)
    assert model.features == 1 and not model.token_blocks and model.item_side is None
    batches = TrainingBatches(
        shop, encoder, steps=1, window=1, max_history=12, batch_events=10**6, epoch_events=None, seed=0
    )
    (batch,) = batches.epoch(0)
    columns = encode_catalogue(encoder, shop.catalogue)
    rows = len(shop.catalogue) + 1
    always = torch.full((rows,), -(2**62))
    lmp = LMP(LossConfig(window=1, token_weight=0.0), columns, always, torch.ones(rows))
    items, histories, steps = model.items(columns), batch.histories(), batch.targets()
    ours = lmp(model, items, model.states(items.tokens_RFD, items.channel_RD, *histories[:4]), steps)
    logits = PlainSASRec(model)(histories, columns["item_id"][0][:, 0]).flatten(0, 1)[steps[0].state_N]
    torch.testing.assert_close(ours, F.cross_entropy(logits, steps[0].target_N), atol=1e-4, rtol=1e-5)
    parameters = [p for name, p in model.named_parameters() if "token_" not in name]
    theirs = torch.autograd.grad(F.cross_entropy(logits, steps[0].target_N), parameters, allow_unused=True)
    for a, b in zip(torch.autograd.grad(ours, parameters, allow_unused=True), theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("candidates", [None, 8])
def test_the_whole_loss_reaches_every_parameter(candidates, baskets: Sequences):
    from conftest import encoder_of

    encoder = encoder_of(baskets)
    model = built(encoder).train()
    batches = TrainingBatches(
        baskets, encoder, steps=2, window=3, max_history=12, batch_events=10**6, epoch_events=None, seed=0
    )
    columns, rows = encode_catalogue(encoder, baskets.catalogue), len(baskets.catalogue) + 1
    config = LossConfig(token_steps=2, candidates=candidates, token_candidates=10)
    lmp = LMP(config, columns, torch.full((rows,), -(2**62)), torch.ones(rows))
    (batch,) = batches.epoch(0)
    items = model.items(columns)
    states = model.states(items.tokens_RFD, items.channel_RD, *batch.histories()[:4])
    lmp(model, items, states, batch.targets()).backward()
    missed = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()}
    assert not missed


def tiny(encoder: FeatureEncoder, shop: Sequences, **loss):
    """A model in float64, one batch and the loss."""
    model = built(encoder, width=8).double()
    model.config = replace(model.config, dropout=0.0)
    rows = len(shop.catalogue) + 1
    columns = {
        name: (value.double() if value.is_floating_point() else value, missing)
        for name, (value, missing) in encode_catalogue(encoder, shop.catalogue).items()
    }
    settings = {"later_share": 1.0, "token_share": 1.0, "window": 3, **loss}
    lmp = LMP(LossConfig(**settings), columns, torch.full((rows,), -(2**62)), torch.ones(rows))
    batches = TrainingBatches(
        shop, encoder, steps=2, window=3, max_history=12, batch_events=60, epoch_events=None, seed=0
    )
    batch = batches.epoch(0)[0]
    histories = batch.histories()
    histories = histories._replace(value_BTN=histories.value_BTN.double())
    return model, columns, lmp, batch, histories


def test_lmp_equals_a_plain_loop_over_windows_steps_and_positions(encoder, shop):
    """Item level, in float64: window by window, each over its positions, nothing weighted cleverly."""
    model, columns, lmp, batch, histories = tiny(encoder, shop, token_weight=0.0, step_decay=0.5)
    items, steps = model.items(columns), batch.targets()
    states = model.states(items.tokens_RFD, items.channel_RD, *histories[:4])
    ours = lmp(model, items, states, [step._replace(weight_N=step.weight_N.double()) for step in steps])
    total, length = torch.zeros((), dtype=torch.float64), states.items_BTD.shape[1]
    for k, step in enumerate(steps):
        at = {int(state): n for n, state in enumerate(step.state_N)}
        means = []
        for user in range(len(batch.length)):
            mine = [p for p in range(length) if user * length + p in at]
            size = min(3, len(mine))
            for first in range(len(mine) - size + 1 if mine else 0):
                losses = []
                for p in mine[first : first + size]:
                    n = at[user * length + p]
                    logits = model.towards(states.items_BTD[user, p], k) @ items.items_RD.T
                    masked = step.mask_item[step.mask_row == n]
                    logits = logits.index_fill(0, masked, -torch.inf)
                    losses.append(F.cross_entropy(logits[None], step.target_N[n][None]))
                means.append(torch.stack(losses).mean())
        total = total + 0.5**k * torch.stack(means).mean()
    torch.testing.assert_close(ours, total / 1.5, rtol=1e-6, atol=1e-6)


def test_gradients_are_those_of_the_loss(encoder, shop):
    """`gradcheck` of the whole loss, at both levels, through the parameters where its own backward begins."""
    model, columns, lmp, batch, histories = tiny(encoder, shop, token_weight=0.5, token_candidates=8)
    steps = [step._replace(weight_N=step.weight_N.double()) for step in batch.targets()]
    names = ["taste.lag", "taste.scale", "item_side.scale", "fuse.gate_F", "htfl.null_FD", "item_norm.weight"]
    parameters = dict(model.named_parameters())

    def loss(*values: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        given = dict(zip(names, values, strict=True))

        def whole(module, *_):
            items = module.items(columns)
            states = module.states(items.tokens_RFD, items.channel_RD, *histories[:4])
            return lmp(module, items, states, steps)

        holder = Holder(model, whole)
        return torch.func.functional_call(holder, {f"model.{name}": value for name, value in given.items()}, ())

    values = tuple(parameters[name].detach().clone().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(loss, values, fast_mode=True, atol=1e-4, rtol=1e-3)


class Holder(torch.nn.Module):
    """A function of a model as a module, for `functional_call`."""

    def __init__(self, model: HeterRec, function) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self) -> torch.Tensor:
        return self.function(self.model)


def test_taste_is_the_mean_of_what_came_so_far_the_latest_heaviest():
    taste = Taste(4, 6).double()
    with torch.no_grad():
        taste.lag.add_(0.1 * torch.randn(6))
    channel = torch.randn(2, 5, 4, dtype=torch.float64)
    found = taste(channel)
    for t in range(5):
        weight = taste.lag[: t + 1].softmax(0)
        expected = sum(weight[t - j] * channel[:, j] for j in range(t + 1))
        torch.testing.assert_close(found[:, t], taste.scale * expected)
    fresh = Taste(4, 6)
    assert (fresh.lag.diff() < 0).all(), "the latest counts most"
