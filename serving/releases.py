"""The archives of released versions on this machine: where they lie, or fetched from the object store into a cache.

A rollout row names an archive by a path or by an address that fsspec knows (s3://bucket/…), and pins its SHA-256: what
was fetched is compared before anything opens it. The cache has a folder for each model and a file for each digest.
"""

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from experiments.document import ModelVersion, Rollout
from runtime.errors import InputError
from runtime.files import digest_file
from runtime.locks import alone
from runtime.object_store import (
    StoreFault,
    is_address,
    opened,
    store_faults,
)

BLOCK = 8 << 20
"""Bytes that are asked for at once; what a kill loses of a download."""
UNUSED_SECONDS = 3600.0
"""For so long what no row names stays, because a replay, or a row that was read a moment ago, may still use it."""
FIRST_REST, LONGEST_REST = 10.0, 300.0
"""Seconds until what could not be had is tried again; each time twice as long."""
_AGAIN = "What serves goes on serving, and it is tried again. Check the endpoint and the credentials of the store."
_logger = logging.getLogger(__name__)


class Unreached(OSError):
    """The archive cannot be had now: its store is away or refuses, it is not there, or this disk is full."""


class DamagedRelease(InputError):
    """What lies in the store is another file than the one that was released; it is never served."""


class Releases:
    """The archives of `model`, cached below `cache`; any number of processes may share it.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, model: str, cache: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = cache / model, clock
        self._checked: set[str] = set()
        """Digests whose files in the cache this process has compared."""
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._failed: dict[str, tuple[OSError | ValueError, float, float]] = {}
        """Digest to what went wrong, the moment to try again, and the rest before it."""

    def fetched(self, arm: ModelVersion) -> Path:
        """Where the archive lies, fetched where it has to be; waits for that.

        A path is returned as it is, for its reader to compare. Raises `Unreached`, `DamagedRelease`, and `InputError`
        for an address that no driver knows.
        """
        if not is_address(arm.archive):
            return Path(arm.archive)
        if (found := self._cached(arm)) is not None:
            return found
        target = self._at(arm.archive_digest)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with alone(_partial(target)) as file:
                # Another process may have brought it while this one waited for its turn.
                if self._cached(arm) is None:
                    self._download(arm, file, target)
                else:
                    _partial(target).unlink()
        except (Unreached, DamagedRelease, InputError):
            raise
        except OSError as error:
            raise Unreached(
                f"{arm.archive}: cannot be kept in {self._folder} ({error.strerror or error}). Set HETERREC_ARCHIVES "
                "to a folder with room for the archives that serve."
            ) from error
        self._checked.add(arm.archive_digest)
        _logger.info("fetched %s", arm.archive)
        return target

    def at_hand(self, arm: ModelVersion) -> Path | None:
        """As `fetched`, and never waits for a store: None while the archive is on its way.

        Raises what the last attempt raised, until a next one, made beside the caller, succeeds.
        """
        if not is_address(arm.archive):
            return Path(arm.archive)
        if (found := self._cached(arm)) is not None:
            self._failed.pop(arm.archive_digest, None)
            return found
        with self._lock:
            fault, until, _ = self._failed.get(arm.archive_digest, (None, 0.0, 0.0))
            if arm.archive_digest not in self._running and (fault is None or self._clock() >= until):
                self._running.add(arm.archive_digest)
                threading.Thread(target=self._try, args=(arm,), name="archive", daemon=True).start()
        if fault is not None:
            raise fault.with_traceback(None)
        return None

    def following(self, read: Callable[[], Rollout]) -> Callable[[], Rollout]:
        """`read`, after which the cache keeps what the row names and what was used within the hour."""

        def keeping() -> Rollout:
            row = read()
            if row.champion is not None:  # a table that was emptied says nothing about what serves
                self.keep(row)
            return row

        return keeping

    def keep(self, row: Rollout) -> None:
        """Remove what `row` does not name and nobody used for an hour, half a download included."""
        named = {arm.archive_digest for arm in row.known}
        for path in self._folder.glob("*.mar*"):
            try:
                if path.name.partition(".")[0] not in named and time.time() - path.stat().st_mtime > UNUSED_SECONDS:
                    path.unlink()
                    _logger.info("removed %s, which no row names", path)
            except FileNotFoundError:
                continue  # another process was faster
            except OSError as error:
                _logger.warning("%s: cannot be removed: %s", path, error)

    def _try(self, arm: ModelVersion) -> None:
        """One attempt in a thread of its own; what went wrong is kept for the callers of `at_hand`."""
        fault: OSError | ValueError | None = None
        try:
            self.fetched(arm)
        except (OSError, ValueError) as error:
            fault = error
        except Exception as error:  # whatever a driver raises: it must not end the thread unheard
            fault = Unreached(f"{arm.archive}: {error!r}. {_AGAIN}")
        with self._lock:
            self._running.discard(arm.archive_digest)
            if fault is None:
                self._failed.pop(arm.archive_digest, None)
                return
            *_, before = self._failed.get(arm.archive_digest, (None, 0.0, 0.0))
            rest = min(max(FIRST_REST, 2 * before), LONGEST_REST)
            self._failed[arm.archive_digest] = (fault, self._clock() + rest, rest)

    def _cached(self, arm: ModelVersion) -> Path | None:
        """The file of the cache, compared once by each process: a disk may have lost what was written to it."""
        target = self._at(arm.archive_digest)
        if not target.is_file():
            return None
        if arm.archive_digest not in self._checked:
            if digest_file(target) != arm.archive_digest:
                _logger.error("%s: is damaged and fetched again", target)
                target.unlink(missing_ok=True)
                return None
            self._checked.add(arm.archive_digest)
            os.utime(target)
        return target

    def _download(self, arm: ModelVersion, file: BinaryIO, target: Path) -> None:
        """Go on where a killed attempt was, else begin; the file has its name once it is what was released."""
        begun = file.seek(0, os.SEEK_END)
        try:
            self._append(arm, file, begun)
            found = digest_file(_partial(target))
            if begun and found != arm.archive_digest:
                # What was begun may be of another file under this address.
                file.truncate(0)
                self._append(arm, file, 0)
                found = digest_file(_partial(target))
            os.fsync(file.fileno())
        except OSError as error:
            if not isinstance(error, Unreached):
                _partial(target).unlink()  # a full disk gets its room back
            raise
        if found != arm.archive_digest:
            size = file.seek(0, os.SEEK_END)
            _partial(target).unlink()
            raise DamagedRelease(
                f"{arm.archive}: found {found[:12]} ({size:,} bytes), but {arm.archive_digest[:12]} was released as "
                f"{arm.version}. It was altered or cut short and is not served; put the released archive back there."
            )
        os.replace(_partial(target), target)

    def _append(self, arm: ModelVersion, file: BinaryIO, begun: int) -> None:
        for block in _blocks(arm.archive, begun, shutil.disk_usage(self._folder).free):
            rest = memoryview(block)
            while rest:
                rest = rest[file.write(rest) :]

    def _at(self, digest: str) -> Path:
        return self._folder / f"{digest}.mar"


def _blocks(address: str, begun: int, room: int) -> Iterator[bytes]:
    """The bytes from `begun` on. Raises `Unreached`, also where there is `room` for less."""
    try:
        with store_faults(address, _AGAIN):
            files, name = opened(address)
            size = int(files.info(name)["size"])
        if size - begun > room:
            raise Unreached(
                f"{address}: {size - begun:,} bytes to fetch and room for {room:,} only. Free some, or set "
                "HETERREC_ARCHIVES to a folder with more."
            )
        for start in range(begun, size, BLOCK):
            with store_faults(address, _AGAIN):
                block = files.cat_file(name, start=start, end=min(start + BLOCK, size))
            yield block
    except FileNotFoundError as error:
        raise Unreached(
            f"{address}: the store has no such object. Put the released archive back there, or roll back."
        ) from error
    except StoreFault as error:
        raise Unreached(str(error)) from error


def _partial(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")
