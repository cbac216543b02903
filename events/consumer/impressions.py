"""Which exposures tire a shopper: kept in the consumer's state, told to the online store for rules of fatigue.

Counted are exposures of while such a rule held, as the log says of each; what the shopper did with an item makes what
was shown of it before count no more. All of it follows from rows of the log by their keys, so that order, repetition
and a state made anew change nothing.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from events.schema import MOST_SHOWN
from feature_repo.impressions import Impressions

MOST_ITEMS = 100
"""Of a shopper: those that were shown most often."""
MOST_EXPOSURES = 500
"""Of a shopper, the latest: nobody looks at more lists within days."""
TABLES = """
CREATE INDEX IF NOT EXISTS exposure_tiring ON exposure (user_id, time) WHERE tiring;
CREATE TABLE IF NOT EXISTS answered (
    request_id TEXT NOT NULL, item_id TEXT NOT NULL, at INTEGER NOT NULL, crc INTEGER NOT NULL,
    PRIMARY KEY (request_id, item_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answered_time ON answered (at);
CREATE TABLE IF NOT EXISTS untold (user_id TEXT PRIMARY KEY, crc INTEGER NOT NULL) WITHOUT ROWID;
"""
CHECKED = {"answered": "request_id, item_id, at", "untold": "user_id"}
ONLY_ONE = ""
"""The item of an outcome that names none: the only one that was shown, if it was."""
Rows = Callable[[str, tuple[Any, ...]], Iterator[tuple[Any, ...]]]


class ImpressionsNoted:
    """Part of the consumer's state; `rows` reads with checksums. Times are microseconds since 1970."""

    def __init__(self, sql: sqlite3.Connection, rows: Rows) -> None:
        self._sql, self._rows = sql, rows

    def answer(self, request_id: str, item_id: str | None, at: int) -> None:
        """A shopper did something with an item of that request."""
        row = (request_id, item_id or ONLY_ONE, at)
        self._sql.execute("INSERT OR IGNORE INTO answered VALUES (?1, ?2, ?3, crc(?1, ?2, ?3))", row)

    def changed(self, user_ids: Iterable[str]) -> None:
        """What is online of these shoppers is no longer so."""
        self._sql.executemany("INSERT OR IGNORE INTO untold VALUES (?1, crc(?1))", [(user,) for user in user_ids])

    def untold(self, most: int) -> list[str]:
        return [user for (user,) in self._rows("SELECT user_id, crc FROM untold LIMIT ?", (most,))]

    def delivered(self, user_ids: Iterable[str]) -> None:
        self._sql.executemany("DELETE FROM untold WHERE user_id = ?", [(user,) for user in user_ids])

    def of(self, user_id: str, since: int, covers: Callable[[str, int], bool]) -> Impressions:
        """Of one shopper since that moment, without exposures that `covers` says were deleted."""
        answered: dict[str, set[str]] = {}
        for request, item, _ in self._rows(
            "SELECT request_id, item_id, at, crc FROM answered WHERE request_id IN "
            "(SELECT request_id FROM exposure WHERE user_id = ? AND tiring)",
            (user_id,),
        ):
            answered.setdefault(request, set()).add(item)
        taken: set[str] = set()
        found: dict[str, list[int]] = {}
        for request, _, shown, at, *_ in self._rows(
            "SELECT request_id, user_id, items, time, model_version, override, tiring, crc FROM exposure "
            "WHERE user_id = ? AND tiring AND time >= ? AND NOT override ORDER BY time DESC, request_id LIMIT ?",
            (user_id, since, MOST_EXPOSURES),
        ):
            if covers(user_id, at):
                continue
            items, took = set(json.loads(shown)), answered.get(request, set())
            taken |= items if ONLY_ONE in took and len(items) == 1 else items & took
            for item in items - taken:
                found.setdefault(item, []).append(at // 1_000_000)
        often = sorted((item for item, at in found.items() if len(at) > 1), key=lambda item: (-len(found[item]), item))
        return {item: found[item][MOST_SHOWN - 1 :: -1] for item in often[:MOST_ITEMS]}

    def forget(self, before: int) -> None:
        self._sql.execute("DELETE FROM answered WHERE at < ?", (before,))

    def purge(self) -> None:
        """Drop what is of deleted shoppers, before their exposures are dropped (see `State.purge`)."""
        self._sql.execute(
            "DELETE FROM answered WHERE request_id IN (SELECT request_id FROM erased) "
            "OR request_id IN (SELECT request_id FROM exposure WHERE covers(user_id, time))"
        )
        self._sql.execute("DELETE FROM untold WHERE covers(user_id, 0)")
