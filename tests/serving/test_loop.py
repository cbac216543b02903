"""The loop with every part a process of its own: TorchServe, gateway, consumer, and Redis where there are many."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from experiments.document import DocumentChange, ModelVersion, Rollout
from experiments.table import RolloutTable
from serving.torchserve import archive
from serving.torchserve.server import TorchServe
from tests.redis_server import RedisServer
from tests.serving.live_shop import ITEMS, Transport, fill
from tests.termination import terminated

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 1, 5, tzinfo=UTC)


class Shop:
    """A workspace whose model serves, and the processes around it."""

    def __init__(self, home: Path, torchserve: str, redis: RedisServer | None) -> None:
        self.home, self.torchserve = home, torchserve
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("HETERREC_")}
        self.environment |= {"HETERREC_HOME": str(home), "PYTHONUNBUFFERED": "1"}
        if redis is not None:
            self.environment["HETERREC_EVENT_LOG_REDIS"] = f"redis://{redis.address}/0"

    @contextmanager
    def process(self, *arguments: str, ready: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
        """`python -m serving ...`, and what its line of `ready` says."""
        command = [sys.executable, "-m", "serving", *arguments]
        process = subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            assert process.stdout is not None
            printed = []
            for line in process.stdout:
                printed.append(line)
                if found := re.search(ready, line):
                    yield process, found[1]
                    return
            raise AssertionError("".join(printed))
        finally:
            process.kill()
            process.wait()

    def gateway(self, **more: str) -> Any:
        self.environment |= more
        card = str(self.home / "shop.yaml")
        arguments = ["gateway", "--dataset", card, "--torchserve", self.torchserve, "--port", "0"]
        return self.process(*arguments, ready=r"(http://\S+)/v1")

    def consumer(self) -> Any:
        card = str(self.home / "shop.yaml")
        arguments = ["consumer", "--dataset", card, "--metrics-port", "0", "--flush-seconds", "0.5"]
        return self.process(*arguments, ready=r"(http://\S+)/metrics")

    def transport(self) -> Transport:
        return Transport(self.home, self.environment.get("HETERREC_EVENT_LOG_REDIS"), name="shop")


@pytest.fixture(params=["segments", "redis"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, server: TorchServe, mar: Path) -> Shop:
    fill(tmp_path, name="shop")
    champion = ModelVersion(
        version="1.0", archive=str(mar), archive_digest=archive.digest(mar), recipe_digest="r", registered=NOW
    )
    with RolloutTable(f"sqlite:///{tmp_path}/rollout.db") as table:
        table.propose(DocumentChange(Rollout(model="shop", champion=champion), "test", "first"), 0)
    redis = request.getfixturevalue("durable_redis") if request.param == "redis" else None
    return Shop(tmp_path, server.address, redis)


def recommended(client: httpx.Client, user: str) -> dict[str, Any]:
    answer: dict[str, Any] = (
        client.post("/v1/recommendations", json={"user_id": user, "k": 5}).raise_for_status().json()
    )
    return answer


def buy(client: httpx.Client, shown: dict[str, Any]) -> str:
    item: str = shown["items"][0]["item_id"]
    event = {"request_id": shown["request_id"], "event_type": "purchase", "item_id": item}
    assert client.post("/v1/events", json=event).status_code == 202
    return item


def test_an_event_changes_the_next_recommendation_within_a_second_and_survives_kill_9_of_every_process(
    shop: Shop, record_property: Any
) -> None:
    bought: dict[str, list[str]] = {}
    with shop.gateway() as (gateway, address), httpx.Client(base_url=address, timeout=10) as client:
        with shop.consumer() as (consumer, metrics):
            seconds = []
            for number in range(6):
                user = f"new{number}"
                shown = recommended(client, user)
                assert shown["version"] == "1.0" and shown["status"] == "ok" and shown["logged"]
                bought[user] = [item := buy(client, shown)]
                began = time.monotonic()
                then = recommended(client, user)
                while item in {each["item_id"] for each in then["items"]}:
                    assert time.monotonic() - began < 10, "the event changed nothing"
                    time.sleep(0.02)
                    then = recommended(client, user)
                seconds.append(time.monotonic() - began)
                assert then["items"] and then["version"] == "1.0"
            record_property("seconds_to_the_next_recommendation", seconds)
            print(f"\nan event changed the next recommendation after {sorted(round(each, 3) for each in seconds)} s")
            assert statistics.median(seconds) < 1, seconds
            with urllib.request.urlopen(f"{metrics}/metrics") as page:
                text = page.read().decode()
            assert 'consumer_interactions_total{result="added"} 6.0' in text and "consumer_delay_seconds_sum" in text
            consumer.send_signal(signal.SIGKILL)
        for number in range(6):  # nobody follows the log now
            bought[user := f"new{number}"].append(buy(client, recommended(client, user)))
        gateway.send_signal(signal.SIGKILL)
    with shop.consumer() as (consumer, _):
        deadline = time.monotonic() + 20
        while len(shop.transport().rows("interactions")) < 12 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert terminated(consumer) == 0
    transport = shop.transport()
    for user, items in bought.items():
        assert [record.item_id for record in transport.history(user)] == items
    assert len(transport.rows("interactions")) == 12
    assert not list((transport.log / "segments").glob("*")), "all is in day partitions"
    assert len({row["request_id"] for row in transport.rows("exposures")}) == len(transport.rows("exposures"))


def test_the_next_run_is_trained_on_what_was_served(shop: Shop, tmp_path: Path) -> None:
    import pyarrow as pa

    from components.ingest import step
    from tests.component.ingest_cards import make_card, rows

    with shop.gateway() as (gateway, address), httpx.Client(base_url=address, timeout=10) as client:
        items = [buy(client, recommended(client, f"new{number}")) for number in range(3)]
        assert terminated(gateway) == 0
    with shop.consumer() as (consumer, _):
        time.sleep(1)
        assert terminated(consumer) == 0
    (folder := tmp_path / "source").mkdir()
    catalogue = pa.table({"item_id": ITEMS, "title": ITEMS, "price": [1.0] * len(ITEMS)})
    card = make_card(
        folder, items=catalogue, suffix=".parquet", interactions=pa.table(SOLD), event_log={"trains": True}
    )
    (events := tmp_path / "events").mkdir()
    report = step.run(card=card, events=events, log=shop.transport().log)
    found = rows(events, "interactions")
    assert [(row["user_id"], row["item_id"]) for row in found[1:]] == [(f"new{n}", items[n]) for n in range(3)]
    assert report["rejected"] == 0
    assert {row["event_id"] for row in found[1:]} == {
        record.event_id for n in range(3) for record in shop.transport().history(f"new{n}")
    }, "the batch and the log tell of the same events"


SOLD = {"user_id": ["a"], "item_id": ["i1"], "event_time": ["2026-01-01T10:00:00Z"]}


@pytest.mark.parametrize("shop", ["segments"], indirect=True)
def test_the_gateway_asks_for_tokens_that_are_rotated_while_it_runs(shop: Shop, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("# shops\nfirst-token-of-the-shop\n")
    with shop.gateway(HETERREC_API_TOKENS_FILE=str(tokens)) as (_, address):

        def status(token: str) -> int:
            headers = {"Authorization": f"Bearer {token}"}
            return httpx.post(f"{address}/v1/recommendations", json={"user_id": "u1"}, headers=headers).status_code

        assert (status("first-token-of-the-shop"), status("second-token-of-the-shop")) == (200, 401)
        tokens.write_text("first-token-of-the-shop\nsecond-token-of-the-shop\n")
        assert (status("first-token-of-the-shop"), status("second-token-of-the-shop")) == (200, 200)
        tokens.write_text("second-token-of-the-shop\n")
        assert (status("first-token-of-the-shop"), status("second-token-of-the-shop")) == (401, 200)
        tokens.unlink()
        assert status("second-token-of-the-shop") == 200, "a slip shuts no shop out"
        assert "the tokens of before hold" in httpx.get(f"{address}/ready").text
        assert httpx.get(f"{address}/health").json() == json.loads('{"status": "alive"}')
