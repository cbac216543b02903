"""More load than can be answered, slow and greedy connections: who is served, who is refused, and what that costs."""

import asyncio
import json
import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from serving.gateway.access import Access, AccessTokens
from serving.gateway.connections import ConnectionLimits, protocol
from serving.gateway.door import FULL, GatewayDoor
from serving.gateway.lag import STANDS, watch
from serving.gateway.overload import (
    ACTIVE_SECONDS,
    LEAST,
    MEMORY_SHARE,
    Bound,
)


class Machine:
    """Answers so many requests a second, in the order in which they came, by a clock of its own."""

    def __init__(self, a_second: float, in_time: float) -> None:
        self.now = 0.0
        self.bound = Bound(in_time, clock=lambda: self.now)
        self._each, self._free = 1 / a_second, 0.0
        self._leaving: list[tuple[float, float, bytes]] = []
        self.counts: Counter[tuple[bytes, str]] = Counter()
        self.slowest = 0.0

    def at(self, now: float) -> None:
        while self._leaving and self._leaving[0][0] <= now:
            self.now, began, shop = self._leaving.pop(0)
            self.slowest = max(self.slowest, self.now - began)
            self.counts[shop, "in time"] += self.now - began <= 2 * 0.25
            self.bound.leave(shop, self.now - began)
        self.now = now

    def ask(self, shop: bytes = b"") -> None:
        verdict = self.bound.enter(shop)
        self.counts[shop, verdict] += 1
        if verdict == "model":
            self._free = max(self._free, self.now) + self._each
            self._leaving.append((self._free, self.now, shop))

    def load(self, seconds: float, rates: dict[bytes, float]) -> None:
        began, self.slowest = self.now, 0.0
        self.counts.clear()
        times = sorted((n / rate, shop) for shop, rate in rates.items() for n in range(int(seconds * rate)))
        for after, shop in times:
            self.at(began + after)
            self.ask(shop)


@pytest.mark.parametrize("times", [0.9, 2, 5, 20])
@pytest.mark.parametrize("a_second", [30, 300])
def test_whatever_comes_the_machine_answers_in_time_what_it_can(a_second: float, times: float) -> None:
    machine = Machine(a_second, 0.25)
    machine.load(20, {b"": times * a_second})  # the bound finds its place
    machine.load(20, {b"": times * a_second})
    answered = machine.counts[b"", "in time"] / 20
    assert answered >= 0.9 * min(times, 1) * a_second and machine.slowest < 0.5
    if times > 1:
        assert machine.counts[b"", "memory"] == pytest.approx(MEMORY_SHARE * 20 * a_second, rel=0.4)
    machine.at(machine.now + 5)
    machine.load(5, {b"": 0.5 * a_second})
    assert machine.counts[b"", "refused"] == machine.counts[b"", "memory"] == 0, "back to normal"


def test_a_machine_that_slows_down_is_asked_less_and_one_that_recovers_more() -> None:
    machine = Machine(400, 0.25)
    machine.load(20, {b"": 2_000})
    fast = machine.bound.limit
    machine._each = 1 / 40
    machine.load(20, {b"": 2_000})
    assert LEAST <= machine.bound.limit < fast / 4
    machine._each = 1 / 400
    machine.load(60, {b"": 2_000})
    assert machine.counts[b"", "in time"] > 0.85 * 60 * 400


def test_while_no_model_answers_everybody_is_answered_from_memory() -> None:
    machine = Machine(300, 0.25)
    machine.load(10, {b"": 250})
    machine._free = machine.now + 10  # it hangs
    machine.load(9, {b"": 250})
    assert machine.counts[b"", "refused"] == 0 and machine.counts[b"", "memory"] > 0.9 * 9 * 250


def test_one_shop_cannot_take_what_is_another_ones_share_and_has_what_nobody_else_wants() -> None:
    machine = Machine(300, 0.25)
    machine.load(10, {b"greedy": 3_000})
    machine.load(20, {b"greedy": 3_000, b"modest": 60, b"other": 60})
    for shop in (b"modest", b"other"):
        assert machine.counts[shop, "model"] >= 0.99 * 20 * 60, "below its share it is never refused"
    assert machine.counts[b"greedy", "model"] >= 0.9 * 20 * 180
    machine.at(machine.now + 2 * ACTIVE_SECONDS)
    machine.load(10, {b"greedy": 3_000})
    assert machine.counts[b"greedy", "model"] >= 0.9 * 10 * 300 and len(machine.bound._of) == 1


def test_a_loop_that_cannot_keep_up_gives_up_memory_first_then_models_and_takes_both_back() -> None:
    machine = Machine(300, 0.25)
    machine.load(20, {b"": 1_500})
    limit, memory = machine.bound.limit, machine.counts[b"", "memory"] / 20

    def late(rounds: int, seconds: float) -> None:
        """A word of the loop ten times a second, while five times as much comes as can be answered."""
        shed.clear()
        for _ in range(rounds):
            machine.bound.lag(seconds)
            machine.load(0.1, {b"": 1_500})
            shed.update(machine.counts)

    shed: Counter[tuple[bytes, str]] = Counter()
    late(5, 2 * STANDS)
    assert machine.bound.limit > 0.7 * limit, "models keep their room while memory has some"
    late(20, 2 * STANDS)
    assert shed[b"", "memory"] / 2 < 0.1 * memory, "next to none"
    assert machine.bound.limit < 0.5 * limit
    late(100, 0.0)
    assert machine.bound.limit > 0.7 * limit, "back within ten seconds"
    late(150, 0.0)
    late(50, 0.0)
    assert shed[b"", "memory"] / 5 > 0.6 * memory


@pytest.mark.parametrize(("rest", "stands"), [(0.0, True), (0.02, False)])
def test_a_standing_queue_of_the_loop_is_told_and_long_turns_with_rests_between_are_none(
    rest: float, stands: bool
) -> None:
    told: list[float] = []

    async def busy() -> None:
        watching = asyncio.create_task(watch(told.append))
        while len(told) < 4:
            time.sleep(0.02)  # the work of one turn
            await asyncio.sleep(rest)
        watching.cancel()

    asyncio.run(busy())
    assert (min(told) > STANDS) is stands


async def service(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """Answers with the length of the body, once it is there."""
    if scope["type"] != "http":
        return
    length, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"%02d" % length})


@contextmanager
def served(limits: ConnectionLimits) -> Iterator[int]:
    """The port of a server with these limits."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0), backlog=500) as listening:
        config = uvicorn.Config(service, log_level="critical", lifespan="off", http=protocol(limits))
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])))
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


def request(body: bytes = b"", path: str = "/", **headers: str) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Content-Length: {len(body)}",
        *(f"{k}: {v}" for k, v in headers.items()),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def reply(connection: socket.socket) -> bytes:
    """What comes, up to the end of the first answer or of the connection."""
    content = b""
    while True:
        head, found, body = content.partition(b"\r\n\r\n")
        if found:
            length = next(
                int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
            )
            if len(body) >= length:
                return content
        try:
            part = connection.recv(65536)
        except ConnectionResetError:
            return content
        if not part:
            return content
        content += part


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.settimeout(30)
    return connection


def test_slow_headers_bodies_and_silent_connections_hold_nothing() -> None:
    statuses: list[int] = []
    limits = ConnectionLimits(header_seconds=0.3, body_seconds=0.3, refused=statuses.append)
    with served(limits) as port:
        silent, slow, late, good = (connect(port) for _ in range(4))
        slow.sendall(b"POST / HTTP/1.1\r\nHost")
        late.sendall(request(b"x" * 10)[:-5])
        good.sendall(request(b"12345"))
        assert reply(good).endswith(b"05")
        assert reply(silent) == b"" and reply(slow).startswith(b"HTTP/1.1 408") and reply(late) == b""
        time.sleep(0.5)
        good.sendall(request(b"123"))
        assert reply(good).endswith(b"03"), "a connection that is kept open may rest longer"
        good.sendall(b"\r\n")
        assert reply(good).startswith(b"HTTP/1.1 408"), "line breaks are no request"
        for connection in (silent, slow, late, good):
            connection.close()
        deadline = time.monotonic() + 20
        while limits.open and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not limits.open and sorted(statuses) == [408, 408, 408]


def test_connections_are_limited_in_all_and_of_an_address_that_is_no_proxys() -> None:
    for limits, most in (
        (ConnectionLimits(of_address=3), 3),
        (ConnectionLimits.behind(["127.0.0.0/8"], of_address=3, connections=5), 5),
    ):
        with served(limits) as port:
            connections = [connect(port) for _ in range(most)]
            for connection in connections:
                connection.sendall(request(b"1"))
                assert reply(connection).endswith(b"01")
            with closing(connect(port)) as one_more:
                assert b"too many connections" in reply(one_more)
            connections.pop().close()
            deadline = time.monotonic() + 20
            while limits.open.total() >= most and time.monotonic() < deadline:
                time.sleep(0.01)
            connections.append(connect(port))
            connections[-1].sendall(request(b"1"))
            assert reply(connections[-1]).endswith(b"01")
            for connection in connections:
                connection.close()
    with pytest.raises(ValueError):
        ConnectionLimits.behind(["nowhere"])


@pytest.mark.parametrize("size", [20_000, 300_000])
def test_long_headers_are_refused(size: int) -> None:
    with served(ConnectionLimits()) as port, closing(connect(port)) as connection:
        try:
            connection.sendall(request(b"1", long="x" * size))
        except (BrokenPipeError, ConnectionResetError):
            return  # it was closed before all was read
        assert reply(connection).startswith(b"HTTP/1.1 431") or size > 100_000


def test_who_has_no_token_is_refused_before_the_body_and_who_finds_it_full_at_next_to_no_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = "token-of-the-shop-backend"
    monkeypatch.setenv("T", token)
    now = [0.0]
    bound = Bound(1.0, clock=lambda: now[0])
    door = GatewayDoor(Access(AccessTokens.configured("T")), bound)
    with served(ConnectionLimits(refuses=door.refuses)) as port, closing(connect(port)) as connection:
        for path in ("/v1/recommendations", "/v1/events", "/metrics", "/openapi.json"):
            connection.sendall(request(b"x" * 10, path))
            assert reply(connection).startswith(b"HTTP/1.1 401"), path
        connection.sendall(request(b"x" * 10, "/health"))
        assert reply(connection).endswith(b"10")
        with closing(connect(port)) as unsent:
            unsent.sendall(request(b"x" * 10, "/v1/events")[:-10])
            assert reply(unsent).startswith(b"HTTP/1.1 401"), "no byte of the body was needed"
        shop = door.shop(f"Bearer {token}".encode())
        while bound.enter(shop) != "refused":
            pass
        asked = request(b"x" * 10, "/v1/recommendations", Authorization=f"Bearer {token}")
        connection.sendall(asked)
        answer = reply(connection)
        assert answer.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"detail": FULL, "errors": []}
        # The work of it without the kernel's: what the server's protocol does from bytes to bytes.
    assert math.isclose(refusal_seconds(door, asked), 0, abs_tol=1e-4)


def refusal_seconds(door: GatewayDoor, asked: bytes, times: int = 2_000) -> float:
    """CPU seconds of one refusal."""
    import uvicorn
    from uvicorn.server import ServerState

    class Transport(asyncio.Transport):
        written = 0

        def write(self, data: Any) -> None:
            self.written += 1

        def is_closing(self) -> bool:
            return False

    async def measure() -> float:
        config = uvicorn.Config(service, log_level="critical", lifespan="off")
        config.load()
        connection = protocol(ConnectionLimits(refuses=door.refuses))(
            config=config, server_state=ServerState(), app_state={}
        )
        connection.connection_made(transport := Transport())
        began = time.thread_time()
        for _ in range(times):
            connection.data_received(asked)
        spent = time.thread_time() - began
        assert transport.written == times
        connection.connection_lost(RuntimeError("the test is over"))
        connection._unset_keepalive_if_required()
        return spent / times

    return asyncio.run(measure())
