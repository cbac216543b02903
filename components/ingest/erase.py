"""What must leave no trace: users who asked to be deleted, and events beyond the card's retention."""

from typing import Any

import duckdb

from components.ingest.parse import value_of
from feature_repo.card import DatasetCard
from feature_repo.forgotten import Forgotten

GONE = (
    "(event_time < (SELECT moment FROM cutoff) "
    "OR EXISTS (FROM forgotten f WHERE f.digest = sha256(user_id) AND epoch_us(event_time) <= f.until))"
)
"""Condition on a row of interactions (user_id, event_time) that must not be kept."""


def list_gone(
    connection: duckdb.DuckDBPyConnection, card: DatasetCard, forgotten: Forgotten | None, *, stored: bool
) -> None:
    """Make the tables `forgotten` (digest of a user's id, and until when its events go; perhaps empty) and `cutoff`
    (the moment before which events are too old). With `stored` the view of that name has the interactions before."""
    connection.execute("CREATE TEMP TABLE forgotten (digest VARCHAR, until BIGINT)")
    if forgotten is not None and (until := forgotten.until()):
        connection.executemany("INSERT INTO forgotten VALUES (?, ?)", list(until.items()))
    if card.limits.retention_days is None:
        connection.execute("CREATE TEMP TABLE cutoff AS SELECT TIMESTAMPTZ '0001-01-01 00:00:00+00' AS moment")
        return
    # By the clock of the data: a shop that closed keeps its last days.
    times = 'SELECT "value.event_time" AS event_time FROM judged_interactions WHERE len(reasons) = 0'
    times += " UNION ALL SELECT event_time FROM stored" if stored else ""
    age = f"to_microseconds({round(card.limits.retention_days * 86_400e6)})"
    connection.execute(
        f"CREATE TEMP TABLE cutoff AS SELECT coalesce(max(event_time) - {age}, TIMESTAMPTZ '0001-01-01 00:00:00+00') "
        f"AS moment FROM ({times})"
    )


def erase(connection: duckdb.DuckDBPyConnection, card: DatasetCard) -> dict[str, Any]:
    """Take both out of `judged_interactions`, bad rows included; how many went, as `forgotten` and `expired`."""
    gone = {}
    if connection.execute("FROM forgotten LIMIT 1").fetchall():
        gone["forgotten"] = _delete(
            connection,
            'EXISTS (FROM forgotten f WHERE f.digest = sha256("value.user_id") '
            'AND coalesce(epoch_us("value.event_time") <= f.until, true))',
        )
    if card.limits.retention_days is not None:
        gone["expired"] = _delete(connection, f"{value_of('event_time')} < (SELECT moment FROM cutoff)")
    return gone


def _delete(connection: duckdb.DuckDBPyConnection, condition: str) -> int:
    return int(connection.execute(f"DELETE FROM judged_interactions WHERE {condition}").fetchall()[0][0])
