"""A gateway within the test, in front of a TorchServe that has two versions of the little model."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from events import segments
from events.schema import of_line
from events.segments import SegmentSink
from events.writer import EventLogWriter
from experiments.availability import AvailabilityTable
from experiments.database import Database
from experiments.document import ModelVersion, Rollout
from experiments.item_log import ItemLog
from experiments.rules_table import RulesTable
from serving.gateway.app import make_app
from serving.gateway.recommender import ServingDeadlines
from serving.torchserve import archive
from serving.torchserve.server import TorchServe
from tests.serving.tiny_archive import write_content

NOW = datetime(2026, 1, 5, tzinfo=UTC)
PATIENT = ServingDeadlines(history=20, challenger=20, champion=20, log=20)
"""A loaded machine must not make these tests fail; what deadlines do is tested with ones of their own."""
HISTORY = [{"item_id": "i3", "event_time": "2026-01-05T10:00:00Z", "features": {"price": 12.5, "shelf": "top"}}]
OpenGateway = Callable[..., TestClient]


@pytest.fixture(scope="module")
def arms(server: TorchServe, mar: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ModelVersion]]:
    """Two versions that the server has, and one that it does not have; the server is left as it was."""

    folder = tmp_path_factory.mktemp("second")
    second = folder / "second.mar"
    archive.build(write_content(folder / "c", version="2.0", seed=1), second, name="shop", version="2.0")
    server.register(second)
    yield {
        name: ModelVersion(
            version=name, archive=str(path), archive_digest=archive.digest(path), recipe_digest=name, registered=NOW
        )
        for name, path in {"1.0": mar, "2.0": second, "9.9": second}.items()
    }
    server.unregister("shop", "2.0")


@pytest.fixture
def rollout(arms: dict[str, ModelVersion]) -> Rollout:
    return Rollout(
        model="shop", champion=arms["1.0"], challenger=arms["2.0"], stage=3, weight=0.5, salt="s", since=NOW, version=3
    )


@pytest.fixture
def open_gateway(server: TorchServe, tmp_path: Path) -> Iterator[OpenGateway]:
    with ExitStack() as opened:

        def start(rollout: Rollout | Callable[[], Rollout], **options: Any) -> TestClient:
            read = rollout if callable(rollout) else lambda: rollout
            log = EventLogWriter(options.pop("sink", SegmentSink(tmp_path / "log")))
            settings = {"torchserve": server.address, "history": lambda user: HISTORY, "deadlines": PATIENT, **options}
            if "availability" not in settings:
                database = Database(f"sqlite:///{tmp_path}/news.db")
                opened.callback(database.close)
                availability = AvailabilityTable(database, "shop")
                items = ItemLog(database, "shop", availability)
                settings |= {"availability": availability, "rules": RulesTable(database, "shop"), "items": items}
            app = make_app(read_rollout=read, log=log, **settings)
            return opened.enter_context(TestClient(app, raise_server_exceptions=False))

        yield start


def rows(root: Path, table: str) -> list[dict[str, Any]]:
    """What the gateway has acknowledged of `table`."""
    lines = [of_line(line.content) for path in segments.segments(root) for line in segments.lines(path)]
    return [row for name, row in lines if name == table]


def ask(client: TestClient, user: str = "u1", headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    reply = client.post("/v1/recommendations", json={"user_id": user, "k": 3, **fields}, headers=headers)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer
