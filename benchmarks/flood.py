"""Asks a service at a fixed rate, whatever it answers, from a process and a core of its own; prints what came as JSON.

An open loop over kept connections: a request that finds none free waits, and its time counts from the moment at which
it was due. Bytes are parsed no further than needed, so that thousands of answers a second fit into one Python process.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter, deque
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

MARKS = ((b'"status":"ok"', "model"), (b'"status":"fallback"', "memory"))


class Connection(asyncio.Protocol):
    """One kept connection; tells `flood` of each answer and opens itself anew where it is closed."""

    def __init__(self, flood: "Flood") -> None:
        self._flood, self._content, self.due = flood, b"", 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._flood.free.append(self)

    def data_received(self, data: bytes) -> None:
        self._content += data
        head, found, body = self._content.partition(b"\r\n\r\n")
        if not found:
            return
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        if len(body) < length:
            return
        self._content = b""
        status = int(head[9:12])
        kind = next((name for mark, name in MARKS if mark in body), "error") if status == 200 else str(status)
        self._flood.answered(self, kind)

    def connection_lost(self, error: Exception | None) -> None:
        self._flood.lost(self)


class Flood:
    def __init__(self, url: str, bodies: list[bytes], connections: int) -> None:
        self._url, self._connections = urlsplit(url), connections
        path = self._url.path.encode()
        self._requests = [
            b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (path, len(body), body)
            for body in bodies
        ]
        self.free: deque[Connection] = deque()
        self._waiting: deque[float] = deque()
        self._sent = 0
        self.kinds: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.by_second: dict[int, Counter[str]] = {}

    async def run(self, rate: float, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        for _ in range(self._connections):
            await self._connect()
        self._began = time.perf_counter()
        number = 0
        while (now := time.perf_counter() - self._began) < seconds:
            while number / rate <= now:
                self._send(self._began + number / rate)
                number += 1
            await asyncio.sleep(0.001)
        end = time.perf_counter() + 5
        while self._waiting or len(self.free) < self._connections:
            await asyncio.sleep(0.01)
            if time.perf_counter() > end:
                self.kinds["no answer"] += self._connections - len(self.free) + len(self._waiting)
                break

    async def _connect(self) -> None:
        await self._loop.create_connection(lambda: Connection(self), self._url.hostname, self._url.port)

    def _send(self, due: float) -> None:
        if not self.free:
            self._waiting.append(due)
            return
        connection = self.free.popleft()
        connection.due = due
        connection.transport.write(self._requests[self._sent % len(self._requests)])
        self._sent += 1

    def answered(self, connection: Connection, kind: str) -> None:
        now = time.perf_counter()
        self.kinds[kind] += 1
        self.seconds.append(now - connection.due)
        self.by_second.setdefault(int(now - self._began), Counter())[kind] += 1
        self.free.append(connection)
        if self._waiting:
            self._send(self._waiting.popleft())

    def lost(self, connection: Connection) -> None:
        if connection in self.free:
            self.free.remove(connection)
        else:
            self.kinds["closed"] += 1
        self._loop.create_task(self._connect())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("bodies", type=Path, help="a file with one request body a line")
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--core", type=int, help="of this process alone")
    options = parser.parse_args()
    if options.core is not None:
        os.sched_setaffinity(0, {options.core})
    flood = Flood(options.url, options.bodies.read_bytes().splitlines(), options.connections)
    asyncio.run(flood.run(options.rate, options.seconds))
    milliseconds = [1000 * each for each in flood.seconds] or [float("nan")]
    json.dump(
        {
            "asked_per_second": options.rate,
            "answers": {kind: count / options.seconds for kind, count in flood.kinds.items()},
            **{f"p{share}_ms": float(np.percentile(milliseconds, share)) for share in (50, 99)},
            "slowest_ms": max(milliseconds),
            "by_second": {second: dict(kinds) for second, kinds in sorted(flood.by_second.items())},
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
