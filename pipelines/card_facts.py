"""How the events of a shop are distributed: the split, repeats, ties, calendar and limits of its card."""

from dataclasses import dataclass
from datetime import date, timedelta

import duckdb

from feature_repo.keys import NOBODY
from pipelines.roles import Roles
from runtime.errors import InputError
from runtime.sql import literal

ENOUGH_JUDGES = 100
MOST_REPEATED = 0.2
"""Share of an undated items table's rows that may name an item again."""
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Lines of the card, and how many rows have no shopper."""

    lines: list[str]
    nobody: int


def facts_of(connection: duckdb.DuckDBPyConnection, roles: Roles) -> Facts:
    """Raises `InputError` where no row can be used."""
    rows, usable, nobody = _accepted_events(connection, roles)
    events, pairs, first, last, known, whole_days, shared = connection.execute(
        "SELECT count(*), count(DISTINCT (u, i)), min(t)::DATE, max(t)::DATE, "
        f"avg((i IN (SELECT k FROM (SELECT {roles.item_key.key} AS k FROM {roles.items.name}) "
        "WHERE k IS NOT NULL))::INT), "
        "avg((t = date_trunc('day', t))::INT), 1 - count(DISTINCT (u, t)) / count(*) FROM told"
    ).fetchall()[0]
    if not events:
        raise InputError(f"{roles.interactions.path}: no row has a shopper, an item and a time.")
    again = 1 - pairs / events
    lines = [f"repeats: {str(again > 0.1).lower()}  # {again:.1%} of the events repeat an item of the same shopper"]
    if roles.basket is not None:
        lines.append("ties: basket")
    elif whole_days > 0.99 and shared > 0.1:
        lines.append(f"ties: basket  # days without a time of day: {shared:.1%} of the events share one with another")
    lines += [_by_order(connection, "no times")] if roles.positional else _split(connection)
    if not roles.positional:
        lines.append(_calendar(connection, first, last))
    repeated = 0.0
    if roles.available is None and not roles.alone:
        repeated = 1 - roles.item_key.distinct / max(1, roles.items.rows)
    if repeated > MOST_REPEATED:
        raise InputError(
            f"{roles.items.path}: has {roles.items.rows / roles.item_key.distinct:.1f} rows for an item "
            f"({roles.item_key.name!r}) and no date from which each holds. Expected a row an item: of a table with a "
            "row for each property, make one with a column for each (DuckDB: PIVOT t ON property USING max(value))."
        )
    bad = max(1 - usable / max(1, rows), repeated)
    orphans = 0.0 if known >= 1 else min(1.0, round(1.2 * (1 - known) + 0.0005, 4))
    rejected = max(0.05, min(1.0, round(1.5 * bad + 0.02, 3)))
    lines.append(
        f"limits: {{max_rejected_rate: {rejected}, min_interactions: {events // 2}, max_orphan_rate: {orphans}}}"
        f"  # {bad:.1%} of the rows cannot be used, {1 - known:.2%} name an unknown item"
    )
    return Facts(lines=lines, nobody=nobody)


def _accepted_events(connection: duckdb.DuckDBPyConnection, roles: Roles) -> tuple[int, int, int]:
    """Make the table `told` (u, i, t) of the events that count; rows in all, those ingest accepts, those of nobody."""
    words = ", ".join(literal(word) for word in NOBODY)
    kind, counts = "''", "true"
    if roles.event_type is not None:
        column = next(each for each in roles.interactions.columns if each.name == roles.event_type.entry["column"])
        kind = column.key
        counts = f"kind IN ({', '.join(map(literal, roles.event_type.entry['types']))})"
    latest = "TIMESTAMPTZ '2260-01-01'" if roles.positional else "now()"
    pieces = f"TRY_CAST({roles.quantity.key} AS DOUBLE)" if roles.quantity is not None else "1"
    connection.execute(
        f"CREATE TEMP TABLE usable AS SELECT DISTINCT u, i, t, kind FROM (SELECT {roles.user.key} AS u, "
        f"{roles.item.key} AS i, {roles.moment} AS t, {kind} AS kind, {pieces} AS pieces "
        f"FROM {roles.interactions.name}) WHERE u IS NOT NULL AND lower(u) NOT IN ({words}) AND i IS NOT NULL "
        f"AND coalesce(pieces, 1) > 0 AND t BETWEEN TIMESTAMPTZ '1971-01-01' AND {latest}"
    )
    connection.execute(f"CREATE TEMP TABLE told AS SELECT u, i, t FROM usable WHERE {counts}")
    ((usable,),) = connection.execute("SELECT count(*) FROM usable").fetchall()
    ((nobody,),) = connection.execute(
        f"SELECT count(*) FROM {roles.interactions.name} WHERE {roles.user.key} IS NULL OR lower({roles.user.key}) "
        f"IN ({words})"
    ).fetchall()
    return roles.interactions.rows, usable, nobody


def _calendar(connection: duckdb.DuckDBPyConnection, first: date, last: date) -> str:
    days = {day for (day,) in connection.execute("SELECT DISTINCT t::DATE FROM told").fetchall()}
    every = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    closed = [w for n, w in enumerate(WEEKDAYS) if len(every) >= 28 and not any(d.weekday() == n for d in days)]
    missing = sum(day not in days and WEEKDAYS[day.weekday()] not in closed for day in every)
    shown = ", ".join(closed)
    return (
        f"calendar: {{closed_weekdays: [{shown}], max_missing_days: {missing}}}  # {missing} open days without an event"
    )


def _split(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """By time where the last days have shoppers enough that came before, else by order."""
    for days in (7, 14, 28):
        ((judges, share),) = connection.execute(
            "SELECT count(*) FILTER (after AND before), sum(held) / sum(n) FROM (SELECT bool_or(late) AS after, "
            "bool_or(NOT late) AS before, count(*) FILTER (late) AS held, count(*) AS n FROM (SELECT u, "
            f"t >= (SELECT max(t) FROM told) - INTERVAL {days} DAY AS late FROM told) GROUP BY u)"
        ).fetchall()
        if judges >= ENOUGH_JUDGES and share < 0.25:
            return [f"split: {{by: time, validation_days: {days}, test_days: {days}}}  # {judges:,} shoppers of before "
                    f"came in the last {days} days"]  # fmt: skip
    return [_by_order(connection, "by time too few came again")]


def _by_order(connection: duckdb.DuckDBPyConnection, why: str) -> str:
    ((judges,),) = connection.execute(
        "SELECT count(*) FROM (SELECT u FROM told GROUP BY u HAVING count(*) >= 3)"
    ).fetchall()
    return f"split: {{by: order}}  # {why}; {judges:,} shoppers have three events or more"
