"""Tables of `bench-quality` add up over calls, and what is compared is comparable."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.model.quality_table import QualityTable, difference
from heterrec.evaluation.comparison import paired_bootstrap
from heterrec.evaluation.metrics import Ranking


def run(row: str, seed: int | None, key: str = "a", value: float = 0.1) -> dict[str, Any]:
    """Of 60 users, each of whom was ranked by chance."""
    figures, slices = {"hr@10": value, "ndcg@10": value}, {"rare_items": value, "new_items": value}
    measured = {"masked": figures, "unmasked": figures, "slices": slices, "cpu_seconds": 1.0}
    return {"row": row, "seed": seed, "key": key, **measured}


def ranking(run: dict[str, Any]) -> Ranking:
    rng = np.random.default_rng([ord(run["row"][0]), ord(run["key"]), 9 if run["seed"] is None else run["seed"]])
    return Ranking(queries=60, query=np.arange(60), target=np.arange(60), rank=rng.integers(1, 20, 60))


def a_call(path: Path, *runs: dict[str, Any], ranks: Any = ranking) -> QualityTable:
    table = QualityTable(path, "data")
    for one in runs:
        table.add(one["row"], one)
    some = np.arange(60) < 20
    table.compare(["a", "b"], ranks, {"rare_items": some, "new_items": ~some})
    table.write()
    return QualityTable(path, "data")


def test_rows_of_earlier_calls_stay_and_add_up(tmp_path: Path):
    path = tmp_path / "table.json"
    a_call(path, run("a", 0), run("a", 1), run("c", None))
    alone = QualityTable(path, "data").rows["a"]
    a_call(path, run("b", 0))
    found = a_call(path, run("a", 2, value=0.4)).rows
    assert list(found) == ["a", "c", "b"]
    assert [one["seed"] for one in found["a"]["runs"]] == [0, 1, 2] and found["a"]["ndcg@10"] == pytest.approx(0.2)
    assert alone["seeds"] == 2 and found["a"]["seeds"] == 3
    at_once = tmp_path / "at_once.json"
    a_call(at_once, run("a", 0), run("a", 1), run("c", None), run("b", 0), run("a", 2, value=0.4))
    assert path.read_text() == at_once.read_text()


def test_runs_of_another_recipe_or_code_leave_their_row(tmp_path: Path):
    path = tmp_path / "table.json"
    a_call(path, run("a", 0, "o"), run("a", 1, "o"), run("b", 0))
    found = a_call(path, run("a", 2, "b")).rows
    assert [(one["seed"], one["key"]) for one in found["a"]["runs"]] == [(2, "b")]
    assert [one["key"] for one in found["b"]["runs"]] == ["a"]


def test_rows_of_other_data_are_no_table(tmp_path: Path):
    a_call(tmp_path / "table.json", run("a", 0))
    with pytest.raises(ValueError, match=r"rank other data \(data\) than is here \(moved\).*--anew"):
        QualityTable(tmp_path / "table.json", "moved")
    assert not QualityTable(tmp_path / "table.json", "moved", anew=True).rows


def test_differences_of_rows_whose_ranks_are_elsewhere_stay_until_one_of_both_changes(tmp_path: Path):
    path = tmp_path / "table.json"
    made = a_call(path, run("a", 0), run("b", 0), run("c", None)).rows

    def here(one: dict[str, Any]) -> Ranking | None:
        return ranking(one) if one["key"] == "b" else None

    found = a_call(path, run("a", 0, "b"), ranks=here).rows
    assert found["c"]["against"] == {"b": made["c"]["against"]["b"]}, "what is said of the old `a` must go"
    assert found["b"]["against"] == {} and found["a"]["against"] == {}
    assert found["a"]["intervals"]["all"]["queries"] == 60


def per_user(*seeds: int | None) -> dict[int | None, Any]:
    return {seed: np.random.default_rng(0 if seed is None else seed + 1).normal(size=300) for seed in seeds}


@pytest.mark.parametrize(
    ("ours", "theirs", "pairs"),
    [
        ((0, 1, 2), (0, 1, 2), [(0, 0), (1, 1), (2, 2)]),
        ((0, 1, 2), (None,), [(0, None), (1, None), (2, None)]),
        ((None,), (0, 1), [(None, 0), (None, 1)]),
        ((None,), (None,), [(None, None)]),
        ((0, 1), (1, 2), [(1, 1)]),
    ],
)
def test_a_row_without_a_seed_stands_beside_every_seed_and_others_beside_their_own(ours, theirs, pairs):
    a, b = per_user(*ours), per_user(*theirs)
    expected = paired_bootstrap(np.stack([a[x] for x, _ in pairs]), np.stack([b[y] for _, y in pairs]))
    found = difference(a, b)
    assert found["seeds"] == len(pairs)
    assert (found["mean"], found["low"], found["high"]) == (expected.mean, expected.low, expected.high)


def test_rows_without_a_seed_in_common_have_no_difference():
    assert difference(per_user(0), per_user(1)) is None
