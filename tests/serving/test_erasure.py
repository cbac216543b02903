"""A deleted user leaves the event log too: no byte of the id stays, nobody else loses a row, whatever is killed."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis

from events import stream
from events.consumer.erasure import NAME, erased
from events.schema import to_line
from events.segments import SegmentSink, segments
from feature_repo.forgotten import Forgotten
from tests.redis_server import RedisServer
from tests.serving.forgotten_shop import (
    GONE,
    OTHERS,
    ROOT,
    TABLES,
    Shop,
    shopping,
    within,
)
from tests.serving.live_shop import (
    Transport,
    exposure,
    fill,
    outcome,
)


@pytest.fixture(params=["segments", "redis"])
def shop(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    server = None
    if request.param == "redis":
        server = request.getfixturevalue("durable_redis")
        monkeypatch.setenv("HETERREC_FEATURE_STORE", "redis")
        monkeypatch.setenv("REDIS_ADDRESS", server.address)
    fill(tmp_path / "home")
    shutil.rmtree(tmp_path / "home" / "made")  # inputs of the test, where no workspace has any
    return Shop(tmp_path / "home", server)


def all_read(shop: Shop, count: int) -> bool:
    try:
        return all(len(shop.rows(table)) == count for table in ("exposures", "interactions", "served"))
    except FileNotFoundError:  # a part that a rename was about to replace
        return False


def test_a_deleted_user_leaves_while_gateways_and_a_consumer_run(shop: Shop) -> None:
    async def shops() -> None:
        with shop.writer() as writer:
            await shopping(writer, "old")
        if shop.server is None:  # a line that was torn by a failure names the user too
            sink = SegmentSink(shop.log)
            sink.open()
            sink.write([b'{"table":"exposures","user_id":"' + GONE.encode() + b'","req\n'])
            sink.close()
        within(60, lambda: all_read(shop, 18))
        assert GONE in str(shop.rows("set_aside")) and GONE in str(shop.rows("served"))
        before, history = shop.others(), shop.history(OTHERS[0])
        assert {table: sum(rows.values()) for table, rows in before.items()} == {
            "exposures": 15, "outcomes": 45, "interactions": 15, "set_aside": 30, "served": 15,
        }  # fmt: skip
        with shop.writer(roll_seconds=3) as writer:  # of before the deletion, and not written to its end
            await writer.append("exposures", exposure("mine-open", GONE, ["i5"]))
            await writer.append("outcomes", outcome("mine-open", "i5"))
            await writer.append("outcomes", outcome("mine-open", "i5", "click"))
            told = await asyncio.to_thread(shop.forget)
        assert "deleted 1 users online, in the event log and offline" in told
        assert shop.found() == [] and not shop.history(GONE)
        assert shop.others() == before and shop.history(OTHERS[0]) == history
        assert not [row for table in TABLES for row in shop.rows(table) if "mine-" in str(row)]

        with shop.writer() as writer:  # late news of before, and a new acquaintance
            await writer.append("outcomes", outcome("mine-old-0", "i3"))
            await writer.append("exposures", exposure("again", GONE, ["i6"]))
            await writer.append("outcomes", outcome("again", "i6"))
        within(60, lambda: [row["request_id"] for row in shop.rows("interactions") if row["user_id"] == GONE])

    consumer = shop.start_consumer()
    try:
        asyncio.run(shops())
    finally:
        consumer.terminate()
        out, _ = consumer.communicate(timeout=60)
    assert consumer.returncode == 0 and "Traceback" not in out, out
    assert [row["request_id"] for row in shop.rows("interactions") if row["user_id"] == GONE] == ["again"]
    assert [record.item_id for record in shop.history(GONE)] == ["i6"]
    assert "mine-" not in str([shop.rows(table) for table in TABLES])


def test_where_no_consumer_runs_forgetting_is_one_and_may_be_killed(shop: Shop) -> None:
    async def before() -> None:
        with shop.writer() as writer:
            await shopping(writer, "old")

    asyncio.run(before())
    (run := shop.home / "runs" / "tiny-1").mkdir(parents=True)
    (run / "page.html").write_text(f"<tr><td>{GONE}</td><td>9</td></tr>")
    (run / "validate.json").write_text(json.dumps({"report": [{"user": GONE, "found": 9}]}))
    assert shop.found()
    with shop.start("pipelines", "forget", GONE) as killed:
        within(60, (shop.home / "forgotten" / "tiny.txt").exists)
        time.sleep(0.3)
        killed.kill()
    assert killed.returncode == -signal.SIGKILL
    shop.forget()
    assert shop.found() == []
    assert json.loads((run / "validate.json").read_text()) == {"report": [{"user": "(deleted)", "found": 9}]}
    assert {table: sum(rows.values()) for table, rows in shop.others().items()} == {
        "exposures": 15, "outcomes": 45, "interactions": 15, "set_aside": 30, "served": 15,
    }  # fmt: skip
    for user in OTHERS:
        assert [record.item_id for record in shop.history(user)] == ["i3", "i3", "i3"]


NURSERY = """
import os, signal, sys
from pathlib import Path
from feature_repo.forgotten import Forgotten
from events.consumer.erasure import NAME, erased
from events.consumer import consumer as consumers
from events.consumer.state import State
from tests.serving.killed import after
from tests.serving.live_shop import Transport
import feature_repo.online, feature_repo.store
consumers.ERASE_SECONDS = 0
transport = Transport(Path(sys.argv[1]), sys.argv[2] or None)
forgotten = Forgotten(Path(sys.argv[1]) / "forgotten.txt")
def work():
    with transport.consumer(forgotten=forgotten, flush_seconds=0.1) as consumer:
        consumer.run(lambda: (transport.log / NAME).exists())
for moment in range(200):
    code = after(moment % 4 + 1, work, (os, "replace"), (Path, "unlink"), (State, "purge"))
    print(code, flush=True)
    if code != -signal.SIGKILL:
        break
"""
"""Consumers that are killed after a few steps each, at another one than the one before, until one comes to its end."""


def test_killed_at_every_step_the_user_leaves_and_nobody_else_does(shop: Shop) -> None:
    async def before() -> None:
        with shop.writer() as writer:
            await shopping(writer, "old")

    asyncio.run(before())
    with shop.consumer() as consumer:
        shop.settle(consumer)
    expected = shop.others()
    asyncio.run(before_again(shop))
    Forgotten(shop.home / "forgotten.txt").add([GONE], datetime.now(UTC))
    command = [sys.executable, "-c", NURSERY, str(shop.home), shop.redis or ""]
    done = subprocess.run(command, env=shop.environment, cwd=ROOT, capture_output=True, text=True, timeout=170)
    *killed, last = map(int, done.stdout.split())
    assert last == 0 and set(killed) == {-signal.SIGKILL} and len(killed) >= 6, done.stderr
    online = ("feast/", "b'")  # whose histories are deleted by forget, which is not under test here
    assert [where for where in shop.found() if not where.startswith(online) or "events:" in where] == []
    assert shop.others() == expected
    assert erased(shop.log).keys() == Forgotten(shop.home / "forgotten.txt").until().keys()


async def before_again(shop: Shop) -> None:
    """More of the user's, which is in segments or the stream when the deletion begins."""
    then = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    with shop.writer() as writer:
        await writer.append("exposures", exposure("mine-late", GONE, ["i5"], time=then))
        await writer.append("outcomes", outcome("mine-late", "i5", time=then))


def test_an_answer_from_a_history_that_was_deleted_goes_though_it_is_logged_later(tmp_path: Path) -> None:
    fill(tmp_path)
    shop = Transport(tmp_path)
    forgotten = Forgotten(tmp_path / "forgotten.txt")
    deleted = datetime.now(UTC) - timedelta(seconds=10)
    forgotten.add([GONE], deleted)

    def asked(seconds: float) -> str:
        seen = {"item_id": "i1", "event_time": (deleted + timedelta(seconds=seconds)).isoformat(), "features": {}}
        return json.dumps({"user_id": GONE, "history": [seen]})

    async def log() -> None:
        with shop.writer() as writer:
            for request, seconds in (("old", -5), ("new", 5)):
                await writer.append("exposures", exposure(request, GONE, ["i3"], request=asked(seconds)))
                await writer.append("outcomes", outcome(request, "i3"))

    asyncio.run(log())
    with shop.consumer(forgotten=forgotten) as consumer:
        shop.settle(consumer)
        assert consumer.metrics.registry.get_sample_value("consumer_interactions_total", {"result": "forgotten"}) == 1
    for table in ("exposures", "outcomes", "interactions"):
        assert [row["request_id"] for row in shop.rows(table)] == ["new"]


def test_a_segment_that_a_gateway_still_writes_holds_the_erasure_up(tmp_path: Path) -> None:
    fill(tmp_path)
    shop = Transport(tmp_path)
    forgotten = Forgotten(tmp_path / "forgotten.txt")
    sink = SegmentSink(shop.log)
    sink.open()
    sink.write([b"{}\n"])
    forgotten.add([GONE], datetime.now(UTC))
    with shop.consumer(forgotten=forgotten) as consumer:
        for _ in range(12):
            consumer.round(flush=True)
            time.sleep(0.1)
        assert not (shop.log / NAME).exists() and segments(shop.log)
        sink.close()
        time.sleep(0.6)
        consumer.round(flush=True)
    assert (shop.log / NAME).exists()


def test_of_a_stream_that_goes_on_each_entry_that_was_moved_can_be_trimmed(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "MOST_AT_ONCE", 10)
    address = f"redis://{redis_server.address}/0"
    with redis.Redis.from_url(address) as client:
        for number in range(30):
            client.xadd("events:tiny", {"event": f"e{number}"})
        moving = stream.Stream(address, "tiny", known=(0, 0))
        assert moving.move(lambda lines: None, block_ms=10) == 10
        assert client.xlen("events:tiny") == 30, "by itself Redis lets go of whole nodes only"
        moving.trim(exactly=True)
        assert client.xlen("events:tiny") == 20 and moving.move(lambda lines: None, block_ms=10) == 10
        moving.close()


def test_an_outcome_that_was_written_away_before_its_exposure_goes_with_it(tmp_path: Path) -> None:
    fill(tmp_path)
    shop, forgotten = Transport(tmp_path), Forgotten(tmp_path / "forgotten.txt")
    still_written, ended = SegmentSink(shop.log), SegmentSink(shop.log)
    still_written.open()
    still_written.write([to_line("exposures", exposure("mine", GONE, ["i3"]))])
    ended.write([to_line("outcomes", outcome("mine", "i3", "click")), to_line("outcomes", outcome("mine", "i3"))])
    ended.close()
    with shop.consumer(forgotten=forgotten) as consumer:
        shop.settle(consumer)
        assert len(shop.rows("outcomes")) == 2 and not shop.rows("exposures")
        forgotten.add([GONE], datetime.now(UTC))
        consumer.round()
        still_written.close()
        within(20, lambda: consumer.round() or (shop.log / NAME).exists())
    for table in TABLES:
        assert not shop.rows(table), table
