"""Queries of a database that SQLAlchemy reaches: Postgres, Snowflake, BigQuery, …, each by its own driver.

Rows are read in portions, so that memory is bounded, and each portion keeps the types that the database gave. Where
the card names a column `by` which rows grow, each of its days is a part of the source: a day whose rows are as many as
before, from the same first to the same last moment, is taken over unread.
"""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from components.ingest.parquet import DIGITS, read_portions
from components.ingest.source import (
    Raw,
    SourceTable,
    named,
    scratch,
)
from feature_repo.card import DatasetCard
from feature_repo.card_source import Sql
from feature_repo.faults import Unavailable
from runtime.errors import InputError
from runtime.manifest import digest_json

if TYPE_CHECKING:
    from sqlalchemy import Connection, CursorResult

PORTION = 20_000
"""Rows that are held in memory at a time."""
PART = "part of heterrec"
WITHOUT = "without a day"


def load(card: DatasetCard, connection: duckdb.DuckDBPyConnection, only: Collection[str] | None = None) -> Raw:
    asked = _asked(card)
    with _database(card) as database:
        query = asked.interactions if asked.by is None else _dated(database, asked, only)
        interactions = _table(database, query, connection, card, "interactions")
        items = None if asked.items is None else _table(database, asked.items, connection, card, "items")
        users = None if asked.users is None else _table(database, asked.users, connection, card, "users")
    if asked.by is not None:
        interactions = _with_origin(interactions)
    return Raw(interactions=interactions, items=items, users=users)


def content(card: DatasetCard) -> dict[str, Any]:
    asked = _asked(card)
    with _database(card) as database:
        others = [
            told
            for name, query in (("items", asked.items), ("users", asked.users))
            if query is not None
            for told in (query, _digest(_run(database, query, card, name)))
        ]
        if asked.by is None:
            rows = _digest(_run(database, asked.interactions, card, "interactions"))
            return {"": [asked.interactions, rows, *others]}
        by, day = _column(database, asked.by)
        days = _run(
            database,
            f"SELECT {day}, count(*), min({by}), max({by}) FROM {_query(asked.interactions)} GROUP BY {day}",
            card,
            "by",
        )
        facts: list[list[Any]] = [list(row) for row in days]
        parts = {WITHOUT if row[0] is None else str(row[0]): [asked.interactions, *map(str, row[1:])] for row in facts}
    # Without a table of items all interactions must be read to know them: no part is taken over.
    return {"": others, **parts} if asked.items is not None else {"": [parts, *others] if others else parts}


def identity(card: DatasetCard) -> Any:
    asked = _asked(card)
    return [asked.url_from, asked.interactions, asked.items, *([asked.users] if asked.users is not None else [])]


def _asked(card: DatasetCard) -> Sql:
    assert card.source.sql is not None  # the card's own check
    return card.source.sql


@contextmanager
def _database(card: DatasetCard) -> "Iterator[Connection]":
    """A connection to what the environment names; no message tells its password."""
    import sqlalchemy
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    variable = _asked(card).url_from
    told = f"source.sql.url_from of card {card.name!r}: ${variable}"
    if not (found := os.environ.get(variable)):
        raise InputError(
            f"{told} is not set. Put the database's URL there: postgresql+psycopg://user:password@host/name."
        )
    try:
        url = sqlalchemy.make_url(found)
        split = "@" in (url.host or "")
    except (ArgumentError, ValueError):
        split = True
    if split:  # what follows a password's own @ would be taken for the host or the port, and be told
        raise InputError(
            f"{told} holds no URL of SQLAlchemy; expected dialect+driver://user:password@host/name, with @ : / of the "
            "password itself as %40 %3A %2F."
        )
    try:
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    except (NoSuchModuleError, ImportError):
        raise InputError(
            f"{told} names {url.drivername}, whose driver is not installed. Install the one that SQLAlchemy's pages "
            "name for it, in this environment and in the image."
        ) from None
    try:
        with engine.connect() as database:
            yield database
    except sqlalchemy.exc.OperationalError as error:
        raise Unavailable(f"{told}: {_first_line(error, url.password)}. Try again when it answers.") from None
    except sqlalchemy.exc.DBAPIError as error:  # also while rows come, where the query was taken
        raise InputError(
            f"{told}: the database refuses it: {_first_line(error, url.password)}. Correct the URL, or the queries of "
            "source.sql."
        ) from None
    finally:
        engine.dispose()


def _run(database: "Connection", query: str, card: DatasetCard, field: str) -> "CursorResult[Any]":
    """The rows of a query, as they come. Raises `InputError` where the database does not take it."""
    import sqlalchemy

    # A colon is the user's own and no parameter of ours.
    text = sqlalchemy.text(re.sub(r"(?<![:\\]):(?=\w)", r"\\:", query))
    try:
        found = database.execution_options(stream_results=True, max_row_buffer=PORTION).execute(text)
    except sqlalchemy.exc.OperationalError as error:
        if database.dialect.name != "sqlite":  # which calls a wrong query so
            raise
        raise _refused(card, field, error) from None
    except sqlalchemy.exc.DBAPIError as error:
        raise _refused(card, field, error) from None
    if not found.returns_rows:
        raise InputError(f"source.sql.{field} of card {card.name!r}: gives no rows. Expected a query, SELECT … FROM ….")
    return found


def _refused(card: DatasetCard, field: str, error: Exception) -> InputError:
    return InputError(
        f"source.sql.{field} of card {card.name!r}: the database refuses it: {_first_line(error, None)}. Correct the "
        "query."
    )


def _first_line(error: Any, password: Any) -> str:
    text = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error).__name__
    return text.replace(str(password), "***") if password else text


def _query(query: str) -> str:
    """As a table q; on lines of its own, as it may end with a comment."""
    return f"(\n{query.strip().rstrip(';').rstrip()}\n) q"


def _column(database: "Connection", name: str) -> tuple[str, str]:
    """SQL of the column `by` and of its day."""
    by = f"q.{database.dialect.identifier_preparer.quote(name)}"
    others = {"mssql": f"CAST({by} AS DATE)", "oracle": f"TO_CHAR({by}, 'YYYY-MM-DD')"}  # whose dates have an hour
    return by, others.get(database.dialect.name, f"date({by})")


def _dated(database: "Connection", asked: Sql, only: Collection[str] | None) -> str:
    """The query with each row's day beside it, in the order of `by`; of the days `only`, where they are named."""
    assert asked.by is not None
    by, day = _column(database, asked.by)
    part = database.dialect.identifier_preparer.quote(PART)
    query = f"SELECT q.*, {day} AS {part} FROM {_query(asked.interactions)}"
    if only is not None:
        days = ", ".join(f"'{date.fromisoformat(name).isoformat()}'" for name in sorted(only) if name != WITHOUT)
        tests = [f"{day} IN ({days})"] if days else []
        tests += [f"{by} IS NULL"] if WITHOUT in only else []
        query += f" WHERE {' OR '.join(tests) or '1 = 0'}"
    return f"{query} ORDER BY {by}"


def _with_origin(table: SourceTable) -> SourceTable:
    day = table.column(PART)
    listed = ", ".join(f"c{n}" for n in range(len(table.names)) if table.names[n] != PART)
    assert day == f"c{len(table.names) - 1}"
    origin = f"coalesce({day}::VARCHAR, '{WITHOUT}') AS origin"
    return replace(table, relation=table.relation.project(f"{listed}, {origin}"), names=table.names[:-1])


def _table(
    database: "Connection", query: str, connection: duckdb.DuckDBPyConnection, card: DatasetCard, table: str
) -> SourceTable:
    result = _run(database, query, card, table)
    names = list(result.keys())
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"source.sql.{table} of card {card.name!r}: gives {twice[0]!r} twice. Name one of them AS another."
        )
    (folder := scratch(connection) / uuid4().hex).mkdir()
    paths: list[Path] = []
    for rows in result.partitions(PORTION):
        paths.append(folder / f"{len(paths)}.parquet")
        columns = [
            _values(name, values, card, table) for name, values in zip(names, zip(*rows, strict=True), strict=True)
        ]
        pq.write_table(pa.table(columns, names=names), paths[-1])
    if not paths:
        paths.append(folder / "nothing.parquet")
        pq.write_table(pa.table([pa.nulls(0)] * len(names), names=names), paths[0])
    with named(folder, f"source.sql.{table} of card {card.name!r}"):
        return replace(read_portions(paths, connection, card, table=table), path=None)


def _values(name: str, values: Sequence[Any], card: DatasetCard, table: str) -> pa.Array:
    """A portion of a column in the type that the database gave; what has none here as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds & {bytes, bytearray, memoryview}:
        raise InputError(
            f"source.sql.{table} of card {card.name!r}: column {name!r} holds bytes. Leave it out, or cast it to text."
        )
    if not kinds:
        return pa.nulls(len(values))
    if kinds == {Decimal}:
        scale = max(
            (-int(value.as_tuple().exponent) for value in values if value is not None and value.is_finite()), default=0
        )
        try:
            return pa.array(values, pa.decimal128(DIGITS, min(max(scale, 0), DIGITS)))
        except pa.ArrowInvalid:
            return pa.array([None if value is None else str(value) for value in values])
    if kinds == {datetime}:
        zoned = {value.tzinfo is not None for value in values if value is not None}
        if len(zoned) == 1:
            return pa.array(values, pa.timestamp("us", "UTC" if True in zoned else None))
        return pa.array([None if value is None else value.isoformat() for value in values])
    if kinds in ({bool}, {int}, {float}, {str}, {date}):
        try:
            return pa.array(values)
        except (OverflowError, pa.ArrowException):
            pass
    if kinds == {list}:
        return pa.array(
            [None if value is None else [str(each) for each in value if each is not None] for value in values],
            pa.list_(pa.string()),
        )
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)


def _digest(rows: "CursorResult[Any]") -> str:
    """Of all rows in the order in which they come."""
    found = hashlib.sha256()
    for portion in rows.partitions(PORTION):
        found.update(digest_json([[repr(value) for value in row] for row in portion]).encode())
    return found.hexdigest()
