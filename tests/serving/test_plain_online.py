"""Arms, breakers and planted faults, as in test_gateway.py and test_sabotage.py, in front of the plain server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.plain.server import PlainServer
from tests.serving.test_gateway import (  # noqa: F401
    test_a_failing_challenger_is_replaced_by_the_champion_and_taken_out_of_traffic,
    test_a_version_that_dies_under_traffic_is_out_within_two_seconds_and_comes_back,
    test_each_shopper_gets_the_arm_that_was_drawn_and_what_was_shown_is_logged,
)
from tests.serving.test_sabotage import test_a_planted_fault_comes_when_it_is_called  # noqa: F401


@pytest.fixture(scope="module")
def server(mar: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainServer]:
    """In place of TorchServe, for all tests of this file and what they are made of."""
    with PlainServer(tmp_path_factory.mktemp("logs")) as running:
        running.register(mar)
        yield running
