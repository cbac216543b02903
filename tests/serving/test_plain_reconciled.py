"""The plain server made to match the rollout row, by the tests of test_reconciler.py that are not about keys."""

from collections.abc import Iterator

import pytest

from serving.plain.server import PlainServer


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainServer]:
    """In place of a TorchServe that asks for keys."""
    with PlainServer(tmp_path_factory.mktemp("logs")) as running:
        yield running
