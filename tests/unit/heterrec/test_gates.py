from dataclasses import replace

import numpy as np
import pytest
import torch

from heterrec.data.sequences import Queries, Sequences
from heterrec.evaluation.metrics import Scores, rank
from heterrec.memory import gates
from heterrec.memory.gates import fit, recalled, remember
from heterrec.memory.neighbours import (
    BUCKETS,
    CHANNELS,
    Gate,
    Memory,
    Recalled,
)
from tests.unit.heterrec.shop import write_shop


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Sequences:
    """Enough shoppers to learn how far to trust either."""
    from heterrec.data.sequences import read_sequences

    return read_sequences(write_shop(tmp_path_factory.mktemp("large"), users=400, items=40))


@pytest.fixture(scope="module")
def memory(large: Sequences) -> Memory:
    return remember(large)


def knowing(sequences: Sequences, split: str, *, right: bool, seed: int = 0) -> Scores:
    """A model that gives each validation shopper's own targets three more than chance, or one that knows nothing."""
    queries = sequences.queries(split)
    score = np.random.default_rng(seed).normal(size=(len(queries), len(sequences.catalogue)))
    if right:
        for number in range(len(queries)):
            score[number, sequences.targets(queries, number)] += 3
    return lambda numbers: score[numbers].astype(np.float32)


def ndcg(memory: Memory, gate: Gate, sequences: Sequences, queries: Queries, model: Scores | None = None) -> float:
    def scores(numbers: np.ndarray) -> np.ndarray:
        found = recalled(memory, sequences, queries.take(numbers))
        out = np.repeat(memory.bias(gate)[None], len(numbers), axis=0)
        if model is not None:
            out = out + gate.trust * model(numbers)
        out[found.history_J, found.item_J] += memory.bonus(gate, found)
        return out

    return rank(scores, sequences, queries).mean("ndcg", 10)


def test_who_knows_is_trusted_and_who_does_not_is_not(large: Sequences, memory: Memory):
    knows, guesses = (fit(memory, large, knowing(large, "validation", right=right)) for right in (True, False))
    assert knows.trust > 1 and guesses.trust < 0.2


def test_a_model_that_guesses_costs_the_tables_little(large: Sequences, memory: Memory):
    """Judged on the test window, which the gate has not seen."""
    queries = large.queries("test")
    gate = fit(memory, large, knowing(large, "validation", right=False))
    alone = ndcg(memory, memory.alone, large, queries)
    beside = ndcg(memory, gate, large, queries, knowing(large, "test", right=False, seed=1))
    fully = ndcg(memory, replace(gate, trust=1.0), large, queries, knowing(large, "test", right=False, seed=1))
    assert fully + 0.02 < beside
    assert beside > alone - 0.02


def test_tables_that_say_nothing_are_closed(large: Sequences):
    """Items stand in the places of others in the tables, so that what they say is chance; what a history's items are
    recalled by themselves is masked."""
    once = replace(large, repeats=False)
    memory = remember(once)
    place = np.random.default_rng(0).permutation(len(large.catalogue)).astype(np.int32)
    nonsense = Memory(
        tables=[replace(table, item_N=place[table.item_N]) for table in memory.tables],
        decay_C=memory.decay_C,
        count_V=memory.count_V,
        beside=memory.beside,
        alone=memory.alone,
    )

    def spread(tables: Memory) -> float:
        """How far what memory adds tells the recalled items of a history apart."""
        gate = fit(tables, once, None)
        found = recalled(tables, once, once.queries("validation"))
        bonus = tables.bonus(gate, found)
        return float(np.mean([bonus[found.history_J == number].std() for number in np.unique(found.history_J)]))

    assert spread(nonsense) < 0.5 * spread(memory)


def test_a_table_ranks_above_popularity(large: Sequences, memory: Memory):
    queries = large.queries("test")
    popular = large.training_counts.astype(np.float32)
    base = rank(lambda numbers: np.repeat(popular[None], len(numbers), axis=0), large, queries).mean("ndcg", 10)
    assert ndcg(memory, memory.alone, large, queries) > base + 0.02


def test_the_same_data_gives_the_same_memory(large: Sequences, memory: Memory):
    assert remember(large).about() == memory.about()


def test_without_a_validation_window_a_gate_stays_as_it_starts(large: Sequences):
    """And without a query at all nothing fails."""
    found = remember(replace(large, split=np.zeros_like(large.split)))
    assert found.alone.bias_K == [0.0] * BUCKETS and found.alone.trust == 0
    assert fit(found, replace(large, split=np.zeros_like(large.split)), None) == found.alone


def test_what_a_user_has_is_no_candidate_where_repeats_are_not_wanted(large: Sequences, memory: Memory):
    """A history's own items are masked in ranking, and so they are while the gate is fitted: else it would learn to
    push them down, and all that resembles them."""
    once = replace(large, repeats=False)
    own, masked = (np.array(fit(memory, data, None).weight_CK)[2].mean() for data in (large, once))
    assert masked == pytest.approx(3.0, rel=0.01), "nothing was learned of the channel `own`"
    assert abs(own - 3.0) > 0.1


@pytest.mark.parametrize(("right", "trust"), [(True, 50.0), (False, 1.0)])
def test_a_factor_is_taken_where_it_surely_ranks_better_and_else_not(
    right: bool, trust: float, large: Sequences, memory: Memory, monkeypatch: pytest.MonkeyPatch
):
    """Of a gate that was not fitted, beside a model that whispers: what it knows, or nothing."""
    monkeypatch.setattr(gates, "_RATE", 0.0)
    monkeypatch.setattr(gates, "TRUSTS", (1.0, 50.0))
    monkeypatch.setattr(gates, "GAINS", (1.0,))
    model = knowing(large, "validation", right=right)
    found = fit(memory, large, lambda numbers: model(numbers) / 50)
    assert found.trust == pytest.approx(trust)


def won_and_lost(won: int, lost: int, queries: int = 100) -> gates._Batch:
    """Queries about two items, the first of them wanted: memory brings up the wanted one beside a model that prefers
    the other a little (`won`: first where memory counts 1.5 times, else second), or the other way round (`lost`);
    of the rest no factor changes anything."""
    base = torch.tensor([[0.0, 1.2]] * won + [[1.2, 0.0]] * lost + [[9.0, 0.0]] * (queries - won - lost))
    number = np.arange(won + lost)
    value = np.zeros((won + lost, len(CHANNELS)), dtype=np.float32)
    value[:, 0] = np.expm1(1 / gates._GAIN)  # so that a gate as it starts adds 1
    wanted = torch.zeros(queries, dtype=torch.long)
    return gates._Batch(
        base_BV=base,
        banned_BV=torch.nn.functional.one_hot(wanted, 2).bool(),
        recalled=Recalled(history_J=number, item_J=(number >= won).astype(np.int64), value_JC=value),
        query_P=torch.arange(queries),
        target_P=wanted,
        weight_P=torch.ones(queries),
    )


@pytest.mark.parametrize(
    ("won", "lost", "factor"), [(11, 4, 1.0), (13, 4, 1.5), (4, 13, 1.0), (3, 0, 1.0), (6, 0, 1.5)]
)
def test_a_factor_has_to_be_better_by_two_standard_errors(
    won: int, lost: int, factor: float, monkeypatch: pytest.MonkeyPatch
):
    """Of a hundred queries 11 better and 4 worse are 1.8 standard errors, 13 and 4 are 2.2: the best of several
    factors is the luckiest, too. Held over several batches, as they are tried on."""
    monkeypatch.setattr(gates, "TRUSTS", (1.0,))
    monkeypatch.setattr(gates, "GAINS", (1.0, 1.5))
    better = np.array([1.0] * won + [-1.0] * lost + [0.0] * (100 - won - lost))
    errors = better.mean() / (better.std(ddof=1) / 10)
    assert (errors > 2) == (factor > 1)
    gate = gates._Gate(torch.zeros(2, dtype=torch.long), alone=False)
    found = gates._sharpened(gate, [won_and_lost(won, 0, 50), won_and_lost(0, lost, 50)])
    assert np.array(found.gain_K) == pytest.approx(factor * gates._GAIN) and found.trust == 1


def test_a_small_window_moves_a_gate_less_than_a_large_one(large: Sequences, memory: Memory):
    """The prior holds it where it starts: of five shoppers' choices no item is moved far."""
    few = replace(large, split=np.where(large.row >= 0, large.split, 0))
    last = large.offsets[5]
    split = few.split.copy()
    split[last:][split[last:] > 0] = 2  # nobody after the fifth is in the validation window
    small, whole = (fit(memory, data, None) for data in (replace(few, split=split), large))
    assert np.abs(small.bias_K).max() < 1.0
    assert np.linalg.norm(small.bias_K) < np.linalg.norm(whole.bias_K)


def unsold(sequences: Sequences, share: float) -> Sequences:
    """The same shop, had the `share` of its items that come last been sold in the held-out windows alone, and every
    other item before."""
    first = round((1 - share) * len(sequences.catalogue))
    history = (sequences.row >= first) & (sequences.split == 0)
    shop = replace(sequences, row=np.where(history, sequences.row % first, sequences.row))
    never = (shop.training_counts == 0) & (np.arange(len(shop.catalogue)) < first)
    return replace(shop, row=np.where(never[shop.row], 0, shop.row))


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_items_never_sold_are_raised_as_far_as_the_whole_ranking_bears(
    share: float, large: Sequences, monkeypatch: pytest.MonkeyPatch
):
    """Beside a model that knows what is asked for but holds all new items down; where none is asked for none is."""
    shop = unsold(large, share)
    never = shop.training_counts == 0
    knows = knowing(shop, "validation", right=True)

    def model(numbers: np.ndarray) -> np.ndarray:
        return knows(numbers) - 2 * never.astype(np.float32)

    monkeypatch.setattr(gates, "_RATE", 0.0)
    monkeypatch.setattr(gates, "_STEPS", 2)
    memory = remember(shop)
    boosted = fit(memory, shop, model)
    monkeypatch.setattr(gates, "BOOSTS", (0.0,))
    plain = fit(memory, shop, model)
    boost = boosted.bias_K[0] - plain.bias_K[0]
    assert replace(boosted, bias_K=plain.bias_K) == plain, "nothing else is changed"
    queries = shop.queries("validation")
    if not share:
        assert boost == 0 and boosted == plain
        return
    assert boost > 0
    base = ndcg(memory, plain, shop, queries, model)
    assert ndcg(memory, boosted, shop, queries, model) > base
    further = replace(plain, bias_K=[plain.bias_K[0] + boost + 3.0, *plain.bias_K[1:]])
    assert ndcg(memory, further, shop, queries, model) < base


@pytest.mark.parametrize("about_new", [False, True])
def test_who_knows_nothing_of_new_items_is_trusted_less_about_them(about_new: bool, large: Sequences):
    """A model that knows what is asked for of the items sold before; of the others it guesses, or knows as well."""
    shop = unsold(large, 0.25)
    never = shop.training_counts == 0
    knows, guesses = (knowing(shop, "validation", right=right, seed=7) for right in (True, False))

    def model(numbers: np.ndarray) -> np.ndarray:
        return np.where(never & (not about_new), 3 * guesses(numbers), knows(numbers))

    memory = remember(shop)
    gate = fit(memory, shop, model)
    assert (gate.trust_new < 0.5) is not about_new
    assert memory.share(gate)[never] == pytest.approx(gate.trust_new) and (memory.share(gate)[~never] == 1).all()
