"""What shoppers were shown lately and did nothing with, beside their histories in the online store.

No feature of a model, and so none of Feast's: a table of its own in SQLite, keys of their own in Redis, each of which
ends by itself. The consumer writes it, under the lock of the shopper's history; gateways read it for a rule of fatigue.
"""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from feature_repo.faults import telling
from feature_repo.feast_import import FeatureStore, get_provider
from runtime.sql import quoted

Impressions = Mapping[str, Sequence[int]]
"""Item to the seconds since 1970 at which it was shown, ascending."""


class ImpressionStore(Protocol):
    """Of one online store. Methods raise `Unavailable` where it is away."""

    def read(self, user_id: str) -> Impressions:
        """Of one shopper; empty where nothing is known."""

    def write(self, told: Mapping[str, Impressions], now: int, until: int) -> None:
        """Replace those of these shoppers; after `until` they are gone. Both are seconds since 1970."""

    def delete(self, user_ids: Sequence[str]) -> None: ...


def kept(store: FeatureStore, online_store: Any = None) -> ImpressionStore:
    """Of the online store of `store`; `online_store` is Feast's object of it where the caller has one."""
    config = store.config
    if online_store is None:
        online_store = get_provider(config).online_store
    if type(online_store).__name__ == "RedisOnlineStore":
        return _Redis(online_store._get_client(config.online_store), config.project)
    return _Sqlite(online_store._get_conn(config), config.project)


class _Sqlite:
    def __init__(self, connection: sqlite3.Connection, project: str) -> None:
        self._connection, self._project = connection, project
        self._table = quoted(f"{project}_impressions")

    def read(self, user_id: str) -> Impressions:
        with telling(self._project, "What was shown is not known."):
            if not self._there():
                return {}
            row = self._connection.execute(f"SELECT told FROM {self._table} WHERE user_id = ?", (user_id,)).fetchone()
        return {} if row is None else json.loads(row[0])

    def write(self, told: Mapping[str, Impressions], now: int, until: int) -> None:
        rows = [(user, json.dumps(each), until) for user, each in told.items() if each]
        gone = [(user,) for user, each in told.items() if not each]
        with telling(self._project, "Nothing of it counts as written."), self._connection:
            self._connection.execute(
                f"CREATE TABLE IF NOT EXISTS {self._table} (user_id TEXT PRIMARY KEY, told TEXT, until INTEGER)"
            )
            self._connection.execute(f"DELETE FROM {self._table} WHERE until < ?", (now,))
            self._connection.executemany(f"DELETE FROM {self._table} WHERE user_id = ?", gone)
            self._connection.executemany(f"INSERT OR REPLACE INTO {self._table} VALUES (?, ?, ?)", rows)

    def delete(self, user_ids: Sequence[str]) -> None:
        with telling(self._project, "They are not deleted."), self._connection:
            if self._there():
                self._connection.executemany(
                    f"DELETE FROM {self._table} WHERE user_id = ?", [(user,) for user in user_ids]
                )

    def _there(self) -> bool:
        """Whether anything was ever written."""
        named = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
        return self._connection.execute(named, (f"{self._project}_impressions",)).fetchone() is not None


class _Redis:
    def __init__(self, client: Any, project: str) -> None:
        self._client, self._project = client, project

    def read(self, user_id: str) -> Impressions:
        with telling(self._project, "What was shown is not known."):
            value = self._client.get(self._key(user_id))
        return {} if value is None else json.loads(value)

    def write(self, told: Mapping[str, Impressions], now: int, until: int) -> None:
        with telling(self._project, "Nothing of it counts as written."):
            pipeline = self._client.pipeline(transaction=False)
            for user, each in told.items():
                if each:
                    pipeline.set(self._key(user), json.dumps(each), ex=max(until - now, 1))
                else:
                    pipeline.delete(self._key(user))
            pipeline.execute()

    def delete(self, user_ids: Sequence[str]) -> None:
        with telling(self._project, "They are not deleted."):
            if user_ids:
                self._client.delete(*map(self._key, user_ids))

    def _key(self, user_id: str) -> str:
        return f"impressions:{self._project}:{user_id}"
