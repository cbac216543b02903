"""The log on a disk: segments of lines, each written by one process, read while they grow and gone once consumed.

A segment bears a lock while its writer lives and appears under its name only with that lock, so that nobody can take
a segment for abandoned that is about to be written.
"""

import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from events.durable import sync_folder
from events.writer import LogUnavailable
from runtime.locks import lock, try_lock

ROLL_SECONDS = 30.0
"""So long a segment is written before the next one is begun."""
ROLL_BYTES = 32_000_000
"""A segment is no longer than this, and one batch of lines."""
ROOM = 1_000_000
"""Free bytes from which a full disk counts as one that has room again."""
_SUFFIX = ".jsonl"


class Line(NamedTuple):
    """A whole line, without its break. `position` orders the lines of a log and is the same whenever it is read."""

    position: int
    end: int
    """Offset in the segment right behind the line."""
    content: bytes


class SegmentSink:
    """Writes segments below `root`. Several processes may share it: each has segments of its own."""

    def __init__(self, root: Path, *, roll_seconds: float = ROLL_SECONDS) -> None:
        self._folder, self._roll_seconds = root / "segments", roll_seconds
        self._segment: BinaryIO | None = None
        self._began, self._written = 0.0, 0
        self._lost: OSError | None = None
        """Why lines may not be on the disk of which no `sync` has told yet."""
        self._lock = threading.Lock()

    def open(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LogUnavailable(f"{self._folder}: {error}", certain=True) from error

    def write(self, lines: Sequence[bytes]) -> None:
        written = 0
        try:
            segment = self._segment or self._begin()
            content = b"".join(lines)
            while content:  # a full disk may take a part of it without an error
                written = segment.write(content)
                self._written += written
                content = content[written:]
        except OSError as error:
            if not written and self._segment is not None:
                # Nothing of it is there: the segment goes on, once there is room. A new one for each failure would
                # fill the folder with empty ones.
                raise LogUnavailable(f"{self._folder}: {error}", certain=True) from error
            # A torn line may be at the end of this segment: nothing may be written behind it.
            self._abandon()
            raise LogUnavailable(f"{self._folder}: {error}", certain=not written) from error

    def sync(self) -> None:
        with self._lock:
            lost, self._lost = self._lost, None
            descriptor = os.dup(self._segment.fileno()) if self._segment is not None else None
        try:
            if descriptor is not None:
                os.fdatasync(descriptor)
        except OSError as error:
            self._abandon()
            lost = self._lost = error  # of what was written meanwhile nobody knows either
        finally:
            if descriptor is not None:
                os.close(descriptor)
        if lost is not None:
            raise LogUnavailable(f"{self._folder}: {lost}") from lost

    def idle(self) -> None:
        if time.monotonic() - self._began > self._roll_seconds or self._written > ROLL_BYTES:
            self.close()

    def check(self) -> None:
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise LogUnavailable(f"{self._folder}: {error}", certain=True) from error
        if free < ROOM:
            raise LogUnavailable(f"{self._folder}: {free} bytes are free", certain=True)

    def close(self) -> None:
        if (error := self._abandon()) is not None:
            raise LogUnavailable(f"{self._folder}: {error}") from error

    def _abandon(self) -> OSError | None:
        """Write nothing more into the segment. Who waits for what is in it waits for the next `sync`, which then has
        no segment to ask: so it is synced here, and what came of it is kept for that `sync`."""
        with self._lock:
            segment, self._segment, self._written = self._segment, None, 0
            if segment is None:
                return None
            with segment:
                try:
                    os.fdatasync(segment.fileno())
                except OSError as error:
                    self._lost = error
                    return error
        return None

    def _begin(self) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{time.time_ns()}-{secrets.token_hex(4)}{_SUFFIX}"
        hidden = path.with_suffix(".new")
        segment = hidden.open("wb", buffering=0)
        try:
            lock(segment)
            os.rename(hidden, path)
            sync_folder(self._folder)
        except OSError:
            segment.close()
            raise
        with self._lock:
            self._segment, self._began = segment, time.monotonic()
        return segment


def segments(root: Path) -> list[Path]:
    """The segments below `root`, oldest first."""
    return sorted((root / "segments").glob(f"[0-9]*-*{_SUFFIX}"))


def lines(segment: Path, start: int = 0, *, most: int | None = None) -> Iterator[Line]:
    """The whole lines of `segment` from offset `start` on, up to about `most` bytes.

    What follows the last line break was never acknowledged, or is still being written.
    """
    began = int(segment.name.partition("-")[0])
    with segment.open("rb") as file:
        file.seek(start)
        content = file.read() if most is None else file.read(most)
        if most is not None and len(content) == most:
            content += file.readline()
    at = start
    for part in content.split(b"\n")[:-1]:
        # No segment grows by more than a byte a nanosecond: no two lines of one writer share a position.
        yield Line(began + at, at + len(part) + 1, part)
        at += len(part) + 1


def tail(segment: Path, start: int) -> Line | None:
    """What follows the last line break, at `start`: a record that was torn when its writer ended, or one whose line
    break was lost. Only of an `abandoned` segment; None where nothing follows, or whole lines do."""
    with segment.open("rb") as file:
        file.seek(start)
        content = file.read()
    if not content or b"\n" in content:
        return None
    return Line(int(segment.name.partition("-")[0]) + start, start + len(content), content)


@contextmanager
def abandoned(segment: Path) -> Iterator[bool]:
    """Whether nobody writes `segment` any more; while the block runs nobody else may remove it."""
    try:
        file = segment.open("rb")
    except FileNotFoundError:
        yield False
        return
    with file:
        yield try_lock(file)
