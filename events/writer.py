"""The writing end of the event log: what is acknowledged survives the end of every process.

Callers that wait at the same time share one write, and one sync: a thread takes what has gathered and hands it to the
sink, another brings to disk what was written, for those who wait for that and at least every `SYNC_SECONDS`.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

from events.schema import to_line

MOST_AT_ONCE = 1_000
MOST_WAITING = 20_000
"""A disk that hangs must not fill the memory."""
CHECK_SECONDS = 5.0
SYNC_SECONDS = 0.1
"""So long what nobody waits for may be with the operating system alone: lost if the machine itself fails."""


class LogUnavailable(RuntimeError):
    """The event could not be made durable. `certain`: it is not in the log; else nobody knows."""

    def __init__(self, why: str, *, certain: bool = False) -> None:
        super().__init__(why)
        self.certain = certain


class Sink(Protocol):
    """Where lines are kept. `write`, `idle` and `close` are called by one thread, `sync` by another."""

    def open(self) -> None:
        """Get ready. Raises `LogUnavailable` where the log could never keep what it promises."""

    def write(self, lines: Sequence[bytes]) -> None:
        """Return once `lines` survive the end of this process. Raises `LogUnavailable`."""

    def sync(self) -> None:
        """Return once all that was written survives the machine too. Raises `LogUnavailable`."""

    def idle(self) -> None:
        """Called at least once a second."""

    def check(self) -> None:
        """Raises `LogUnavailable` while nothing could be written; asked where the last write failed and none came."""

    def close(self) -> None:
        """Nothing more comes."""


class _Entry(NamedTuple):
    line: bytes
    written: "Future[None]"
    synced: bool
    """Whether the caller waits for the disk."""


class EventLogWriter:
    """`with EventLog(sink) as log: await log.append("outcomes", {...})`."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._unsynced: queue.SimpleQueue[Future[None]] = queue.SimpleQueue()
        self._wrote = 0.0
        self._problems: dict[str, LogUnavailable | None] = {}
        self._waited_for, self._written, self._closed = threading.Event(), False, False
        self._writer = threading.Thread(target=self._write_all, name="event-log-writer")
        self._syncer = threading.Thread(target=self._sync_all, name="event-log-syncer")

    @property
    def problem(self) -> str | None:
        """Why the latest events were not kept; None while all is well."""
        return next((str(fault) for fault in list(self._problems.values()) if fault is not None), None)

    def __enter__(self) -> "EventLogWriter":
        self._try("write", self._sink.open)  # shoppers are answered without a log too; the first write tries again
        self._writer.start()
        self._syncer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._queue.put(None)
        self._writer.join()
        self._closed = True
        self._waited_for.set()
        self._syncer.join()
        self._try("sync", self._sink.close)

    async def append(
        self, table: str, event: dict[str, Any], *, synced: bool = True, seconds: float | None = None
    ) -> None:
        """Return once the event survives the end of this process; where `synced`, also that of the machine.

        Raises `LogUnavailable` where it is not kept, or not within `seconds`: what was not begun by then never is.
        """
        if self._queue.qsize() >= MOST_WAITING:
            raise LogUnavailable(f"{MOST_WAITING} events wait to be written", certain=True)
        written: Future[None] = Future()
        self._queue.put(_Entry(to_line(table, event), written, synced))
        waiting = asyncio.wrap_future(written)
        waiting.add_done_callback(_heard)
        await asyncio.wait({waiting}, timeout=seconds)
        if not waiting.done():
            raise LogUnavailable(f"not within {seconds} s", certain=written.cancel())
        waiting.result()

    def _write_all(self) -> None:
        open_ = True
        while open_:
            batch: list[_Entry] = []
            try:
                entry = self._queue.get(timeout=1.0)
                while entry is not None:
                    if entry.written.set_running_or_notify_cancel():  # from here on it is written, whoever waits
                        batch.append(entry)
                    if len(batch) == MOST_AT_ONCE:
                        break
                    entry = self._queue.get_nowait()
                else:
                    open_ = False
            except queue.Empty:
                pass
            if batch:
                self._write(batch)
            elif self._problems.get("write") is not None and time.monotonic() - self._wrote > CHECK_SECONDS:
                # A fault that has gone must not be told of until somebody comes again.
                self._wrote = time.monotonic()
                self._try("write", self._sink.check)
            self._try("sync", self._sink.idle)

    def _write(self, batch: Sequence[_Entry]) -> None:
        self._wrote = time.monotonic()
        fault = self._try("write", lambda: self._sink.write([entry.line for entry in batch]))
        self._written = True
        for entry in batch:
            if fault is None and entry.synced:
                self._unsynced.put(entry.written)
            else:
                _settle(entry.written, fault)
        if not self._unsynced.empty():
            self._waited_for.set()

    def _sync_all(self) -> None:
        closed = False
        while not closed:
            self._waited_for.wait(SYNC_SECONDS)
            self._waited_for.clear()
            closed = self._closed
            if not self._written and self._unsynced.empty():
                continue
            self._written = False
            # All who wait were written before the sync begins.
            waiting = [self._unsynced.get() for _ in range(self._unsynced.qsize())]
            fault = self._try("sync", self._sink.sync)
            for written in waiting:
                _settle(written, fault)

    def _try(self, what: str, work: Callable[[], None]) -> LogUnavailable | None:
        """What went wrong. Whatever it was, those who wait must hear of it and the thread must live on."""
        fault: LogUnavailable | None = None
        try:
            work()
        except Exception as error:
            fault = error if isinstance(error, LogUnavailable) else LogUnavailable(f"{type(error).__name__}: {error}")
        self._problems[what] = fault
        return fault


def _heard(written: "asyncio.Future[None]") -> None:
    """Whoever waited may be gone by now."""
    if not written.cancelled():
        written.exception()


def _settle(written: "Future[None]", fault: Exception | None) -> None:
    if fault is None:
        written.set_result(None)
    else:
        written.set_exception(fault)
