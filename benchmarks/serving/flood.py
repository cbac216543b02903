"""Asks a service at a fixed rate, whatever it answers, from a process and a core of its own; prints what came as JSON.

An open loop over kept connections: a request that finds none free waits, and its time counts from the moment at which
it was due. Sockets and epoll without an event loop, and bytes are parsed no further than needed: so one Python process
asks more often than the service under test can answer. `python -m benchmarks.serving.flood --help`
"""

import argparse
import json
import os
import select
import socket
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

MARKS = ((b'"status":"ok"', "model"), (b'"status":"fallback"', "memory"))
IN_TIME = 1.0
"""Seconds from when a request was due; an answer after it is of no use to a shopper."""
PATIENCE = 5.0
"""Seconds after the last request was due, for what is not answered yet."""
TURN = 0.0005
"""Most seconds between two looks at the clock."""


class Flood:
    """`connections` kept connections to `url`, on which one of `bodies` after the other is posted."""

    def __init__(self, url: str, bodies: list[bytes], connections: int) -> None:
        at = urlsplit(url)
        self._address = (at.hostname or "127.0.0.1", at.port or 80)
        self._requests = [
            b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (at.path.encode(), len(body), body)
            for body in bodies
        ]
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._free: deque[int] = deque()
        self._due: dict[int, float] = {}
        """When what each busy connection was asked was due."""
        self._content: dict[int, bytes] = {}
        self.kinds: Counter[str] = Counter()
        self.in_time: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.by_second: dict[int, Counter[str]] = {}
        for _ in range(connections):
            self._connect()

    def run(self, rate: float, seconds: float) -> None:
        """Ask `rate` times a second for so long, and wait for what is not answered by then."""
        began, sent, asked = time.perf_counter(), 0, int(rate * seconds)
        while (now := time.perf_counter() - began) < seconds + PATIENCE and (sent < asked or self._due):
            due = min(asked, int(now * rate) + 1)
            while sent < due and self._free:
                self._send(self._requests[sent % len(self._requests)], sent / rate)
                sent += 1
            for number, _ in self._poll.poll(TURN):
                self._receive(number, began)
        unanswered = asked - sent + len(self._due)
        self.kinds["no answer"] += unanswered
        self.seconds += [seconds + PATIENCE - due for due in self._due.values()]
        self.seconds += [seconds + PATIENCE - number / rate for number in range(sent, asked)]

    def _connect(self) -> None:
        connection = socket.create_connection(self._address)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setblocking(False)
        number = connection.fileno()
        self._sockets[number], self._content[number] = connection, b""
        self._poll.register(number, select.EPOLLIN)
        self._free.append(number)

    def _send(self, request: bytes, due: float) -> None:
        number = self._free.popleft()
        self._due[number] = due
        with suppress(OSError):  # it was closed: the next look at it says so
            self._sockets[number].sendall(request)

    def _receive(self, number: int, began: float) -> None:
        try:
            part = self._sockets[number].recv(65536)
        except OSError:
            part = b""
        if not part:
            self._lost(number)
            return
        content = self._content[number] + part
        head, found, body = content.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            self._content[number] = content
            return
        self._content[number] = b""
        self._answered(number, head, body, time.perf_counter() - began)
        self._free.append(number)

    def _answered(self, number: int, head: bytes, body: bytes, now: float) -> None:
        status = head[9:12]
        kind = next((name for mark, name in MARKS if mark in body), "error") if status == b"200" else status.decode()
        spent = now - self._due.pop(number)
        self.kinds[kind] += 1
        self.in_time[kind] += spent <= IN_TIME
        self.seconds.append(spent)
        self.by_second.setdefault(int(now), Counter())[kind] += 1

    def _lost(self, number: int) -> None:
        self._poll.unregister(number)
        self._sockets.pop(number).close()
        if self._due.pop(number, None) is None:
            self._free.remove(number)
        else:
            self.kinds["closed"] += 1
        self._connect()


def _length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    return int(head[at + 15 :].partition(b"\r\n")[0]) if at >= 0 else 0


def result(flood: Flood, rate: float, seconds: float) -> dict[str, Any]:
    milliseconds = [1000 * each for each in flood.seconds] or [float("nan")]
    return {
        "asked_per_second": rate,
        "answers": {kind: count / seconds for kind, count in flood.kinds.items()},
        "in_time": {kind: count / seconds for kind, count in flood.in_time.items()},
        **{f"p{share}_ms": float(np.percentile(milliseconds, share)) for share in (50, 99)},
        "slowest_ms": max(milliseconds),
        "by_second": {second: dict(kinds) for second, kinds in sorted(flood.by_second.items())},
        "flood_cpu_share": time.process_time() / seconds,
    }


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
    flood.run(options.rate, options.seconds)
    json.dump(result(flood, options.rate, options.seconds), sys.stdout)


if __name__ == "__main__":
    main()
