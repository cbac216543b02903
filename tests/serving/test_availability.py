"""What a shop withdraws is shown by no replica and by nobody who answers, 2 s after the call; and comes back."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from experiments.availability import AvailabilityCursor, AvailabilityTable
from experiments.database import Database
from experiments.document import Rollout
from serving.gateway.after.stock import Stock
from tests.serving.open_gateway import OpenGateway, ask
from tests.serving.test_api import SHOP, bearer, tokens
from tests.serving.test_server import within
from tests.serving.tiny_archive import ITEMS

NOBODY = "http://127.0.0.1:9"
SECONDS = 2.0
"""What is promised."""


def withdraw(client: TestClient, item: str, **more: Any) -> int:
    return client.put("/v1/availability", json={"withdrawn": [item]}, **more).status_code


def put_back(client: TestClient, item: str) -> int:
    return client.put("/v1/availability", json={"available": [item]}).status_code


def shown(client: TestClient, user: str = "u1", **fields: Any) -> list[str]:
    return [item["item_id"] for item in ask(client, user, **fields)["items"]]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(f"sqlite:///{tmp_path}/news.db")
    yield found
    found.close()


@pytest.mark.parametrize(("weight", "options"), [(0.0, {}), (1.0, {}), (0.5, {"torchserve": NOBODY})],
                         ids=["champion", "challenger", "popular"])  # fmt: skip
def test_who_ever_answers_leaves_out_what_is_withdrawn_and_fills_up_with_what_comes_next(
    open_gateway: OpenGateway, rollout: Rollout, weight: float, options: dict[str, Any]
) -> None:
    row = replace(rollout, weight=weight) if weight else replace(rollout, challenger=None, stage=None, weight=0.0)
    client = open_gateway(row, **options)
    before = shown(client, k=8, exclude_seen=False)
    withdrawn = before[:3] if weight != 0.5 else before[:1]
    for item in withdrawn:
        assert withdraw(client, item) == 200
    after = shown(client, k=8, exclude_seen=False)
    assert not set(after) & set(withdrawn)
    assert after[: len(before) - len(withdrawn)] == before[len(withdrawn) :], "the order of the others stays"
    assert len(after) == (8 if weight != 0.5 else 1), "as many as asked for, where the model knows more"
    assert put_back(client, withdrawn[0]) == 200
    assert shown(client, k=8, exclude_seen=False)[0] == before[0]


def test_more_is_ranked_where_all_that_was_ranked_is_withdrawn(open_gateway: OpenGateway, rollout: Rollout) -> None:
    client = open_gateway(rollout)
    for item in (gone := ITEMS[:10]):
        withdraw(client, item)
    assert set(shown(client, k=2, exclude_seen=False)) == set(ITEMS) - set(gone)


def test_every_replica_follows_within_two_seconds_under_load(open_gateway: OpenGateway, rollout: Rollout) -> None:
    replicas = [open_gateway(rollout) for _ in range(2)]
    told: dict[str, float] = {}
    late: list[tuple[str, float]] = []
    asked, ended = [0, 0], threading.Event()

    def load(number: int) -> None:
        while not ended.is_set():
            began = time.monotonic()
            for item in shown(replicas[number], f"u{asked[number]}", k=5, exclude_seen=False):
                if item in told and began - told[item] > SECONDS:
                    late.append((item, began - told[item]))
            asked[number] += 1

    with ThreadPoolExecutor() as pool:
        loads = [pool.submit(load, number) for number in (0, 1, 1)]
        try:
            for item in shown(replicas[0], k=5, exclude_seen=False):
                assert withdraw(replicas[0], item) == 200
                told[item] = time.monotonic()
                assert item not in shown(replicas[0], k=5, exclude_seen=False), "here at once"
            assert within(20, lambda: not set(shown(replicas[1], k=10, exclude_seen=False)) & told.keys())
            last = max(told.values())
            assert within(20, lambda: time.monotonic() - last > SECONDS + 0.5)
        finally:
            ended.set()
        for each in loads:
            each.result()
    assert not late and min(asked) > 5


def test_a_replica_that_is_cut_off_goes_on_with_the_last_that_it_knew_and_says_so(
    open_gateway: OpenGateway, rollout: Rollout, database: Database, tmp_path: Path
) -> None:
    client = open_gateway(rollout, availability=AvailabilityTable(database, "shop"))
    best = shown(client)[0]
    withdraw(client, best)
    with sqlite3.connect(tmp_path / "news.db") as connection:
        connection.execute("ALTER TABLE availability RENAME TO away")
    connection.close()
    assert within(20, lambda: "no such table" in str(client.get("/ready").json()["problems"]))
    assert best not in shown(client)
    told = client.get("/ready").json()
    assert told["status"] == "degraded" and "what was known last holds" in told["problems"][0]
    refused = client.put("/v1/availability", json={"withdrawn": ["i5"]})
    assert refused.status_code == 503 and refused.json()["detail"] == "the change could not be written; send it again"
    assert within(20, lambda: client.get("/ready").json()["news_age_seconds"] > 1)
    metrics = client.get("/metrics").text
    assert "gateway_withdrawn_items 1.0" in metrics
    age = next(line for line in metrics.splitlines() if line.startswith("gateway_news_age_seconds "))
    assert float(age.split()[1]) > 1 and 'gateway_failures_total{part="news"} 0.0' not in metrics
    with sqlite3.connect(tmp_path / "news.db") as connection:
        connection.execute("ALTER TABLE away RENAME TO availability")
    connection.close()
    assert within(20, lambda: client.get("/ready").json()["status"] == "ready")
    assert put_back(client, best) == 200 and shown(client)[0] == best


def test_a_replica_that_never_read_what_is_withdrawn_is_not_ready(
    open_gateway: OpenGateway, rollout: Rollout, database: Database, tmp_path: Path
) -> None:
    availability = AvailabilityTable(database, "shop")
    with sqlite3.connect(tmp_path / "news.db") as connection:
        connection.execute("ALTER TABLE availability RENAME TO away")
    connection.close()
    client = open_gateway(rollout, availability=availability)
    assert client.get("/ready").status_code == 503 and "no such table" in client.get("/ready").json()["detail"]
    assert client.post("/v1/recommendations", json={"user_id": "u"}).status_code == 503
    with sqlite3.connect(tmp_path / "news.db") as connection:
        connection.execute("ALTER TABLE away RENAME TO availability")
    connection.close()
    assert within(20, lambda: client.get("/ready").status_code == 200) and shown(client)


def test_who_withdraws_needs_a_token_and_an_id_that_can_be_one(
    open_gateway: OpenGateway, rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.gateway.access import Access

    client = open_gateway(rollout, access=Access(tokens(monkeypatch, SHOP)))
    assert withdraw(client, "i3") == withdraw(client, "i3", headers=bearer("not-the-token-of-it")) == 401
    assert withdraw(client, "i3", headers=bearer(SHOP)) == 200
    assert withdraw(client, "../a\n/b", headers=bearer(SHOP)) == 200, "an id may have any character"
    for bad, field in (
        ({"withdrawn": ["x" * 300]}, "withdrawn.0"),
        ({"withdrawn": [str(n) for n in range(501)]}, "withdrawn"),
        ({"withdrawn": ["i3"], "available": [" i3 "]}, "body"),
        ({"gone": ["i3"]}, "gone"),
    ):
        reply = client.put("/v1/availability", json=bad, headers=bearer(SHOP))
        assert reply.status_code == 422 and reply.json()["errors"][0]["field"] == field, reply.text


def test_told_again_it_is_no_change_and_who_follows_reads_only_what_is_new(database: Database) -> None:
    shop, other = AvailabilityTable(database, "shop"), AvailabilityTable(database, "other")
    told = [shop.record(words) for words in ({"a": False}, {"b": False, "a": False}, {"a": False}, {"c": True}, {})]
    assert told == [1, 2, 2, 2, 2]
    first = shop.changes(AvailabilityCursor())
    assert (first.available, first.seen.number) == ({"a": False, "b": False}, 2)
    shop.record({"a": True, "d": False})
    assert shop.changes(first.seen).available == {"a": True, "d": False}
    assert not other.changes(AvailabilityCursor()).available, "another model's stock is its own"
    assert other.record({"a": False}) == 1 and other.changes(AvailabilityCursor()).available == {"a": False}


def test_writers_at_the_same_time_lose_nothing_and_a_follower_misses_nothing(database: Database) -> None:
    shop, stock = AvailabilityTable(database, "shop"), Stock()

    def write(writer: int) -> None:
        for n in range(12):
            shop.record({f"w{writer}-{n % 4}": n % 3 == 0})

    with ThreadPoolExecutor() as pool:
        writing = [pool.submit(write, writer) for writer in range(3)]
        while not all(each.done() for each in writing):
            stock.take(shop.changes(stock.seen))
        for each in writing:
            each.result()
    stock.take(shop.changes(stock.seen))
    final = {f"w{w}-{n % 4}": n % 3 == 0 for w in range(3) for n in range(12)}
    assert stock.withdrawn == {item for item, available in final.items() if not available}


@pytest.mark.parametrize("meanwhile", [True, False], ids=["read while empty", "read later"])
def test_a_table_that_was_emptied_or_restored_brings_nothing_back_that_was_sold_out(
    meanwhile: bool, database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shop, stock = AvailabilityTable(database, "shop"), Stock()
    shop.record(dict.fromkeys("abc", False))
    stock.take(shop.changes(stock.seen))
    with sqlite3.connect(tmp_path / "news.db") as connection:
        connection.execute("DELETE FROM availability")
        connection.execute("DELETE FROM availability_item")
    connection.close()
    if meanwhile:
        stock.take(shop.changes(stock.seen))
    assert stock.withdrawn == {"a", "b", "c"}
    for item in ("d", "e", "f", "a"):  # beyond the number that was known before
        shop.record({item: False})
    shop.record({"a": True})
    stock.take(shop.changes(stock.seen))
    assert stock.withdrawn == {"b", "c", "d", "e", "f"}
    assert "stay withdrawn until the shop says otherwise" in caplog.text
