"""The index against scoring every item: recall, filters, exclusions; and half precision, which finds candidates."""

from pathlib import Path

import numpy as np
import pytest
import torch

from components.package.index import EXACT_UP_TO, RECALL, make_index
from feature_repo.card import Serving
from serving.scoring.retrieval import (
    Approximate,
    Best,
    Exact,
    RetrievalRequest,
)

ITEMS, WIDTH, CLUSTERS = 20_000, 33, 60


@pytest.fixture(scope="module")
def items() -> np.ndarray:
    """Unit vectors in clusters, and a bias."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLUSTERS, WIDTH - 1))
    vectors = centres[rng.integers(0, CLUSTERS, ITEMS)] + 0.4 * rng.normal(size=(ITEMS, WIDTH - 1))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.concatenate([vectors, 0.1 * rng.normal(size=(ITEMS, 1))], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def users(items: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    mixed = items[rng.integers(0, ITEMS, 64)] + 0.3 * items[rng.integers(0, ITEMS, 64)]
    mixed[:, -1] = 1
    return mixed.astype(np.float32)


@pytest.fixture(scope="module")
def index(items: np.ndarray, users: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Approximate:
    root = tmp_path_factory.mktemp("index")
    chosen, _ = make_index(root, items, users, Serving(retrieval="approximate"))
    assert chosen["by"] == "approximate" and chosen["recall_at_100"] >= RECALL
    assert chosen["probes"] < chosen["cells"] / 2, "a search of half of the catalogue is no index"
    return Approximate.read(root, torch.from_numpy(items), probes=chosen["probes"])


def recall(found: list[Best], true: list[Best]) -> float:
    shares = [len({r for r, _ in a} & {r for r, _ in b}) / max(len(b), 1) for a, b in zip(found, true, strict=True)]
    return float(np.mean(shares))


def test_the_index_finds_what_scoring_every_item_finds(
    index: Approximate, items: np.ndarray, users: np.ndarray
) -> None:
    rng = np.random.default_rng(2)
    asked = [RetrievalRequest(100, rng.integers(0, ITEMS, 50).tolist(), None) for _ in users]
    true = Exact(torch.from_numpy(items)).best(torch.from_numpy(users), asked)
    # The best are hidden from half of the users: those behind them are found all the same.
    asked = [
        RetrievalRequest(100, [r for r, _ in best[:40]], None) if n % 2 else each
        for n, (each, best) in enumerate(zip(asked, true, strict=True))
    ]
    true = Exact(torch.from_numpy(items)).best(torch.from_numpy(users), asked)
    found = index.best(torch.from_numpy(users), asked)
    assert recall(found, true) >= RECALL
    for best, request in zip(found, asked, strict=True):
        assert len(best) == len({row for row, _ in best}) == 100
        assert not {row for row, _ in best} & set(request.hidden)
        assert [score for _, score in best] == sorted((score for _, score in best), reverse=True)
    user, (row, score) = users[3], found[3][0]
    assert score == pytest.approx(float(items[row] @ user), abs=1e-5), "scores are those of the item matrix"


@pytest.mark.parametrize("share", [0.5, 0.1, 0.03, 0.01, 0.002, 0.0])
def test_behind_a_filter_there_are_k_items_where_so_many_are_allowed(
    index: Approximate, items: np.ndarray, users: np.ndarray, share: float
) -> None:
    rng = np.random.default_rng(3)
    asked = []
    for _ in users:
        forbidden = rng.random(ITEMS) >= share
        asked.append(RetrievalRequest(100, np.flatnonzero(~forbidden)[:5].tolist(), forbidden))
    true = Exact(torch.from_numpy(items)).best(torch.from_numpy(users), asked)
    found = index.best(torch.from_numpy(users), asked)
    assert [len(best) for best in found] == [len(best) for best in true]
    assert all(not request.forbidden[row] for best, request in zip(found, asked, strict=True) for row, _ in best)
    assert share == 0 or recall(found, true) >= RECALL


def test_a_batch_with_and_without_filters_is_answered_as_each_alone(index: Approximate, users: np.ndarray) -> None:
    forbidden = np.arange(ITEMS) % 3 == 0
    asked = [RetrievalRequest(10 + n, [n], forbidden if n % 2 else None) for n in range(8)]
    together = index.best(torch.from_numpy(users[:8]), asked)
    alone = [index.best(torch.from_numpy(users[n : n + 1]), [asked[n]])[0] for n in range(8)]
    assert [[row for row, _ in best] for best in together] == [[row for row, _ in best] for best in alone]


def test_half_precision_finds_candidates_and_the_scores_are_exact(items: np.ndarray, users: np.ndarray) -> None:
    asked = [RetrievalRequest(10, [n], None) for n in range(len(users))]
    matrix = torch.from_numpy(items)
    true = Exact(matrix).best(torch.from_numpy(users), asked)
    found = Exact(matrix, scan=torch.bfloat16).best(torch.from_numpy(users), asked)
    assert recall(found, true) >= 0.99
    for mine, theirs in zip(found, true, strict=True):
        scores = dict(theirs)
        assert all(score == pytest.approx(scores[row], abs=1e-5) for row, score in mine if row in scores)


def test_a_matrix_too_large_for_one_piece_is_scored_in_parts(
    items: np.ndarray, users: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, exact = [RetrievalRequest(5, [], None)] * len(users), Exact(torch.from_numpy(items))
    whole = exact.best(torch.from_numpy(users), asked)
    monkeypatch.setattr("serving.scoring.retrieval._SCORES", 3 * ITEMS)
    parts = exact.best(torch.from_numpy(users), asked)
    assert [[row for row, _ in best] for best in parts] == [[row for row, _ in best] for best in whole]


def test_the_size_of_the_catalogue_decides_unless_the_card_does(tmp_path: Path) -> None:
    small = np.eye(4, dtype=np.float32)
    assert make_index(tmp_path, small, small, Serving(scan="bfloat16")) == ({"by": "exact", "scan": "bfloat16"}, None)
    large = np.zeros((EXACT_UP_TO + 1, 2), dtype=np.float32)
    assert make_index(tmp_path, large, small, Serving(retrieval="exact"))[0]["by"] == "exact"
    assert not [*tmp_path.iterdir()]


def test_what_memory_alone_brings_up_is_found_by_every_way_of_looking(tmp_path: Path) -> None:
    """An item that the vectors rank last, and a bonus that puts it first, also behind filters."""
    rng = np.random.default_rng(5)
    items, user = rng.normal(size=(3000, 8)).astype(np.float32), rng.normal(size=(1, 8)).astype(np.float32)
    last = int((items @ user[0]).argmin())
    bonus = (np.array([last]), np.array([100.0], np.float32))
    _, index = make_index(tmp_path, items, user, Serving(retrieval="approximate"))
    assert index is not None
    some, few = np.zeros(len(items), bool), np.ones(len(items), bool)
    some[:100], few[:20] = True, False
    some[last] = few[last] = False
    users, matrix = torch.from_numpy(user), torch.from_numpy(items)
    score = float(items[last] @ user[0]) + 100
    for way in (Exact(matrix), Exact(matrix, scan=torch.bfloat16), index):
        for forbidden in (None, some, few):
            (best,) = way.best(users, [RetrievalRequest(5, [], forbidden, bonus)])
            assert best[0][0] == last and abs(best[0][1] - score) < 1e-3
    (without,) = index.best(users, [RetrievalRequest(5, [last], None, bonus)])
    assert last not in dict(without), "what is hidden stays hidden"
    some[last] = True
    (behind,) = index.best(users, [RetrievalRequest(5, [], some, bonus)])
    assert last not in dict(behind), "and what a filter forbids"
