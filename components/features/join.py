"""The point-in-time join: `FeatureStore.get_historical_features`, asked in portions that fit in memory."""

from datetime import datetime
from typing import TYPE_CHECKING

import pyarrow as pa

from components.features.tables import ARROW, TIME
from feature_repo.card import DatasetCard, Feature

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from feast import FeatureStore

# Feast pairs every asked (item, time) with all earlier rows of that item before it keeps the latest one.
PAIRS_AT_ONCE = 3_000_000


def values_at_events(card: DatasetCard, store: "FeatureStore", db: "DuckDBPyConnection") -> None:
    """Fill the table `joined` (item_id, event_time, one column a varying feature) for every pair in `events`.

    Each pair is asked once however many users share it: Feast identifies a row by its key and time.
    """
    columns = ", ".join(f'"{feature.name}" {_sql_type(feature)}' for feature in card.varying)
    db.execute(f"CREATE TABLE joined (item_id VARCHAR, event_time TIMESTAMPTZ, {columns})")
    db.execute(f"""
        CREATE TABLE asked AS
        WITH pairs AS (SELECT DISTINCT item_id, event_time FROM events),
        changes AS (SELECT item_id, count(*) AS n FROM varying GROUP BY item_id)
        SELECT item_id, event_time,
               (sum(coalesce(n, 0) + 1) OVER (ORDER BY item_id, event_time) // {PAIRS_AT_ONCE})::INT AS portion
        FROM pairs LEFT JOIN changes USING (item_id)
    """)
    names = [feature.name for feature in card.varying]
    for (portion,) in db.execute("SELECT DISTINCT portion FROM asked ORDER BY portion").fetchall():
        asked = db.execute(f"SELECT item_id, event_time FROM asked WHERE portion = {portion}").to_arrow_table()
        found = historical(store, asked, card.varying)
        db.register("found", found.select(["item_id", "event_time", *names]))
        db.execute("INSERT INTO joined SELECT * FROM found")
        db.unregister("found")


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


def historical(store: "FeatureStore", asked: pa.Table, features: list[Feature]) -> pa.Table:
    """`asked` (item_id, event_time) with each feature's latest value available at that time, by Feast."""
    from feature_repo.definitions import references
    from feature_repo.store import quiet

    wanted = references(features)
    if not wanted:
        return asked
    frame = asked.rename_columns({"event_time": "event_timestamp"}).to_pandas()
    with quiet():
        found = store.get_historical_features(entity_df=frame, features=wanted).to_arrow()
    return found.rename_columns({"event_timestamp": "event_time"})


def _sql_type(feature: Feature) -> str:
    return "DOUBLE" if feature.kind == "numeric" else "VARCHAR"
