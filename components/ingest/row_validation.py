"""Every source row is judged: accepted, or set aside with every reason that holds. None is lost."""

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from components.ingest.parse import Column, Given, value_of
from components.ingest.source import SourceTable
from runtime.errors import InputError
from runtime.sql import literal

MALFORMED_LINE = "malformed_line"
NOT_KEPT = "(not kept: users of this data set were deleted, and nobody can say whose line it is)"


def keep(
    connection: duckdb.DuckDBPyConnection, table: str, source: SourceTable, *, whole: bool = True
) -> dict[str, Given]:
    """Copy the source's rows into `raw_<table>`, numbered as in the source, from 0, as `row`; returns its columns by
    name. Lines that could not be read as rows go to `lines_<table>` (row, line, origin).

    Raises `InputError` where the source cannot be read, or not every record of it is accounted for, or no record at all
    is a row (of a part of the source, which is not the `whole`, none need be).
    """
    if not _copy(connection, table, source):
        assert source.carefully is not None
        source = source.carefully()
        if not _copy(connection, table, source):
            raise InputError(f"{source.path}: its records cannot be told apart. Write it anew as CSV, or as Parquet.")
    if connection.execute(f"FROM lines_{table} LIMIT 1").fetchall():
        if whole:
            _refuse_without_rows(connection, table, source.path)
        _number_as_in_the_source(connection, table)
    types = {name: kind for name, kind, *_ in connection.execute(f"DESCRIBE raw_{table}").fetchall()}
    return {name: Given(name, f"c{n}", types[f"c{n}"]) for n, name in enumerate(source.names)}


def _copy(connection: duckdb.DuckDBPyConnection, table: str, source: SourceTable) -> bool:
    """Make both tables; whether every record of the source is in one of them."""
    connection.register(f"source_{table}", source.relation)
    origin = "" if source.has_origin else ", NULL::VARCHAR AS origin"
    try:
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE raw_{table} AS SELECT row_number() OVER () - 1 AS row, *{origin} "
            f"FROM source_{table}"
        )
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        if source.carefully is not None:
            return False
        raise InputError(
            f"{source.path or table}: cannot be read to its end: it is damaged, or was changed meanwhile. Write or "
            "copy it again."
        ) from error
    connection.execute(f"CREATE OR REPLACE TEMP TABLE lines_{table} (row BIGINT, line VARCHAR, origin VARCHAR)")
    if source.rejects and connection.execute(f"FROM duckdb_tables() WHERE table_name = '{source.rejects}'").fetchall():
        # A line may have several errors.
        connection.execute(
            f"INSERT INTO lines_{table} SELECT line - {source.first_line}, any_value(csv_line), NULL "
            f"FROM {source.rejects} GROUP BY line"
        )
    if source.bad:
        places, lines, parts = zip(*source.bad, strict=True)
        bad = pa.table({"row": places, "line": lines, "origin": pa.array(parts, pa.string())})
        connection.register("bad_lines", bad)
        connection.execute(f"INSERT INTO lines_{table} FROM bad_lines")
        connection.unregister("bad_lines")
    if source.expected is None:
        return True
    ((rows, lines),) = connection.execute(
        f"SELECT (SELECT count(*) FROM raw_{table}), (SELECT count(*) FROM lines_{table})"
    ).fetchall()
    return bool(rows + lines == source.expected + len(source.bad))


def _refuse_without_rows(connection: duckdb.DuckDBPyConnection, table: str, path: Path | None) -> None:
    count, example = connection.execute(
        f"SELECT count(*), any_value(line) FROM lines_{table} WHERE NOT EXISTS (FROM raw_{table})"
    ).fetchall()[0]
    if count:
        raise InputError(
            f"{path}: cannot be read: none of its {count} lines is UTF-8 CSV with the columns of the header, "
            f"e.g. {example[:60]!r}. Save the file as UTF-8 CSV, or say in source.csv of the card how it is written "
            "(delimiter, encoding, names)."
        )


def _number_as_in_the_source(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """Rows were numbered without the unreadable lines: each moves down by as many as stood before it."""
    connection.execute(
        f"WITH lines AS (SELECT row, row_number() OVER (ORDER BY row) AS missing FROM lines_{table} "
        "WHERE origin IS NULL), "
        "steps AS (SELECT row - missing + 1 AS first, max(missing) AS missing FROM lines GROUP BY first), "
        f"moved AS (SELECT r.row AS old, missing FROM raw_{table} r ASOF JOIN steps ON r.row >= first) "
        f"UPDATE raw_{table} SET row = row + missing FROM moved WHERE row = old"
    )


def require(given: Collection[str], needed: Sequence[tuple[str, str]], *, where: str) -> None:
    """Raise one `InputError` for all (field of the card, column) that the source does not have."""
    if missing := [f"{column!r} ({field})" for field, column in needed if column not in given]:
        headless = sum(re.fullmatch(r"[-+.0-9: ]+", name) is not None for name in given) * 2 > len(given)
        besides = " It seems to have no header: name its columns by `names` in source.csv of the card."
        raise InputError(
            f"{where}: no column {', '.join(missing)}. Found: {', '.join(given) or 'none'}. "
            f"Correct the names in the card's columns and features.{besides if headless else ''}"
        )


def judge(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    given: Collection[Given],
    columns: Sequence[Column],
    *,
    extra: dict[str, str],
    event: Sequence[str],
    duplicate: str,
    where: str = "",
) -> None:
    """Make `judged_<table>`: the raw columns, each read value in its slot, and `reasons` (empty if accepted).

    `event` are the slots that make two acceptable rows the same; the later one gets the reason `duplicate`. Raises
    `InputError`, told of `where`, for a column none of whose values is what the card says; without `where` the rows
    are a part of a table, which can say nothing of that.
    """
    values = ", ".join(f"{column.value} AS {column.slot}" for column in columns)
    conditions = dict(extra)
    for column in columns:
        conditions |= column.unreadable | column.unacceptable
    cases = ", ".join(f"CASE WHEN {test} THEN {literal(reason)} END" for reason, test in conditions.items())
    connection.execute(
        f"CREATE TEMP TABLE judged_{table} AS WITH parsed AS (SELECT *, {values} FROM raw_{table}) "
        f"SELECT * EXCLUDE found, CASE WHEN found = '' THEN []::VARCHAR[] ELSE string_split(found, ' ') END "
        f"AS reasons FROM (SELECT *, concat_ws(' ', {cases}) AS found FROM parsed)"
    )
    # Of one part alone: a part that is taken over keeps its events, and not how they were written.
    _set_aside_repeats(connection, table, ["origin", *(each.sql for each in given)], "duplicate_row", among="true")
    _set_aside_repeats(connection, table, event, duplicate, among="len(reasons) = 0")
    found = reasons_of(connection, table) if where else {}
    for column in columns:
        if column.unreadable.keys() & found:
            require_agreement(column, where, *agreement(connection, table, column))


def _set_aside_repeats(
    connection: duckdb.DuckDBPyConnection, table: str, columns: Sequence[str], reason: str, *, among: str
) -> None:
    """Give `reason` to each row that repeats an earlier one in `columns`.

    Hashes find the few rows that can be meant, so that the exact comparison does not sort the whole table.
    """
    same = ", ".join(columns)
    connection.execute(
        f"WITH twice AS (SELECT hash({same}) AS h FROM judged_{table} WHERE {among} GROUP BY h HAVING count(*) > 1), "
        f"suspects AS (SELECT * FROM judged_{table} WHERE {among} AND hash({same}) IN (FROM twice)), "
        f"repeats AS (SELECT row FROM suspects QUALIFY row_number() OVER (PARTITION BY {same} ORDER BY row) > 1) "
        f"UPDATE judged_{table} SET reasons = list_append(reasons, {literal(reason)}) "
        "WHERE row IN (FROM repeats)"
    )


def agreement(connection: duckdb.DuckDBPyConnection, table: str, column: Column) -> tuple[int, int, str | None]:
    """How many values the column has, how many of them are not what the card says, and one of its values."""
    raw = column.given.sql
    unreadable = " OR ".join(f"({test})" for test in column.unreadable.values())
    count, unfit, example = connection.execute(
        f"SELECT count(*), count(*) FILTER ({unreadable}), any_value({raw}::VARCHAR) FROM judged_{table} "
        f"WHERE nullif(trim({raw}::VARCHAR), '') IS NOT NULL"
    ).fetchall()[0]
    return count, unfit, example


def require_agreement(column: Column, where: str, count: int, unfit: int, example: str | None) -> None:
    """Raise `InputError` where the column has values but none of them is what the card says."""
    if count >= 2 and unfit == count:
        assert example is not None
        raise InputError(
            f"{where}: {column.name} (column {column.given.name!r}): none of the {count} values is {column.expected}, "
            f"e.g. {example[:60]!r}. {column.advice}"
        )


def number_each_part(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    """Let rows count from 0 in each part of the source (`origin`), so that a new part renumbers no other."""
    connection.execute(
        f"UPDATE judged_{table} j SET row = j.row - f.first FROM (SELECT origin, min(row) AS first "
        f"FROM judged_{table} WHERE origin IS NOT NULL GROUP BY origin) f WHERE j.origin = f.origin"
    )
    if connection.execute(f"FROM lines_{table} WHERE origin IS NOT NULL LIMIT 1").fetchall():
        # A part's rows move down by as many of its lines that are no rows as stand before them.
        connection.execute(
            "WITH lines AS (SELECT origin, row, row_number() OVER (PARTITION BY origin ORDER BY row) AS missing "
            f"FROM lines_{table} WHERE origin IS NOT NULL), steps AS (SELECT origin, row - missing + 1 AS first, "
            "max(missing) AS missing FROM lines GROUP BY origin, first), moved AS (SELECT j.origin AS part, j.row AS "
            f"old, missing FROM judged_{table} j ASOF JOIN steps s ON j.origin = s.origin AND j.row >= s.first) "
            f"UPDATE judged_{table} SET row = row + missing FROM moved WHERE row = old AND origin = part"
        )


def set_aside_known(connection: duckdb.DuckDBPyConnection, event: Sequence[str]) -> None:
    """Give `duplicate_event` to each new interaction that a part which is taken over (view `kept`) has already."""
    connection.execute(
        "UPDATE judged_interactions SET reasons = ['duplicate_event'] WHERE len(reasons) = 0 "
        f"AND ({', '.join(map(value_of, event))}) IN (SELECT ({', '.join(event)}) FROM kept)"
    )


def reasons_of(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, int]:
    """Rows by reason, most frequent first; a row counts for each of its reasons."""
    return dict(
        connection.execute(
            f"SELECT reason, count(*) FROM (SELECT unnest(reasons) AS reason FROM judged_{table} "
            f"UNION ALL SELECT {literal(MALFORMED_LINE)} FROM lines_{table}) GROUP BY reason "
            "ORDER BY count(*) DESC, reason"
        ).fetchall()
    )


def counts_of(connection: duckdb.DuckDBPyConnection, table: str) -> tuple[int, int]:
    """(rows of the source, rows set aside)."""
    rows, rejected, lines = connection.execute(
        f"SELECT count(*), count(*) FILTER (len(reasons) > 0), (SELECT count(*) FROM lines_{table}) FROM judged_{table}"
    ).fetchall()[0]
    return rows + lines, rejected + lines


def rejected_sql(table: str, given: Collection[Given], *, keep_lines: bool) -> str:
    """Query of the rows set aside, as docs/contracts.md has them; the text of lines that are no rows `keep_lines`."""
    keys = {"interactions": ("user_id", "item_id"), "items": ("NULL", "item_id"), "users": ("user_id", "NULL")}[table]
    user, item = (value_of(key) if key != "NULL" else "NULL::VARCHAR" for key in keys)
    record = ", ".join(f"{literal(each.name)}, {each.sql}" for each in given)
    line = "line" if keep_lines else literal(NOT_KEPT)
    return (
        f'SELECT {literal(table)} AS "table", origin, row, {user} AS user_id, {item} AS item_id, reasons, '
        f"json_object({record})::VARCHAR AS record FROM judged_{table} WHERE len(reasons) > 0 "
        f"UNION ALL SELECT {literal(table)}, origin, row, NULL, NULL, [{literal(MALFORMED_LINE)}], "
        f"to_json(struct_pack(line := {line}))::VARCHAR FROM lines_{table}"
    )
