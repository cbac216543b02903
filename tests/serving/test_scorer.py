"""What the scorer answers, against answers computed by hand from the tiny model of conftest.py."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from serving.scoring.scorer import Scorer
from tests.serving.tiny_archive import (
    ITEMS,
    MAX_HISTORY,
    vectors,
    write_content,
)


@pytest.fixture(scope="module")
def scorer(content: Path) -> Scorer:
    return Scorer.load(content)


def event(item: str, hour: float = 0, **features: Any) -> dict[str, Any]:
    time = f"2026-01-05T{int(hour):02}:{int(hour % 1 * 60):02}:00Z"
    return {"item_id": item, "event_time": time, "features": features}


def expected(*rows: int) -> torch.Tensor:
    """Scores (V,) of a history of equal times without features."""
    matrix = vectors(0)
    weights = torch.arange(1, len(rows) + 1) / len(rows)
    return matrix @ (weights[:, None] * matrix[list(rows)]).sum(0)


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def test_answers_are_the_exact_top_k_of_the_whole_catalogue_with_titles(scorer: Scorer) -> None:
    (answer,) = scorer.score([{"history": [event("i3"), event("i5")], "k": 10, "exclude_seen": False}])
    best = expected(3, 5).topk(10)
    assert ids(answer) == [ITEMS[row] for row in best.indices]
    assert [item["score"] for item in answer["items"]] == pytest.approx(best.values.tolist(), abs=1e-5)
    assert all(
        item["title"] == (None if item["item_id"] == "i11" else f"Kettle {item['item_id']}") for item in answer["items"]
    )
    assert {key: answer[key] for key in ("model", "version", "unknown_items")} == {
        "model": "shop", "version": "1.0", "unknown_items": 0
    }  # fmt: skip


def test_requests_of_a_batch_get_the_answers_they_get_alone(scorer: Scorer) -> None:
    requests = [
        {"history": [event(item, hour, price=hour + 1, shelf="top") for hour, item in enumerate(items)], "k": k}
        for items, k in [(["i3"], 2), (["i1", "i2", "i3", "i4"], 5), (["i9", "i9"], 3)]
    ]
    for together, request in zip(scorer.score(requests), requests, strict=True):
        (alone,) = scorer.score([request])
        assert ids(together) == ids(alone)
        assert [i["score"] for i in together["items"]] == pytest.approx([i["score"] for i in alone["items"]], abs=1e-5)


def test_histories_of_like_lengths_go_through_the_model_together(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [{"history": [event(f"i{n}") for n in range(length)], "k": 3} for length in (1, 4, 2, 4, 1, 3, 4)]
    together, shapes, program = scorer.score(requests), [], scorer._users._program
    monkeypatch.setattr("serving.scoring.users._PADDING", 2)
    monkeypatch.setattr(
        scorer._users, "_program", lambda *inputs: shapes.append(tuple(inputs[0].shape)) or program(*inputs)
    )
    apart = scorer.score(requests)
    assert shapes == [(4, 4), (2, 2), (1, 1)]
    for mine, theirs in zip(apart, together, strict=True):
        assert ids(mine) == ids(theirs)
        assert [i["score"] for i in mine["items"]] == pytest.approx([i["score"] for i in theirs["items"]], abs=1e-5)


def test_history_is_put_in_time_order_and_cut_to_its_latest_events(scorer: Scorer) -> None:
    history = [event(f"i{hour}", hour) for hour in range(MAX_HISTORY + 2)]
    shuffled, latest = [history[n] for n in (3, 0, 5, 1, 4, 2)], history[-MAX_HISTORY:]
    first, second = scorer.score([{"history": h, "exclude_seen": False} for h in (shuffled, latest)])
    assert first["items"] == second["items"]


def test_seen_items_are_left_out_also_those_older_than_the_history_that_the_model_reads(scorer: Scorer) -> None:
    history = [event(item, hour) for hour, item in enumerate(ITEMS[:10])]
    kept, masked = scorer.score([{"history": history, "k": 10, "exclude_seen": seen} for seen in (False, True)])
    assert len(kept["items"]) == 10
    assert set(ids(masked)) == {"i10", "i11"}


def test_what_is_not_asked_for_comes_from_the_archive(content: Path, tmp_path: Path, scorer: Scorer) -> None:
    history = [event("i3")]
    (masked,) = scorer.score([{"history": history}])
    assert len(masked["items"]) == 3 and "i3" not in ids(masked)
    repeating = Scorer.load(write_content(tmp_path / "repeating", repeats=True))
    (answer,) = repeating.score([{"history": history}])
    assert ids(answer) == [ITEMS[row] for row in expected(3).topk(3).indices]
    (capped,) = repeating.score([{"history": history, "k": 10**9}])
    assert len(capped["items"]) == 10


def test_unknown_items_are_counted_and_skipped(scorer: Scorer) -> None:
    known = [event("i3", 1), event("i5", 2)]
    strange = [event("gone", 0), known[0], event("gone", 1.5), known[1], event("new", 3)]
    without, with_unknown = scorer.score([{"history": known}, {"history": strange}])
    assert with_unknown["items"] == without["items"]
    assert (without["unknown_items"], with_unknown["unknown_items"]) == (0, 3)


@pytest.mark.parametrize(("history", "unknown"), [([], 0), ([event("gone")], 1)])
def test_without_known_history_the_most_popular_items_are_answered(
    scorer: Scorer, history: list[Any], unknown: int
) -> None:
    (answer,) = scorer.score([{"history": history, "k": 4}])
    assert [(item["item_id"], item["score"]) for item in answer["items"]] == [
        ("i7", 9.0), ("i2", 4.0), ("i0", 0.0), ("i1", 0.0)
    ]  # fmt: skip
    assert (answer["fallback"], answer["unknown_items"]) == ("popular", unknown)


def test_features_of_the_moment_change_the_answer_and_missing_ones_are_allowed(scorer: Scorer) -> None:
    variants = [
        {},
        {"price": None, "shelf": None},
        {"price": 12.0},
        {"shelf": "top"},
        {"shelf": "never seen"},
        {"x": 1},
    ]
    bare, null, price, shelf, strange, extra = (
        [item["score"] for item in answer["items"]]
        for answer in scorer.score([{"history": [event("i3", **features)]} for features in variants])
    )
    assert bare == null == extra
    assert len({tuple(scores) for scores in (bare, price, shelf, strange)}) == 4


GOOD: dict[str, Any] = {"user_id": "u1", "history": [event("i3", price=1.0)], "k": 3}
BAD: list[tuple[Any, str, str]] = [
    ("hello", "request", "'hello'"),
    ([GOOD], "request", "[{"),
    ({**GOOD, "user": 1}, "request", "'user'"),
    ({**GOOD, "user_id": 7}, "user_id", "7"),
    ({"user_id": "u1"}, "history", "None"),
    ({**GOOD, "history": {"item_id": "i3"}}, "history", "{"),
    ({**GOOD, "k": 0}, "k", "0"),
    ({**GOOD, "k": "3"}, "k", "'3'"),
    ({**GOOD, "k": True}, "k", "True"),
    ({**GOOD, "exclude_seen": 1}, "exclude_seen", "1"),
    ({**GOOD, "exclude": "i1"}, "exclude", "'i1'"),
    ({**GOOD, "exclude": [1]}, "exclude", "[1]"),
    ({**GOOD, "filters": ["shelf"]}, "filters", "['shelf']"),
    ({**GOOD, "filters": {"colour": ["red"]}}, "filters", "'colour'"),
    ({**GOOD, "filters": {"shelf": "top"}}, "filters.shelf", "'top'"),
    ({**GOOD, "filters": {"shelf": []}}, "filters.shelf", "[]"),
    ({**GOOD, "filters": {"tags": [None]}}, "filters.tags", "[None]"),
    ({**GOOD, "filters": {"price": [1, 2]}}, "filters.price", "[1, 2]"),
    ({**GOOD, "filters": {"price": {}}}, "filters.price", "{}"),
    ({**GOOD, "filters": {"price": {"min": "1"}}}, "filters.price", "{'min': '1'}"),
    ({**GOOD, "filters": {"price": {"max": True}}}, "filters.price", "{'max': True}"),
    ({**GOOD, "filters": {"price": {"min": float("nan")}}}, "filters.price", "{'min': nan}"),
    ({**GOOD, "filters": {"price": {"min": 10**400}}}, "filters.price", "{'min': 1"),
    ({**GOOD, "filters": {"price": {"min": 2, "max": 1}}}, "filters.price", "{'min': 2"),
    ({**GOOD, "filters": {"price": {"below": 2}}}, "filters.price", "{'below': 2}"),
    ({"history": ["i3"]}, "history[0]", "'i3'"),
    ({"history": [event("i3"), {**event("i3"), "item_id": 3}]}, "history[1].item_id", "3"),
    ({"history": [{"item_id": "i3"}]}, "history[0].event_time", "None"),
    ({"history": [{**event("i3"), "event_time": "yesterday"}]}, "history[0].event_time", "'yesterday'"),
    ({"history": [{**event("i3"), "event_time": "2026-01-05T10:00:00"}]}, "history[0].event_time", "'2026-01"),
    ({"history": [{**event("i3"), "event_time": 1767600000}]}, "history[0].event_time", "1767600000"),
    ({"history": [{**event("i3"), "features": [1]}]}, "history[0].features", "[1]"),
    ({"history": [event("i3", price="cheap")]}, "history[0].features.price", "'cheap'"),
    ({"history": [event("i3", price=True)]}, "history[0].features.price", "True"),
    ({"history": [event("i3", price=10**400)]}, "history[0].features.price", "1000"),
    ({"history": [event("i3", shelf=2)]}, "history[0].features.shelf", "2"),
]


@pytest.mark.parametrize(("request_", "field", "found"), BAD, ids=[f"{field}={found}" for _, field, found in BAD])
def test_a_bad_request_is_told_field_found_and_expected_and_fails_no_batch_mate(
    scorer: Scorer, request_: Any, field: str, found: str
) -> None:
    (alone,) = scorer.score([GOOD])
    first, bad, last = scorer.score([GOOD, request_, GOOD])
    assert bad.keys() == {"error"}
    assert bad["error"]["field"] == field and bad["error"]["found"].startswith(found) and bad["error"]["expected"]
    assert ids(first) == ids(last) == ids(alone)
    json.dumps(bad)


def test_an_altered_or_incomplete_archive_is_refused_with_the_file_named(content: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(content, tmp_path / "copy")
    (copy / "encoder.json").write_text((copy / "encoder.json").read_text() + " ")
    with pytest.raises(ValueError, match=r"encoder\.json: found .* expected .*; package the model again"):
        Scorer.load(copy)
    (copy / "encoder.json").unlink()
    with pytest.raises(ValueError, match=r"encoder\.json: found no file"):
        Scorer.load(copy)


def test_two_versions_with_different_encoders_live_in_one_process(
    content: Path, tmp_path: Path, scorer: Scorer
) -> None:
    other = write_content(tmp_path / "other", version="2.0", seed=1)
    (before,) = scorer.score([GOOD])
    (answer,) = Scorer.load(other).score([GOOD])
    assert answer["version"] == "2.0" and answer["items"] != before["items"]
    assert scorer.score([GOOD]) == [before]
