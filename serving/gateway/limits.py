"""What no request may do: send more than it should, or get anything but a clear JSON answer."""

import json
import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.gateway.access import Denied

MAX_BODY = 64 * 1024
_MOST_FAULTS = 20
_logger = logging.getLogger(__name__)


def guard(app: FastAPI, refused: Callable[[int], None]) -> None:
    """Give `app` its limits; `refused` is told each status of 400 and above that is answered."""

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
        return problem(
            error.status, str(error), headers={"WWW-Authenticate": "Bearer"} if error.status == 401 else None
        )

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        _logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return problem(500, "the service failed; its log says why")

    app.add_middleware(_BodyLimit, refused=refused)


def _plain(part: object) -> str:
    return str(part).encode(errors="replace").decode()[:200]


class _BodyLimit:
    """Answers 413 to a body that is too long, before it is read to its end."""

    def __init__(self, app: ASGIApp, refused: Callable[[int], None]) -> None:
        self._app, self._refused = app, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > MAX_BODY:
                await self._too_long(send)
                return
        body = bytearray()
        if any(name == b"transfer-encoding" for name, _ in scope["headers"]):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > MAX_BODY:
                    await self._too_long(send)
                    return
                if not message.get("more_body", False):
                    break
            receive = _once(bytes(body), receive)
        await self._app(scope, receive, send)

    async def _too_long(self, send: Send) -> None:
        self._refused(413)
        body = json.dumps({"detail": f"the body is longer than {MAX_BODY} bytes", "errors": []}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
                   (b"connection", b"close")]  # fmt: skip
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _once(body: bytes, after: Receive) -> Receive:
    """A receive that gives a body that was read already."""
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            return await after()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
