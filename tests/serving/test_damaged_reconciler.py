"""Flipped bits and cut ends in what a reconciler reads, each at its reader: test_damage.py has the other processes."""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from experiments.document import ModelVersion, Rollout
from runtime.checksum import to_file
from serving.torchserve import archive
from serving.torchserve.client import TorchServeClient
from serving.torchserve.reconciler import STATUS, Reconciler
from tests.serving.test_damage import damages

NOW = datetime(2026, 1, 5, tzinfo=UTC)
TIMES = 500
"""Flipped bits, and as many cut ends."""
PROVEN = {"1.0": "ab" * 32}


def row(mar: Path) -> Rollout:
    champion = ModelVersion(
        version="1.0", archive=str(mar), archive_digest="ab" * 32, recipe_digest="r", registered=NOW
    )
    return Rollout(model="shop", champion=champion, version=7)


def away() -> Rollout:
    raise RuntimeError("no route to the database")


@pytest.fixture
def beside(tmp_path: Path) -> Callable[..., Reconciler]:
    """A reconciler beside a server that is away: what it knows is what its files say."""

    def be(*, tokens: bool = False) -> Reconciler:
        where = "http://127.0.0.1:1"
        return Reconciler(
            TorchServeClient(inference=where, management=where, folder=tmp_path, tokens=tokens), read=away
        )

    return be


def test_of_a_damaged_copy_of_the_row_nothing_is_believed(tmp_path: Path, beside: Callable[..., Reconciler]) -> None:
    right, path, reconciler = row(tmp_path / "1.0.mar"), tmp_path / "rollout.json", beside()
    for damaged in damages(to_file(right.to_json()), TIMES):
        path.write_bytes(damaged)
        reconciler._why = {}
        assert reconciler._last_row() == right or str(path) in reconciler._why["copy"]
    status = reconciler.look()
    assert status.why.keys() >= {"copy", "rollout"} and not status.ready


def test_of_a_damaged_word_of_what_was_proven_nothing_is_believed(
    tmp_path: Path, beside: Callable[..., Reconciler]
) -> None:
    reconciler = beside()
    for damaged in damages(to_file({"model": "shop", "proven": PROVEN, "at": NOW.isoformat()}), TIMES):
        (tmp_path / STATUS).write_bytes(damaged)
        reconciler._why = {}
        found = reconciler._proven_before()
        # Where the name of the checksum's key was hit, the rest is as it was.
        assert found == PROVEN or (found == {} and STATUS in reconciler._why["status"])


def test_damaged_keys_are_told_and_end_in_no_other_fault(tmp_path: Path, beside: Callable[..., Reconciler]) -> None:
    until = (datetime.now(UTC) + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S.123456789Z")
    name = "XnXtXr" * 8  # of an X one bit makes a backslash, and of the pair a sign that no header may hold
    lasting = {"key": name, "expiration time": until}
    told = {"inference": lasting, "management": lasting, "API": {"key": name}}
    path, reconciler = tmp_path / "key_file.json", beside(tokens=True)
    for damaged in damages(json.dumps(told).encode(), TIMES):
        path.write_bytes(damaged)
        for call in (reconciler._renew_keys, lambda: reconciler._client.versions("shop")):
            with suppress(ConnectionError):
                call()
    path.write_bytes(b"{")
    assert str(path) in reconciler.look().why["torchserve"]


def test_a_damaged_archive_is_known_before_anything_is_taken_from_it(mar: Path, tmp_path: Path) -> None:
    digest, damaged = archive.digest(mar), tmp_path / "damaged.mar"
    for content in damages(mar.read_bytes(), TIMES // 5):
        damaged.write_bytes(content)
        with pytest.raises(ValueError, match=f"{damaged}: digest .*, expected {digest[:12]}"):
            archive.check(damaged, digest)
        try:  # and released so, with the digest that it has
            archive.check_identity(damaged, "shop", "1.0")
        except ValueError as error:
            assert str(damaged) in str(error)


@pytest.mark.parametrize(("model", "version"), [("shop", "2.0"), ("other", "1.0")])
def test_an_archive_that_calls_itself_otherwise_is_refused(mar: Path, model: str, version: str) -> None:
    archive.check_identity(mar, "shop", "1.0")
    with pytest.raises(ValueError, match=f"holds shop 1.0, but the rollout row names it {model} {version}"):
        archive.check_identity(mar, model, version)
