"""What is decided about a connection or request before the service hears of it: limits, and refusals that cost little.

uvicorn's own protocol waits for slow headers and bodies for ever, takes headers of any length and makes a task of each
request; a refusal made in it costs more than some answers.
"""

import asyncio
import ipaddress
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

Refusal = tuple[int, str]
"""Status and what is told."""


@dataclass(kw_only=True)
class ConnectionLimits:
    """Of one gateway. `refuses` is asked when the headers of a request are there; None lets it pass."""

    connections: int = 1_000
    of_address: int = 200
    """Connections of one address that is not a trusted proxy's: behind a proxy all shops share one."""
    proxies: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    header_bytes: int = 16 * 1024
    header_seconds: float = 5.0
    """From a connection, or the first byte of a request, until its headers are there."""
    body_seconds: float = 10.0
    """From then on until its body is there."""
    refuses: Callable[[bytes, bytes, list[tuple[bytes, bytes]]], Refusal | None] = lambda method, path, headers: None
    refused: Callable[[int], None] = lambda status: None
    """Told each status that is answered here."""
    open: "Counter[str]" = field(default_factory=Counter)
    """Connections by address."""

    @classmethod
    def behind(cls, proxies: Iterable[str], **more: Any) -> "ConnectionLimits":
        """`proxies` are addresses or networks of proxies. Raises `ValueError` for what is none."""
        return cls(proxies=tuple(ipaddress.ip_network(each.strip()) for each in proxies if each.strip()), **more)

    def too_many(self, address: str) -> bool:
        """Whether one more connection of `address` is one too many."""
        if self.open.total() >= self.connections:
            return True
        if self.open[address] < self.of_address:
            return False
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return True
        return not any(found in network for network in self.proxies)


def protocol(limits: ConnectionLimits) -> type[HttpToolsProtocol]:
    """The class for uvicorn's `http`."""

    class Limited(HttpToolsProtocol):
        _timer: asyncio.TimerHandle | None = None
        _until = _fires = math.inf
        """When what is waited for has to be there, and when that is looked at next: a timer for each request would cost
        as much as a refusal."""
        _address = ""
        _counted = _refusing = False
        _in_headers, _header_bytes = True, 0
        """Whether headers are awaited, and how much came since."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._address = self.client[0] if self.client else ""
            if limits.too_many(self._address):
                self._refuse((503, "too many connections"), close=True)
                return
            self._counted = True
            limits.open[self._address] += 1
            self._wait(limits.header_seconds)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._until = math.inf
            if self._counted:
                self._counted = False
                limits.open[self._address] -= 1
                if not limits.open[self._address]:
                    del limits.open[self._address]
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self._in_headers:
                if not self._header_bytes:  # also of what begins no request, such as line breaks
                    self._wait(limits.header_seconds)
                self._header_bytes += len(data)
            super().data_received(data)
            if self._in_headers and self._header_bytes > limits.header_bytes and not self.transport.is_closing():
                self._refuse((431, f"the headers are longer than {limits.header_bytes} bytes"), close=True)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._refusing, self._in_headers = False, True
            self._wait(limits.header_seconds)

        def on_headers_complete(self) -> None:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
            self._in_headers, self._header_bytes = False, 0
            self._wait(limits.body_seconds)
            if size > limits.header_bytes:
                self._refuse((431, f"the headers are longer than {limits.header_bytes} bytes"), close=True)
                return
            busy = self.cycle is not None and not self.cycle.response_complete
            if not busy:  # a pipelined request waits for its turn; it is looked at again by the service
                found = limits.refuses(self.parser.get_method(), self.url.partition(b"?")[0], self.headers)
                if found is not None:
                    self._refuse(found, close=False)
                    return
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if not self._refusing:
                super().on_body(body)

        def on_message_complete(self) -> None:
            self._stop_waiting()
            if not self._refusing:
                super().on_message_complete()
                return
            self._in_headers = True
            self._wait(self.timeout_keep_alive)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._in_headers = True

        def _refuse(self, refusal: Refusal, *, close: bool) -> None:
            self._refusing = True
            status, why = refusal
            limits.refused(status)
            self.transport.write(_answer(status, why, close))
            if close:
                self._stop_waiting()
                self.transport.close()

        def _wait(self, seconds: float) -> None:
            self._until = self.loop.time() + seconds
            if self._until < self._fires:
                self._look_in(seconds)

        def _stop_waiting(self) -> None:
            self._until = math.inf

        def _look_in(self, seconds: float) -> None:
            if self._timer is not None:
                self._timer.cancel()
            self._timer, self._fires = self.loop.call_later(seconds, self._look), self.loop.time() + seconds

        def _look(self) -> None:
            self._timer, self._fires = None, math.inf
            if (left := self._until - self.loop.time()) <= 0:
                self._late()
            elif left < math.inf:
                self._look_in(left)

        def _late(self) -> None:
            if self.transport is None or self.transport.is_closing():
                return
            if self._refusing or (self._in_headers and not self._header_bytes):
                self.transport.close()  # it has its answer, or never asked
            elif self.cycle is not None and not self.cycle.response_complete:
                limits.refused(408)
                self.transport.abort()  # its body is late; the service, which waits for it, hears that nobody is there
            else:
                self._refuse((408, "the request did not come in time"), close=True)

    return Limited


_ANSWERS: dict[tuple[int, str, bool], bytes] = {}


def _answer(status: int, why: str, close: bool) -> bytes:
    key = (status, why, close)
    if (found := _ANSWERS.get(key)) is None:
        body = orjson.dumps({"detail": why, "errors": []})
        more = {503: b"retry-after: 1\r\n", 401: b"www-authenticate: Bearer\r\n"}.get(status, b"")
        found = _ANSWERS[key] = b"%bcontent-type: application/json\r\ncontent-length: %d\r\n%b%b\r\n%b" % (
            STATUS_LINE[status], len(body), more, b"connection: close\r\n" if close else b"", body,
        )  # fmt: skip
    return found
