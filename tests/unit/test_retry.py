"""A decision on a row that moved on meanwhile is made anew, on the row as it is then."""

from pathlib import Path

import pytest

from experiments.retry import ATTEMPTS, until_unmoved
from experiments.table import DocumentChange, RolloutTable, StaleRollout


@pytest.mark.parametrize("faster", [0, 1, ATTEMPTS - 1, ATTEMPTS])
def test_each_attempt_decides_on_what_the_faster_one_wrote_and_nobody_is_tried_for_ever(
    tmp_path: Path, faster: int
) -> None:
    with RolloutTable(f"sqlite:///{tmp_path}/rollout.db") as table:
        seen: list[int] = []

        def attempt() -> int:
            row = table.read("shop")
            seen.append(row.version)
            if len(seen) <= faster:
                table.propose(DocumentChange(row, "another", "was faster"), row.version)
            return table.propose(DocumentChange(row, "this", "decided"), row.version).version

        if faster < ATTEMPTS:
            assert until_unmoved(attempt, model="shop", during="in a test") == faster + 1
            assert [entry.who for entry in table.history("shop")] == ["another"] * faster + ["this"]
        else:
            with pytest.raises(StaleRollout, match="shop: the rollout table changed 20 times in a test; try again"):
                until_unmoved(attempt, model="shop", during="in a test")
        assert seen == list(range(min(faster + 1, ATTEMPTS)))


def test_another_fault_is_no_reason_to_try_again() -> None:
    calls = 0

    def attempt() -> None:
        nonlocal calls
        calls += 1
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        until_unmoved(attempt, model="shop", during="in a test")
    assert calls == 1
