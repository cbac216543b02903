"""The users table: what is known of the users, and from when on, as `users/static.parquet` of the events artifact.

Without a date a row is as of the run and holds from the first interaction on; then a user has one row, as nobody could
say which of several held when. What a later ingest finds changed counts from that ingest on (see `tables.changes_sql`).
"""

from pathlib import Path

import duckdb

from components.ingest import tables
from components.ingest.parse import (
    Column,
    Given,
    feature,
    feature_of,
    time,
    user,
    value_of,
)
from components.ingest.row_validation import judge, keep, require
from components.ingest.source import SourceTable
from components.ingest.write import write_file
from feature_repo.card import DatasetCard
from runtime.errors import InputError
from runtime.sql import literal, quoted

_GONE = "EXISTS (FROM forgotten f WHERE f.digest = sha256({user}) AND {moment} <= f.until)"
"""Condition on a row of a user who asked to be deleted since; one without a date is of before."""


def judge_users(
    connection: duckdb.DuckDBPyConnection, card: DatasetCard, users: SourceTable, latest: str
) -> dict[str, Given]:
    """Make `judged_users`; returns the columns of the table. Raises `InputError` where it lacks one, or has several
    rows of a user and no date to tell them apart."""
    names, where = card.columns, f"users of card {card.name!r}"
    given = keep(connection, "users", users)
    needed = [("columns.user_key", names.user_key)]
    needed += [("columns.user_available_at", names.user_available_at)] if names.user_available_at else []
    needed += [(f"user feature {spec.name}", spec.source_column) for spec in card.user_features]
    require(given, needed, where=where)
    judge(
        connection,
        "users",
        given.values(),
        _columns(card, given, latest),
        extra={},
        event=[value_of(name) for name in ("user_id", *(["event_time"] if names.user_available_at else []))],
        duplicate="duplicate_user",
        where=where,
    )
    if names.user_available_at is None:
        _require_one_row_each(connection, where)
    return given


def leave_forgotten(connection: duckdb.DuckDBPyConnection, card: DatasetCard) -> None:
    """Take deleted users (table `forgotten`) out of `judged_users`, bad rows included."""
    dated = card.columns.user_available_at is not None
    moment = f"coalesce(epoch_us({value_of('event_time')}), f.until)" if dated else "f.until"
    connection.execute(f"DELETE FROM judged_users WHERE {_GONE.format(user=value_of('user_id'), moment=moment)}")


def write_users(
    connection: duckdb.DuckDBPyConnection,
    card: DatasetCard,
    events: Path,
    *,
    late: str = "",
    previous: Path | None = None,
) -> None:
    """Write users/static.parquet: a row a user, and one more for each change; `late` and `previous` as for items."""
    stored = "users/static.parquet"
    before = "" if previous is None else str(previous / stored)
    first = f"({tables.FIRST_KNOWN})"
    if before:
        first = f"coalesce((SELECT min(event_time) FROM read_parquet({literal(before)})), {first})"
    moment = first if card.columns.user_available_at is None else value_of("event_time")
    values = "".join(f", {feature_of(spec.name)} AS {quoted(spec.name)}" for spec in card.user_features)
    connection.execute(
        f"CREATE TEMP VIEW known_users AS SELECT {value_of('user_id')} AS user_id, {moment} AS event_time, "
        f"row AS position{values} FROM judged_users WHERE len(reasons) = 0"
    )
    changes = tables.changes_sql("known_users", card.user_features, key="user_id", late=late, before=before)
    kept = f"FROM ({changes}) WHERE NOT {_GONE.format(user='user_id', moment='epoch_us(event_time)')}"
    query = f"{kept} ORDER BY event_time, user_id, created_time"
    write_file(connection, query, tables.schema_of(card.user_features, key="user_id"), events / stored)


def _columns(card: DatasetCard, given: dict[str, Given], latest: str) -> list[Column]:
    names, source = card.columns, card.source
    found = [user(given[names.user_key], names.nobody)]
    if (column := names.user_available_at) is not None:
        written = source.time_format
        found.append(time("event_time", given[column], zone=source.timezone, latest=latest, written=written))
    decimal = source.csv.users.decimal
    return found + [feature(spec, given[spec.source_column], decimal, source) for spec in card.user_features]


def _require_one_row_each(connection: duckdb.DuckDBPyConnection, where: str) -> None:
    count, example = connection.execute(
        f"SELECT count(*), min({value_of('user_id')}) FROM judged_users WHERE list_contains(reasons, 'duplicate_user')"
    ).fetchall()[0]
    if count:
        raise InputError(
            f"{where}: {count:,} rows are of users with a row before and say something else, e.g. of {example!r}. What "
            "varies needs a date: name the column that says from when on a row holds by columns.user_available_at, or "
            "give one row a user."
        )
