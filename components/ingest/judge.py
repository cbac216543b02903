"""Every source row is judged: accepted, or set aside with every reason that holds. None is lost."""

from collections.abc import Sequence

import duckdb

from components.errors import InputError
from components.ingest.parse import Column, literal, quoted
from components.ingest.source import unreadable

MALFORMED_LINE = "malformed_line"


def keep(connection: duckdb.DuckDBPyConnection, table: str, rows: duckdb.DuckDBPyRelation) -> dict[str, str]:
    """Copy the source's rows into `raw_<table>`, numbered as in the source, from 0, as `__row`; returns column types
    by name. Lines that could not be read as rows go to `lines_<table>` (__row, line)."""
    connection.register(f"source_{table}", rows)
    try:
        connection.execute(
            f"CREATE TEMP TABLE raw_{table} AS SELECT row_number() OVER () - 1 AS __row, * FROM source_{table}"
        )
        if "__origin" not in rows.columns:
            connection.execute(f"ALTER TABLE raw_{table} ADD COLUMN __origin VARCHAR")
    except duckdb.Error as error:
        raise unreadable(f"table {table}", error) from error
    _keep_lines(connection, table)
    described = connection.execute(f"DESCRIBE raw_{table}").fetchall()
    return {name: kind for name, kind, *_ in described if name not in ("__row", "__origin")}


def _keep_lines(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    lines = f"CREATE TEMP TABLE lines_{table} (__row BIGINT, line VARCHAR)"
    if connection.execute(f"FROM duckdb_tables() WHERE table_name = 'rejects_{table}'").fetchall():
        # The header is line 1; a line may have several errors.
        lines = (
            f"CREATE TEMP TABLE lines_{table} AS SELECT line - 2 AS __row, any_value(csv_line) AS line "
            f"FROM rejects_{table} GROUP BY line"
        )
    connection.execute(lines)
    if connection.execute(f"SELECT count(*) FROM lines_{table}").fetchall()[0][0]:
        _refuse_without_rows(connection, table)
        _number_as_in_the_source(connection, table)


def _refuse_without_rows(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    count, path, example = connection.execute(
        f"SELECT count(*), (SELECT any_value(file_path) FROM scan_of_{table}), any_value(line) FROM lines_{table} "
        f"WHERE NOT EXISTS (FROM raw_{table})"
    ).fetchall()[0]
    if count:
        raise InputError(
            f"{path}: cannot be read: none of its {count} lines is UTF-8 CSV with the columns of the header, "
            f"e.g. {example[:60]!r}. Save the file as UTF-8 CSV."
        )


def _number_as_in_the_source(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """Rows were numbered without the unreadable lines: each moves down by as many as stood before it."""
    connection.execute(
        f"WITH lines AS (SELECT __row, row_number() OVER (ORDER BY __row) AS missing FROM lines_{table}), "
        "steps AS (SELECT __row - missing + 1 AS first, max(missing) AS missing FROM lines GROUP BY first), "
        f"moved AS (SELECT __row AS old, missing FROM raw_{table} ASOF JOIN steps ON __row >= first) "
        f"UPDATE raw_{table} SET __row = __row + missing FROM moved WHERE __row = old"
    )


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
    conditions = dict(extra)
    for column in columns:
        conditions |= column.unreadable | column.unacceptable
    cases = ", ".join(f"CASE WHEN {test} THEN {literal(reason)} END" for reason, test in conditions.items())
    connection.execute(
        f"CREATE TEMP TABLE judged_{table} AS WITH parsed AS (SELECT *, {values} FROM raw_{table}) "
        f"SELECT * EXCLUDE __found, CASE WHEN __found = '' THEN []::VARCHAR[] ELSE string_split(__found, ' ') END "
        f"AS __reasons FROM (SELECT *, concat_ws(' ', {cases}) AS __found FROM parsed)"
    )
    _set_aside_repeats(connection, table, list(types), "duplicate_row", among="true")
    same = [f"__{name}" for name in event]
    _set_aside_repeats(connection, table, same, duplicate, among="len(__reasons) = 0")
    found = reasons_of(connection, table)
    for column in columns:
        if column.unreadable.keys() & found:
            _agree(connection, table, column, where)


def _set_aside_repeats(
    connection: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str], reason: str, *, among: str
) -> None:
    """Give `reason` to each row that repeats an earlier one in `columns`.

    Hashes find the few rows that can be meant, so that the exact comparison does not sort the whole table.
    """
    same = ", ".join(map(quoted, columns))
    connection.execute(
        f"WITH twice AS (SELECT hash({same}) AS h FROM judged_{table} WHERE {among} GROUP BY h HAVING count(*) > 1), "
        f"suspects AS (SELECT * FROM judged_{table} WHERE {among} AND hash({same}) IN (FROM twice)), "
        f"repeats AS (SELECT __row FROM suspects QUALIFY row_number() OVER (PARTITION BY {same} ORDER BY __row) > 1) "
        f"UPDATE judged_{table} SET __reasons = list_append(__reasons, {literal(reason)}) "
        "WHERE __row IN (FROM repeats)"
    )


def _agree(connection: duckdb.DuckDBPyConnection, table: str, column: Column, where: str) -> None:
    """Raise `InputError` where the column has values but none of them is what the card says."""
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


def number_each_part(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """Let rows count from 0 in each part of the source (`__origin`), so that a new part renumbers no other."""
    connection.execute(
        f"UPDATE judged_{table} j SET __row = j.__row - f.first FROM (SELECT __origin, min(__row) AS first "
        f"FROM judged_{table} WHERE __origin IS NOT NULL GROUP BY __origin) f WHERE j.__origin = f.__origin"
    )


def set_aside_known(connection: duckdb.DuckDBPyConnection) -> None:
    """Give `duplicate_event` to each new interaction that a part which is taken over (view `kept`) has already."""
    connection.execute(
        "UPDATE judged_interactions SET __reasons = ['duplicate_event'] WHERE len(__reasons) = 0 "
        "AND (__user_id, __item_id, __event_time) IN (SELECT (user_id, item_id, event_time) FROM kept)"
    )


def reasons_of(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, int]:
    """Rows by reason, most frequent first; a row counts for each of its reasons."""
    return dict(
        connection.execute(
            f"SELECT reason, count(*) FROM (SELECT unnest(__reasons) AS reason FROM judged_{table} "
            f"UNION ALL SELECT {literal(MALFORMED_LINE)} FROM lines_{table}) GROUP BY reason "
            "ORDER BY count(*) DESC, reason"
        ).fetchall()
    )


def counts_of(connection: duckdb.DuckDBPyConnection, table: str) -> tuple[int, int]:
    """(rows of the source, rows set aside)."""
    rows, rejected, lines = connection.execute(
        f"SELECT count(*), count(*) FILTER (len(__reasons) > 0), (SELECT count(*) FROM lines_{table}) "
        f"FROM judged_{table}"
    ).fetchall()[0]
    return rows + lines, rejected + lines


def rejected_sql(table: str, types: dict[str, str]) -> str:
    """Query of the rows set aside, as docs/contracts.md has them."""
    record = ", ".join(f"{quoted(name)} := {quoted(name)}" for name in types)
    return (
        f'SELECT {literal(table)} AS "table", __origin AS origin, __row AS row, __reasons AS reasons, '
        f"to_json(struct_pack({record}))::VARCHAR AS record FROM judged_{table} WHERE len(__reasons) > 0 "
        f"UNION ALL SELECT {literal(table)}, NULL, __row, [{literal(MALFORMED_LINE)}], "
        f"to_json(struct_pack(line := line))::VARCHAR FROM lines_{table}"
    )
