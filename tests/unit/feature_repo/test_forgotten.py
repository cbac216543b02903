"""The list of deleted users while it is being written, and after its writer was killed."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from feature_repo.forgotten import Forgotten, digest, microseconds

NOW = datetime(2026, 1, 5, 10, tzinfo=UTC)


@pytest.mark.parametrize("missing", [1, 10, 40, 90])
def test_a_line_that_is_not_whole_counts_for_nothing_and_spoils_no_other(tmp_path: Path, missing: int) -> None:
    path = tmp_path / "forgotten.txt"
    Forgotten(path).add(["u1", "u2"], NOW)
    path.write_bytes(path.read_bytes()[:-missing])
    listed = Forgotten(path)
    assert listed.until() == {digest("u1"): microseconds(NOW)}
    listed.add(["u3"], NOW)
    assert listed.until().keys() == {digest("u1"), digest("u3")}


def test_an_event_in_the_very_microsecond_of_the_deletion_is_gone_and_the_next_one_stays(tmp_path):
    forgotten, at = Forgotten(tmp_path / "forgotten.txt"), datetime(2026, 1, 5, 12, 0, 0, 123456, tzinfo=UTC)
    forgotten.add(["u1"], at)
    moment = microseconds(at)
    assert [forgotten.covers("u1", moment + us) for us in (-1, 0, 1)] == [True, True, False]
    assert not forgotten.covers("u2", moment)
