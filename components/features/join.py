"""The point-in-time join: `FeatureStore.get_historical_features`, asked in portions that fit in memory (Spark: once).

A value joins the events from the moment on at which it counted and was known: what was written down late joins no
earlier event, so that the same day gives the same frame whenever it is made.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from components.features import spark
from components.features.splits import ORDER
from components.shared.tables import TIME, arrow_type
from feature_repo.card import DatasetCard
from feature_repo.card_features import Described
from heterrec.data.sequences import SINCE

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from feast import FeatureStore

EVENTS_AT_ONCE = 4_000_000
"""Events whose joined rows are held in memory together."""
_ROWS_AT_ONCE = 100_000
_NUMBER = "__number"
"""Of a row: a name that no feature can have."""


def joined_events(
    card: DatasetCard, store: "FeatureStore", db: "DuckDBPyConnection", schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """The rows of the table `events`, which are in order, with every feature that varies in time as it was."""
    columns = ", ".join(f'"{name}"' for name in schema.names)
    if (card.over_time or card.user_features) and spark.answers(store):
        with spark.answer(store, db, "events", [*card.over_time, *card.user_features]) as found:
            counts = [db.execute(f"SELECT count(*) FROM {table}").fetchone() for table in (found, "events")]
            assert counts[0] == counts[1], "the join gives one row an event"
            rows = db.execute(f"SELECT {columns} FROM {found} ORDER BY user_id, {ORDER}").to_arrow_reader(_ROWS_AT_ONCE)
            yield from (batch.cast(schema) for batch in rows)
        return
    for batch in db.execute("SELECT * FROM events").to_arrow_reader(EVENTS_AT_ONCE):
        events = pa.table(batch)
        yield from _with_features(card, store, events).select(schema.names).cast(schema).to_batches()


def _with_features(card: DatasetCard, store: "FeatureStore", events: pa.Table) -> pa.Table:
    """`events` and their features, in the same order, which no join keeps; all that it carries along costs it time."""
    number = np.arange(events.num_rows)
    joined = events
    for key, features in (("item_id", card.over_time), ("user_id", card.user_features)):
        if not features:
            continue
        asked = events.select([key, "event_time"]).append_column(_NUMBER, pa.array(number))
        found = historical(store, asked, features)
        assert found.num_rows == events.num_rows, "the join gives one row an event"
        place = np.empty_like(number)
        place[found[_NUMBER].to_numpy()] = number
        for feature in features:
            joined = joined.append_column(feature.name, found[feature.name].take(pa.array(place)))
    return joined


def users(card: DatasetCard, store: "FeatureStore", db: "DuckDBPyConnection", as_of: datetime) -> pa.Table:
    """Every user known by `as_of` or with an event, with the user features as they were at `as_of`."""
    asked = db.execute(f"""
        SELECT user_id, TIMESTAMPTZ '{as_of.isoformat()}' AS event_time
        FROM (SELECT user_id FROM users UNION SELECT user_id FROM events) ORDER BY user_id
    """).to_arrow_table()
    found = historical(store, asked, card.user_features).sort_by("user_id")
    assert found["user_id"].equals(asked["user_id"]), "Feast gives one row a user"
    schema = pa.schema([("user_id", pa.string()), *((f.name, arrow_type(f)) for f in card.user_features)])
    return found.select(schema.names).cast(schema)


def catalogue(card: DatasetCard, store: "FeatureStore", db: "DuckDBPyConnection", as_of: datetime) -> pa.Table:
    """Every item known by `as_of` or named by an event, with its features as they were at `as_of`.

    `available_at` is when the item was first known or first had an event, whichever came first.
    """
    items = db.execute(f"""
        SELECT item_id, min(event_time) AS available_at, TIMESTAMPTZ '{as_of.isoformat()}' AS event_time
        FROM (SELECT item_id, event_time FROM items UNION ALL SELECT item_id, event_time FROM events)
        GROUP BY item_id ORDER BY item_id
    """).to_arrow_table()
    found = historical(store, items.select(["item_id", "event_time"]), card.features).sort_by("item_id")
    assert found["item_id"].equals(items["item_id"]), "Feast gives one row an item"
    schema = pa.schema(
        [("item_id", pa.string()), ("available_at", TIME), *((f.name, arrow_type(f)) for f in card.features)]
    )
    columns = [items["item_id"], items["available_at"], *(found[feature.name] for feature in card.features)]
    return pa.table(columns, names=schema.names).cast(schema)


def slices(
    card: DatasetCard, store: "FeatureStore", db: "DuckDBPyConnection", starts: Sequence[int]
) -> Iterator[pa.Table]:
    """The varying tokens of every item of the table `catalogue` as they were when each slice began; of an item that
    came later, when it came. `__since` is when the slice begins.

    So no target is ever asked with what came to be known after it: its slice began before it, and an item is a
    candidate from `available_at` on.
    """
    features = [feature for feature in card.over_time if feature.token]
    schema = pa.schema([(SINCE, TIME), ("item_id", pa.string()), *((f.name, arrow_type(f)) for f in features)])
    # A number and no time on its way through Feast, which would ask for the zone of a time that it only carries along.
    asked = db.execute(f"""
        SELECT item_id, {SINCE}, greatest(make_timestamptz({SINCE}), available_at) AS event_time
        FROM catalogue, (SELECT unnest({list(starts)}::BIGINT[]) AS {SINCE}) ORDER BY {SINCE}, item_id
    """)
    for batch in asked.to_arrow_reader(EVENTS_AT_ONCE):
        found = historical(store, pa.table(batch), features)
        assert found.num_rows == batch.num_rows, "Feast gives one row an item and moment"
        yield found.select(schema.names).sort_by([(SINCE, "ascending"), ("item_id", "ascending")]).cast(schema)


def historical(store: "FeatureStore", asked: pa.Table, features: Sequence[Described]) -> pa.Table:
    """`asked` (item_id or user_id, event_time and whatever else) with each feature's latest value known at that time,
    by Feast."""
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
