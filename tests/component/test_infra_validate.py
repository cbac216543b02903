"""How infra_validate compares a served answer with the trained model's own; the served part is in test_package.py."""

from typing import Any

import pytest

from serving.torchserve.client import HttpReply
from serving.torchserve.goldens import differences


def answer(*scored: tuple[str, float], unknown: int = 0) -> dict[str, Any]:
    return {"items": [{"item_id": item, "score": score} for item, score in scored], "unknown_items": unknown}


GOLDEN = {"answer": answer(("a", 3.0), ("b", 2.0), ("c", 2.0), ("d", 1.0))}


@pytest.mark.parametrize(
    "served",
    [
        pytest.param(answer(("a", 3.0), ("b", 2.0), ("c", 2.0), ("d", 1.0)), id="equal"),
        pytest.param(answer(("a", 3.00009), ("b", 1.99991), ("c", 2.0), ("d", 1.0)), id="within the tolerance"),
        pytest.param(answer(("a", 3.0), ("c", 2.0), ("b", 2.0), ("d", 1.0)), id="a tie in another order"),
        pytest.param(answer(("a", 3.0), ("b", 2.0), ("c", 2.0), ("e", 1.0)), id="a tie with the last place"),
    ],
)
def test_equal_answers_have_no_differences(served: dict[str, Any]) -> None:
    assert differences(GOLDEN, HttpReply(200, served)) == []


@pytest.mark.parametrize(
    ("status", "served", "told"),
    [
        (503, {"message": "Prediction failed"}, "status 503"),
        (200, answer(("a", 3.0), ("b", 2.0), ("c", 2.0)), "3 items, expected 4"),
        (200, answer(("a", 3.001), ("b", 2.0), ("c", 2.0), ("d", 1.0)), r"place 1: a \(3.001\), expected a \(3\)"),
        (200, answer(("b", 3.0), ("a", 2.0), ("c", 2.0), ("d", 1.0)), r"place 1: b \(3\), expected a"),
        (200, answer(("a", 3.0), ("e", 2.0), ("c", 2.0), ("d", 1.0)), r"place 2: e \(2\), expected b"),
        (200, answer(("a", 3.0), ("b", 2.0), ("b", 2.0), ("d", 1.0)), "an item twice"),
        (200, answer(("a", 3.0), ("b", 2.0), ("c", 2.0), ("d", float("nan"))), r"place 4: d \(nan\)"),
        (200, answer(("a", 3.0), ("b", 2.0), ("c", 2.0), ("d", 1.0), unknown=1), "unknown_items 1, expected 0"),
    ],
)
def test_other_answers_are_told_apart(status: int, served: dict[str, Any], told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        assert not differences(GOLDEN, HttpReply(status, served)), "; ".join(
            differences(GOLDEN, HttpReply(status, served))
        )
