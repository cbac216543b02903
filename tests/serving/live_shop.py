"""A workspace as a run leaves it: a filled feature store of a tiny shop, and the card; and what is logged about it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import yaml

from events.consumer.consumer import Consumer
from events.consumer.online import OnlineHistories
from events.segments import SegmentSink
from events.stream import Stream, StreamSink
from events.writer import EventLogWriter
from feature_repo.forgotten import Forgotten
from tests.component.make_events import (
    CARD,
    change,
    event,
    item,
    make_card,
    write_events,
    write_facts,
)
from tests.redis_server import RedisServer

ITEMS = [f"i{number}" for number in range(12)]
YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).replace(microsecond=0)
LIVE = {**CARD, "event_log": {"interactions": ["purchase"], "trains": True}}


def price(number: int) -> float:
    return 10.0 + number


def fill(home: Path, **changes: Any) -> Path:
    """Materialise the shop into the workspace `home`; the path of its card."""
    from components.features import step as features
    from components.materialise import step as materialise

    card = make_card(**{"event_log": LIVE["event_log"], **changes})
    items = [item(name, event_time=YESTERDAY - timedelta(days=20)) for name in ITEMS]
    varying = [change(name, YESTERDAY - timedelta(days=15), price(n)) for n, name in enumerate(ITEMS)]
    kind = {} if card.events is None else {"event_type": "purchase"}
    bought = [event(f"u{n % 4}", ITEMS[n % 12], YESTERDAY - timedelta(days=10 - n / 4), **kind) for n in range(20)]
    inputs = {
        "card": card,
        "events": write_events(home / "made" / "events", card, bought, items, varying),
        "facts": write_facts(home / "made" / "facts", YESTERDAY),
        "sequences": home / "made" / "sequences",
        "feast_root": home / "feast" / card.name,
    }
    features.run(**inputs)
    materialise.run(**inputs, materialised=home / "made" / "materialised")
    path = home / f"{card.name}.yaml"
    path.write_text(yaml.safe_dump({**CARD, "event_log": LIVE["event_log"], **changes}))
    return path


def exposure(request_id: str, user: str, items: list[str], **more: Any) -> dict[str, Any]:
    return {
        "request_id": request_id, "user_id": user, "variant": "champion", "model_version": "1.0", "stage": None,
        "weight": 0.0, "salt": "", "time": datetime.now(UTC).isoformat(), "latency_ms": 1.0, "status": "ok",
        "n_items": len(items), "items": items, "scores": [1.0] * len(items), "context": "{}", "override": False,
        "request": json.dumps({"user_id": user, "history": []}), **more,
    }  # fmt: skip


def outcome(request_id: str, item_id: str | None, event_type: str = "purchase", **more: Any) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    return {
        "request_id": request_id, "event_type": event_type, "item_id": item_id, "time": now, "received": now, **more,
    }  # fmt: skip


class Transport:
    """How events get from gateways to the consumer: through a durable Redis (a server, or its address) or not."""

    def __init__(self, home: Path, redis: RedisServer | str | None = None, name: str = "tiny") -> None:
        self.home, self.name = home, name
        self.server = redis if isinstance(redis, RedisServer) else None
        self.redis = f"redis://{redis.address}/0" if isinstance(redis, RedisServer) else redis
        self.log = home / "log" / name

    def writer(self, roll_seconds: float = 0.2) -> EventLogWriter:
        if self.redis is None:
            return EventLogWriter(SegmentSink(self.log, roll_seconds=roll_seconds))
        return EventLogWriter(StreamSink(self.redis, self.name))

    @contextmanager
    def consumer(
        self, *, forgotten: Forgotten | None = None, retention: timedelta | None = None, **options: Any
    ) -> Iterator[Consumer]:
        from feature_repo.store import connect

        root = self.home / "feast" / self.name
        online = OnlineHistories(lambda: connect(self.name, root), forgotten=forgotten, retention=retention)
        redis = self.redis
        stream = None if redis is None else lambda known: Stream(redis, self.name, known=known)
        settings = {"kinds": ["purchase"], "stream": stream, **options}
        with Consumer(self.log, self.home / "exposures" / self.name, online, **settings) as consumer:
            yield consumer

    def settle(self, consumer: Consumer) -> None:
        """Let the consumer do all there is to do, partitions included."""
        while consumer.round():
            assert not consumer.problems, consumer.problems
        consumer._sink.close()  # as its end does
        consumer.round(flush=True)
        assert not consumer.problems, consumer.problems

    def rows(self, table: str) -> list[dict[str, Any]]:
        folder = self.home / "exposures" / self.name if table == "served" else self.log / table
        if not folder.exists():
            return []
        found: list[dict[str, Any]] = ds.dataset(folder, format="parquet").to_table().to_pylist()
        return found

    def history(self, user: str) -> list[Any]:
        from feature_repo.online import user_history
        from feature_repo.store import connect

        return user_history(connect(self.name, self.home / "feast" / self.name), user)
