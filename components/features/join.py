"""The point-in-time join: `FeatureStore.get_historical_features`, asked in portions that fit in memory (Spark: once).

A value joins the events from the moment on at which it counted and was known: what was written down late joins no
earlier event, so that the same day gives the same frame whenever it is made.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from components.features import spark
from components.features.splits import ORDER
from components.features.tables import ARROW, TIME
from feature_repo.card import DatasetCard, Feature

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from feast import FeatureStore

EVENTS_AT_ONCE = 4_000_000
"""Events whose joined rows are held in memory together; all events of a user are asked at once."""
_ROWS_AT_ONCE = 100_000


def joined_events(
    card: DatasetCard, store: "FeatureStore", db: "DuckDBPyConnection", schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """The rows of the table `events` with every feature that varies in time as it was, sorted by user and order."""
    columns = ", ".join(f'"{name}"' for name in schema.names)
    if card.over_time and spark.answers(store):
        with spark.answer(store, db, "events", card.over_time) as found:
            counts = [db.execute(f"SELECT count(*) FROM {table}").fetchone() for table in (found, "events")]
            assert counts[0] == counts[1], "the join gives one row an event"
            rows = db.execute(f"SELECT {columns} FROM {found} ORDER BY user_id, {ORDER}").to_arrow_reader(_ROWS_AT_ONCE)
            yield from (batch.cast(schema) for batch in rows)
        return
    order = "" if card.over_time else f"ORDER BY user_id, {ORDER}"
    for first, last in _portions(db):
        asked = db.execute(
            f"SELECT * FROM events WHERE user_id BETWEEN $1 AND $2 {order}", [first, last]
        ).to_arrow_table()
        if not card.over_time:
            yield from asked.select(schema.names).cast(schema).to_batches()
            continue
        db.register("found", historical(store, asked, card.over_time))
        rows = db.execute(f"SELECT {columns} FROM found ORDER BY user_id, {ORDER}").to_arrow_table()
        db.unregister("found")
        assert rows.num_rows == asked.num_rows, "the join gives one row an event"
        yield from rows.cast(schema).to_batches()


def _portions(db: "DuckDBPyConnection") -> list[tuple[str, str]]:
    """First and last user of each portion."""
    found: list[tuple[str, str]] = db.execute(f"""
        SELECT min(user_id), max(user_id) FROM (
            SELECT user_id, (sum(n) OVER (ORDER BY user_id)) // {EVENTS_AT_ONCE} AS portion
            FROM (SELECT user_id, count(*) AS n FROM events GROUP BY user_id)
        ) GROUP BY portion ORDER BY 1
    """).fetchall()
    return found


def catalogue(card: DatasetCard, store: "FeatureStore", db: "DuckDBPyConnection", as_of: datetime) -> pa.Table:
    """Every item known by `as_of` or named by an event, with its features as they were at `as_of`.

    `available_at` is when the item was first known or first had an event, whichever came first.
    """
    items = db.execute(f"""
        SELECT item_id, min(event_time) AS available_at, TIMESTAMPTZ '{as_of.isoformat()}' AS event_time
        FROM (SELECT item_id, event_time FROM items UNION ALL SELECT item_id, event_time FROM events)
        GROUP BY item_id ORDER BY item_id
    """).to_arrow_table()
    found = historical(store, items.select(["item_id", "event_time"]), card.features)
    found = found.sort_by("item_id")
    assert found["item_id"].equals(items["item_id"]), "Feast gives one row an item"
    schema = pa.schema(
        [("item_id", pa.string()), ("available_at", TIME), *((f.name, ARROW[f.kind]) for f in card.features)]
    )
    columns = [items["item_id"], items["available_at"], *(found[feature.name] for feature in card.features)]
    return pa.table(columns, names=schema.names).cast(schema)


def historical(store: "FeatureStore", asked: pa.Table, features: Sequence[Feature]) -> pa.Table:
    """`asked` (item_id, event_time and whatever else) with each feature's latest value known at that time, by Feast."""
    import duckdb

    from feature_repo.asof_store import AsofOfflineStoreConfig
    from feature_repo.definitions import references
    from feature_repo.store import quiet

    wanted = references(features)
    if not wanted:
        return asked
    if spark.answers(store):
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            db.register("asked", asked)
            with spark.answer(store, db, "asked", features) as found:
                return db.execute(f"SELECT * FROM {found}").to_arrow_table()
    asked = asked.rename_columns({"event_time": "event_timestamp"})
    ours = isinstance(store.config.offline_store, AsofOfflineStoreConfig)
    with quiet():
        job = store.get_historical_features(
            entity_df=asked if ours else asked.to_pandas(), features=wanted, filter_by_created_timestamp=True
        )
        found = job.to_arrow()
    return found.rename_columns({"event_timestamp": "event_time"})
