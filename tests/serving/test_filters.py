"""Filters and exclusions come before the choice of the best: against picking by hand from the whole ranking."""

from typing import Any

import numpy as np
import pytest

from serving.scoring.filters import Filters
from serving.scoring.scorer import Scorer
from tests.serving.test_scorer import event, ids
from tests.serving.tiny_archive import (
    EVENTS,
    ITEMS,
    TAGS,
    write_content,
)

PRICE = dict(zip(ITEMS, [*map(float, range(1, 12)), None], strict=True))
SHELF = dict(zip(ITEMS, [*["top", "low"] * 5, "top", None], strict=True))
TAG = dict(zip(ITEMS, TAGS, strict=True))
NARROWED = [
    ({"shelf": ["low"]}, lambda item: SHELF[item] == "low"),
    ({"shelf": ["low", "top"]}, lambda item: SHELF[item] is not None),
    ({"shelf": ["never seen"]}, lambda item: False),
    ({"tags": ["t1"]}, lambda item: "t1" in TAG[item]),
    ({"tags": ["t1", "even"]}, lambda item: {"t1", "even"} & {*TAG[item]}),
    ({"price": {"min": 4}}, lambda item: PRICE[item] is not None and PRICE[item] >= 4),
    ({"price": {"max": 4.0}}, lambda item: PRICE[item] is not None and PRICE[item] <= 4),
    ({"price": {"min": 3, "max": 9}, "shelf": ["top"]}, lambda item: SHELF[item] == "top" and 3 <= PRICE[item] <= 9),
    ({}, lambda item: True),
]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return Scorer.load(write_content(tmp_path_factory.mktemp("filters") / "shop", repeats=True))


@pytest.mark.parametrize(("filters", "matches"), NARROWED, ids=[str(filters) for filters, _ in NARROWED])
@pytest.mark.parametrize("history", [[event("i3"), event("i5", 1)], []], ids=["ranked", "popular"])
def test_only_matching_items_are_answered_best_first_and_k_of_them_where_there_are_so_many(
    scorer: Scorer, history: list[Any], filters: dict[str, Any], matches: Any
) -> None:
    (whole,) = scorer.score([{"history": history, "k": 10}])
    (rest,) = scorer.score([{"history": history, "k": 10, "exclude": ids(whole)}])
    ranking = [*whole["items"], *rest["items"]]
    assert len(ranking) == len(ITEMS)
    for k in (1, 3, 10):
        (answer,) = scorer.score([{"history": history, "k": k, "filters": filters, "exclude": ["i3", "gone"]}])
        expected = [item for item in ranking if matches(item["item_id"]) and item["item_id"] != "i3"][:k]
        assert answer["items"] == expected


def test_filters_of_one_request_leave_its_batch_mates_alone(scorer: Scorer) -> None:
    history = [event("i3"), event("i5", 1)]
    requests: list[dict[str, Any]] = [
        {"history": history, "k": 10},
        {"history": history, "k": 10, "filters": {"shelf": ["low"]}},
        {"history": history, "k": 10, "filters": {"shelf": ["top"]}, "exclude": ["i1"]},
        {"history": history, "k": 10, "exclude": ["i0"]},
    ]
    together = scorer.score(requests)
    assert [ids(answer) for answer in together] == [ids(scorer.score([request])[0]) for request in requests]
    assert len({tuple(ids(answer)) for answer in together}) == 4
    assert scorer.score(requests) == together, "a mask that is kept is not written to"


def test_the_popular_go_on_through_the_catalogue_by_events(scorer: Scorer) -> None:
    (answer,) = scorer.score([{"history": [], "k": 4, "filters": {"shelf": ["top"]}}])
    assert ids(answer) == ["i2", "i0", "i4", "i6"] and answer["fallback"] == "popular"
    assert [item["score"] for item in answer["items"]] == [float(EVENTS[int(item[1:])]) for item in ids(answer)]


def test_masks_agree_with_a_plain_reading_of_random_columns() -> None:
    rng = np.random.default_rng(0)
    words = [*"abcde", "", None]
    columns: dict[str, list[Any]] = {
        "one": [words[n] for n in rng.integers(0, 7, 500)],
        "many": [[words[n] for n in rng.integers(0, 5, rng.integers(0, 4))] for _ in range(500)],
        "number": [None if rng.random() < 0.1 else float(rng.choice([-np.inf, np.nan, *range(9)])) for _ in range(500)],
    }
    filters = Filters({"one": "categorical", "many": "multi_categorical", "number": "numeric"}, columns, 500)
    for _ in range(50):
        wanted = [*map(str, rng.choice([*"abcdef", ""], rng.integers(1, 4)))]
        low, high = sorted(rng.integers(-1, 10, 2).tolist())
        bounds = {key: value for key, value in (("min", low), ("max", high)) if rng.random() < 0.7} or {"min": low}
        raw = {"one": wanted, "many": wanted, "number": bounds}
        asked = {name: raw[name] for name in raw if rng.random() < 0.7}
        forbidden = filters.forbidden(filters.read(asked))
        values = {value for value in wanted if value}
        plain = {
            "one": lambda row, values=values: columns["one"][row] in values,
            "many": lambda row, values=values: bool(values & {*columns["many"][row]}),
            "number": lambda row, bounds=bounds: (
                (value := columns["number"][row]) is not None
                and np.isfinite(value)
                and bounds.get("min", -np.inf) <= value <= bounds.get("max", np.inf)
            ),
        }
        expected = [not all(plain[name](row) for name in asked) for row in range(500)]
        assert forbidden.tolist() == expected, asked
