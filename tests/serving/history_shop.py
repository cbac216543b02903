"""A tiny shop whose histories are written: one feature store, as many connections to it as a test wants."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from events.consumer.histories import HistoryWriter, UserEvent
from feature_repo.card import DatasetCard
from feature_repo.history import HistoryRecord
from tests.redis_server import RedisServer

NOW = datetime(2026, 1, 10, tzinfo=UTC)
CARD = DatasetCard.model_validate(
    yaml.safe_load("""
name: tiny
description: A shop of a few items
source: {adapter: files, interactions: a.csv, items: b.csv}
features:
  - {name: brand, kind: categorical}
  - {name: price, kind: numeric, varies_in_time: true}
split: {by: time}
""")
)


class Shop:
    """A feature store of one kind, with as many connections to it as a test wants."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def apply(self) -> None:
        from feature_repo.store import open_store

        open_store(CARD, self.root / "events", self.root / "feast")

    def writer(self, **more) -> HistoryWriter:
        from feature_repo.store import connect

        return HistoryWriter(connect("tiny", self.root / "feast"), **{"clock": lambda: NOW, **more})

    def read(self, user: str) -> list[HistoryRecord]:
        from feature_repo.online import user_history
        from feature_repo.store import connect

        return user_history(connect("tiny", self.root / "feast"), user)

    def items(self, user: str) -> list[str]:
        return [record.item_id for record in self.read(user)]


@pytest.fixture
def on_redis(redis_server, monkeypatch) -> RedisServer:
    monkeypatch.setenv("HETERREC_FEATURE_STORE", "redis")
    monkeypatch.setenv("REDIS_ADDRESS", redis_server.address)
    return redis_server


@pytest.fixture(params=["sqlite", "redis"])
def shop(request, tmp_path):
    if request.param == "redis":
        request.getfixturevalue("on_redis")
    shop = Shop(tmp_path)
    shop.apply()
    return shop


def seconds(n: float) -> int:
    return int((NOW - timedelta(hours=1) + timedelta(seconds=n)).timestamp() * 1e6)


def event(user: str, number: int, *, at: float | None = None, **more) -> UserEvent:
    record = HistoryRecord(
        f"{user}-{number}", f"i{number}", seconds(number if at is None else at), {"price": number / 2}
    )
    return UserEvent(user, record._replace(position=number, **more))
