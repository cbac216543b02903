"""What an answer says of its exposure: it is in the log, it is not, or nobody knows; and a log that is out of room."""

import asyncio
import errno
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from events import segments, writer
from events.schema import of_line
from events.segments import SegmentSink
from events.writer import EventLogWriter, LogUnavailable, Sink

CLICK = {"event_type": "click", "time": "2026-01-05T10:00:00+00:00"}


class Slow(Sink):
    """Keeps what it is given once it may."""

    def __init__(self) -> None:
        self.may, self.kept = threading.Event(), []

    def write(self, lines: Sequence[bytes]) -> None:
        assert self.may.wait(60)
        self.kept += [of_line(line.rstrip(b"\n")).row["request_id"] for line in lines]


def test_what_is_said_not_to_be_logged_never_is_and_what_nobody_knows_may_be() -> None:
    sink = Slow()
    said: dict[str, bool | None] = {}

    async def append(name: str) -> None:
        try:
            await log.append("outcomes", {**CLICK, "request_id": name}, synced=False, seconds=0.3)
            said[name] = True
        except LogUnavailable as error:
            said[name] = False if error.certain else None

    async def main() -> None:
        first = asyncio.create_task(append("begun"))
        await asyncio.sleep(0.1)  # the writer has it
        await asyncio.gather(first, *(append(f"waits{number}") for number in range(3)))
        sink.may.set()
        await append("later")

    with EventLogWriter(sink) as log:
        asyncio.run(main())
    assert said == {"begun": None, "waits0": False, "waits1": False, "waits2": False, "later": True}
    assert sink.kept == ["begun", "later"]


def test_a_log_that_hangs_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MOST_WAITING", 5)
    sink = Slow()

    async def main() -> list[Any]:
        event = {**CLICK, "request_id": "r"}
        return await asyncio.gather(
            *(log.append("outcomes", event, synced=False, seconds=0.2) for _ in range(50)), return_exceptions=True
        )

    with EventLogWriter(sink) as log:
        found = asyncio.run(main())
        sink.may.set()
    refused = [error for error in found if "events wait to be written" in str(error)]
    # What the writer has taken is at most as much again as what may wait.
    assert len(refused) >= 50 - 2 * 5 and all(error.certain for error in refused)


def test_a_full_disk_makes_no_segment_for_each_batch_and_is_forgotten_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = [True]
    monkeypatch.setattr(writer, "CHECK_SECONDS", 0.0)
    monkeypatch.setattr(segments.shutil, "disk_usage", lambda path: SimpleNamespace(free=0 if full[0] else 10**9))
    opened = Path.open

    class File:
        """A file on a disk that is full for now."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Any:
            return self.file.__enter__()

        def __exit__(self, *fault: Any) -> None:
            self.file.__exit__(*fault)

        def write(self, content: bytes) -> int:
            if full[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            return int(self.file.write(content))

    monkeypatch.setattr(segments.Path, "open", lambda path, *how, **more: File(opened(path, *how, **more)))

    async def main() -> None:
        for number in range(20):
            with pytest.raises(LogUnavailable, match="No space left") as told:
                await log.append("outcomes", {**CLICK, "request_id": f"r{number}"})
            assert told.value.certain
        assert len(segments.segments(tmp_path)) == 1
        assert "No space left" in str(log.problem)
        full[0] = False
        for _ in range(600):
            if log.problem is None:
                break
            await asyncio.sleep(0.05)
        assert log.problem is None, "nobody wrote meanwhile"
        await log.append("outcomes", {**CLICK, "request_id": "last"})

    with EventLogWriter(SegmentSink(tmp_path)) as log:
        asyncio.run(main())
    (path,) = segments.segments(tmp_path)
    monkeypatch.undo()
    assert [of_line(line.content).row["request_id"] for line in segments.lines(path)] == ["last"]
