"""What a single writer needs of an online store and Feast does not offer: locks, and deletion of one key.

Feast's own writing is not conditional: SQLite takes whatever comes last, Redis reads a time and then writes. So
whoever changes a history first holds the lock of the user's partition, which lies where the histories lie.
"""

import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from feature_repo.faults import Unavailable
from feature_repo.feast_import import FeatureStore
from runtime.locks import try_lock
from runtime.sql import quoted

LOCK_SECONDS = 30.0
"""How long to wait for a partition's lock; a healthy writer holds it for milliseconds."""
_LEASE_SECONDS = 10.0
_PAUSE = 0.002


class Backend(Protocol):
    """One kind of online store."""

    def hold(self, partition: int) -> AbstractContextManager[Callable[[], None]]:
        """The partition's lock; call what it gives right before writing, it raises where the lock was lost."""

    def delete(self, keys: Sequence[bytes]) -> None:
        """Remove these entity keys (as Feast serialises them) and everything under them."""

    def stored(self) -> Iterator[bytes]:
        """Entity keys of all users that have a history."""


def backend_of(store: FeatureStore, online_store: Any, view: str, *others: str) -> Backend:
    """The backend of Feast's `online_store` object, for histories, which are `view`, and the `others` that go with one.
    Raises `ValueError` for a kind that has none here."""
    config = store.config
    kind = type(online_store).__name__
    if kind == "SqliteOnlineStore":
        path = Path(config.online_store.path)
        tables = [f"{config.project}_{name}" for name in (view, *others)]
        return _Sqlite(online_store._get_conn(config), path, *tables)
    if kind == "RedisOnlineStore":
        return _Redis(online_store._get_client(config.online_store), config.project, view)
    raise ValueError(f"online_store: {kind} is no store that histories can be written to; expected sqlite or redis.")


class _Sqlite:
    """Locks are files beside the database: a process that dies lets go of them."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *tables: str) -> None:
        self._connection, self._path = connection, path
        self._table, *self._others = map(quoted, tables)
        # What is overwritten or deleted is zeroed, so that a deletion leaves nothing of a user on the disk.
        connection.execute("PRAGMA secure_delete = ON")

    @contextmanager
    def hold(self, partition: int) -> Iterator[Callable[[], None]]:
        path = self._path.with_name(f"{self._path.name}.histories-{partition:02d}.lock")
        deadline = time.monotonic() + LOCK_SECONDS
        with path.open("w") as file:
            while not try_lock(file):
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"{path}: another writer has held it for {LOCK_SECONDS:.0f} s. Find and end that process."
                    )
                time.sleep(_PAUSE)
            yield lambda: None

    def delete(self, keys: Sequence[bytes]) -> None:
        with self._connection:
            for table in (self._table, *self._others):
                self._connection.executemany(f"DELETE FROM {table} WHERE entity_key = ?", [(key,) for key in keys])
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the write-ahead log has them too

    def stored(self) -> Iterator[bytes]:
        for (key,) in self._connection.execute(f"SELECT DISTINCT entity_key FROM {self._table}").fetchall():
            yield key


class _Redis:
    """Locks are leases in Redis, renewed before each write: one whose holder died ends after `_LEASE_SECONDS`."""

    def __init__(self, client: Any, project: str, view: str) -> None:
        self._client, self._project, self._view = client, project, view

    @contextmanager
    def hold(self, partition: int) -> Iterator[Callable[[], None]]:
        name = f"lock:{self._project}:{self._view}:{partition}"
        lock = self._client.lock(name, timeout=_LEASE_SECONDS, sleep=_PAUSE, blocking_timeout=LOCK_SECONDS)
        if not lock.acquire():
            raise Unavailable(f"Redis lock {name!r}: another writer has held it for {LOCK_SECONDS:.0f} s. End it.")
        try:
            yield lock.reacquire
        finally:
            if lock.owned():
                lock.release()

    def delete(self, keys: Sequence[bytes]) -> None:
        # The hash of a user holds nothing but views of that user.
        if keys:
            self._client.delete(*(key + self._project.encode() for key in keys))

    def stored(self) -> Iterator[bytes]:
        from feast.infra.key_encoding_utils import serialize_entity_key_prefix

        project = self._project.encode()
        prefix = serialize_entity_key_prefix(["user_id"])
        for key in self._client.scan_iter(_literal(prefix) + b"*" + _literal(project), count=1000):
            yield key.removesuffix(project)


def _literal(text: bytes) -> bytes:
    """A glob that means exactly `text`."""
    return re.sub(rb"([*?\[\]\\^-])", rb"\\\1", text)
