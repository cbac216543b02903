"""The scorer behind a plain FastAPI server: a second shim, with the paths, requests and answers of TorchServe's.

One process, one archive, no batching: for a laptop, a test, or a server that is none of ours.
"""

import time
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from fastapi import FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from serving.scoring import wire
from serving.scoring.scorer import Scorer
from serving.torchserve import archive
from serving.torchserve.handler import DEADLINE, late

MAX_REQUEST_BYTES = 1 << 20


def make_app(mar: Path, *, digest: str | None = None) -> FastAPI:
    """Serve one archive. Raises `ValueError` where it is none, or its SHA-256 is not `digest`: an archive is code."""
    model, version = archive.identity(mar)
    if digest is not None and (found := archive.digest(mar)) != digest:
        raise ValueError(f"{mar}: digest {found[:12]}, expected {digest[:12]}; refused")
    loaded: list[Scorer] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with TemporaryDirectory(prefix="plain-") as folder:
            with zipfile.ZipFile(mar) as content:
                content.extractall(folder)
            loaded.append(Scorer.load(Path(folder)))
            yield
            loaded.clear()

    app = FastAPI(title="Scorer", lifespan=lifespan, openapi_url=None)

    @app.get("/ping")
    def ping() -> dict[str, str]:
        return {"status": "Healthy"}

    @app.post(f"/predictions/{model}")
    @app.post(f"/predictions/{model}/{version}")
    async def predict(request: Request) -> Response:
        if late(request.headers.get(DEADLINE), time.time()):
            return Response(status_code=408)
        body = await _body(request)
        if body is None:
            return Response(status_code=413)
        (reply,) = await run_in_threadpool(wire.replies, loaded[0], [body])
        return Response(reply.body, status_code=reply.status, media_type="application/json")

    return app


async def _body(request: Request) -> bytes | None:
    """The body, or None where it is too large; what is too large is not read to its end."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_REQUEST_BYTES:
            return None
    return bytes(body)
