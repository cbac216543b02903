from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from heterrec.data.encoder import FeatureEncoder
from heterrec.data.sequences import NOW, Sequences
from heterrec.loss.batches import TrainingBatches, encode_events
from heterrec.loss.lmp import LMP
from heterrec.model.htfl import EncodedCatalogue, encode_catalogue
from heterrec.model.network import (
    HeterRecNetwork,
    Items,
    PackedHistories,
    States,
)
from heterrec.model.transformer import Layout
from heterrec.recipes import LossConfig
from tests.unit.heterrec.small import SMALL, changed, lively

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
def histories(shop: Sequences, encoder: FeatureEncoder) -> PackedHistories:
    """Four users' first events, all of length 4 or more."""
    return encode_events(shop, encoder).histories(shop.offsets[:4], np.array([4, 6, 9, 5]).clip(max=4))


def built(encoder: FeatureEncoder, **shape) -> HeterRecNetwork:
    torch.manual_seed(5)
    return lively(HeterRecNetwork(replace(SMALL, **shape), encoder)).eval()


def states_of(model: HeterRecNetwork, known: Items, histories: PackedHistories) -> States:
    return model.states(known.tokens, known.channel_RD, histories)


def users_of(model: HeterRecNetwork, known: Items, histories: PackedHistories) -> torch.Tensor:
    return model.users(known.tokens, known.channel_RD, histories)


def items_of(model: HeterRecNetwork, encoder: FeatureEncoder, shop: Sequences) -> Items:
    return model.items(encode_catalogue(encoder, shop.catalogue, NOW))


@pytest.mark.parametrize("shape", SHAPES)
def test_changing_the_future_leaves_the_past_alone(shape, encoder, shop, histories: PackedHistories):
    """At both levels; what does change shows that the test can see."""
    model = built(encoder, **shape)
    known = items_of(model, encoder, shop)
    changed = PackedHistories(*(part.clone() for part in histories[:4]), histories.layout)
    future = histories.layout.position_S == 3
    changed.item_S[future] = (changed.item_S[future] % len(shop.catalogue)) + 1
    changed.time_S[future] += 10**12
    changed.missing_SN[future] ^= True
    before, after = (states_of(model, known, h) for h in (histories, changed))
    torch.testing.assert_close(before.items_SD[~future], after.items_SD[~future])
    assert not torch.allclose(before.items_SD[future], after.items_SD[future])
    if before.tokens_SFD is not None:
        torch.testing.assert_close(before.tokens_SFD[~future], after.tokens_SFD[~future])
        assert not torch.allclose(before.tokens_SFD[future], after.tokens_SFD[future])


def test_within_an_item_plain_causality_follows_the_flattened_order(encoder, shop, histories: PackedHistories):
    """Other than with `block`, an item's first token does not see its ID, which comes last."""
    for causality, same in (("plain", True), ("block", False)):
        model = built(encoder, token_causality=causality)
        known = items_of(model, encoder, shop)
        ids = known.tokens.id_RD
        other = known.tokens._replace(id_RD=ids + torch.randn_like(ids))
        both = (known, known._replace(tokens=other))
        start = histories.layout.position_S == 0
        first = [states_of(model, k, histories).tokens_SFD[start, 0] for k in both]
        assert torch.allclose(*first, atol=1e-5) == same


@pytest.mark.parametrize("shape", SHAPES)
def test_a_user_does_not_depend_on_who_shares_the_batch(shape, encoder, shop):
    """Packing, padding and other users change nothing: attention never crosses users."""
    model = built(encoder, **shape)
    known = items_of(model, encoder, shop)
    lengths = np.array([1, 3, 4, 2])
    events = encode_events(shop, encoder)
    together = events.histories(shop.offsets[:4], lengths)
    vectors = users_of(model, known, together)
    for user, length in enumerate(lengths):
        alone = events.histories(shop.offsets[user : user + 1], np.array([length]))
        assert alone.layout.whole and not together.layout.whole
        vector = users_of(model, known, alone)
        torch.testing.assert_close(vector[0], vectors[user], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [*SHAPES, {"block": "hstu"}, {"item_layers": 0}])
@pytest.mark.parametrize("padded", [False, True])
def test_a_user_is_the_last_state_though_no_other_is_computed(padded, shape, encoder, shop):
    model = built(encoder, **shape)
    known = items_of(model, encoder, shop)
    lengths = np.array([1, 3, 4, 2])
    histories = encode_events(shop, encoder).histories(shop.offsets[:4], np.full(4, 4) if padded else lengths)
    if padded:  # as a server does: what stands behind a history is other events
        histories = histories._replace(layout=Layout.rectangle(torch.from_numpy(lengths), 4))
    states = states_of(model, known, histories).items_SD[histories.layout.last()]
    query = model.towards(states, 0)
    torch.testing.assert_close(users_of(model, known, histories)[:, :-1], query, atol=1e-5, rtol=1e-4)
    before = states_of(model, known, histories).items_SD[histories.layout.last() - 1]
    assert not torch.allclose(before[1:], states[1:])


def test_varying_features_are_read_at_the_event(encoder, shop, histories: PackedHistories):
    model = built(encoder)
    known = items_of(model, encoder, shop)
    price = torch.tensor([1.0, 0.0])
    dearer = histories._replace(value_SN=histories.value_SN + price)
    first, second = (states_of(model, known, h).items_SD for h in (histories, dearer))
    assert not torch.allclose(first, second)


def test_all_features_missing_still_ranks(shop: Sequences):
    catalogue = changed(shop.catalogue, lambda values: [None] * len(values))
    encoder = FeatureEncoder.fit(
        catalogue.features, catalogue.columns(NOW), catalogue.item_ids, shop.training_counts, min_events=1
    )
    model = built(encoder)
    assert torch.isfinite(model.items(encode_catalogue(encoder, catalogue, NOW)).items_RD).all()


class PlainSASRec(nn.Module):
    """Kang and McAuley (2018) with cosine similarity and a bias, written apart from the library."""

    def __init__(self, ours: HeterRecNetwork) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, h: PackedHistories, rows: torch.Tensor) -> torch.Tensor:
        o, table = self.ours, self.ours.htfl.ids.weight
        time_BT, item_BT = (h.layout.pad(part[:, None])[..., 0] for part in (h.time_S, h.item_S))
        seconds = torch.diff(time_BT, prepend=time_BT[:, :1], dim=1) // 1_000_000
        gap = (seconds[..., None] >= o.temporal.get_buffer("boundaries")).sum(-1)
        item = table[rows[item_BT]]
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
        items = table[rows]
        return (x @ F.normalize(items, dim=-1).T + o.bias(items)[:, 0]) * o.sharpness


def test_one_token_one_step_and_no_token_level_is_sasrec_with_cross_entropy(shop: Sequences, encoder: FeatureEncoder):
    model = built(encoder, features=False, token_layers=0, steps=1, taste=False)
    assert model.features == 1 and not model.token_blocks and model.item_side is None
    batches = TrainingBatches(
        shop, encoder, steps=1, window=1, max_history=12, batch_events=10**6, epoch_events=None, seed=0
    )
    (batch,) = batches.epoch(0)
    columns = encode_catalogue(encoder, shop.catalogue, NOW)
    rows = len(shop.catalogue) + 1
    always = torch.full((rows,), -(2**62))
    lmp = LMP(LossConfig(window=1, token_weight=0.0), columns, always, torch.ones(rows))
    items, histories = model.items(columns), batch.histories()
    drawn, _, steps = lmp.draw(histories.item_S, batch.targets(histories.layout))
    ours = lmp(model, items, states_of(model, items, histories), drawn, steps)
    logits = histories.layout.pack(PlainSASRec(model)(histories, columns.id_R))[steps[0].state_N]
    torch.testing.assert_close(ours, F.cross_entropy(logits, steps[0].target_N), atol=1e-4, rtol=1e-5)
    parameters = [p for name, p in model.named_parameters() if "token_" not in name]
    theirs = torch.autograd.grad(F.cross_entropy(logits, steps[0].target_N), parameters, allow_unused=True)
    for a, b in zip(torch.autograd.grad(ours, parameters, allow_unused=True), theirs, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("candidates", [None, 8])
def test_the_whole_loss_reaches_every_parameter(candidates, baskets: Sequences):
    from tests.unit.heterrec.small import encoder_of

    encoder = encoder_of(baskets)
    model = built(encoder).train()
    batches = TrainingBatches(
        baskets, encoder, steps=2, window=3, max_history=12, batch_events=10**6, epoch_events=None, seed=0
    )
    columns, rows = encode_catalogue(encoder, baskets.catalogue, NOW), len(baskets.catalogue) + 1
    config = LossConfig(token_steps=2, candidates=candidates, token_candidates=10)
    lmp = LMP(config, columns, torch.full((rows,), -(2**62)), torch.ones(rows))
    (batch,) = batches.epoch(0)
    whole(model, columns, lmp, batch).backward()
    missed = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().any()}
    assert not missed


def whole(model: HeterRecNetwork, columns: EncodedCatalogue, lmp: LMP, batch) -> torch.Tensor:
    """The loss of a batch, put together as in training."""
    dtype = model.taste.scale.dtype
    histories = batch.histories()
    steps = [step._replace(weight_N=step.weight_N.to(dtype)) for step in batch.targets(histories.layout)]
    drawn, item_S, steps = lmp.draw(histories.item_S, steps)
    items = model.items(columns if drawn.rows_R is None else columns.take(drawn.rows_R), drawn.newborn_S)
    return lmp(model, items, states_of(model, items, histories._replace(item_S=item_S)), drawn, steps)


def tiny(encoder: FeatureEncoder, shop: Sequences, **loss):
    """A model in float64, one batch and the loss."""
    model = built(encoder, width=8).double()
    model.config = replace(model.config, dropout=0.0)
    rows = len(shop.catalogue) + 1
    columns = encode_catalogue(encoder, shop.catalogue, NOW)
    settings = {"later_share": 1.0, "token_share": 1.0, "window": 3, **loss}
    lmp = LMP(LossConfig(**settings), columns, torch.full((rows,), -(2**62)), torch.ones(rows))
    batches = TrainingBatches(
        shop, encoder, steps=2, window=3, max_history=12, batch_events=60, epoch_events=None, seed=0
    )
    return model, columns, lmp, batches.epoch(0)[0]


def test_lmp_equals_a_plain_loop_over_windows_steps_and_positions(encoder, shop):
    """Item level, in float64: window by window, each over its positions, nothing weighted cleverly."""
    model, columns, lmp, batch = tiny(encoder, shop, token_weight=0.0, step_decay=0.5)
    ours = whole(model, columns, lmp, batch)
    items, histories = model.items(columns), batch.histories()
    layout, states = histories.layout, states_of(model, items, histories)
    total = torch.zeros((), dtype=torch.float64)
    first_of = torch.cat([torch.zeros(1), layout.length_B.cumsum(0)]).long().tolist()
    for k, step in enumerate(batch.targets(layout)):
        at = {int(state): n for n, state in enumerate(step.state_N)}
        means = []
        for user, length in enumerate(layout.length_B.tolist()):
            mine = [event for event in range(first_of[user], first_of[user] + length) if event in at]
            size = min(3, len(mine))
            for first in range(len(mine) - size + 1 if mine else 0):
                losses = []
                for event in mine[first : first + size]:
                    n = at[event]
                    logits = model.towards(states.items_SD[event], k) @ items.items_RD.T + items.bias_R
                    logits = logits.index_fill(0, step.mask_item[step.mask_row == n], -torch.inf)
                    losses.append(F.cross_entropy(logits[None], step.target_N[n][None]))
                means.append(torch.stack(losses).mean())
        total = total + 0.5**k * torch.stack(means).mean()
    torch.testing.assert_close(ours, total / 1.5, rtol=1e-6, atol=1e-6)


def test_the_token_level_equals_a_plain_loop_over_features_and_positions(encoder, shop):
    """Categories and buckets among all their values, all else among the drawn items with another value (logQ)."""
    model, columns, lmp, batch = tiny(encoder, shop, token_weight=0.5, token_candidates=12)
    items, histories = model.items(columns), batch.histories()
    drawn, _, (step, _) = lmp.draw(histories.item_S, batch.targets(histories.layout))
    step = step._replace(weight_N=step.weight_N.double())
    states = states_of(model, items, histories).tokens_SFD
    ours = lmp.token_level(model, items, drawn, states, 0, step)
    traded = len(columns)
    means = []
    for f, name in enumerate(model.htfl.names):
        total, weights = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        tower = model.item_side.tower_FDD[f]
        tokens = items.tokens.id_RD if name == "item_id" else items.tokens.feature_RGD[:, f]
        few = name != "item_id" and model.htfl.fields[f].kind in ("categorical", "numeric")
        for n, target in enumerate(step.target_N.tolist()):
            if columns.missing_RF[target, f]:
                continue
            query = F.normalize(model.token_heads[f][0](states[step.state_N[n], f]), dim=-1)
            label = columns.label_RF[target, f]
            if few:
                logits = [query @ F.normalize(value @ tower, dim=-1) / 0.1 for value in model.htfl.classes(f)]
                right = int(label)
            else:
                others = [c for c in drawn.token_C.tolist() if columns.label_RF[c, f] != label]
                correction = torch.tensor(12 / traded, dtype=torch.float64).log()
                logits = [query @ F.normalize(tokens[target] @ tower, dim=-1) / 0.1]
                logits += [query @ F.normalize(tokens[c] @ tower, dim=-1) / 0.1 - correction for c in others]
                right = 0
            total = total - step.weight_N[n] * torch.stack(logits).log_softmax(0)[right]
            weights = weights + step.weight_N[n]
        means.append(total / weights)
    torch.testing.assert_close(ours, torch.stack(means).mean(), rtol=1e-9, atol=1e-9)


def test_the_more_candidates_are_drawn_the_nearer_is_the_loss_to_that_of_the_whole_catalogue(encoder, shop):
    losses = {}
    for candidates in (None, 30, 30_000):
        data = replace(shop, repeats=False)
        model, columns, lmp, batch = tiny(encoder, data, token_weight=0.0, candidates=candidates)
        torch.manual_seed(1)
        with torch.no_grad():
            losses[candidates] = torch.stack(
                [whole(model, columns, lmp, batch) for _ in range(20 if candidates == 30 else 1)]
            )
    far, near = ((losses[count] - losses[None]).abs().mean().item() for count in (30, 30_000))
    assert near < 0.02 < far


@pytest.mark.parametrize("candidates", [None, 8])
def test_gradients_are_those_of_the_loss(candidates, encoder, shop):
    """`gradcheck` of the whole loss, at both levels, through the parameters where its own backward begins."""
    model, columns, lmp, batch = tiny(encoder, shop, token_weight=0.5, token_candidates=8, candidates=candidates)
    names = ["taste.lag", "taste.scale", "item_side.scale", "item_side.tower_FDD", "fuse.gate_F", "htfl.values.weight"]
    parameters = dict(model.named_parameters())

    def loss(*values: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(0)
        given = dict(zip(names, values, strict=True))
        holder = Holder(model, lambda module: whole(module, columns, lmp, batch))
        return torch.func.functional_call(holder, {f"model.{name}": value for name, value in given.items()}, ())

    values = tuple(parameters[name].detach().clone().requires_grad_() for name in names)
    assert torch.autograd.gradcheck(loss, values, fast_mode=True, atol=1e-4, rtol=1e-3)


class Holder(torch.nn.Module):
    """A function of a model as a module, for `functional_call`."""

    def __init__(self, model: HeterRecNetwork, function) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self) -> torch.Tensor:
        return self.function(self.model)
