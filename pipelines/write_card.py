"""`python -m pipelines card FILE…`: a card for tables that nobody has described, each guess with its evidence."""

import os
import re
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import yaml

from components.errors import InputError
from components.ingest.parse import Given, literal, time
from feature_repo.card import load_card
from feature_repo.keys import NOBODY
from pipelines.guess import Guess, feature_of, is_basket, is_quantity, is_user, strongest_types
from pipelines.look import Looked, Seen, counted, look, overlap

ENOUGH_JUDGES = 100
MOST_FEATURES = 12
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclass(kw_only=True)
class Roles:
    """Which table is which, and what their columns are."""

    interactions: Looked
    items: Looked
    item: Seen
    item_key: Seen
    coverage: float
    user: Seen
    time: Seen
    event_type: Guess | None = None
    quantity: Seen | None = None
    basket: Seen | None = None
    available: Seen | None = None
    features: list[Guess] = field(default_factory=list)


def write_card(tables: list[Path], to: Path | None) -> Path:
    """Write a card for the two tables among `tables` and return its path. Raises `InputError` where they are not seen,
    or where there is a file already."""
    with TemporaryDirectory(prefix="duckdb-") as spill, duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '2GB'; SET temp_directory = {literal(spill)}; SET TimeZone = 'UTC'")
        looked = [look(path, connection, f"table_{n}") for n, path in enumerate(tables)]
        roles = _roles(connection, looked)
        name = re.sub(r"[^a-z0-9]+", "_", roles.interactions.path.resolve().parent.name.lower()).strip("_")
        name = name if re.match("[a-z]", name) else f"shop_{name}".rstrip("_")
        target = to or roles.interactions.path.resolve().parent / f"{name}.yaml"
        if target.exists():
            raise InputError(f"{target}: is there already. Remove it, or name another by --to.")
        target.write_text(_card(connection, roles, name, target.resolve().parent), encoding="utf-8")
    load_card(str(target))
    return target


def _roles(connection: duckdb.DuckDBPyConnection, looked: list[Looked]) -> Roles:
    """The pair of tables, and the columns by which one names rows of the other, that fit best."""
    if len(looked) < 2:
        raise InputError(
            f"{looked[0].path}: one table alone. Give that of the items too: a line an item, with its id as the "
            "interactions have it, and at least one thing about it."
        )
    best: tuple[float, Roles] | None = None
    for interactions in looked:
        moments = [column for column in interactions.columns if column.times > 0.9]
        for items in (each for each in looked if each is not interactions):
            for key in items.columns:
                if (
                    key.filled < 0.9 * items.rows
                    or key.distinct < 2
                    or key.distinct * 20 < key.filled
                    or key.words > 1.5
                ):
                    continue
                for item in interactions.columns:
                    others = [each for each in interactions.columns if each is not item]
                    users = sorted((each for each in others if is_user(each) > 0), key=is_user, reverse=True)
                    times = sorted((each for each in moments if each is not item), key=_as_time, reverse=True)
                    users = [each for each in users if each not in times[:1]]
                    if item.distinct >= 0.95 * item.filled or not users or not times or item.times > 0.9 > item.numbers:
                        continue
                    share = overlap(connection, interactions, item, items, key)
                    score = (
                        share + _alike(item, key) + key.distinct / max(1, key.filled) + 0.2 * (items.columns[0] is key)
                    )
                    if share > 0.5 and (best is None or score > best[0]):
                        roles = Roles(interactions=interactions, items=items, item=item, item_key=key, coverage=share,
                                      user=users[0], time=times[0])  # fmt: skip
                        best = score, roles
    if best is None:
        raise InputError(
            f"{', '.join(str(each.path) for each in looked)}: no table names the rows of another one and has times and "
            "shoppers beside. Expected interactions (who, what, when) and items (what, and things about it)."
        )
    roles = best[1]
    _rest(connection, roles)
    return roles


def _may_be_key(key: Seen) -> bool:
    return key.filled >= 0.9 * key.rows and key.distinct >= 2 and key.filled <= 20 * key.distinct and key.words <= 1.5


def _rest(connection: duckdb.DuckDBPyConnection, roles: Roles) -> None:
    taken = [roles.user, roles.item, roles.time]
    for column in roles.interactions.columns:
        if column in taken:
            continue
        if roles.event_type is None and column.distinct <= 30 and column.numbers < 0.5:
            roles.event_type = strongest_types(column, counted(connection, roles.interactions, column, 30))
            if roles.event_type is not None:
                continue
        if roles.quantity is None and is_quantity(column):
            roles.quantity = column
        elif roles.basket is None and is_basket(column) and _of_one(connection, roles, column):
            roles.basket = column
    repeated = roles.item_key.distinct < roles.item_key.filled
    for column in roles.items.columns:
        if column is roles.item_key:
            continue
        if (
            roles.available is None
            and column.times > 0.9
            and (repeated or column.says("since|available|from|launch(?:ed)?|created|added|listed"))
            and _known_in_time(connection, roles, column)
        ):
            roles.available = column
        elif (guess := feature_of(connection, roles.items, column)) is not None:
            roles.features.append(guess)


def _of_one(connection: duckdb.DuckDBPyConnection, roles: Roles, column: Seen) -> bool:
    """Whether nearly every value of the column is one shopper's."""
    ((share,),) = connection.execute(
        f"SELECT avg((users = 1)::INT) FROM (SELECT count(DISTINCT {roles.user.key}) AS users "
        f"FROM {roles.interactions.name} WHERE {column.key} IS NOT NULL GROUP BY {column.key})"
    ).fetchall()
    return bool((share or 0) > 0.99)


def _known_in_time(connection: duckdb.DuckDBPyConnection, roles: Roles, column: Seen) -> bool:
    """Whether nearly all interactions come after the date of their item."""
    ((share,),) = connection.execute(
        f"SELECT avg((m >= since)::INT) FROM (SELECT {roles.item.key} AS k, {_moment(roles.time)} AS m "
        f"FROM {roles.interactions.name}) JOIN (SELECT {roles.item_key.key} AS k, min({_moment(column)}) AS since "
        f"FROM {roles.items.name} GROUP BY 1) USING (k)"
    ).fetchall()
    return bool((share or 0) > 0.99)


def _moment(column: Seen) -> str:
    return time("t", Given(column.name, column.sql, column.kind), zone="UTC", latest="now()").value


def _as_time(column: Seen) -> float:
    return column.times + column.says("time|date|at|ts|timestamp|when|day|datetime|on") + (column.numbers < 0.5) * 0.3


def _alike(item: Seen, key: Seen) -> float:
    hint = "item|product|sku|movie|asin|article|book|song|track|stock|goods|listing|isbn|code"
    return 0.5 * (item.name.lower() == key.name.lower()) + 0.3 * item.says(hint) - 0.5 * (is_user(item) > 1)


def _card(connection: duckdb.DuckDBPyConnection, roles: Roles, name: str, folder: Path) -> str:
    """The YAML."""
    facts = _facts(connection, roles)
    lines = [
        f"# Written by `python -m pipelines card` from {roles.interactions.rows:,} interactions and "
        f"{roles.items.rows:,} rows of items.",
        "# What each line was seen by stands beside it; feature_repo/datasets/example.yaml explains every field.",
        f"name: {name}",
        f"description: {roles.interactions.path.name} and {roles.items.path.name}",
        "source:",
        "  adapter: files",
    ]
    for table, looked in (("interactions", roles.interactions), ("items", roles.items)):
        lines.append(f"  {table}: {_plain(os.path.relpath(looked.path.resolve(), folder))}")
    if roles.interactions.csv or roles.items.csv:
        lines.append("  csv:")
        for table, looked in (("interactions", roles.interactions), ("items", roles.items)):
            if looked.csv:
                lines.append(f"    {table}: {_plain(looked.csv)}  # {'; '.join(looked.evidence)}")
    lines += ["columns:", *_columns(roles)]
    if facts.nobody:
        lines.append(f"  # rows without a shopper, set aside: {facts.nobody} of {roles.interactions.rows:,}")
    unused = [each.name for each in roles.interactions.columns if each not in _used(roles)]
    lines += [f"  # of the interactions not used: {', '.join(unused)}"] if unused else []
    lines += [
        "features:",
        *(f"  - {_plain(guess.entry)}  # {guess.evidence}" for guess in roles.features[:MOST_FEATURES]),
    ]
    if len(roles.features) > MOST_FEATURES:
        left = ", ".join(
            str(guess.entry.get("column", guess.entry["name"])) for guess in roles.features[MOST_FEATURES:]
        )
        lines.append(f"  # more could be features: {left}")
    if not roles.features:
        raise InputError(f"{roles.items.path}: no column says anything about the items besides their id.")
    if title := next((g.entry["name"] for g in roles.features if g.entry["kind"] == "text"), None):
        lines.append(f"title: {title}")
    return "\n".join([*lines, *facts.lines, ""])


def _columns(roles: Roles) -> list[str]:
    per = roles.interactions.rows / max(1, roles.user.distinct)
    lines = [
        f"  user_id: {_plain(roles.user.name)}  # {roles.user.distinct:,} of them, {per:.1f} rows each",
        f"  item_id: {_plain(roles.item.name)}  # {roles.coverage:.1%} of its values are in the items table",
        f"  event_time: {_plain(roles.time.name)}  # {roles.time.times:.1%} are times, such as {roles.time.example}",
        f"  item_key: {_plain(roles.item_key.name)}  # {roles.item_key.distinct:,} in {roles.items.rows:,} rows",
    ]
    if roles.event_type is not None:
        lines.append(f"  event_type: {_plain(roles.event_type.entry['column'])}  # {roles.event_type.evidence}")
        lines.append(
            f"  event_types: {_plain(roles.event_type.entry['types'])}  # the kinds that count as interactions"
        )
    if roles.quantity is not None:
        lines.append(f"  quantity: {_plain(roles.quantity.name)}  # whole numbers, such as {roles.quantity.example}")
    if roles.basket is not None:
        lines.append(f"  basket: {_plain(roles.basket.name)}  # each of its values is one shopper's")
    if roles.available is not None:
        lines.append(f"  item_available_at: {_plain(roles.available.name)}  # times, before the item's interactions")
    return lines


def _used(roles: Roles) -> list[Seen]:
    found = [roles.user, roles.item, roles.time, roles.quantity, roles.basket]
    kind = roles.event_type.entry["column"] if roles.event_type else None
    return [each for each in [*found, *(c for c in roles.interactions.columns if c.name == kind)] if each is not None]


@dataclass(frozen=True, kw_only=True)
class _Facts:
    lines: list[str]
    nobody: int


def _facts(connection: duckdb.DuckDBPyConnection, roles: Roles) -> _Facts:
    """Split, repeats, calendar and limits, by what the events are like."""
    words = ", ".join(literal(word) for word in NOBODY)
    counting = ""
    if roles.event_type is not None:
        column = next(each for each in roles.interactions.columns if each.name == roles.event_type.entry["column"])
        counting = f"AND {column.key} IN ({', '.join(map(literal, roles.event_type.entry['types']))})"
    connection.execute(
        f"CREATE TEMP TABLE told AS FROM (SELECT {roles.user.key} AS u, {roles.item.key} AS i, "
        f"{_moment(roles.time)} AS t FROM {roles.interactions.name} WHERE true {counting}) "
        f"WHERE u IS NOT NULL AND lower(u) NOT IN ({words}) AND i IS NOT NULL "
        "AND t BETWEEN TIMESTAMPTZ '1971-01-01' AND now()"
    )
    ((nobody,),) = connection.execute(
        f"SELECT count(*) FROM {roles.interactions.name} WHERE {roles.user.key} IS NULL OR lower({roles.user.key}) "
        f"IN ({words})"
    ).fetchall()
    events, pairs, first, last, known = connection.execute(
        "SELECT count(*), count(DISTINCT (u, i)), min(t)::DATE, max(t)::DATE, "
        f"avg((i IN (SELECT {roles.item_key.key} FROM {roles.items.name}))::INT) FROM told"
    ).fetchall()[0]
    if not events:
        raise InputError(f"{roles.interactions.path}: no row has a shopper, an item and a time.")
    again = 1 - pairs / events
    lines = [f"repeats: {str(again > 0.1).lower()}  # {again:.1%} of the events repeat an item of the same shopper"]
    if roles.basket is not None:
        lines.append("ties: basket")
    lines += _split(connection, last)
    days = dict(connection.execute("SELECT t::DATE, count(*) FROM told GROUP BY 1").fetchall())
    every = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    closed = [w for n, w in enumerate(WEEKDAYS) if len(every) >= 28 and not any(d.weekday() == n for d in days)]
    missing = sum(day not in days and WEEKDAYS[day.weekday()] not in closed for day in every)
    shown = ", ".join(closed)
    lines.append(
        f"calendar: {{closed_weekdays: [{shown}], max_missing_days: {missing}}}  # {missing} open days without an event"
    )
    bad = 1 - events / max(1, roles.interactions.rows) if not counting else nobody / max(1, roles.interactions.rows)
    orphans = 0.0 if known >= 1 else min(1.0, round(1.2 * (1 - known) + 0.0005, 4))
    rejected = max(0.05, min(1.0, round(1.5 * bad + 0.02, 3)))
    lines.append(
        f"limits: {{max_rejected_rate: {rejected}, min_interactions: {events // 2}, max_orphan_rate: {orphans}}}"
        f"  # {bad:.1%} of the rows cannot be used, {1 - known:.2%} name an unknown item"
    )
    return _Facts(lines=lines, nobody=nobody)


def _split(connection: duckdb.DuckDBPyConnection, last: object) -> list[str]:
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
    ((judges,),) = connection.execute(
        "SELECT count(*) FROM (SELECT u FROM told GROUP BY u HAVING count(*) >= 3)"
    ).fetchall()
    return [f"split: {{by: order}}  # by time too few came again; {judges:,} shoppers have three events or more"]


def _plain(value: object) -> str:
    """A value as YAML, on one line."""
    told = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False)
    return told.removesuffix("\n...\n").strip().removesuffix("...").strip()
