"""Arms, breakers and planted faults, as in test_gateway.py and test_sabotage.py, in front of the plain server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.plain.server import PlainServer
from tests.serving.test_sabotage import test_a_planted_fault_comes_when_it_is_called  # noqa: F401


@pytest.fixture(scope="module")
def server(mar: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainServer]:
    """In place of TorchServe, for all tests of this file and what they are made of."""
    with PlainServer(tmp_path_factory.mktemp("logs")) as running:
        running.register(mar)
        yield running
