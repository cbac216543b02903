"""Every refusal is a clear JSON answer that tells nothing of what is inside."""

import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import (
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
)

from serving.gateway.access import Denied
from serving.gateway.door import Doorkeeper, GatewayDoor
from serving.gateway.overload import RETRY_SECONDS

MAX_BODY = 64 * 1024
"""Bytes of a request."""
LONGER = {"/v1/rankings": 256 * 1024, "/v1/items": 256 * 1024}
"""Of those that list what is to be ranked, 1,000 ids of 200 bytes, or items with their features."""
_MOST_FAULTS = 20
_logger = logging.getLogger(__name__)


def guard(app: FastAPI, door: GatewayDoor, refused: Callable[[int], None]) -> None:
    """Let `app` refuse with a `Problem` only; `refused` is told each status of 400 and above that is answered."""

    def problem(status: int, detail: str, errors: Any = (), headers: Any = None) -> JSONResponse:
        refused(status)
        return JSONResponse({"detail": detail, "errors": list(errors)}, status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # What was sent is not sent back: it may be large, or no JSON at all.
        faults = [
            {"field": ".".join(map(_plain, fault["loc"][1:])) or "body", "message": _plain(fault["msg"])}
            for fault in error.errors()[:_MOST_FAULTS]
        ]
        return problem(422, "the request is not what /openapi.json describes", faults)

    @app.exception_handler(HTTPException)
    async def refused_with(request: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(Denied)
    async def denied(request: Request, error: Denied) -> JSONResponse:
        return turned_away(error.status, str(error))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        _logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem(500, "the service failed; its log says why")

    app.add_middleware(_BodyLimit, answer=lambda most: problem(413, f"the body is longer than {most} bytes"))

    def turned_away(status: int, why: str) -> JSONResponse:
        more = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": str(RETRY_SECONDS)}}
        return problem(status, why, headers=more.get(status))

    app.add_middleware(Doorkeeper, door=door, refused=turned_away)  # the last that is added is asked first


class _BodyLimit:
    """Answers a body that is too long before it is read to its end. Starlette's own limit would do so in plain text."""

    def __init__(self, app: ASGIApp, answer: Callable[[int], JSONResponse]) -> None:
        self._app, self._answer = app, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, most = Headers(scope=scope), LONGER.get(scope["path"], MAX_BODY)
        length = headers.get("content-length", "")
        too_long = length.isdigit() and int(length) > most
        if not too_long and "transfer-encoding" in headers:
            body, more = b"", True
            while more and not too_long:
                message = await receive()
                body, more = body + message.get("body", b""), message.get("more_body", False)
                too_long = len(body) > most
            receive = _first({"type": "http.request", "body": body, "more_body": False}, receive)
        if too_long:
            await self._answer(most)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _first(message: Message, after: Receive) -> Receive:
    """A receive that gives `message`, which was read already, and then what comes."""
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            return await after()
        given = True
        return message

    return receive


def _plain(part: object) -> str:
    return str(part).encode(errors="replace").decode()[:200]
