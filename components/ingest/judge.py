"""Every source row is judged: accepted, or set aside with every reason that holds. None is lost."""

from collections.abc import Sequence

import duckdb

from components.errors import InputError
from components.ingest.parse import Column, literal, quoted
from components.ingest.source import unreadable


def keep(connection: duckdb.DuckDBPyConnection, table: str, rows: duckdb.DuckDBPyRelation) -> dict[str, str]:
    """Copy the source's rows into `raw_<table>`, numbered from 0 as `__row`; returns column types by name."""
    connection.register(f"source_{table}", rows)
    try:
        connection.execute(
            f"CREATE TEMP TABLE raw_{table} AS SELECT row_number() OVER () - 1 AS __row, * FROM source_{table}"
        )
    except duckdb.Error as error:
        raise unreadable(f"table {table}", error) from error
    described = connection.execute(f"DESCRIBE raw_{table}").fetchall()
    return {name: kind for name, kind, *_ in described if name != "__row"}


def require(types: dict[str, str], needed: Sequence[tuple[str, str]], *, where: str) -> None:
    """Raise one `InputError` for all (field of the card, column) that the source does not have."""
    if missing := [f"{column!r} ({field})" for field, column in needed if column not in types]:
        raise InputError(
            f"{where}: no column {', '.join(missing)}. Found: {', '.join(types) or 'none'}. "
            "Correct the names in the card's columns and features."
        )


def judge(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    types: dict[str, str],
    columns: Sequence[Column],
    *,
    extra: dict[str, str],
    event: Sequence[str],
    duplicate: str,
    where: str,
) -> None:
    """Make `judged_<table>`: the raw columns, each read value as `__<name>`, and `__reasons` (empty if accepted).

    `event` names the values that make two acceptable rows the same; the later one gets the reason `duplicate`.
    """
    values = ", ".join(f"{column.value} AS {quoted(f'__{column.name}')}" for column in columns)
    raw = ", ".join(map(quoted, types))
    connection.execute(
        f"CREATE TEMP VIEW parsed_{table} AS SELECT *, {values}, "
        f"row_number() OVER (PARTITION BY {raw} ORDER BY __row) > 1 AS __repeats FROM raw_{table}"
    )
    conditions = {"duplicate_row": "__repeats", **extra}
    for column in columns:
        conditions |= column.unreadable | column.unacceptable
    cases = ", ".join(f"CASE WHEN {test} THEN {literal(reason)} END" for reason, test in conditions.items())
    same = ", ".join(quoted(f"__{name}") for name in event)
    connection.execute(
        f"CREATE TEMP TABLE judged_{table} AS "
        f"WITH marked AS (SELECT *, list_filter([{cases}], r -> r IS NOT NULL) AS __found FROM parsed_{table}) "
        f"SELECT * EXCLUDE (__found, __repeats), CASE WHEN len(__found) = 0 AND "
        f"row_number() OVER (PARTITION BY {same}, len(__found) = 0 ORDER BY __row) > 1 "
        f"THEN [{literal(duplicate)}] ELSE __found END AS __reasons FROM marked"
    )
    for column in columns:
        _agree(connection, table, column, where)


def _agree(connection: duckdb.DuckDBPyConnection, table: str, column: Column, where: str) -> None:
    """Raise `InputError` where the column has values but none of them is what the card says."""
    if not column.unreadable:
        return
    raw = quoted(column.column)
    unreadable = " OR ".join(f"({test})" for test in column.unreadable.values())
    count, unfit, example = connection.execute(
        f"SELECT count(*), count(*) FILTER ({unreadable}), any_value({raw}::VARCHAR) FROM judged_{table} "
        f"WHERE nullif(trim({raw}::VARCHAR), '') IS NOT NULL"
    ).fetchall()[0]
    if count >= 2 and unfit == count:
        raise InputError(
            f"{where}: {column.name} (column {column.column!r}): none of the {count} values is {column.expected}, "
            f"e.g. {example[:60]!r}. {column.advice}"
        )


def reasons_of(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, int]:
    """Rows by reason, most frequent first; a row counts for each of its reasons."""
    return dict(
        connection.execute(
            f"SELECT reason, count(*) FROM (SELECT unnest(__reasons) AS reason FROM judged_{table}) "
            "GROUP BY reason ORDER BY count(*) DESC, reason"
        ).fetchall()
    )


def rejected_sql(table: str, types: dict[str, str]) -> str:
    """Query of the rows set aside, as docs/contracts.md has them."""
    record = ", ".join(f"{quoted(name)} := {quoted(name)}" for name in types)
    return (
        f'SELECT {literal(table)} AS "table", __row AS row, __reasons AS reasons, '
        f"to_json(struct_pack({record}))::VARCHAR AS record FROM judged_{table} WHERE len(__reasons) > 0"
    )
