"""From judged rows to the tables of the events artifact, in SQL: what was accepted, and each change of an item."""

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from components.ingest.parse import feature_of, value_of
from components.shared.tables import TIME, arrow_type
from feature_repo.card import DatasetCard
from feature_repo.card_features import Described, Feature
from runtime.sql import literal, quoted

REJECTED = pa.schema(
    [
        ("table", pa.string()),
        ("origin", pa.string()),
        ("row", pa.int64()),
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("reasons", pa.list_(pa.string())),
        ("record", pa.string()),
    ]
)


FIRST_KNOWN = "SELECT coalesce(min(event_time), TIMESTAMPTZ '2000-01-01 00:00:00+00') - INTERVAL 1 DAY FROM accepted"
"""The moment from which on holds what has no date."""


def accept(
    connection: duckdb.DuckDBPyConnection,
    card: DatasetCard,
    *,
    has_items: bool,
    late: str = "",
    kept: bool = False,
    before: str = "",
) -> None:
    """Views `accepted` (interactions) and `known_items` (item_id, event_time, position, every feature of the items).

    Without an items table each accepted interaction is a sighting of its item; what it leaves blank stays as known.
    `late` is SQL: the moment from which rows count that the view `previous` did not have though their time had passed.
    With `kept` the rows of the view of that name are taken over. Items without a date are known from the day before the
    first interaction on, or from when on they were at the first ingest, whose file of items is `before`: what stays as
    it is must not look new because the source forgot its oldest days.
    """
    rows = accepted_sql(card, has_items=has_items)
    if late:
        first = f"CASE WHEN p.event_id IS NOT NULL THEN p.created_time {late} ELSE r.created_time END"
        rows = f"SELECT r.* REPLACE ({first} AS created_time) FROM ({rows}) r LEFT JOIN previous p USING (event_id)"
    if kept:
        rows += " UNION ALL BY NAME SELECT * FROM kept"
    connection.execute(f"CREATE TEMP VIEW accepted AS {rows}")
    know_items(connection, card, has_items=has_items, before=before)


def accepted_sql(card: DatasetCard, *, has_items: bool) -> str:
    """Query of the judged interactions that were accepted, with the columns of interactions/."""
    names = card.columns
    basket = value_of("basket") if names.basket else "NULL::VARCHAR"
    event_type = value_of("event_type") if names.event_type else "NULL::VARCHAR"
    user, item, moment = map(value_of, ("user_id", "item_id", "event_time"))
    created = f"coalesce({value_of('created_time')}, {moment})" if names.created_time else moment
    observed = card.read_off_interactions(has_items=has_items)
    # An event's id is a digest of what makes it that event, so that it stays the same when the source grows.
    told = f"{user}, {item}, epoch_us({moment})" + (f", {event_type}" if names.event_type else "")
    return (
        f"SELECT md5(concat_ws(chr(31), {told})) AS event_id, "
        f"{user} AS user_id, {item} AS item_id, {moment} AS event_time, {created} AS created_time, "
        f"row AS position, {basket} AS basket, {event_type} AS event_type, origin {_read(observed)} "
        "FROM judged_interactions WHERE len(reasons) = 0"
    )


def know_items(connection: duckdb.DuckDBPyConnection, card: DatasetCard, *, has_items: bool, before: str = "") -> None:
    """View `known_items`, of `accepted` and, where there is one, of the table of items (see `accept`)."""
    names = card.columns
    item, moment = map(value_of, ("item_id", "event_time"))
    listed = [spec for spec in card.sourced if spec.table == "items"]
    if not has_items:
        known = _filled(card.sourced, by="item_id", order="event_time, position", source="accepted")
    elif names.item_available_at is not None:
        known = f"SELECT {item} AS item_id, {moment} AS event_time, row AS position {_read(listed)}"
    else:
        first = f"({FIRST_KNOWN})"
        if before:
            first = f"coalesce((SELECT min(event_time) FROM read_parquet({literal(before)})), {first})"
        known = f"SELECT {item} AS item_id, {first} AS event_time, row AS position {_read(listed)}"
    if has_items:
        known += " FROM judged_items WHERE len(reasons) = 0"
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


def interactions_sql(card: DatasetCard, *, only: str = "") -> str:
    """Query of interactions/, in order; of the days in the table `only`, where one is named."""
    observed = _names(card.observed)
    where = f"WHERE event_time::DATE IN (FROM {only})" if only else ""
    return (
        "SELECT event_id, user_id, item_id, event_time, created_time, position, basket, event_type, origin"
        f"{', ' if observed else ''}{observed} FROM accepted {where} ORDER BY event_time, position, origin"
    )


def changes_sql(
    view: str, features: Sequence[Described], *, key: str = "item_id", late: str = "", before: str = ""
) -> str:
    """Query of items/static, items/varying or users/static: of the rows of `view` those that change one of `features`
    of their `key`, in order.

    Of several rows of one key and moment the last counts. `before` is the file or glob of the previous ingest: its
    rows stay, and those that are new count from `late` where their time had passed (see `accept`).
    """
    names = [quoted(spec.name) for spec in features]
    columns = ", ".join([key, "event_time", *names])
    changed = [f"{name} IS DISTINCT FROM lag({name}) OVER life" for name in names]
    first = "row_number() OVER life = 1"
    values = "".join(f", {name}" for name in names)
    rows = (
        f"WITH latest AS (SELECT {columns} FROM {view} "
        f"QUALIFY row_number() OVER (PARTITION BY {key}, event_time ORDER BY position DESC) = 1) "
        f"SELECT {key}, event_time, event_time AS created_time{values} FROM latest "
        f"WINDOW life AS (PARTITION BY {key} ORDER BY event_time) QUALIFY {' OR '.join([first, *changed])} "
    )
    if before:
        told = f"(FROM read_parquet({literal(before)}, hive_partitioning = false))"
        newest = f"QUALIFY row_number() OVER (PARTITION BY {key}, event_time ORDER BY created_time DESC) = 1"
        same = " AND ".join(
            [f"r.{key} = p.{key} AND r.event_time = p.event_time"]
            + [f"r.{name} IS NOT DISTINCT FROM p.{name}" for name in names]
        )
        new = f"SELECT r.* FROM ({rows}) r ANTI JOIN (SELECT * FROM {told} {newest}) p ON {same}"
        when = f"CASE {late} ELSE r.created_time END"
        rows = f"SELECT r.* REPLACE ({when} AS created_time) FROM ({new}) r UNION ALL BY NAME SELECT * FROM {told}"
    return f"FROM ({rows}) ORDER BY event_time, {key}, created_time"


def schema_of_interactions(card: DatasetCard) -> pa.Schema:
    keys = [("event_id", pa.string()), ("user_id", pa.string()), ("item_id", pa.string())]
    times = [("event_time", TIME), ("created_time", TIME), ("position", pa.int64())]
    labels = [(name, pa.string()) for name in ("basket", "event_type", "origin")]
    return pa.schema(keys + times + labels + _fields(card.observed))


def schema_of_items(features: list[Feature]) -> pa.Schema:
    return schema_of(features, key="item_id")


def schema_of(features: Sequence[Described], *, key: str) -> pa.Schema:
    """Of rows about items or about users."""
    return pa.schema([(key, pa.string()), ("event_time", TIME), ("created_time", TIME), *_fields(features)])


def _fields(features: Sequence[Described]) -> list[tuple[str, pa.DataType]]:
    return [(spec.name, arrow_type(spec)) for spec in features]


def _names(features: Sequence[Described]) -> str:
    return ", ".join(quoted(spec.name) for spec in features)


def _nulls(features: list[Feature]) -> str:
    return ", ".join(f"NULL::{spec.storage.value} AS {quoted(spec.name)}" for spec in features)


def _read(features: Sequence[Described]) -> str:
    return "".join(f", {feature_of(spec.name)} AS {quoted(spec.name)}" for spec in features)


def _filled(features: list[Feature], *, by: str, order: str, source: str) -> str:
    """Query of item_id, event_time, position and features, each the latest that is not blank."""
    filled = "".join(
        f", last_value({quoted(spec.name)} IGNORE NULLS) OVER past AS {quoted(spec.name)}" for spec in features
    )
    return (
        f"SELECT item_id, event_time, row_number() OVER past AS position{filled} FROM {source} "
        f"WINDOW past AS (PARTITION BY {by} ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
    )
