"""The writing end of the event log: what is acknowledged is durable.

Callers that wait at the same time share one write: a thread takes what has gathered and hands it to the sink.
"""

import asyncio
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Protocol

from serving.eventlog.events import to_line

MOST_AT_ONCE = 1_000


class LogUnavailable(RuntimeError):
    """The event could not be made durable; it counts as not written."""


class Sink(Protocol):
    """Where lines become durable. Used by one thread, after `open` by the thread that starts the log."""

    def open(self) -> None:
        """Get ready. Raises `LogUnavailable` where the log could never keep what it promises."""

    def write(self, lines: Sequence[bytes]) -> None:
        """Return once all `lines` are durable. Raises `LogUnavailable`."""

    def idle(self) -> None:
        """Called at least once a second."""

    def close(self) -> None:
        """Nothing more comes."""


class EventLog:
    """`with EventLog(sink) as log: await log.append("outcomes", {...})`."""

    def __init__(self, sink: Sink) -> None:
        self.problem: str | None = None
        """Why the latest events were not written; None while all is well."""
        self._sink = sink
        self._queue: queue.SimpleQueue[tuple[bytes, Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_all, name="event-log")

    def __enter__(self) -> "EventLog":
        self._sink.open()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._queue.put(None)
        self._thread.join()

    async def append(self, table: str, event: dict[str, Any]) -> None:
        """Return once the event is durable. Raises `LogUnavailable` where it is not."""
        written: Future[None] = Future()
        self._queue.put((to_line(table, event), written))
        await asyncio.wrap_future(written)

    def _write_all(self) -> None:
        open_ = True
        while open_:
            batch: list[tuple[bytes, Future[None]]] = []
            try:
                entry = self._queue.get(timeout=1.0)
                while entry is not None:
                    entry[1].set_running_or_notify_cancel()  # written all the same: from here on it cannot be cancelled
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
            self._sink.idle()
        self._sink.close()

    def _write(self, batch: Sequence[tuple[bytes, "Future[None]"]]) -> None:
        fault: Exception | None = None
        try:
            self._sink.write([line for line, _ in batch])
        except Exception as error:  # whatever it was, those who wait must hear of it and the thread must live on
            fault = error if isinstance(error, LogUnavailable) else LogUnavailable(f"{type(error).__name__}: {error}")
        self.problem = None if fault is None else str(fault)
        for _, written in batch:
            if written.cancelled():
                continue
            if fault is None:
                written.set_result(None)
            else:
                written.set_exception(fault)
