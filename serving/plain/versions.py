"""Loaded versions: a worker process for each, and the requests that wait for its next batch."""

import asyncio
import contextlib
import logging
import os
import shutil
import sys
import tempfile
import time
import zipfile
from collections import deque
from pathlib import Path
from typing import NamedTuple

from serving.plain import worker
from serving.plain.worker import Part

MOST_WAITING = 1_000
"""Requests of one version; what nobody waits for any more is dropped by the worker unscored."""
FIRST_REST, LONGEST_REST = 0.1, 30.0
"""Seconds until a worker that ended is started again; each time twice as long."""
FULL = 503, b'{"code": 503, "type": "ServiceUnavailableException", "message": "too many requests wait"}'
DIED = 507, b'{"code": 507, "type": "InternalServerException", "message": "Worker died."}'
_logger = logging.getLogger(__name__)


class WorkerSettings(NamedTuple):
    """As docs/contracts.md has them for TorchServe."""

    batch_size: int = 32
    delay: float = 0.002
    """Seconds that a request waits for others to share its batch."""
    start_seconds: float = 120.0
    response_seconds: float = 30.0


class Gone(RuntimeError):
    """The worker ended, or did not answer in time."""


class PlainVersion:
    """One archive behind a worker. `start` it, `ask` it, `stop` it, in one loop; a worker that ends is started anew."""

    def __init__(self, mar: Path, settings: WorkerSettings) -> None:
        self._mar, self._settings = mar, settings
        self._waiting: deque[tuple[Part, asyncio.Future[Part]]] = deque()
        self._since = 0.0
        """When the first of those that wait came, or later."""
        self._came = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self.ready = False
        self.answered = self.batches = 0

    async def start(self) -> None:
        """Raises `Gone` where the worker does not become ready."""
        self._folder = Path(tempfile.mkdtemp(prefix="plain-"))
        with zipfile.ZipFile(self._mar) as content:
            content.extractall(self._folder)
        try:
            await self._launch()
        except Gone:
            await self.stop()
            raise
        self._task = asyncio.create_task(self._work())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._end()
        self._fail([future for _, future in self._waiting])
        self._waiting.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def ask(self, deadline: str | None, body: bytes) -> Part:
        """Status and body of the answer."""
        if len(self._waiting) >= MOST_WAITING:
            return FULL
        if not self.ready:
            return DIED
        future: asyncio.Future[Part] = asyncio.get_running_loop().create_future()
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.append(((deadline, body), future))
        self._came.set()
        return await future

    async def _work(self) -> None:
        rest = FIRST_REST
        while True:
            try:
                if not self.ready:
                    await self._launch()
                while True:
                    await self._batch()
                    rest = FIRST_REST
            except Gone as fault:
                _logger.warning("%s: %s; started again in %.1f s", self._mar.name, fault, rest)
                await self._end()
                self._fail([future for _, future in self._waiting])
                self._waiting.clear()
                await asyncio.sleep(rest)
                rest = min(LONGEST_REST, 2 * rest)

    async def _batch(self) -> None:
        """What came while the batch before was scored goes at once; a short one waits for others, but not for long."""
        while not self._waiting:
            self._came.clear()
            await self._came.wait()
        rest = self._settings.delay - (time.monotonic() - self._since)
        if len(self._waiting) < self._settings.batch_size and rest > 0:
            await asyncio.sleep(rest)
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._settings.batch_size))]
        try:
            replies = await self._exchange([part for part, _ in batch])
        except Gone:
            self._fail([future for _, future in batch])
            raise
        self.answered += len(batch)
        self.batches += 1
        for (_, future), reply in zip(batch, replies, strict=True):
            if not future.done():
                future.set_result(reply)

    async def _exchange(self, batch: list[Part]) -> list[Part]:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(worker.pack(batch))
        return await self._read(self._settings.response_seconds)

    async def _read(self, seconds: float) -> list[Part]:
        assert self._process is not None and self._process.stdout is not None
        try:
            async with asyncio.timeout(seconds):
                parts = worker.lengths(await self._process.stdout.readline() or b"[")
                content = await self._process.stdout.readexactly(sum(length for _, length in parts))
        except TimeoutError as error:
            raise Gone(f"its worker did not answer within {seconds:.0f} s") from error
        except (ValueError, OSError, asyncio.IncompleteReadError) as error:
            raise Gone("its worker ended") from error
        return worker.split(parts, content)

    async def _launch(self) -> None:
        command = [sys.executable, worker.__file__, str(self._folder)]
        pipe = asyncio.subprocess.PIPE
        # Left out: PYTHONPATH, as an archive has to work without this checkout.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, env=environment)
        await self._read(self._settings.start_seconds)
        self.ready = True

    async def _end(self) -> None:
        self.ready = False
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    def _fail(self, futures: list[asyncio.Future[Part]]) -> None:
        for future in futures:
            if not future.done():
                future.set_result(DIED)
