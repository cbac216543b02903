"""The log in Redis Streams, for many gateways: they add to one stream, and the consumer moves it into its segments.

An added event is acknowledged only where it survives a kill of Redis: with `appendfsync always`, or where the server
is asked to wait for its append-only file (WAITAOF, from Redis 7.2 on).
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import redis
from redis.exceptions import RedisError, ResponseError

from events.writer import LogUnavailable, Sink
from runtime.checksum import Damaged, seal, unseal

FIELD = b"event"
GROUP = "consumer"
STREAM = "events:{model}"
SECONDS = 2.0
"""Most time for one answer of Redis."""
MOST_AT_ONCE = 1_000
KEEPS = ("noeviction", "volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl")
"""Policies under which Redis evicts no stream, which has no expiry."""
StreamId = tuple[int, int]
_MOVED = re.compile(rb"(\d+)-(\d+) ")


def connect(url: str) -> Any:  # redis types every answer as one that may have to be awaited
    """A client that fails quickly and never tries again by itself: a second try could add an event twice."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis.from_url(
        url, socket_connect_timeout=SECONDS, socket_timeout=SECONDS, retry=Retry(NoBackoff(), 0), protocol=2
    )


class StreamSink(Sink):
    """Adds lines to the stream of `model` in the Redis at `url`, e.g. `redis://host:6379/0`."""

    def __init__(self, url: str, model: str) -> None:
        self._client, self._stream = connect(url), STREAM.format(model=model)
        self._wait: bool | None = None

    def open(self) -> None:
        try:
            self._wait = _must_wait(self._client)
        except RedisError:
            self._wait = None  # away for now; shoppers are served meanwhile, and the first write looks again

    def write(self, lines: Sequence[bytes]) -> None:
        try:
            if self._wait is None:
                self._wait = self._look()
            pipeline = self._client.pipeline(transaction=False)
            for line in lines:
                pipeline.xadd(self._stream, {FIELD: line.rstrip(b"\n")})
            if self._wait:
                pipeline.execute_command("WAITAOF", 1, 0, int(1000 * SECONDS / 2))
            found = pipeline.execute()
            if self._wait and found[-1][0] < 1:
                raise LogUnavailable("Redis did not write its append-only file in time")
        except RedisError as error:
            self._wait = None  # after a restart it may be configured in another way
            raise LogUnavailable(f"Redis: {type(error).__name__}: {error}") from error

    def _look(self) -> bool:
        try:
            return _must_wait(self._client)
        except RedisError as error:
            raise LogUnavailable(f"Redis: {type(error).__name__}: {error}", certain=True) from error

    def sync(self) -> None:
        """What was written is on the disk of Redis already."""

    def idle(self) -> None:
        """Nothing to do."""

    def check(self) -> None:
        self._wait = self._look()

    def close(self) -> None:
        self._client.close()


class Stream:
    """The consumer's end: `move` hands new lines on and acknowledges them once they are durable there.

    Events that a killed consumer had taken and not acknowledged come first. `known` is the latest id that is in the
    segments already: what was handed on before the acknowledgement was lost is not handed on again. One process at a
    time may move a stream; it takes over what any other had pending.
    """

    def __init__(self, url: str, model: str, *, known: StreamId, name: str = "consumer") -> None:
        self._client, self._stream, self._name = connect(url), STREAM.format(model=model), name
        self._known, self._recovered = known, False

    def move(self, write: Callable[[Sequence[bytes]], None], *, block_ms: int) -> int:
        """Hand new lines, each beginning with its stream id and a space, to `write`; how many they were.

        Raises `RedisError` where Redis is away, and what `write` raises: then they come again.
        """
        entries = self._read(block_ms)
        recovering = not self._recovered
        # Only what comes again can be in the segments already.
        fresh = [entry for entry in entries if not recovering or stream_id(entry[0]) > self._known]
        self._recovered = self._recovered and not entries  # until Redis hears that all is written, it comes again
        if fresh:
            write([_with_id(ident, fields) for ident, fields in fresh])
            self._known = stream_id(fresh[-1][0])
        if entries:
            self._client.xack(self._stream, GROUP, *(ident for ident, _ in entries))
            self._recovered = not recovering
            self.trim()
        return len(fresh)

    def lag(self) -> int:
        """Events of the stream that were not moved yet."""
        groups = self._client.xinfo_groups(self._stream) if self._client.exists(self._stream) else []
        mine = [group for group in groups if group["name"] == GROUP.encode()]
        return int(mine[0].get("lag") or 0) + int(mine[0]["pending"]) if mine else 0

    def close(self) -> None:
        self._client.close()

    def _read(self, block_ms: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        try:
            if not self._recovered:
                if pending := self._pending():
                    return pending
                self._recovered = True
            found: Any = self._client.xreadgroup(
                GROUP, self._name, {self._stream: ">"}, count=MOST_AT_ONCE, block=block_ms
            )
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            # From the stream's beginning: what was added before the first consumer came counts too.
            self._client.xgroup_create(self._stream, GROUP, id="0", mkstream=True)
            return self._read(block_ms)
        except RedisError:
            self._recovered = False  # whatever Redis had handed out in this answer is pending
            raise
        return found[0][1] if found else []

    def _pending(self) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """What was handed to any consumer of the group and never acknowledged, now this one's."""
        _, claimed, *_ = self._client.xautoclaim(
            self._stream, GROUP, self._name, min_idle_time=0, start_id="0-0", count=MOST_AT_ONCE
        )
        return [(ident, fields) for ident, fields in claimed if fields]

    def trim(self, *, exactly: bool = False) -> None:
        """Let go of what is in the segments, so that the stream does not grow; `exactly`: of every entry of it."""
        milliseconds, sequence = self._known
        self._client.xtrim(self._stream, minid=f"{milliseconds}-{sequence + 1}", approximate=not exactly)


def stream_id(text: bytes) -> StreamId:
    """The id of an entry as numbers that order it."""
    milliseconds, _, sequence = text.partition(b"-")
    return int(milliseconds), int(sequence)


def split_id(line: bytes) -> tuple[StreamId | None, bytes]:
    """The stream id that `Stream.move` put before a line, and the line; None before a line of a local gateway.

    A damaged line is returned as it is: an id that nobody vouches for would let go of events that were never moved.
    """
    content = line
    if _MOVED.match(line) is None:  # as it was before there were checksums
        try:
            content = unseal(line)
        except Damaged:
            return None, line
    if (found := _MOVED.match(content)) is not None:
        return (int(found[1]), int(found[2])), content[found.end() :]
    return None, line


def _with_id(ident: bytes, fields: dict[bytes, bytes]) -> bytes:
    return seal(ident + b" " + fields.get(FIELD, b"").replace(b"\n", b" ")) + b"\n"


def _must_wait(client: Any) -> bool:
    """Whether each write has to wait for the append-only file. Raises `LogUnavailable` where that would not do."""
    version = tuple(int(part) for part in str(client.info("server")["redis_version"]).split(".")[:2])
    try:
        found = {**client.config_get("append*"), **client.config_get("maxmemory*")}
    except ResponseError:  # a managed server that hides its configuration
        found = {}
    if found.get("maxmemory-policy", "noeviction") not in KEEPS and found.get("maxmemory", "0") != "0":
        raise LogUnavailable(
            f"Redis with maxmemory-policy {found['maxmemory-policy']} may evict acknowledged events. Set "
            "`maxmemory-policy noeviction`.",
            certain=True,
        )
    if found.get("appendonly") == "yes" and found.get("appendfsync") == "always":
        return False
    if version >= (7, 2) and found.get("appendonly", "yes") == "yes":
        return True
    raise LogUnavailable(
        f"Redis {version[0]}.{version[1]} with appendonly {found.get('appendonly', 'unknown')}, appendfsync "
        f"{found.get('appendfsync', 'unknown')} may lose acknowledged events. Set `appendonly yes` and, below Redis "
        "7.2, `appendfsync always`.",
        certain=True,
    )
