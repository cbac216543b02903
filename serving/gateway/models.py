"""Calls of pinned model versions in TorchServe: each with a deadline, a breaker, and the key that TorchServe wants."""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

from experiments.document import ModelVersion
from serving.gateway.breaker import Breaker, Source

Items = list[dict[str, Any]]
_INVALID_KEY = b"InvalidKeyException"
_KEY_SECONDS = 0.01


class ModelFailed(Exception):
    """A version gave no answer that could be used; the message says why."""


class KeyFile:
    """The key that TorchServe's callers need, in the file that its reconciler writes anew with each other key."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._key = ""

    def key(self) -> str:
        """The key as the file has it now; the last one known while there is no file.

        Raises `ValueError` for a file that holds more than a key.
        """
        try:
            state = self._path.stat()
            if (state.st_mtime_ns, state.st_ino) != self._seen:
                found = self._path.read_text().strip()
                if len(found.split()) > 1:
                    raise ValueError(f"{self._path}: holds more than a key; name TorchServe's file inference.key")
                self._key, self._seen = found, (state.st_mtime_ns, state.st_ino)
        except OSError:
            pass  # TorchServe starts; until it has, no key would do
        return self._key


class TorchServeModels:
    """The versions that the TorchServe at `address` has. `start` and `close` it in the loop that asks.

    Args:
        observe: Told the version and the seconds of each call for a shopper.
    """

    def __init__(
        self, address: str, keys: KeyFile | None = None, observe: Callable[[str, float], None] | None = None
    ) -> None:
        self._address, self._keys = address.rstrip("/"), keys
        self._observe = observe or (lambda version, seconds: None)
        self._session: aiohttp.ClientSession | None = None
        self.breakers: defaultdict[str, Breaker] = defaultdict(Breaker)

    async def start(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30), timeout=aiohttp.ClientTimeout(None)
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(
        self,
        model: str,
        arm: ModelVersion,
        body: bytes,
        *,
        deadline: float,
        source: Source = "traffic",
        expect: Callable[[Items], bool] = lambda items: True,
    ) -> Items:
        """The items that `arm` recommends to a request (docs/contracts.md), within `deadline` seconds.

        Raises `ModelFailed`, also where they are not what to `expect`; the breaker of the version hears of both.
        """
        breaker, began = self.breakers[arm.version], time.perf_counter()
        try:
            # One deadline for the whole call, whatever it waits for.
            async with asyncio.timeout(deadline):
                path = f"/predictions/{quote(model)}/{quote(arm.version)}"
                items = _items(await self._post(path, body, until=time.time() + deadline), arm)
            if not expect(items):
                raise ValueError("the items are not those of its own goldens")
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
            breaker.failed(source)
            late = isinstance(error, TimeoutError)
            raise ModelFailed(f"{type(error).__name__}: {f'not within {deadline} s' if late else error}") from error
        finally:
            if source == "traffic":
                self._observe(arm.version, time.perf_counter() - began)
        breaker.succeeded(source)
        return items

    async def _post(self, path: str, body: bytes, *, until: float) -> bytes:
        key = self._keys.key() if self._keys is not None else ""
        status, content = await self._send(path, body, key, until)
        while self._keys is not None and status in (400, 401, 403) and _INVALID_KEY in content:
            while (renewed := self._keys.key()) == key:  # another key is on its way; the deadline ends this
                await asyncio.sleep(_KEY_SECONDS)
            key = renewed
            status, content = await self._send(path, body, key, until)
        if status != 200:
            raise ValueError(f"status {status}: {' '.join(content[:200].decode(errors='replace').split())}")
        return content

    async def _send(self, path: str, body: bytes, key: str, until: float) -> tuple[int, bytes]:
        assert self._session is not None, "not started"
        # TorchServe's queue does not see that somebody has gone: what waits in it too long is not scored any more.
        headers = {"Content-Type": "application/json", "x-deadline": f"{until:.3f}"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        for attempt in (1, 2):
            try:
                async with self._session.post(self._address + path, data=body, headers=headers) as reply:
                    return reply.status, await reply.read()
            except (aiohttp.ServerDisconnectedError, ConnectionResetError):
                if attempt == 2:  # a connection that was kept open may have been closed by the server meanwhile
                    raise
        raise AssertionError


def _items(content: bytes, arm: ModelVersion) -> Items:
    """The items of an answer. Raises `ValueError` and the like where it is none, or another version's."""
    answer = orjson.loads(content)
    if answer.get("version", arm.version) != arm.version:
        raise ValueError(f"answered as version {answer['version']!r}")
    items: Items = answer["items"]
    for item in items:
        if not isinstance(item["item_id"], str) or not math.isfinite(item["score"]):
            raise ValueError("an item without an id or a finite score")
    return items
