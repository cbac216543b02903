"""What lists are like, against each definition written out item by item."""

import math
from collections import Counter
from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
import pytest

from heterrec import beyond as module
from heterrec.beyond import SMOOTHED, ShownScores, beyond
from heterrec.contest import contest
from heterrec.data.sequences import Sequences
from heterrec.evaluation.baselines import most_popular
from heterrec.evaluation.metrics import rank
from heterrec.memory.neighbour_tables import _words
from heterrec.recipes import by_name


def noise(sequences: Sequences, queries, seed: int = 0):
    scores = np.random.default_rng(seed).normal(size=(len(queries), len(sequences.catalogue))).astype(np.float32)
    return lambda numbers: scores[numbers]


@pytest.mark.parametrize("repeats", [True, False])
def test_a_list_is_the_best_of_what_could_be_shown_then(shop: Sequences, repeats: bool) -> None:
    shop = replace(shop, repeats=repeats)
    queries = shop.queries("test")
    scores = noise(shop, queries)
    shown = ShownScores(scores, shop, queries, 7)
    watched, plain = rank(shown, shop, queries, chunk_scores=90), rank(scores, shop, queries)
    np.testing.assert_array_equal(watched.rank, plain.rank)  # who watches changes nothing
    for number, row in enumerate(scores(np.arange(len(queries)))):
        seen = set() if repeats else set(shop.row[queries.start[number] : queries.stop[number]].tolist())
        moment = shop.time[queries.stop[number]]
        could = [v for v in range(len(row)) if shop.catalogue.available_at[v] <= moment and v not in seen]
        best = sorted(could, key=lambda v: -row[v])[:7]
        assert [v for v in shown.row_QK[number].tolist() if v >= 0] == best


def test_every_figure_is_its_definition(shop: Sequences, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 7)
    queries = shop.queries("test")
    shown = ShownScores(noise(shop, queries), shop, queries, 5)
    rank(shown, shop, queries)
    shown.row_QK[3, 2:] = -1  # a shopper of whom there is less to show
    found, counts, catalogue = beyond(shown.row_QK, shop, queries), shop.training_counts, shop.catalogue
    assert found is not None
    lists = [[row for row in each if row >= 0] for each in shown.row_QK.tolist()]
    flat = [row for each in lists for row in each]
    could = [v for v in range(len(catalogue)) if catalogue.available_at[v] <= shop.time[queries.stop].max()]
    times = Counter(flat)
    assert found.coverage == pytest.approx(len(times) / len(could))
    spread = sum(abs(times[a] - times[b]) for a in could for b in could)
    assert found.gini == pytest.approx(spread / (2 * len(could) * len(flat)))
    total = counts.sum() + len(counts)
    assert found.novelty == pytest.approx(np.mean([-math.log2((counts[v] + 1) / total) for v in flat]))
    bought = np.concatenate([shop.row[a:b] for a, b in zip(queries.stop, queries.last, strict=True)])
    assert found.popularity == pytest.approx(counts[flat].mean() / counts[bought].mean())
    words = _words(catalogue)
    dense = np.zeros((len(catalogue), words.columns))
    for v in range(len(catalogue)):
        inside = slice(words.first_V[v], words.first_V[v + 1])
        np.add.at(dense[v], words.word_X[inside], words.weight_X[inside])
    apart = [np.mean([1 - dense[a] @ dense[b] for a, b in combinations(each, 2)]) for each in lists]
    assert found.diversity == pytest.approx(np.mean(apart), abs=1e-5)
    brand, far = catalogue.fixed["brand"], []
    for number, each in enumerate(lists):
        before = Counter(brand[v] for v in shop.row[queries.start[number] : queries.stop[number]] if brand[v])
        mine = Counter(brand[v] for v in each if brand[v])
        if before and mine:
            p = {value: n / sum(before.values()) for value, n in before.items()}
            q = {value: mine[value] / sum(mine.values()) for value in p}
            far.append(sum(p[v] * math.log(p[v] / ((1 - SMOOTHED) * q[v] + SMOOTHED * p[v])) for v in p))
    assert found.calibration == pytest.approx(np.mean(far))


def test_the_ends_of_the_scales(shop: Sequences) -> None:
    queries = shop.queries("test")
    same = np.tile(np.argsort(-shop.training_counts)[:3], (len(queries), 1))
    popular, varied = beyond(same, shop, queries), ShownScores(noise(shop, queries), shop, queries, 3)
    rank(varied, shop, queries)
    other = beyond(varied.row_QK, shop, queries)
    assert popular is not None and other is not None and popular.popularity is not None and other.popularity is not None
    assert popular.coverage < other.coverage and popular.gini > other.gini
    assert popular.novelty < other.novelty and popular.popularity > max(1, other.popularity)
    one = beyond(np.tile(same[:, :1], (1, 3)), shop, queries)  # thrice the same item is no variety at all
    assert one is not None and one.diversity == pytest.approx(0, abs=1e-5)
    assert beyond(np.full((len(queries), 3), -1), shop, queries) is None


def test_what_the_data_says_nothing_of_is_none(shop: Sequences) -> None:
    bare = replace(shop, catalogue=replace(shop.catalogue, fixed={}, features=[]))
    queries = bare.queries("test")
    found = beyond(np.zeros((len(queries), 1), dtype=np.int64), bare, queries)
    assert found is not None and found.diversity is None and found.calibration is None
    assert beyond(np.zeros((len(queries), 1), dtype=np.int64), shop, queries, category="brand") is not None


def test_a_contest_says_it_of_every_contender(shop: Sequences) -> None:
    found = contest(shop, {"tables": by_name("neighbours")}, {"popularity": most_popular})
    lists = {row["model"]: row for row in found.lists().to_pylist()}
    queries = shop.queries("test")
    shown = ShownScores(most_popular(shop, queries), shop, queries)
    rank(shown, shop, queries)
    expected = beyond(shown.row_QK, shop, queries)
    assert expected is not None and lists["popularity"] == {"model": "popularity", **asdict(expected)}
    assert lists["tables"]["coverage"] > lists["popularity"]["coverage"]
