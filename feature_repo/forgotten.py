"""Who asked to be deleted: the list that keeps a deleted user from coming back with the next ingest or a replayed log.

A line a user: the SHA-256 of the user's id, the moment of the deletion, and the CRC-32 of both. What the user does
after that moment is a new acquaintance and counts again.
"""

import hashlib
import logging
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zlib import crc32

from feature_repo.keys import spelled
from runtime.locks import lock

_logger = logging.getLogger(__name__)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Forgotten:
    """The list in the file at `path`; without a file nobody was deleted. Changes of other processes are seen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int] | None = None
        self._until: dict[str, int] = {}

    def add(self, user_ids: Iterable[str], at: datetime) -> None:
        """Write `user_ids` down as deleted at the moment `at`; on disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            lock(file)
            file.seek(0)
            file.truncate(len(_whole_lines(file.read())))  # a writer that was killed had promised nothing yet
            moment = at.astimezone(UTC).isoformat()
            file.writelines(_line(f"{digest(user)} {moment}") for user in user_ids)
            file.flush()
            os.fsync(file.fileno())

    def until(self) -> dict[str, int]:
        """The moment (microseconds since 1970) up to which a user's events are gone, by the digest of the id.

        A damaged line is told of and passed over: whose it was is not known any more, so that its deletion has to be
        asked for again. The others hold.
        """
        try:
            state = self.path.stat()
        except FileNotFoundError:
            return {}
        if self._seen != (state.st_mtime_ns, state.st_size):
            until: dict[str, int] = {}
            for number, line in enumerate(_whole_lines(self.path.read_bytes()).split(b"\n")[:-1], start=1):
                try:
                    user, moment = _deletion(line)
                except ValueError as error:
                    _logger.error("%s, line %d: is damaged, delete that user again: %s", self.path, number, error)
                    continue
                until[user] = max(until.get(user, 0), moment)
            self._until, self._seen = until, (state.st_mtime_ns, state.st_size)
        return self._until

    def covers(self, user_id: str, event_time: int) -> bool:
        """Whether an event of that user and time (microseconds since 1970) was deleted."""
        deleted = self.until()
        return bool(deleted) and event_time <= deleted.get(digest(user_id), -(2**63))


def _whole_lines(content: bytes) -> bytes:
    """Without the last line where it is still being written, or never was to its end."""
    return content[: content.rfind(b"\n") + 1]


def _line(told: str) -> bytes:
    return f"{told} {crc32(told.encode()):08x}\n".encode()


def _deletion(line: bytes) -> tuple[str, int]:
    """Digest and moment of a line; one of before there were checksums has two words. Raises `ValueError`."""
    user, moment, *rest = line.decode().split(" ")
    if rest and line + b"\n" != _line(f"{user} {moment}"):
        raise ValueError("its checksum does not hold")
    if len(user) != 64:
        raise ValueError("it does not begin with a SHA-256")
    return user, microseconds(datetime.fromisoformat(moment))


def digest(user_id: str) -> str:
    """Of an id in its one spelling, however it was given."""
    return hashlib.sha256(spelled(user_id).encode()).hexdigest()


def microseconds(moment: datetime) -> int:
    """Since 1970, UTC."""
    return (moment - _EPOCH) // timedelta(microseconds=1)
