"""What the consumer knows, in one SQLite file: how far each segment was read, and what is still to be done about it.

SQLite has no checksums of pages: each row carries one of its own. A damaged file is made anew from the log
(`rebuild.py`).

Reading a piece of the log and noting what follows from it is one transaction. What follows (an interaction goes to a
history and to a day partition) is done afterwards, may be done twice with the same effect, and is struck off when done.
"""

import json
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

from events.consumer import impressions
from feature_repo.forgotten import microseconds

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TABLES = """
CREATE TABLE IF NOT EXISTS segment (name TEXT PRIMARY KEY, offset INTEGER NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS stream (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 0), ms INTEGER, seq INTEGER, crc INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS exposure (
    request_id TEXT PRIMARY KEY, user_id TEXT NOT NULL, items TEXT NOT NULL, time INTEGER NOT NULL,
    model_version TEXT, override INTEGER NOT NULL, tiring INTEGER NOT NULL, crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS exposure_time ON exposure (time);
CREATE TABLE IF NOT EXISTS waiting (
    number INTEGER PRIMARY KEY AUTOINCREMENT, position INTEGER NOT NULL, since INTEGER NOT NULL, line BLOB NOT NULL,
    crc INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS history (
    number INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL, row TEXT NOT NULL, crc INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS partition_row (
    number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, row TEXT NOT NULL, batch INTEGER,
    crc INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS partition_batch ON partition_row (batch);
CREATE TABLE IF NOT EXISTS erased (
    request_id TEXT PRIMARY KEY, at INTEGER NOT NULL, crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS taken (
    identity TEXT PRIMARY KEY, user_id TEXT NOT NULL, at INTEGER NOT NULL, crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS taken_user ON taken (user_id, at);
CREATE INDEX IF NOT EXISTS taken_time ON taken (at);
CREATE TABLE IF NOT EXISTS identity (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 0), name TEXT NOT NULL, crc INTEGER NOT NULL
);
"""
_CHECKED = {
    "segment": "name, offset", "stream": "ms, seq",
    "exposure": "request_id, user_id, items, time, model_version, override, tiring",
    "waiting": "position, since, line",
    "history": "user_id, row", "partition_row": "name, row", "erased": "request_id, at",
    "taken": "identity, user_id, at", "identity": "name", **impressions.CHECKED,
}  # fmt: skip
"""Columns of each table that the checksum of a row is of, in its order."""
_OF_THE_DISK = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_IOERR,
                sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN)  # fmt: skip
"""Faults that are not the file's own: it is full or fails, or another process is in the way."""
_VERSION = 3
"""Of the tables; a file of another version is made anew."""


class StateDamaged(RuntimeError):
    """The file is not what was written, or of another version: make it anew from the log."""


class Exposure(NamedTuple):
    """What an outcome has to know of the request it answers."""

    user_id: str
    items: tuple[str, ...]
    time: datetime
    model_version: str | None
    override: bool
    tiring: bool = False
    """Whether a rule of fatigue held."""


class Waiting(NamedTuple):
    """A line whose exposure was not read yet; `since` is when it was read first, `number` 0 until it is kept."""

    number: int
    position: int
    since: datetime
    line: bytes


class State:
    """Opens (and where needed makes) the state in the file at `path`. Used by one process and one thread.

    Methods raise `sqlite3.OperationalError` where the disk is full or fails; then nothing of the transaction was noted.
    Opening checks every row and raises `StateDamaged`; so does reading a row that was damaged since.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.new = not path.is_file() or not path.stat().st_size
        """Whether it still has to be filled from the log."""
        self._sql = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            self._open()
        except (sqlite3.DatabaseError, OverflowError, UnicodeDecodeError, StateDamaged) as fault:
            self._sql.close()
            if getattr(fault, "sqlite_errorcode", 0) & 0xFF in _OF_THE_DISK and os.access(path, os.W_OK):
                raise
            raise StateDamaged(f"{path}: {fault}") from fault

    def _open(self) -> None:
        self._sql.execute("PRAGMA journal_mode = WAL")
        self._sql.execute("PRAGMA synchronous = FULL")
        # A burst must not leave a file behind that takes the room of what comes later.
        self._sql.execute("PRAGMA journal_size_limit = 4000000")
        # What is struck off is overwritten: nothing of a deleted user stays in the file.
        self._sql.execute("PRAGMA secure_delete = ON")
        (version,) = self._sql.execute("PRAGMA user_version").fetchone()
        if version != _VERSION and not self.new:
            raise StateDamaged(f"found version {version}, expected {_VERSION}")
        self._sql.executescript(_TABLES + impressions.TABLES)
        (found,) = self._sql.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise StateDamaged(found)
        if _declared(self._sql) != _DECLARED:
            raise StateDamaged("its tables are not those that were made")
        self._sql.create_function("crc", -1, _crc, deterministic=True)
        for table, columns in _CHECKED.items():
            if self._sql.execute(f"SELECT 1 FROM {table} WHERE crc IS NOT crc({columns}) LIMIT 1").fetchone():
                raise StateDamaged(f"a row of {table} is not what was written")
        name = secrets.token_hex(4)
        self._sql.execute("INSERT OR IGNORE INTO identity VALUES (0, ?, ?)", (name, _crc(name)))
        (self.name,) = self._sql.execute("SELECT name FROM identity").fetchone()
        self.impressions = impressions.ImpressionsNoted(self._sql, self._rows)

    def close(self) -> None:
        self._sql.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._sql.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._sql.execute("COMMIT")
        except BaseException:
            if self._sql.in_transaction:  # a full disk has ended it already
                self._sql.execute("ROLLBACK")
            raise

    def filled(self) -> None:
        """From now on the file is whole; one that was left before is made anew."""
        self._sql.execute(f"PRAGMA user_version = {_VERSION}")
        self.new = False

    def _rows(self, query: str, parameters: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Rows without their column `crc`, checked: it is of all before it. Raises `StateDamaged`."""
        cursor = self._sql.execute(query, parameters)
        at = [column for column, *_ in cursor.description].index("crc")
        for row in cursor:
            if row[at] != _crc(*row[:at]):
                raise StateDamaged("a row of the consumer's state is not what was written")
            yield row[:at] + row[at + 1 :]

    def offset(self, segment: str) -> int:
        found = list(self._rows("SELECT name, offset, crc FROM segment WHERE name = ?", (segment,)))
        return int(found[0][1]) if found else 0

    def advance(self, segment: str, offset: int) -> None:
        self._sql.execute("INSERT OR REPLACE INTO segment VALUES (?1, ?2, crc(?1, ?2))", (segment, offset))

    def drop_segments(self, gone: Iterable[str]) -> None:
        self._sql.executemany("DELETE FROM segment WHERE name = ?", [(name,) for name in gone])

    def segments(self) -> list[str]:
        return [name for (name,) in self._sql.execute("SELECT name FROM segment")]

    def stream_id(self) -> tuple[int, int]:
        """The latest entry of a Redis stream that was read out of a segment."""
        found = self._sql.execute("SELECT ms, seq FROM stream").fetchone()
        return (0, 0) if found is None else (int(found[0]), int(found[1]))

    def set_stream_id(self, ident: tuple[int, int]) -> None:
        self._sql.execute("INSERT OR REPLACE INTO stream VALUES (0, ?1, ?2, crc(?1, ?2))", ident)

    def add_exposures(self, exposures: Iterable[tuple[str, Exposure]]) -> None:
        self._sql.executemany(
            "INSERT OR IGNORE INTO exposure VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, crc(?1, ?2, ?3, ?4, ?5, ?6, ?7))",
            [
                (ident, e.user_id, json.dumps(e.items), microseconds(e.time), e.model_version, e.override, e.tiring)
                for ident, e in exposures
            ],
        )

    def exposure(self, request_id: str) -> Exposure | None:
        columns = _CHECKED["exposure"]
        for _, user, items, at, version, override, tiring in self._rows(
            f"SELECT {columns}, crc FROM exposure WHERE request_id = ?", (request_id,)
        ):
            return Exposure(user, tuple(json.loads(items)), moment(at), version, bool(override), bool(tiring))
        return None

    def forget_exposures(self, before: datetime) -> None:
        self._sql.execute("DELETE FROM exposure WHERE time < ?", (microseconds(before),))
        self.impressions.forget(microseconds(before))

    def waiting(self) -> list[Waiting]:
        rows = self._rows("SELECT position, since, line, crc, number FROM waiting ORDER BY number")
        return [Waiting(number, position, moment(since), line) for position, since, line, number in rows]

    def keep_waiting(self, entry: Waiting) -> None:
        """Keep a new one."""
        row = (entry.position, microseconds(entry.since), entry.line)
        self._sql.execute("INSERT INTO waiting (position, since, line, crc) VALUES (?1, ?2, ?3, crc(?1, ?2, ?3))", row)

    def no_longer_waiting(self, entry: Waiting) -> None:
        self._sql.execute("DELETE FROM waiting WHERE number = ?", (entry.number,))

    def is_taken(self, identity: str) -> bool:
        """Whether an interaction of this identity was noted."""
        return self._sql.execute("SELECT 1 FROM taken WHERE identity = ?", (identity,)).fetchone() is not None

    def taken_of(self, user_id: str, since: datetime) -> int:
        """How many interactions of the user were noted since that moment."""
        counted = "SELECT count(*) FROM taken WHERE user_id = ? AND at > ?"
        return int(self._sql.execute(counted, (user_id, microseconds(since))).fetchone()[0])

    def take(self, identity: str, user_id: str, at: datetime) -> None:
        """Remember that an interaction was noted."""
        told = (identity, user_id, microseconds(at))
        self._sql.execute("INSERT OR IGNORE INTO taken VALUES (?1, ?2, ?3, crc(?1, ?2, ?3))", told)

    def forget_taken(self, before: datetime) -> None:
        self._sql.execute("DELETE FROM taken WHERE at < ?", (microseconds(before),))

    def note_history(self, user_id: str, row: dict[str, Any]) -> None:
        """An interaction for the history of `user_id`; JSON values only."""
        told = (user_id, json.dumps(row))
        self._sql.execute("INSERT INTO history (user_id, row, crc) VALUES (?1, ?2, crc(?1, ?2))", told)

    def histories(self, most: int) -> list[tuple[int, str, dict[str, Any]]]:
        """Interactions that are not in their user's online history yet: a number, the user, what was noted."""
        found = self._rows("SELECT user_id, row, crc, number FROM history ORDER BY number LIMIT ?", (most,))
        return [(number, user, json.loads(row)) for user, row, number in found]

    def histories_written(self, numbers: Iterable[int]) -> None:
        self._sql.executemany("DELETE FROM history WHERE number = ?", [(number,) for number in numbers])

    def note_row(self, table: str, row: dict[str, Any]) -> None:
        """A row for a day partition of `table`; JSON values only."""
        told = (table, json.dumps(row))
        self._sql.execute("INSERT INTO partition_row (name, row, crc) VALUES (?1, ?2, crc(?1, ?2))", told)

    def open_batch(self) -> None:
        """Number what was noted since the last batch, so that its files have a name that a second try has too."""
        if self._sql.execute("SELECT 1 FROM partition_row WHERE batch IS NULL LIMIT 1").fetchone():
            with self.transaction():
                # By the clock and not by a counter: one that went back would overwrite files of before.
                self._sql.execute("UPDATE partition_row SET batch = ? WHERE batch IS NULL", (time.time_ns(),))

    def batches(self) -> Iterator[tuple[int, dict[str, list[dict[str, Any]]]]]:
        """Each open batch: its number, and its rows by table. With `name` the number names the batch for ever."""
        numbers = self._sql.execute("SELECT DISTINCT batch FROM partition_row WHERE batch IS NOT NULL ORDER BY batch")
        for (number,) in numbers.fetchall():
            tables: dict[str, list[dict[str, Any]]] = {}
            for name, row in self._rows(
                "SELECT name, row, crc FROM partition_row WHERE batch = ? ORDER BY number", (number,)
            ):
                tables.setdefault(name, []).append(json.loads(row))
            yield number, tables

    def close_batch(self, number: int) -> None:
        with self.transaction():
            self._sql.execute("DELETE FROM partition_row WHERE batch = ?", (number,))

    def add_erased(self, request_ids: Iterable[str], at: datetime) -> None:
        """Remember that these requests were of a deleted user: what else names them goes too."""
        rows = [(ident, microseconds(at)) for ident in request_ids]
        self._sql.executemany("INSERT OR REPLACE INTO erased VALUES (?1, ?2, crc(?1, ?2))", rows)

    def is_erased(self, request_id: str) -> bool:
        return self._sql.execute("SELECT 1 FROM erased WHERE request_id = ?", (request_id,)).fetchone() is not None

    def erased(self) -> set[str]:
        return {ident for (ident,) in self._sql.execute("SELECT request_id FROM erased")}

    def forget_erased(self, before: datetime) -> None:
        self._sql.execute("DELETE FROM erased WHERE at < ?", (microseconds(before),))

    def purge(
        self,
        *,
        covers: Callable[[str, int], bool],
        line: Callable[[bytes, int], bool],
        row: Callable[[str, dict[str, Any]], bool],
    ) -> None:
        """Drop erased requests and what these say of: exposures by user and moment (microseconds since 1970), waiting
        lines by their position, and noted rows by their table (those for histories are `interactions`).

        When this returns nothing of them is in the file.
        """
        self._sql.create_function("covers", 2, covers)
        noted = {"history": "'interactions'", "partition_row": "name"}
        with self.transaction():
            self.impressions.purge()
            self._sql.execute(
                "DELETE FROM exposure WHERE covers(user_id, time) OR request_id IN (SELECT request_id FROM erased)"
            )
            self._sql.execute("DELETE FROM taken WHERE covers(user_id, at)")
            for entry in self.waiting():
                if line(entry.line, entry.position):
                    self.no_longer_waiting(entry)
            for table, name in noted.items():
                rows = self._sql.execute(f"SELECT number, {name}, row FROM {table}").fetchall()
                gone = [(number,) for number, of, text in rows if row(of, json.loads(text))]
                self._sql.executemany(f"DELETE FROM {table} WHERE number = ?", gone)
        self._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _declared(sql: sqlite3.Connection) -> list[tuple[str, str]]:
    """What the file says of its tables, which no row's checksum is of."""
    return sql.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name").fetchall()


def _made() -> list[tuple[str, str]]:
    with closing(sqlite3.connect(":memory:")) as sql:
        sql.executescript(_TABLES + impressions.TABLES)
        return _declared(sql)


_DECLARED = _made()


def _crc(*values: object) -> int:
    return crc32(repr(values).encode())


def moment(number: int) -> datetime:
    """Of microseconds since 1970, exactly."""
    return _EPOCH + timedelta(microseconds=number)
