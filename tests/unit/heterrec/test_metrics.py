import math
from pathlib import Path

import numpy as np
import pytest

from heterrec.data.sequences import Sequences, read_sequences
from heterrec.evaluation.baselines import popularity
from heterrec.evaluation.comparison import compare, paired_bootstrap, slices
from heterrec.evaluation.metrics import Ranking, rank
from tests.unit.heterrec.shop import write


def brute_force(sequences: Sequences, split: str, scores: np.ndarray, k: int) -> dict[str, float]:
    """One user after another, in plain Python."""
    found: dict[str, list[float]] = {"hr": [], "ndcg": [], "mrr": []}
    number = 0
    for user in range(len(sequences.user_ids)):
        events = range(sequences.offsets[user], sequences.offsets[user + 1])
        mine = [e for e in events if sequences.split[e] == ["train", "validation", "test"].index(split)]
        if not mine:
            continue
        basket = sequences.basket[mine[0]]
        history = {int(sequences.row[e]) for e in events if sequences.basket[e] < basket}
        targets = {int(sequences.row[e]) for e in events if sequences.basket[e] == basket}
        if not sequences.repeats:
            targets -= history
        if not history or not targets:
            continue
        values: dict[str, list[float]] = {"hr": [], "ndcg": [], "mrr": []}
        for target in targets:
            place = 1
            for item in range(len(sequences.catalogue)):
                allowed = sequences.catalogue.available_at[item] <= min(
                    sequences.time[e] for e in events if sequences.basket[e] == basket
                )
                if item in targets or not allowed or (not sequences.repeats and item in history):
                    continue
                place += scores[number, item] >= scores[number, target]
            values["hr"].append(float(place <= k))
            values["ndcg"].append(1 / math.log2(place + 1) if place <= k else 0.0)
            values["mrr"].append(1 / place if place <= k else 0.0)
        for name, each in values.items():
            found[name].append(sum(each) / len(each))
        number += 1
    return {name: sum(each) / len(each) for name, each in found.items()}


@pytest.mark.parametrize("repeats", [True, False])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_ranking_equals_brute_force(baskets: Sequences, split: str, repeats: bool):
    from dataclasses import replace

    sequences = replace(baskets, repeats=repeats)
    queries = sequences.queries(split)
    scores = np.random.default_rng(0).integers(0, 8, (len(queries), len(sequences.catalogue))).astype(np.float32)
    ranking = rank(lambda index: scores[index], sequences, queries, chunk_scores=3 * len(sequences.catalogue))
    expected = brute_force(sequences, split, scores, 5)
    for name, value in expected.items():
        assert ranking.mean(name, 5) == pytest.approx(value)
    assert ranking.summary((5,))["ndcg@5"] == pytest.approx(expected["ndcg"])


def test_a_model_that_scores_all_alike_is_last(shop: Sequences):
    queries = shop.queries("test")
    ranking = rank(lambda index: np.zeros((len(index), len(shop.catalogue)), dtype=np.float32), shop, queries)
    available = shop.catalogue.available_at <= shop.time[queries.stop[ranking.query]][:, None]
    np.testing.assert_array_equal(ranking.rank, available.sum(1))


def test_scores_that_are_no_numbers_are_refused(shop: Sequences):
    nothing = np.full((1, len(shop.catalogue)), np.nan, dtype=np.float32)
    with pytest.raises(ValueError, match="not a number"):
        rank(lambda index: nothing.repeat(len(index), 0), shop, shop.queries("test"))


def test_popularity_ranks_by_training_events(shop: Sequences):
    scores = popularity(shop)(np.arange(2))
    np.testing.assert_array_equal(scores[0], np.bincount(shop.row[shop.split == 0], minlength=len(shop.catalogue)))


def test_items_never_trained_on_are_the_new_slice(shop: Sequences):
    queries = shop.queries("test")
    ranking = rank(popularity(shop), shop, queries)
    parts = slices(shop, queries, ranking)
    assert (parts["short_history"] ^ parts["long_history"]).all()
    kinds = np.stack([parts["popular_items"], parts["rare_items"], parts["new_items"]])
    assert (kinds.sum(0) == 1).all()
    np.testing.assert_array_equal(parts["new_items"], shop.training_counts[ranking.target] == 0)


def test_no_queries_give_no_numbers(tmp_path: Path):
    event = {"user": 0, "item": 0, "day": 0, "basket": 0, "split": "train"}
    sequences = read_sequences(write(tmp_path, columns={}, arrives=np.zeros(1), events=[event]))
    ranking = rank(popularity(sequences), sequences, sequences.queries("test"))
    assert len(sequences.queries("test")) == 0 and math.isnan(ranking.mean("ndcg", 10))
    assert not compare(ranking, ranking).better


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(200):
        difference = rng.normal(0.1, 1, 80)
        found = paired_bootstrap(difference, np.zeros(80), resamples=300, seed=trial)
        held += found.low <= 0.1 <= found.high
    assert 0.88 <= held / 200 <= 0.99


def test_seeds_that_disagree_widen_the_interval():
    rng = np.random.default_rng(0)
    users = rng.normal(0, 0.1, 500)
    agree, disagree = np.stack([users + 0.05] * 3), np.stack([users + by for by in (-0.2, 0.05, 0.3)])
    one, other = (paired_bootstrap(each, np.zeros((3, 500))) for each in (agree, disagree))
    assert one.mean == pytest.approx(other.mean)
    assert one.better and not other.better


def test_queries_outside_of_a_slice_do_not_count():
    found = paired_bootstrap([1.0, np.nan, 3.0], [0.0, 0.0, 0.0])
    assert found.mean == 2 and found.queries == 2


def test_rankings_of_different_queries_are_not_compared():
    one = Ranking(queries=1, query=np.array([0]), target=np.array([1]), rank=np.array([1]))
    other = Ranking(queries=1, query=np.array([0]), target=np.array([2]), rank=np.array([1]))
    with pytest.raises(ValueError, match="different queries"):
        compare(one, other)
