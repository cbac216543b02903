"""A server without Java, with the paths, requests and answers of TorchServe's: versions side by side, each behind a
worker with its own code, in batches, loaded and unloaded while others answer.

Asked and managed on loopback only, where it wants no key: beyond, TorchServe. It runs what a reconciler loads, as
TorchServe does.
"""

import re
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import (
    ASGIApp,
    Receive,
    Scope,
    Send,
)

from serving.plain.versions import Gone, PlainVersion, WorkerSettings
from serving.torchserve import archive
from serving.torchserve.client import STORE
from serving.torchserve.handler import DEADLINE

MAX_REQUEST_BYTES = 1 << 20
APIS = ("inference", "management", "metrics")
_ARCHIVE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\.mar")


class PlainModels:
    """What is loaded, of any number of models; archives come from `<folder>/store` alone."""

    def __init__(self, folder: Path) -> None:
        self._store = folder / STORE
        self._loaded: dict[str, dict[str, PlainVersion]] = {}
        self._default: dict[str, str] = {}

    def of(self, request: Request) -> PlainVersion | None:
        """The version that a path names, or the default one of its model."""
        model = request.path_params["model"]
        version = request.path_params.get("version", self._default.get(model, ""))
        return self._loaded.get(model, {}).get(version)

    async def predict(self, request: Request) -> Response:
        version = self.of(request)
        if version is None:
            return _status_reply(404, "no such model, or no such version of it")
        body = await _body(request)
        if body is None:
            return _status_reply(413, f"the body is longer than {MAX_REQUEST_BYTES} bytes")
        status, content = await version.ask(request.headers.get(DEADLINE), body)
        return Response(content, status, media_type="application/json")

    async def register(self, request: Request) -> Response:
        """`url` names a file of the store, the other parameters are TorchServe's."""
        asked = request.query_params
        if not _ARCHIVE.fullmatch(asked.get("url", "")):
            return _status_reply(400, "url: expected the name of an archive in the store")
        mar = self._store / asked["url"]
        try:
            model, name = archive.identity(mar)
        except (OSError, ValueError) as error:
            return _status_reply(400, str(error))
        if name in self._loaded.get(model, {}):
            return _status_reply(409, f"{model} {name} is loaded already")
        version = PlainVersion(mar, _settings(asked))
        try:
            await version.start()
        except Gone as fault:
            return _status_reply(500, f"{model} {name}: {fault}")
        self._loaded.setdefault(model, {})[name] = version
        self._default.setdefault(model, name)
        return _status_reply(200, f"{model} {name} is loaded")

    async def listed(self, request: Request) -> Response:
        model = request.path_params["model"]
        if not (loaded := self._loaded.get(model)):
            return _status_reply(404, f"{model} is not loaded")
        rows = [
            {"modelName": model, "modelVersion": name, "workers": [{"status": "READY" if each.ready else "UNLOADING"}]}
            for name, each in loaded.items()
        ]
        return Response(orjson.dumps(rows), media_type="application/json")

    async def unregister(self, request: Request) -> Response:
        model, name = request.path_params["model"], request.path_params["version"]
        loaded = self._loaded.get(model, {})
        if name not in loaded:
            return _status_reply(404, f"{model} {name} is not loaded")
        if len(loaded) > 1 and self._default[model] == name:
            return _status_reply(403, f"{model} {name} is the default version")
        version = loaded.pop(name)
        if not loaded:
            del self._loaded[model], self._default[model]
        await version.stop()
        return _status_reply(200, f"{model} {name} is unloaded")

    async def set_default(self, request: Request) -> Response:
        if self.of(request) is None:
            return _status_reply(404, "no such version")
        self._default[request.path_params["model"]] = request.path_params["version"]
        return _status_reply(200, "it is the default version now")

    async def metrics(self, request: Request) -> Response:
        lines = []
        for name in ("ts_inference_requests_total", "ts_batches_total"):
            lines.append(f"# TYPE {name} counter")
            for model, loaded in self._loaded.items():
                for version, each in loaded.items():
                    count = each.answered if name.startswith("ts_inference") else each.batches
                    lines.append(f'{name}{{model_name="{model}",model_version="{version}"}} {count}')
        return PlainTextResponse("\n".join([*lines, ""]))

    async def stop(self) -> None:
        for loaded in self._loaded.values():
            for version in loaded.values():
                await version.stop()


def make_app(folder: Path, ports: dict[str, int]) -> ASGIApp:
    """One application on three ports: each API answers on its own alone."""
    models = PlainModels(folder)
    one = "/models/{model}/{version}"
    routes = {
        "inference": [
            Route("/ping", _healthy),
            Route("/predictions/{model}", models.predict, methods=["POST"]),
            Route("/predictions/{model}/{version}", models.predict, methods=["POST"]),
        ],
        "management": [
            Route("/models", models.register, methods=["POST"]),
            Route("/models/{model}/all", models.listed),
            Route(one, models.unregister, methods=["DELETE"]),
            Route(f"{one}/set-default", models.set_default, methods=["PUT"]),
        ],
        "metrics": [Route("/metrics", models.metrics)],
    }
    apps = {ports[api]: Starlette(routes=routes[api]) for api in APIS}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await models.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await apps[scope["server"][1]](scope, receive, send)

    return app


async def _healthy(request: Request) -> Response:
    return _status_reply(200, "Healthy")


def _status_reply(code: int, status: str) -> Response:
    return Response(orjson.dumps({"code": code, "status": status}), code, media_type="application/json")


def _settings(asked: Any) -> WorkerSettings:
    given = WorkerSettings()
    return WorkerSettings(
        batch_size=int(asked.get("batch_size", given.batch_size)),
        delay=float(asked.get("max_batch_delay", 1000 * given.delay)) / 1000,
        start_seconds=float(asked.get("startup_timeout", given.start_seconds)),
        response_seconds=float(asked.get("response_timeout", given.response_seconds)),
    )


async def _body(request: Request) -> bytes | None:
    """The body, or None where it is too large; what is too large is not read to its end."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_REQUEST_BYTES:
            return None
    return bytes(body)
