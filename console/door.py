"""What every request meets first: is the console called by its own name, and may this page's form change something?

A page of another site that a person has open must neither read the console (DNS rebinding: hence the check of `Host`)
nor press its buttons (CSRF: hence the check of `Origin` and a token). Every answer says what a browser may load for it.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
FRAMED_POLICY = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; base-uri 'none'; "
    "frame-ancestors 'self'"
)
"""Of pages that a run wrote: they bear their style in themselves, and stand in a frame without scripts or origin."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
COOKIE = "console"
Next = Callable[[Request], Awaitable[Response]]


class ConsoleDoor:
    """Of one console, whose `hosts` are the names it may be called by."""

    def __init__(self, hosts: tuple[str, ...]) -> None:
        self._hosts = {host.lower() for host in hosts}
        self._secret = secrets.token_bytes(32)

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """As a middleware of HTTP: turn away, or let in and write the headers."""
        refused = self._refusal(request)
        response: Response = PlainTextResponse(refused, 403) if refused else await call_next(request)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def _refusal(self, request: Request) -> str | None:
        host = request.headers.get("host", "")
        if _name(host) not in self._hosts:
            return f"this console is not called {_name(host)!r}; start it with --allow-host NAME to let that name in"
        if request.method in ("GET", "HEAD"):
            return None
        origin = request.headers.get("origin", "")
        if urlsplit(origin).netloc != host or request.headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return "the form does not come from a page of this console; open the page here and send it again"
        return None

    def visitor(self, request: Request) -> str:
        """The visitor's cookie: the one that came, or a fresh one that `remember` has to send."""
        found = request.cookies.get(COOKIE, "")
        return found if len(found) == 43 else secrets.token_urlsafe(32)

    @staticmethod
    def remember(response: Response, visitor: str, *, secure: bool) -> None:
        response.set_cookie(COOKIE, visitor, httponly=True, samesite="strict", secure=secure)

    def token(self, visitor: str, purpose: str) -> str:
        """What the form for `purpose` must send, by which the console knows its own pages again."""
        return hmac.digest(self._secret, f"{visitor}\n{purpose}".encode(), "sha256").hex()

    def holds(self, request: Request, purpose: str, token: str) -> bool:
        """Whether `token` was given to this very visitor for this very purpose."""
        visitor = request.cookies.get(COOKIE, "")
        return bool(visitor) and hmac.compare_digest(self.token(visitor, purpose).encode(), token.encode())


def _name(host: str) -> str:
    """The name of `Host` without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdecimal() else host).lower()
