"""The event log: what was acknowledged is durable, on a disk and in Redis."""

import asyncio
import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from events import segments
from events.schema import NoEvent, of_line
from events.segments import SegmentSink, abandoned, lines
from events.stream import (
    FIELD,
    GROUP,
    Stream,
    StreamSink,
    connect,
    split_id,
)
from events.writer import EventLogWriter, LogUnavailable
from tests.redis_server import MISSING, PROGRAM, RedisServer

ROOT = Path(__file__).parents[2]
CLICK = {"event_type": "click", "item_id": None, "time": "2026-01-05T10:00:00+00:00"}

WRITER = """
import asyncio, sys
from pathlib import Path
from events.segments import SegmentSink
from events.stream import StreamSink
from events.writer import EventLogWriter
async def write(log, number):
    while True:
        event = {"request_id": f"{number}", "event_type": "click", "time": "2026-01-05T23:59:59+00:00"}
        await log.append("outcomes", event)
        print(number, flush=True)
        number += 100
async def main():
    sink = StreamSink(sys.argv[2], "shop") if sys.argv[2] else SegmentSink(Path(sys.argv[1]), roll_seconds=0.2)
    with EventLogWriter(sink) as log:
        await asyncio.gather(*(write(log, number) for number in range(20)))
asyncio.run(main())
"""


def read(root: Path) -> list[str]:
    """The request_id of each event in the segments."""
    found = [line for path in segments.segments(root) for line in lines(path)]
    return [of_line(split_id(line.content)[1]).row["request_id"] for line in found]


def moved(redis: RedisServer, root: Path, stream: Stream | None = None) -> list[str]:
    stream = stream or Stream(f"redis://{redis.address}/0", "shop", known=(0, 0))
    sink = SegmentSink(root)
    sink.open()
    for _ in range(20):
        stream.move(sink.write, block_ms=10)
    sink.close()
    return read(root)


@pytest.mark.parametrize("kept", ["segments", "redis"])
def test_what_was_acknowledged_survives_kill_9_of_the_gateway_and_of_redis(
    kept: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server: RedisServer | None = request.getfixturevalue("durable_redis") if kept == "redis" else None
    command = [sys.executable, "-c", WRITER, str(tmp_path), f"redis://{server.address}/0" if server else ""]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(3000)]
    if server is not None:
        server.stop()
        server.start()
    process.send_signal(signal.SIGKILL)
    acknowledged += [line.strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    process.wait()
    counted = Counter(moved(server, tmp_path) if server is not None else read(tmp_path))
    assert set(acknowledged) <= set(counted) and set(counted.values()) == {1}


def test_an_event_that_is_being_written_is_read_only_when_it_is_whole(tmp_path: Path) -> None:
    sink = SegmentSink(tmp_path)
    sink.open()
    sink.write([b'{"a":1}\n'])
    (path,) = segments.segments(tmp_path)
    with path.open("ab") as file:
        file.write(b'{"b":')
    (first,) = lines(path)
    with abandoned(path) as free:
        assert not free, "its writer lives"
    assert list(lines(path, first.end)) == []
    with path.open("ab") as file:
        file.write(b"2}\n")
    (second,) = lines(path, first.end)
    assert second.content == b'{"b":2}' and second.position == first.position + first.end
    sink.close()
    with abandoned(path) as free:
        assert free


def test_a_segment_is_seen_only_once_its_writer_holds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    rename = os.rename

    def spy(source: Path, target: Path) -> None:
        assert not segments.segments(tmp_path)
        rename(source, target)
        with abandoned(target) as free:
            seen.append(free)

    monkeypatch.setattr(segments.os, "rename", spy)
    sink = SegmentSink(tmp_path)
    sink.open()
    sink.write([b"1\n"])
    sink.close()
    assert seen == [False]


def test_a_long_segment_is_followed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "ROLL_BYTES", 100)
    sink = SegmentSink(tmp_path)
    sink.open()
    for _ in range(4):
        sink.write([b"x" * 60 + b"\n"])
        sink.idle()
    sink.close()
    assert [path.stat().st_size for path in segments.segments(tmp_path)] == [122, 122]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "JSONDecodeError"),
        (b"[]", "does not begin with a checksum"),
        (b'{"table":"outcomes","schema":99,"request_id":"r","time":"2026-01-05T10:00:00+00:00"}', "update what reads"),
        (b'{"table":"drop","schema":1,"request_id":"r","time":"2026-01-05T10:00:00+00:00"}', "expected exposures"),
        (b'{"table":"outcomes","schema":1,"request_id":"r","time":"yesterday"}', "Invalid isoformat"),
        (b'{"table":"outcomes","schema":1,"time":"2026-01-05T10:00:00+00:00"}', "request_id"),
        (b'{"table":"outcomes","schema":1,"request_id":"r","time":"2026-01-05T10:00:00"}', "no zone"),
        (
            b'{"table":"outcomes","schema":1,"request_id":"r","time":"2026-01-05T10:00:00+00:00"}',
            "event_type is no str",
        ),
        (b'{"table":"exposures","schema":1,"request_id":"r","time":"2026-01-05T10:00:00+00:00"}', "user_id is no str"),
    ],
)
def test_what_is_no_event_is_told_with_the_reason(line: bytes, why: str) -> None:
    with pytest.raises(NoEvent, match=why):
        of_line(line)


def test_an_event_of_the_first_schema_is_read() -> None:
    old = b'{"table":"outcomes","schema":1,"request_id":"r1","event_type":"click","time":"2026-01-05T10:00:00+00:00"}'
    assert of_line(old).row["request_id"] == "r1"


def test_a_redis_that_may_evict_a_stream_is_refused(durable_redis: RedisServer) -> None:
    client, url = connect(f"redis://{durable_redis.address}/0"), f"redis://{durable_redis.address}/0"
    before = {**client.config_get("maxmemory"), **client.config_get("maxmemory-policy")}
    try:
        client.config_set("maxmemory", "100mb")
        for policy in ("allkeys-lru", "allkeys-random"):
            client.config_set("maxmemory-policy", policy)
            with pytest.raises(LogUnavailable, match="may evict acknowledged events") as told:
                append(StreamSink(url, "shop"), "r1")
            assert told.value.certain
        client.config_set("maxmemory-policy", "volatile-lru")
        append(StreamSink(url, "shop"), "r1")
    finally:
        for name, value in before.items():
            client.config_set(name, value)


def append(sink: StreamSink, *names: str) -> EventLogWriter:
    async def write() -> None:
        with log:
            for name in names:
                await log.append("outcomes", {**CLICK, "request_id": name})

    log = EventLogWriter(sink)
    asyncio.run(write())
    return log


def test_a_redis_that_would_lose_events_is_refused_until_it_is_set_right(tmp_path: Path) -> None:
    if PROGRAM is None:
        pytest.skip(MISSING)
    server = RedisServer(tmp_path).start()
    url = f"redis://{server.address}/0"
    try:
        with pytest.raises(LogUnavailable, match="appendfsync"):
            append(StreamSink(url, "shop"), "r1")
        client = connect(url)
        client.config_set("appendonly", "yes")
        client.config_set("appendfsync", "always")
        append(StreamSink(url, "shop"), "r1")
        assert moved(server, tmp_path / "log") == ["r1"]
    finally:
        server.stop()


def test_a_redis_that_syncs_each_second_is_waited_for_or_refused_where_it_cannot_be(durable_redis: RedisServer) -> None:
    client = connect(f"redis://{durable_redis.address}/0")
    client.config_set("appendfsync", "everysec")
    sink = StreamSink(f"redis://{durable_redis.address}/0", "shop")
    if tuple(map(int, client.info("server")["redis_version"].split(".")[:2])) < (7, 2):
        with pytest.raises(LogUnavailable, match=r"below Redis 7\.2, `appendfsync always`"):
            append(sink, "r1")
        return
    append(sink, "r1")
    assert client.info("commandstats")["cmdstat_waitaof"]["calls"] == 1
    client.config_set("appendonly", "no")  # behind the writer's back: what is not waited for is not acknowledged
    with pytest.raises(LogUnavailable, match="appendonly"):
        append(sink, "r2")


def test_while_redis_is_away_events_are_refused_quickly_and_taken_when_it_is_back(durable_redis: RedisServer) -> None:
    async def write() -> None:
        with EventLogWriter(StreamSink(f"redis://{durable_redis.address}/0", "shop")) as log:
            durable_redis.stop()
            began = time.monotonic()
            with pytest.raises(LogUnavailable, match="Redis"):
                await log.append("outcomes", {**CLICK, "request_id": "r1"})
            assert time.monotonic() - began < 3 and "Redis" in (log.problem or "")
            durable_redis.start()
            await log.append("outcomes", {**CLICK, "request_id": "r2"})
            assert log.problem is None

    asyncio.run(write())


def test_what_another_consumer_had_taken_and_not_acknowledged_comes_first(
    durable_redis: RedisServer, tmp_path: Path
) -> None:
    url = f"redis://{durable_redis.address}/0"
    append(StreamSink(url, "shop"), "r1", "r2")
    client = connect(url)
    client.xgroup_create("events:shop", GROUP, id="0")
    client.xreadgroup(GROUP, "killed", {"events:shop": ">"})
    append(StreamSink(url, "shop"), "r3")
    assert moved(durable_redis, tmp_path / "log") == ["r1", "r2", "r3"]
    assert client.xpending("events:shop", GROUP)["pending"] == 0 and client.xlen("events:shop") == 0


def test_what_was_moved_and_not_acknowledged_is_not_moved_again(durable_redis: RedisServer, tmp_path: Path) -> None:
    url = f"redis://{durable_redis.address}/0"
    append(StreamSink(url, "shop"), "r1", "r2")

    def killed_behind(written: list[bytes]) -> None:
        sink.write(written)
        raise KeyboardInterrupt

    sink = SegmentSink(tmp_path)
    sink.open()
    with pytest.raises(KeyboardInterrupt):
        Stream(url, "shop", known=(0, 0)).move(killed_behind, block_ms=10)
    sink.close()
    (path,) = segments.segments(tmp_path)
    known = max(ident for line in lines(path) if (ident := split_id(line.content)[0]) is not None)
    append(StreamSink(url, "shop"), "r3")
    assert moved(durable_redis, tmp_path, Stream(url, "shop", known=known)) == ["r1", "r2", "r3"]


def test_what_a_full_disk_kept_from_moving_comes_again(durable_redis: RedisServer, tmp_path: Path) -> None:
    url = f"redis://{durable_redis.address}/0"
    append(StreamSink(url, "shop"), "r1")
    stream = Stream(url, "shop", known=(0, 0))

    def full(written: list[bytes]) -> None:
        raise LogUnavailable("no space left")

    with pytest.raises(LogUnavailable):
        stream.move(full, block_ms=10)
    assert moved(durable_redis, tmp_path, stream) == ["r1"]


def test_a_line_break_in_a_stream_entry_breaks_no_line(durable_redis: RedisServer, tmp_path: Path) -> None:
    url = f"redis://{durable_redis.address}/0"
    event = {"table": "outcomes", "schema": 1, "request_id": "r1", **CLICK}
    connect(url).xadd("events:shop", {FIELD: json.dumps(event, indent=1)})
    assert moved(durable_redis, tmp_path) == ["r1"]


class Disk:
    """Refuses to write or to sync, as often as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = self.broken = False
        self.synced = 0
        write, sync = io.FileIO.write, os.fdatasync

        class Refusing(io.FileIO):
            def write(file, content: bytes) -> int:
                if self.full:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(file, content)

        def fdatasync(descriptor: int) -> None:
            if self.broken:
                raise OSError(errno.EIO, "Input/output error")
            self.synced += 1
            sync(descriptor)

        monkeypatch.setattr(segments.Path, "open", lambda path, *_, **__: Refusing(path, "wb"))
        monkeypatch.setattr(segments.os, "fdatasync", fdatasync)


def test_what_waits_for_the_disk_is_synced_when_the_next_lines_find_it_full(tmp_path, monkeypatch):
    disk, sink = Disk(monkeypatch), SegmentSink(tmp_path)
    sink.open()
    sink.write([b"first\n"])
    disk.full = True
    with pytest.raises(LogUnavailable, match="No space left"):
        sink.write([b"second\n"])
    sink.sync()
    assert disk.synced == 1


@pytest.mark.parametrize("closes", [SegmentSink.close, SegmentSink.sync])
def test_lines_of_a_segment_that_could_not_be_synced_are_not_acknowledged(tmp_path, monkeypatch, closes):
    disk, sink = Disk(monkeypatch), SegmentSink(tmp_path)
    sink.open()
    sink.write([b"first\n"])
    disk.broken = True
    with pytest.raises(LogUnavailable, match="Input/output error"):
        closes(sink)
    disk.broken = False
    with pytest.raises(LogUnavailable, match="Input/output error"):
        sink.sync()  # those who wait are told by this one
    sink.write([b"second\n"])
    sink.sync()
    sink.close()
