"""Servers that tests of several rooms share."""

from collections.abc import Iterator

import pytest

from tests.redis_server import MISSING, PROGRAM, RedisServer


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
