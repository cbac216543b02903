"""What the consumer knows, in one SQLite file: how far each segment was read, and what is still to be done about it.

Reading a piece of the log and noting what follows from it is one transaction. What follows (an interaction goes to a
history and to a day partition) is done afterwards, may be done twice with the same effect, and is struck off when done.
"""

import json
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from feature_repo.forgotten import microseconds

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TABLES = """
CREATE TABLE IF NOT EXISTS segment (name TEXT PRIMARY KEY, offset INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS stream (only_row INTEGER PRIMARY KEY CHECK (only_row = 0), ms INTEGER, seq INTEGER);
CREATE TABLE IF NOT EXISTS exposure (
    request_id TEXT PRIMARY KEY, user_id TEXT NOT NULL, items TEXT NOT NULL, time INTEGER NOT NULL,
    model_version TEXT, override INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS exposure_time ON exposure (time);
CREATE TABLE IF NOT EXISTS waiting (
    number INTEGER PRIMARY KEY AUTOINCREMENT, position INTEGER NOT NULL, since INTEGER NOT NULL, line BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS history (
    number INTEGER PRIMARY KEY AUTOINCREMENT, user_id TEXT NOT NULL, row TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS partition_row (
    number INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, row TEXT NOT NULL, batch INTEGER
);
CREATE INDEX IF NOT EXISTS partition_batch ON partition_row (batch);
CREATE TABLE IF NOT EXISTS batch (number INTEGER PRIMARY KEY AUTOINCREMENT);
CREATE TABLE IF NOT EXISTS erased (request_id TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS identity (only_row INTEGER PRIMARY KEY CHECK (only_row = 0), name TEXT NOT NULL);
"""


class Exposure(NamedTuple):
    """What an outcome has to know of the request it answers."""

    user_id: str
    items: tuple[str, ...]
    time: datetime
    model_version: str | None
    override: bool


class Waiting(NamedTuple):
    """A line whose exposure was not read yet; `since` is when it was read first, `number` 0 until it is kept."""

    number: int
    position: int
    since: datetime
    line: bytes


class State:
    """Opens (and where needed makes) the state in the file at `path`. Used by one process and one thread.

    Methods raise `sqlite3.OperationalError` where the disk is full or fails; then nothing of the transaction was noted.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._sql = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._sql.execute("PRAGMA journal_mode = WAL")
        self._sql.execute("PRAGMA synchronous = FULL")
        # What is struck off is overwritten: nothing of a deleted user stays in the file.
        self._sql.execute("PRAGMA secure_delete = ON")
        self._sql.executescript(_TABLES)
        self._sql.execute("INSERT OR IGNORE INTO identity VALUES (0, ?)", (secrets.token_hex(4),))
        (self.name,) = self._sql.execute("SELECT name FROM identity").fetchone()

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

    def offset(self, segment: str) -> int:
        found = self._sql.execute("SELECT offset FROM segment WHERE name = ?", (segment,)).fetchone()
        return 0 if found is None else int(found[0])

    def advance(self, segment: str, offset: int) -> None:
        self._sql.execute("INSERT OR REPLACE INTO segment VALUES (?, ?)", (segment, offset))

    def drop_segments(self, gone: Iterable[str]) -> None:
        self._sql.executemany("DELETE FROM segment WHERE name = ?", [(name,) for name in gone])

    def segments(self) -> list[str]:
        return [name for (name,) in self._sql.execute("SELECT name FROM segment")]

    def stream_id(self) -> tuple[int, int]:
        """The latest entry of a Redis stream that was read out of a segment."""
        found = self._sql.execute("SELECT ms, seq FROM stream").fetchone()
        return (0, 0) if found is None else (int(found[0]), int(found[1]))

    def set_stream_id(self, ident: tuple[int, int]) -> None:
        self._sql.execute("INSERT OR REPLACE INTO stream VALUES (0, ?, ?)", ident)

    def add_exposures(self, exposures: Iterable[tuple[str, Exposure]]) -> None:
        self._sql.executemany(
            "INSERT OR IGNORE INTO exposure VALUES (?, ?, ?, ?, ?, ?)",
            [
                (ident, e.user_id, json.dumps(e.items), microseconds(e.time), e.model_version, e.override)
                for ident, e in exposures
            ],
        )

    def exposure(self, request_id: str) -> Exposure | None:
        found = self._sql.execute(
            "SELECT user_id, items, time, model_version, override FROM exposure WHERE request_id = ?", (request_id,)
        ).fetchone()
        if found is None:
            return None
        user, items, time, version, override = found
        return Exposure(user, tuple(json.loads(items)), moment(time), version, bool(override))

    def forget_exposures(self, before: datetime) -> None:
        self._sql.execute("DELETE FROM exposure WHERE time < ?", (microseconds(before),))

    def waiting(self) -> list[Waiting]:
        rows = self._sql.execute("SELECT number, position, since, line FROM waiting ORDER BY number")
        return [Waiting(number, position, moment(since), line) for number, position, since, line in rows]

    def keep_waiting(self, entry: Waiting) -> None:
        """Keep a new one."""
        row = (entry.position, microseconds(entry.since), entry.line)
        self._sql.execute("INSERT INTO waiting (position, since, line) VALUES (?, ?, ?)", row)

    def no_longer_waiting(self, entry: Waiting) -> None:
        self._sql.execute("DELETE FROM waiting WHERE number = ?", (entry.number,))

    def note_history(self, user_id: str, row: dict[str, Any]) -> None:
        """An interaction for the history of `user_id`; JSON values only."""
        self._sql.execute("INSERT INTO history (user_id, row) VALUES (?, ?)", (user_id, json.dumps(row)))

    def histories(self, most: int) -> list[tuple[int, str, dict[str, Any]]]:
        """Interactions that are not in their user's online history yet: a number, the user, what was noted."""
        found = self._sql.execute("SELECT number, user_id, row FROM history ORDER BY number LIMIT ?", (most,))
        return [(number, user, json.loads(row)) for number, user, row in found]

    def histories_written(self, numbers: Iterable[int]) -> None:
        self._sql.executemany("DELETE FROM history WHERE number = ?", [(number,) for number in numbers])

    def note_row(self, table: str, row: dict[str, Any]) -> None:
        """A row for a day partition of `table`; JSON values only."""
        self._sql.execute("INSERT INTO partition_row (name, row) VALUES (?, ?)", (table, json.dumps(row)))

    def open_batch(self) -> None:
        """Number what was noted since the last batch, so that its files have a name that a second try has too."""
        if self._sql.execute("SELECT 1 FROM partition_row WHERE batch IS NULL LIMIT 1").fetchone():
            with self.transaction():
                number = self._sql.execute("INSERT INTO batch DEFAULT VALUES").lastrowid
                self._sql.execute("UPDATE partition_row SET batch = ? WHERE batch IS NULL", (number,))

    def batches(self) -> Iterator[tuple[int, dict[str, list[dict[str, Any]]]]]:
        """Each open batch: its number, and its rows by table. With `name` the number names the batch for ever."""
        numbers = self._sql.execute("SELECT DISTINCT batch FROM partition_row WHERE batch IS NOT NULL ORDER BY batch")
        for (number,) in numbers.fetchall():
            tables: dict[str, list[dict[str, Any]]] = {}
            for name, row in self._sql.execute(
                "SELECT name, row FROM partition_row WHERE batch = ? ORDER BY number", (number,)
            ):
                tables.setdefault(name, []).append(json.loads(row))
            yield number, tables

    def close_batch(self, number: int) -> None:
        with self.transaction():
            self._sql.execute("DELETE FROM partition_row WHERE batch = ?", (number,))

    def add_erased(self, request_ids: Iterable[str], at: datetime) -> None:
        """Remember that these requests were of a deleted user: what else names them goes too."""
        rows = [(ident, microseconds(at)) for ident in request_ids]
        self._sql.executemany("INSERT OR REPLACE INTO erased VALUES (?, ?)", rows)

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
            self._sql.execute(
                "DELETE FROM exposure WHERE covers(user_id, time) OR request_id IN (SELECT request_id FROM erased)"
            )
            for entry in self.waiting():
                if line(entry.line, entry.position):
                    self.no_longer_waiting(entry)
            for table, name in noted.items():
                rows = self._sql.execute(f"SELECT number, {name}, row FROM {table}").fetchall()
                gone = [(number,) for number, of, text in rows if row(of, json.loads(text))]
                self._sql.executemany(f"DELETE FROM {table} WHERE number = ?", gone)
        self._sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def moment(number: int) -> datetime:
    """Of microseconds since 1970, exactly."""
    return _EPOCH + timedelta(microseconds=number)
