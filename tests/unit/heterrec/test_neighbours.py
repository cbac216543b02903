import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from heterrec.data.sequences import Sequences
from heterrec.memory import neighbour_tables, neighbours
from heterrec.memory.gates import over, recalled, remember
from heterrec.memory.neighbour_tables import (
    BACK,
    SHRINKAGE,
    STEP,
    alike,
    in_baskets,
    moved,
    soonest_after,
)
from heterrec.memory.neighbours import (
    Memory,
    NeighbourTable,
    ages,
    buckets,
)
from tests.unit.heterrec.small import changed


@pytest.fixture(scope="module")
def memory(shop: Sequences) -> Memory:
    return remember(shop)


def as_dicts(table: NeighbourTable) -> list[dict[int, float]]:
    bounds = zip(table.first_V[:-1], table.first_V[1:], strict=True)
    return [dict(zip(table.item_N[a:b].tolist(), table.weight_N[a:b].tolist(), strict=True)) for a, b in bounds]


def test_in_one_basket_is_what_a_walk_over_all_baskets_counts(baskets: Sequences) -> None:
    counts, expected = baskets.training_counts, dict[tuple[int, int], float]()
    user = np.searchsorted(baskets.offsets, np.arange(len(baskets.row)), side="right")
    lies = defaultdict(list)
    for event in np.flatnonzero(baskets.split == 0):
        lies[user[event], baskets.basket[event]].append(int(baskets.row[event]))
    for basket in lies.values():
        for a in basket:
            for b in basket:
                if a != b:
                    weight = 1 / ((counts[a] + SHRINKAGE) * (counts[b] + SHRINKAGE)) ** 0.5
                    expected[a, b] = expected.get((a, b), 0) + weight
    following = walked(baskets)
    for beside, scaled_by in ((None, expected), (soonest_after(baskets), following)):
        mean = sum(scaled_by.values()) / len(scaled_by)
        found = as_dicts(in_baskets(baskets, beside))
        assert {(a, b) for a, row in enumerate(found) for b in row} == set(expected)
        for (a, b), weight in expected.items():
            assert found[a][b] == pytest.approx(weight / mean, rel=4e-3)


def walked(sequences: Sequences) -> dict[tuple[int, int], float]:
    """The weight of every pair by going through every two training events of a shopper."""
    pairs: dict[tuple[int, int], float] = defaultdict(float)
    counts = sequences.training_counts
    for start, stop in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True):
        events = [event for event in range(start, stop) if sequences.split[event] == 0]
        opened = {basket: n for n, basket in enumerate(sorted({int(sequences.basket[event]) for event in events}))}
        for one in events:
            for other in events:
                lag = opened[int(sequences.basket[other])] - opened[int(sequences.basket[one])]
                a, b = int(sequences.row[one]), int(sequences.row[other])
                if lag and a != b and abs(lag) <= neighbour_tables._FURTHEST:
                    weight = STEP ** (abs(lag) - 1) * (1 if lag > 0 else BACK)
                    pairs[a, b] += weight / ((counts[a] + SHRINKAGE) * (counts[b] + SHRINKAGE)) ** 0.5
    return pairs


@pytest.mark.parametrize("sums", [2**24, 64], ids=["one part", "many parts"])
@pytest.mark.parametrize("kind", ["shop", "baskets"])
@pytest.mark.parametrize("dense", [True, False])
def test_bought_together_is_what_a_walk_over_all_pairs_counts(
    kind: str, dense: bool, sums: int, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
):
    sequences: Sequences = request.getfixturevalue(kind)
    monkeypatch.setattr(neighbour_tables, "_SUMS", sums)
    monkeypatch.setattr(neighbour_tables, "_SORTED", 20 * sums)
    if not dense:
        monkeypatch.setattr(neighbour_tables._Baskets, "count", lambda self: 1)
    found = as_dicts(soonest_after(sequences))
    expected = walked(sequences)
    mean = sum(expected.values()) / len(expected)
    assert {(a, b) for a, row in enumerate(found) for b in row} == set(expected)
    for (a, b), weight in expected.items():
        assert found[a][b] == pytest.approx(weight / mean, rel=2e-3)


def test_the_nearest_are_kept(baskets: Sequences):
    whole, few = as_dicts(soonest_after(baskets)), as_dicts(soonest_after(baskets, nearest=3))
    for row, kept in zip(whole, few, strict=True):
        assert sorted(kept.values(), reverse=True) == sorted(row.values(), reverse=True)[:3]


def test_nothing_held_out_is_in_a_table(shop: Sequences):
    """Other items in the validation and test events change no table."""
    held_out = np.flatnonzero(shop.split > 0)
    row = shop.row.copy()
    row[held_out] = np.random.default_rng(0).permutation(row[held_out])
    changed = replace(shop, row=row)
    assert (row != shop.row).any()
    for table, other in zip((soonest_after(shop),), (soonest_after(changed),), strict=True):
        np.testing.assert_array_equal(table.item_N, other.item_N)
        np.testing.assert_array_equal(table.weight_N, other.weight_N)


@pytest.mark.parametrize("pairs", [30_000, 0], ids=["all pairs", "by rare words"])
@pytest.mark.parametrize("at_once", [2**21, 10])
def test_alike_is_the_cosine_of_rare_words_and_values(
    pairs: int, at_once: int, shop: Sequences, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(neighbour_tables, "_ALL_PAIRS", pairs)
    monkeypatch.setattr(neighbour_tables, "_AT_ONCE", at_once)
    catalogue = shop.catalogue
    size = len(catalogue)
    bags: list[Counter[tuple[str, str]]] = [Counter() for _ in range(size)]
    for name, share in (("brand", 1.0), ("tags", 0.5), ("title", 1.0)):
        for bag, cell in zip(bags, catalogue.fixed[name], strict=True):
            values = cell if isinstance(cell, list) else [] if cell is None else [cell]
            words = re.findall(r"\w+", cell.lower()) if name == "title" else values
            bag.update({(name, word): share for word in set(words)})
    documents = Counter(word for bag in bags for word in bag)
    rare = {word for word, count in documents.items() if 2 <= count <= size / 2}
    vectors = [{w: share * np.log(size / documents[w]) for w, share in bag.items() if w in rare} for bag in bags]

    def cosine(one: dict, other: dict) -> float:
        dot = sum(value * other.get(word, 0) for word, value in one.items())
        return dot / np.sqrt(sum(v**2 for v in one.values()) * sum(v**2 for v in other.values()) + 1e-12)

    found = as_dicts(alike(catalogue))
    for a in range(size):
        for b in range(size):
            expected = cosine(vectors[a], vectors[b]) if a != b else 0.0
            assert found[a].get(b, 0.0) == pytest.approx(expected, abs=2e-3)


def test_a_large_catalogue_is_compared_by_its_rarest_words(shop: Sequences, monkeypatch: pytest.MonkeyPatch):
    """With room for fewer pairs the commonest words are left out, and what is found is no more than the cosine."""
    whole = as_dicts(alike(shop.catalogue))
    monkeypatch.setattr(neighbour_tables, "_ALL_PAIRS", 0)
    monkeypatch.setattr(neighbour_tables, "_SHARED", 200)
    part = as_dicts(alike(shop.catalogue))
    assert 0 < sum(map(len, part)) < sum(map(len, whole))
    for few, all_ in zip(part, whole, strict=True):
        assert all(weight <= all_[item] + 2e-3 for item, weight in few.items())


def test_a_feature_that_says_nothing_gives_an_empty_table(shop: Sequences):
    assert not len(alike(changed(shop.catalogue, lambda values: [None] * len(values))).item_N)


def by_hand(memory: Memory, rows: list[int], age: list[int]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
    for channel, table in enumerate(map(as_dicts, memory.tables)):
        for row, ago in zip(rows, age, strict=True):
            weight = memory.decay_C[channel] ** ago
            if weight >= neighbours.LEAST:
                for item, value in table[row].items():
                    found[item][channel] += weight * value
    for row, ago in zip(rows, age, strict=True):
        found[row][2] += memory.decay_C[2] ** ago
    return found


@pytest.mark.parametrize("at_once", [2**22, 40], ids=["all at once", "a history at once"])
@pytest.mark.parametrize("few", [2**22, 0], ids=["one array", "sorted"])
def test_a_history_recalls_what_its_items_bring_to_mind(
    at_once: int, few: int, memory: Memory, shop: Sequences, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(neighbours, "_DENSE", at_once)
    monkeypatch.setattr(neighbours, "_FEW", few)
    monkeypatch.setattr(neighbours, "_DENSER", 0)
    queries = shop.queries("test")
    found = recalled(memory, shop, queries)
    assert (np.diff(found.history_J * len(shop.catalogue) + found.item_J) > 0).all(), "sorted, each pair once"
    for number in range(len(queries)):
        events = slice(queries.start[number], queries.stop[number])
        expected = by_hand(memory, shop.row[events].tolist(), ages(shop.time[events]).tolist())
        mine = found.history_J == number
        assert set(found.item_J[mine].tolist()) == set(expected)
        for item, values in zip(found.item_J[mine].tolist(), found.value_JC[mine].tolist(), strict=True):
            assert values == pytest.approx(expected[item], rel=1e-5)


def test_a_histories_answer_does_not_depend_on_its_batch(memory: Memory, shop: Sequences):
    queries = shop.queries("test")
    whole = recalled(memory, shop, queries)
    for number in range(len(queries)):
        alone = recalled(memory, shop, queries.take(np.array([number])))
        mine = whole.history_J == number
        np.testing.assert_array_equal(alone.item_J, whole.item_J[mine])
        np.testing.assert_array_equal(alone.value_JC, whole.value_JC[mine])


def test_events_of_one_moment_are_of_one_age():
    np.testing.assert_array_equal(ages(np.array([1, 5, 5, 9, 9, 9])), [2, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(ages(np.array([7])), [0])
    assert not len(ages(np.zeros(0, dtype=np.int64)))


def test_buckets_are_powers_of_two():
    counts = np.array([0, 1, 2, 3, 4, 7, 8, 2**13, 2**14, 2**40])
    np.testing.assert_array_equal(buckets(counts), [0, 1, 2, 2, 3, 3, 4, 14, 15, 15])


def test_a_memory_is_read_as_it_was_written(memory: Memory, shop: Sequences, tmp_path: Path):
    memory.save(tmp_path / "memory.npz")
    read = Memory.load(tmp_path / "memory.npz")
    assert read.about() == memory.about()
    for one, other in zip(
        recalled(memory, shop, shop.queries("test")), recalled(read, shop, shop.queries("test")), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    read.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "memory.npz").read_bytes()


def test_a_memory_follows_the_catalogue(memory: Memory, shop: Sequences):
    """Items that go take their pairs along; a new one is alike by its features."""
    old = shop.catalogue
    kept = [row for row in range(len(old)) if row != 4]
    ids = [*(old.item_ids[row] for row in kept), "zz new"]
    newer = changed(
        old,
        lambda values: [*(values[row] for row in kept), values[7]],
        item_ids=ids,
        available_at=np.zeros(len(ids), dtype=np.int64),
    )
    found = over(memory, old.item_ids, newer)
    assert found.count_V.tolist() == [*memory.count_V[kept].tolist(), 0]
    before, after = as_dicts(memory.tables[0]), as_dicts(found.tables[0])
    place = {row: number for number, row in enumerate(kept)}
    for row, number in place.items():
        assert after[number] == {place[item]: weight for item, weight in before[row].items() if item != 4}
    assert not after[-1]
    likest = max(as_dicts(found.tables[1])[-1].items(), key=lambda pair: pair[1])
    assert likest[1] == pytest.approx(as_dicts(found.tables[1])[place[7]][len(kept)]), "of the item it is a copy of"


def test_an_unmoved_table_stays_as_it_is(memory: Memory):
    table = memory.tables[0]
    same = moved(table, np.arange(len(memory.count_V)), len(memory.count_V))
    np.testing.assert_array_equal(same.first_V, table.first_V)
    np.testing.assert_array_equal(same.item_N, table.item_N)
