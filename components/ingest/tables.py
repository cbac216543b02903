"""From judged rows to the tables of the events artifact, in SQL: what was accepted, and each change of an item."""

import duckdb
import pyarrow as pa

from components.ingest.parse import SQL_TYPE, quoted
from feature_repo.card import DatasetCard, Feature, Kind

TIME = pa.timestamp("us", "UTC")
ARROW: dict[Kind, pa.DataType] = {
    "categorical": pa.string(),
    "multi_categorical": pa.list_(pa.string()),
    "numeric": pa.float64(),
    "text": pa.string(),
    "embedding": pa.list_(pa.float32()),
}
REJECTED = pa.schema(
    [("table", pa.string()), ("row", pa.int64()), ("reasons", pa.list_(pa.string())), ("record", pa.string())]
)


def accept(connection: duckdb.DuckDBPyConnection, card: DatasetCard, *, has_items: bool) -> None:
    """Views `accepted` (interactions) and `known_items` (item_id, event_time, __row, every feature of the items).

    Without an items table each accepted interaction is a sighting of its item; what it leaves blank stays as known.
    """
    basket = "__basket" if card.columns.basket else "NULL::VARCHAR"
    observed = [spec for spec in card.features if not has_items or spec.table == "interactions"]
    connection.execute(
        "CREATE TEMP VIEW accepted AS SELECT __user_id AS user_id, __item_id AS item_id, __event_time AS event_time, "
        f"__row AS position, {basket} AS basket {_read(observed)} FROM judged_interactions WHERE len(__reasons) = 0"
    )
    listed = [spec for spec in card.features if spec.table == "items"]
    if not has_items:
        known = _filled(card.features, by="item_id", order="event_time, position", source="accepted")
    elif card.columns.item_available_at is not None:
        known = f"SELECT __item_id AS item_id, __event_time AS event_time, __row AS position {_read(listed)}"
    else:
        before = (
            "(SELECT coalesce(min(event_time), TIMESTAMPTZ '2000-01-01 00:00:00+00') - INTERVAL 1 DAY FROM accepted)"
        )
        known = f"SELECT __item_id AS item_id, {before} AS event_time, __row AS position {_read(listed)}"
    if has_items:
        known += " FROM judged_items WHERE len(__reasons) = 0"
    connection.execute(f"CREATE TEMP VIEW known_items AS {known}")


def merge_varying(connection: duckdb.DuckDBPyConnection, card: DatasetCard, *, has_items: bool) -> None:
    """View `known_values`: every sighting of a varying value, of both tables, with the other values as then known."""
    observed = [spec for spec in card.varying if spec.table == "interactions"]
    listed = [spec for spec in card.varying if spec.table == "items"]
    if not has_items or not observed:
        source = "SELECT * FROM known_items"
    elif not listed:
        source = _filled(observed, by="item_id", order="event_time, position", source="accepted")
    else:
        # A row of one table says nothing of the other's values: they stay as they were.
        ours, theirs = _names(observed), _names(listed)
        both = (
            f"SELECT item_id, event_time, position, 1 AS turn, {ours}, {_nulls(listed)} FROM accepted "
            f"UNION ALL BY NAME SELECT item_id, event_time, position, 0 AS turn, {theirs}, {_nulls(observed)} "
            "FROM known_items"
        )
        source = _filled(card.varying, by="item_id", order="event_time, turn, position", source=f"({both})")
    connection.execute(f"CREATE TEMP VIEW known_values AS {source}")


def interactions_sql(card: DatasetCard) -> str:
    """Query of interactions/, in order. An event's id is a digest of what makes it that event, so that it stays
    the same when the source grows."""
    observed = _names([spec for spec in card.features if spec.table == "interactions"])
    identity = "md5(concat_ws(chr(31), user_id, item_id, epoch_us(event_time)))"
    return (
        f"SELECT {identity} AS event_id, user_id, item_id, event_time, event_time AS created_time, position, basket"
        f"{', ' if observed else ''}{observed} FROM accepted ORDER BY event_time, position"
    )


def changes_sql(view: str, features: list[Feature]) -> str:
    """Query of items/static or items/varying: of the rows of `view` those that change one of `features`, in order.

    Of several rows of one item and moment the last counts.
    """
    names = [quoted(spec.name) for spec in features]
    columns = ", ".join(["item_id", "event_time", *names])
    changed = [f"{name} IS DISTINCT FROM lag({name}) OVER life" for name in names]
    first = "row_number() OVER life = 1"
    return (
        f"WITH latest AS (SELECT {columns} FROM {view} "
        "QUALIFY row_number() OVER (PARTITION BY item_id, event_time ORDER BY position DESC) = 1) "
        f"SELECT item_id, event_time, event_time AS created_time{''.join(f', {name}' for name in names)} FROM latest "
        f"WINDOW life AS (PARTITION BY item_id ORDER BY event_time) QUALIFY {' OR '.join([first, *changed])} "
        "ORDER BY event_time, item_id"
    )


def schema_of_interactions(card: DatasetCard) -> pa.Schema:
    keys = [("event_id", pa.string()), ("user_id", pa.string()), ("item_id", pa.string())]
    times = [("event_time", TIME), ("created_time", TIME), ("position", pa.int64()), ("basket", pa.string())]
    return pa.schema(keys + times + _fields([spec for spec in card.features if spec.table == "interactions"]))


def schema_of_items(features: list[Feature]) -> pa.Schema:
    return pa.schema([("item_id", pa.string()), ("event_time", TIME), ("created_time", TIME), *_fields(features)])


def _fields(features: list[Feature]) -> list[tuple[str, pa.DataType]]:
    return [(spec.name, ARROW[spec.kind]) for spec in features]


def _names(features: list[Feature]) -> str:
    return ", ".join(quoted(spec.name) for spec in features)


def _nulls(features: list[Feature]) -> str:
    return ", ".join(f"NULL::{SQL_TYPE[spec.kind]} AS {quoted(spec.name)}" for spec in features)


def _read(features: list[Feature]) -> str:
    return "".join(f", {quoted(f'__{spec.name}')} AS {quoted(spec.name)}" for spec in features)


def _filled(features: list[Feature], *, by: str, order: str, source: str) -> str:
    """Query of item_id, event_time, position and features, each the latest that is not blank."""
    filled = "".join(
        f", last_value({quoted(spec.name)} IGNORE NULLS) OVER past AS {quoted(spec.name)}" for spec in features
    )
    return (
        f"SELECT item_id, event_time, row_number() OVER past AS position{filled} FROM {source} "
        f"WINDOW past AS (PARTITION BY {by} ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
    )
