"""The loop closed: what shoppers do is in their histories at once and in day partitions later, whatever is killed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from events.consumer import delivery
from events.consumer.attribution import Identity, event_id
from events.consumer.command import changing_kinds
from events.consumer.consumer import Busy
from events.schema import SCHEMA
from events.segments import SegmentSink
from events.stream import Stream
from events.writer import EventLogWriter, LogUnavailable
from experiments import log as rollout_log
from experiments.policy import Policy
from feature_repo.card import load_card
from feature_repo.online import as_request
from tests.redis_server import RedisServer
from tests.serving.live_shop import (
    ITEMS,
    Transport,
    exposure,
    fill,
    outcome,
    price,
)


@pytest.fixture(params=["segments", "redis"])
def transport(request: pytest.FixtureRequest, tmp_path: Path) -> Transport:
    fill(tmp_path)
    return Transport(tmp_path, request.getfixturevalue("durable_redis") if request.param == "redis" else None)


def log(transport: Transport, *events: tuple[str, dict[str, Any]]) -> None:
    async def write() -> None:
        with transport.writer() as writer:
            for table, event in events:
                await writer.append(table, event)

    asyncio.run(write())


def test_a_purchase_is_in_the_history_with_the_values_of_the_moment_and_a_click_is_not(transport: Transport) -> None:
    log(
        transport,
        ("exposures", exposure("r1", "u1", ["i3", "i4"])),
        ("outcomes", outcome("r1", "i3", "click")),
        ("outcomes", bought := outcome("r1", "i4")),
        ("exposures", exposure("r2", "stranger", ["i5"])),
        ("outcomes", outcome("r2", None)),
    )
    before = transport.history("u1")
    with transport.consumer() as consumer:
        transport.settle(consumer)
        text = consumer.metrics.registry.get_sample_value
        assert text("consumer_interactions_total", {"result": "added"}) == 2
        assert text("consumer_lag_seconds") == 0 and text("consumer_lag_events") == 0
    (*same, new) = transport.history("u1")
    assert same == before and (new.item_id, new.values["price"], new.streamed) == ("i4", price(4), True)
    moment = datetime.fromisoformat(bought["time"])
    assert new.event_id == event_id("u1", "i4", moment) and new.position > 10**18
    assert [record.item_id for record in transport.history("stranger")] == ["i5"], "the only item that was shown"


def test_partitions_are_what_the_judge_and_the_gate_read(transport: Transport) -> None:
    from components.resolve.exposures import copy_exposures
    from tests.component.make_events import make_card

    now = datetime.now(UTC)
    seen = [
        {"item_id": "i2", "event_time": (now - timedelta(days=days)).isoformat(), "features": {"price": 12.0}}
        for days in (9, 2)
    ]
    request = json.dumps({"user_id": "u1", "history": seen})
    arm = {"variant": "challenger", "salt": "s", "stage": 1, "weight": 0.9999, "request": request}
    log(
        transport,
        ("exposures", exposure("r1", "u1", ["i3"], **arm)),
        ("exposures", exposure("r2", "u2", ["i3"], override=True)),
        ("outcomes", outcome("r1", "i3", "click")),
        ("outcomes", outcome("r1", "i3")),
        ("outcomes", outcome("r2", "i3")),
    )
    with transport.consumer() as consumer:
        transport.settle(consumer)
    assert {row["request_id"] for row in transport.rows("exposures")} == {"r1", "r2"}
    assert len(transport.rows("outcomes")) == 3 and not list((transport.log / "segments").glob("*"))
    (row,) = transport.rows("interactions")
    assert (row["user_id"], row["item_id"], row["request_id"], row["schema"]) == ("u1", "i3", "r1", SCHEMA)
    assert json.loads(row["features"]) == {"price": price(3), "label": "plain"}
    policy, later = Policy(novelty_hours=0), now + timedelta(hours=2)
    with rollout_log.ExposureLog(transport.log, salt="s", opened=now, now=later, policy=policy) as judged:
        assert judged.traffic(1).exposures == 1, "a tester's exposure is of no experiment"
        assert judged.successes().outcomes["success"].sum() == 1
    (used,) = transport.rows("served")
    assert (used["item_id"], used["price"], used["version"]) == ("i2", 12.0, "1.0"), "the older event is not looked at"
    (reference := transport.home / "reference").mkdir()
    told = copy_exposures(make_card(), transport.home / "exposures" / "tiny", now, reference)
    assert told["exposures"] == 1 and not told["served_fault"]


def test_the_history_of_several_kinds_says_which_each_event_was(tmp_path: Path) -> None:
    said = {
        "columns": {"event_time": "t", "event_type": "kind"},
        "events": {"purchase": {"predict": True}, "view": {}, "like": {"history": False}},
        "event_log": {"interactions": ["purchase", "view", "like"]},
    }
    card = load_card(str(fill(tmp_path, **said)))
    transport = Transport(tmp_path)
    log(
        transport,
        ("exposures", exposure("r1", "u1", ["i3", "i4"])),
        *(("outcomes", outcome("r1", "i3", kind)) for kind in ("view", "like", "purchase")),
    )
    with transport.consumer(kinds=changing_kinds(card), identity=Identity(typed=True)) as consumer:
        transport.settle(consumer)
    told = transport.history("u1")
    assert [record.values["event_type"] for record in told[:-2]] == ["purchase"] * 5, "as the batch wrote them"
    assert [(record.item_id, record.values["event_type"]) for record in told[-2:]] == [
        ("i3", "view"), ("i3", "purchase")
    ]  # fmt: skip
    last = as_request(told)[-1]
    assert (last["event_type"], last["features"].keys()) == ("purchase", {"price", "label"})


def test_what_nothing_follows_from_is_set_aside_with_the_reason(transport: Transport) -> None:
    log(
        transport,
        ("exposures", exposure("r1", "u1", ["i3", "i4"])),
        ("outcomes", outcome("r1", "i9")),
        ("outcomes", outcome("r1", None)),
        ("outcomes", outcome("r1", "i3", time="2020-01-01T00:00:00+00:00")),
        ("outcomes", outcome("never shown", "i3")),
        ("outcomes", {**outcome("r1", "i3"), "schema": SCHEMA + 1}),
    )
    clock = [datetime.now(UTC)]
    with transport.consumer(clock=lambda: clock[0]) as consumer:
        transport.settle(consumer)
        assert len(transport.rows("set_aside")) == 4, "one still waits for its exposure"
        clock[0] += timedelta(minutes=2)
        transport.settle(consumer)
    reasons = " ".join(sorted(row["reason"] for row in transport.rows("set_aside")))
    for part in ("'i9' was not shown", "2 items were shown", "not within 7 days", "no exposure", "update what reads"):
        assert part in reasons
    assert not transport.rows("interactions")


def test_an_outcome_that_is_read_before_its_exposure_waits_for_it(tmp_path: Path) -> None:
    fill(tmp_path)
    transport = Transport(tmp_path)
    log(transport, ("outcomes", outcome("r1", "i3")))
    with transport.consumer() as consumer:
        transport.settle(consumer)
        log(transport, ("exposures", exposure("r1", "u1", ["i3"])))
        transport.settle(consumer)
    assert [row["item_id"] for row in transport.rows("interactions")] == ["i3"]
    assert transport.history("u1")[-1].item_id == "i3"


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff{",
        b"17\x00\x00",
        b'{"table":"exposures","schema":2,"request_id":"r9","time":"2026-01-05T10:00:00+00:00"}',
    ],
)
def test_a_damaged_segment_loses_its_damaged_line_alone(tmp_path: Path, damage: bytes) -> None:
    fill(tmp_path)
    transport = Transport(tmp_path)
    log(transport, ("exposures", exposure("r1", "u1", ["i3"])), ("outcomes", outcome("r1", "i3")))
    (segment,) = (transport.log / "segments").glob("*.jsonl")
    first, second = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(first + damage + b"\n" + second + second[:20])
    with transport.consumer() as consumer:
        transport.settle(consumer)
    assert len(transport.rows("interactions")) == len(transport.rows("outcomes")) == 1
    assert "no event" in transport.rows("set_aside")[0]["reason"] and not segment.exists()


def test_while_the_disk_of_its_state_is_full_nothing_is_lost(tmp_path: Path) -> None:
    fill(tmp_path)
    transport = Transport(tmp_path)
    with transport.consumer() as consumer:
        sql = consumer._state._sql
        (pages,) = sql.execute("PRAGMA page_count").fetchone()
        sql.execute(f"PRAGMA max_page_count = {pages}")
        log(transport, *(("exposures", exposure(f"r{n}", "u1", [f"i{i}" for i in range(12)])) for n in range(60)))
        log(transport, ("outcomes", outcome("r1", "i3")))
        for _ in range(2):
            consumer.round()
            assert "database or disk is full" in consumer.problems["histories"]
        sql.execute("PRAGMA max_page_count = 1000000")
        transport.settle(consumer)
    assert [row["item_id"] for row in transport.rows("interactions")] == ["i3"]
    assert len(transport.rows("exposures")) == 60


def test_a_second_consumer_is_refused_while_the_first_works_and_then_goes_on(tmp_path: Path) -> None:
    fill(tmp_path)
    transport = Transport(tmp_path)
    with transport.consumer(), pytest.raises(Busy, match="another consumer"), transport.consumer():
        pass
    with transport.consumer() as consumer:
        transport.settle(consumer)


def test_while_the_online_store_is_away_nothing_is_lost(
    durable_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETERREC_FEATURE_STORE", "redis")
    monkeypatch.setenv("REDIS_ADDRESS", durable_redis.address)
    fill(tmp_path)
    transport = Transport(tmp_path)
    with transport.consumer() as consumer:
        durable_redis.stop()
        log(transport, ("exposures", exposure("r1", "u1", ["i3"])), ("outcomes", outcome("r1", "i3")))
        consumer.round(flush=True)
        assert consumer.problems and not transport.rows("interactions")
        assert consumer.metrics.registry.get_sample_value("consumer_lag_seconds") > 0
        durable_redis.start()
        consumer.round()
        transport.settle(consumer)
    assert transport.history("u1")[-1].item_id == "i3" and len(transport.rows("interactions")) == 1


def test_partitions_that_could_not_be_written_are_written_the_next_time(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(transport, ("exposures", exposure("r1", "u1", ["i3"])), ("outcomes", outcome("r1", "i3")))
    with transport.consumer() as consumer:
        while consumer.round():
            pass
        with monkeypatch.context() as full:

            def refuse(*_: object) -> int:
                raise OSError(28, "No space left on device")

            full.setattr(delivery, "write_days", refuse)
            consumer.round(flush=True)
            assert "No space left" in consumer.problems["partitions"]
        transport.settle(consumer)
    assert len(transport.rows("interactions")) == len(transport.rows("exposures")) == 1


def test_a_consumer_that_was_killed_between_disk_and_redis_doubles_nothing(
    durable_redis: RedisServer, tmp_path: Path
) -> None:
    fill(tmp_path)
    transport = Transport(tmp_path, durable_redis)
    log(transport, ("exposures", exposure("r1", "u1", ["i3"])), ("outcomes", outcome("r1", "i3")))
    sink = SegmentSink(transport.log)
    sink.open()

    def killed_behind(lines: Sequence[bytes]) -> None:
        sink.write(lines)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stream(transport.redis or "", "tiny", known=(0, 0)).move(killed_behind, block_ms=10)
    sink.close()
    with transport.consumer() as consumer:
        transport.settle(consumer)
    for table in ("exposures", "outcomes", "interactions"):
        assert len(transport.rows(table)) == 1


NURSERY = """
import os, random, sys, time, traceback
from pathlib import Path
from tests.serving.live_shop import Transport
import feature_repo.store, feature_repo.online
transport = Transport(Path(sys.argv[1]), sys.argv[2] or None)
rng = random.Random(0)
for _ in range(8):
    child = os.fork()
    if child == 0:
        try:
            with transport.consumer(flush_seconds=0.05) as consumer:
                consumer.run(lambda: False)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    time.sleep(rng.uniform(0.3, 1.2))
    os.kill(child, 9)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Consumers that are killed one after the other, each at another moment; forks, which have imported everything."""


def test_killed_again_and_again_it_loses_nothing_and_doubles_nothing(transport: Transport) -> None:
    acknowledged: list[tuple[str, str, str]] = []
    done = False

    async def shop(number: int, writer: EventLogWriter) -> None:
        count = 0
        while not done:
            request, user, item = f"r{number}-{count}", f"k{number}-{count // 50}", ITEMS[count % 12]
            try:
                await writer.append("exposures", exposure(request, user, [item, "i0"]))
                await writer.append("outcomes", outcome(request, item))
                acknowledged.append((request, user, item))
            except LogUnavailable:
                await asyncio.sleep(0.1)  # Redis was killed; what was not acknowledged may be lost
            count += 1
            await asyncio.sleep(0.01)

    async def shops() -> None:
        with transport.writer() as writer:
            await asyncio.gather(*(shop(number, writer) for number in range(4)))

    shopping = threading.Thread(target=lambda: asyncio.run(shops()))
    path = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parent)])
    command = [sys.executable, "-c", NURSERY, str(transport.home), transport.redis or ""]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    ) as nursery:
        assert nursery.stdout is not None
        shopping.start()
        codes = []
        for line in nursery.stdout:
            codes.append(int(line))
            if transport.server is not None and len(codes) in (3, 5):
                transport.server.stop()
                transport.server.start()
        done = True
        shopping.join()
    assert codes == [-signal.SIGKILL] * 8, "each was at work when it was killed"
    with transport.consumer() as consumer:
        transport.settle(consumer)

    assert len(acknowledged) > 200
    for table in ("exposures", "outcomes", "interactions"):
        counted = Counter(row["request_id"] for row in transport.rows(table))
        assert set(counted) >= {request for request, _, _ in acknowledged}, f"{table} lost some"
        assert set(counted.values()) == {1}, f"{table} doubled some"
    bought = Counter((user, item) for _, user, item in acknowledged)
    for user in {user for _, user, _ in acknowledged}:
        online = Counter(record.item_id for record in transport.history(user))
        expected = Counter({item: number for (who, item), number in bought.items() if who == user})
        assert not expected - online, f"the history of {user} lost some"
        ids = [record.event_id for record in transport.history(user)]
        assert len(ids) == len(set(ids))
    assert not transport.rows("set_aside")
