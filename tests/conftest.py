"""What tests of several rooms share: threads, their order, and servers."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis_server import MISSING, PROGRAM, RedisServer
from tests.workers import pytest_xdist_make_scheduler  # noqa: F401  (a hook)

# Before anything imports torch, and for every process that a test starts: several test processes share the cores, and
# threads that spin while they wait for one another take the cores from those they wait for.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Java's second compiler pays after minutes, and no server of a test runs so long (benchmarks/NOTES.md).
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC")


LONGEST = (
    *("test_batch", "test_local_run", "test_user_interface"),
    *("test_catalogue", "test_shared_store", "test_first_runs", "test_schedule", "test_notebook", "test_fixed_step"),
)
"""Files that take a minute or more, the first of them together."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: none is left for the end when several processes share the work."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank) + ("pipeline" not in item.path.parts)))


@pytest.fixture
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """An empty redis-server of this test alone; the test is skipped where the program is not installed."""
    if PROGRAM is None:
        pytest.skip(MISSING)
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture
def durable_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """As `redis_server`, and what it has acknowledged survives its `stop`."""
    if PROGRAM is None:
        pytest.skip(MISSING)
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis", durable=True)
    try:
        yield server.start()
    finally:
        server.stop()
