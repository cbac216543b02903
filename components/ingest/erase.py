"""What must leave no trace: users who asked to be deleted, and events beyond the card's retention."""

from typing import Any

import duckdb

from feature_repo.card import DatasetCard
from feature_repo.forgotten import Forgotten


def list_forgotten(connection: duckdb.DuckDBPyConnection, forgotten: Forgotten | None) -> None:
    """Make the table `forgotten` (digest of the user's id, and until when its events go), perhaps an empty one."""
    connection.execute("CREATE TEMP TABLE forgotten (digest VARCHAR, until BIGINT)")
    if forgotten is not None and (until := forgotten.until()):
        connection.executemany("INSERT INTO forgotten VALUES (?, ?)", list(until.items()))


def erase(connection: duckdb.DuckDBPyConnection, card: DatasetCard) -> dict[str, Any]:
    """Take both out of `judged_interactions`, bad rows included; how many went, as `forgotten` and `expired`."""
    gone = {}
    if connection.execute("FROM forgotten LIMIT 1").fetchall():
        gone["forgotten"] = _delete(
            connection,
            "EXISTS (FROM forgotten f WHERE f.digest = sha256(__user_id) "
            "AND coalesce(epoch_us(__event_time) <= f.until, true))",
        )
    if (days := card.limits.retention_days) is not None:
        # By the clock of the data: a shop that closed keeps its last days.
        newest = "(SELECT max(__event_time) FROM judged_interactions WHERE len(__reasons) = 0)"
        gone["expired"] = _delete(connection, f"__event_time < {newest} - to_microseconds({round(days * 86_400e6)})")
    return gone


def _delete(connection: duckdb.DuckDBPyConnection, condition: str) -> int:
    return int(connection.execute(f"DELETE FROM judged_interactions WHERE {condition}").fetchall()[0][0])
