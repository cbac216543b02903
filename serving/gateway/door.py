"""Who is turned away before the service reads a body: without a token, or where too much is in flight."""

from collections.abc import Callable, Iterable

from starlette.responses import Response
from starlette.types import (
    ASGIApp,
    Receive,
    Scope,
    Send,
)

from serving.gateway.access import Access, Denied
from serving.gateway.overload import Bound

PLACES = frozenset(
    (b"/v1/recommendations", b"/v1/similar-items", b"/v1/rankings", b"/v1/popular", b"/v1/bought-together")
)
"""Paths that a model answers."""
OPEN = (b"/health", b"/ready")
"""Paths that ask for no token: what they tell is for probes."""
FULL = "too many requests are in flight; ask again"
Headers = Iterable[tuple[bytes, bytes]]


class GatewayDoor:
    """Of one service: its tokens and its bound. The HTTP protocol asks it first, `Doorkeeper` once more."""

    def __init__(self, access: Access, bound: Bound) -> None:
        self.access, self.bound = access, bound

    def refuses(self, method: bytes, path: bytes, headers: Headers) -> tuple[int, str] | None:
        """Status and reason where the request is turned away; what it costs is what a refusal costs."""
        authorization, chooses = None, False
        for name, value in headers:
            if name == b"authorization":
                authorization = value
            elif name == b"x-variant":
                chooses = path in PLACES
        if path not in OPEN:
            try:
                self.access.check(authorization.decode("latin-1") if authorization else None, chooses=chooses)
            except Denied as denied:
                return denied.status, str(denied)
        if path in PLACES and self.bound.verdict(self.shop(authorization)) == "refused":
            return 503, FULL
        return None

    def shop(self, authorization: bytes | str | None) -> bytes:
        """By what the shops share the bound: their tokens; one share where nobody is asked for one."""
        if not self.access.asks or authorization is None:
            return b""
        return authorization if isinstance(authorization, bytes) else authorization.encode("latin-1", "replace")


class Doorkeeper:
    """The door for servers whose protocol does not ask it; `refused` makes the answer of a status and a reason."""

    def __init__(self, app: ASGIApp, door: GatewayDoor, refused: Callable[[int, str], Response]) -> None:
        self._app, self._door, self._refused = app, door, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = None
        if scope["type"] == "http":
            found = self._door.refuses(scope["method"].encode(), scope["path"].encode(), scope["headers"])
        if found is None:
            await self._app(scope, receive, send)
        else:
            await self._refused(*found)(scope, receive, send)
