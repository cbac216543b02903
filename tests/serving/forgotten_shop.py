"""A workspace with processes of its own where everybody shops, and everything in it that names one user."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import redis

from events.writer import EventLogWriter
from tests.redis_server import RedisServer
from tests.serving.live_shop import Transport, exposure, outcome

ROOT = Path(__file__).parents[2]
GONE = "shopper-7f3a9c"
OTHERS = [f"other-{number}" for number in range(5)]
TABLES = ("exposures", "outcomes", "interactions", "set_aside", "served")


class Shop(Transport):
    """A workspace, the environment that leads to it, and its processes."""

    def __init__(self, home: Path, server: RedisServer | None) -> None:
        super().__init__(home, server)
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("HETERREC_")}
        self.environment |= {"HETERREC_HOME": str(home), "PYTHONPATH": str(ROOT)}
        if server is not None:
            assert self.redis is not None
            self.environment |= {"HETERREC_EVENT_LOG_REDIS": self.redis, "HETERREC_FEATURE_STORE": "redis"}
            self.environment |= {"REDIS_ADDRESS": server.address}

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", *words, "--dataset", str(self.home / "tiny.yaml")]
        return subprocess.Popen(
            command, env=self.environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def start_consumer(self) -> subprocess.Popen[str]:
        return self.start("serving", "consumer", "--metrics-port", "0", "--flush-seconds", "0.3")

    def forget(self, user: str = GONE) -> str:
        with self.start("pipelines", "forget", user) as process:
            out, _ = process.communicate(timeout=170)
        assert process.returncode == 0, out
        return out

    def found(self, user: str = GONE) -> list[str]:
        """Where the user's id is: files of the workspace as bytes and Parquet decoded, keys and values of Redis."""
        needle, where = user.encode(), []
        for path in (path for path in self.home.rglob("*") if path.is_file()):
            decoded = json.dumps(pq.ParquetFile(path).read().to_pylist(), default=str) if is_parquet(path) else ""
            if needle in path.read_bytes() or user in decoded:
                where.append(str(path.relative_to(self.home)))
        return where + (in_redis(self.redis, needle) if self.redis is not None else [])

    def others(self) -> dict[str, Counter[str]]:
        """The rows of each table that are not the user's."""
        mine = {row["request_id"] for row in self.rows("exposures") if row["user_id"] == GONE}
        return {
            table: Counter(
                json.dumps(row, default=str, sort_keys=True)
                for row in self.rows(table)
                if GONE not in str(row) and row.get("request_id") not in mine and '"request_id":"mine' not in str(row)
            )
            for table in TABLES
        }


def is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet" or path.read_bytes()[:4] == b"PAR1"


def in_redis(address: str, needle: bytes) -> list[str]:
    with redis.Redis.from_url(address) as client:
        read: dict[bytes, Callable[[bytes], Any]] = {
            b"string": client.get, b"hash": client.hgetall, b"stream": client.xrange, b"set": client.smembers,
            b"zset": lambda key: client.zrange(key, 0, -1), b"list": lambda key: client.lrange(key, 0, -1),
        }  # fmt: skip
        keys = list(client.scan_iter())
        return [str(key) for key in keys if needle in key or needle in repr(read[client.type(key)](key)).encode()]


async def shopping(writer: EventLogWriter, prefix: str) -> None:
    """Requests and purchases of three days by everybody, and what is set aside."""
    for back in (0, 1, 3):
        then = datetime.now(UTC) - timedelta(days=back)
        for user in (GONE, *OTHERS):
            request = f"{'mine' if user == GONE else user}-{prefix}-{back}"
            seen = [{"item_id": "i1", "event_time": (then - timedelta(days=1)).isoformat(), "features": {}}]
            asked = json.dumps({"user_id": user, "history": seen})
            more = {"time": then.isoformat(), "request": asked, "context": json.dumps({"visitor": user})}
            await writer.append("exposures", exposure(request, user, ["i3", "i4"], tired=[], **more))
            await writer.append("outcomes", outcome(request, "i3", time=then.isoformat()))
            await writer.append("outcomes", outcome(request, "i4", "click", time=then.isoformat()))
            await writer.append("outcomes", outcome(request, "i9", time=then.isoformat()))  # was not shown
            later = {**exposure(f"{request}-new", user, ["i3"], time=then.isoformat()), "schema": 99}
            await writer.append("exposures", later)


def within(seconds: float, holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)
