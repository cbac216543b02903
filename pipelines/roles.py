"""Which of some tables holds interactions, which the items, and what their columns are."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import duckdb

from components.ingest.parse import LAST_POSITION, Given, order
from pipelines.guess import (
    Guess,
    date_of,
    feature_of,
    is_basket,
    is_moment,
    is_number_of,
    is_quantity,
    is_user,
    strongest_types,
)
from pipelines.look import (
    InspectedColumn,
    InspectedTable,
    counted,
    moment,
    overlap,
    says,
    seen,
)
from runtime.errors import InputError
from runtime.sql import literal

_ITEM = (
    "item|product|sku|movie|film|asin|article|artikel|produkt|producto|produit|articulo|book|song|track|stock|goods|"
    "listing|isbn|offer|content|video|recipe|game"
)
_ITEMS = f"{_ITEM}|catalog(?:ue)?|meta(?:data)?|properties"
_PEOPLE = "user|customer|client|member|household|kunde|kunden|people|person|account"
_IN_ORDER = "day|days|position|step|seq|sequence|week|period"
TELLING = 0.75
"""Share of the mistakes about a column that knowing the item spares, from which on the column says something of it."""
SAMPLE = 200
"""Values of a column that are looked for in other tables before all of them are."""


@dataclass(kw_only=True)
class Roles:
    """Which table is which, and what their columns are."""

    interactions: InspectedTable
    items: InspectedTable
    alone: bool = False
    """Whether there is no table of items: `items` then has what the interactions say of each."""
    item: InspectedColumn
    item_key: InspectedColumn
    coverage: float
    user: InspectedColumn
    time: InspectedColumn
    positional: bool = False
    """Whether `time` knows the order alone: numbers of days or steps."""
    event_type: Guess | None = None
    quantity: InspectedColumn | None = None
    basket: InspectedColumn | None = None
    available: InspectedColumn | None = None
    features: list[Guess] = field(default_factory=list)

    @property
    def moment(self) -> str:
        return _when(self.time, self.positional)


class _Shoppers:
    """A table that may be one of interactions: when things happened, and who may be its shoppers, likeliest first."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, table: InspectedTable) -> None:
        self._connection, self.table = connection, table
        times = [each for each in table.columns if each.times > 0.9 and not is_number_of(each)]
        times.sort(key=_as_time, reverse=True)
        steps = [] if times else sorted(filter(self._is_step, table.columns), key=lambda each: -each.distinct)
        self.positional = not times
        self.time = next(iter([*times, *steps]), None)

    @cached_property
    def users(self) -> list[InspectedColumn]:
        found = [each for each in self.table.columns if each is not self.time and is_user(each) > 0]
        scores = {each.name: is_user(each) - 1.5 * self._is_one_visit(each) for each in found}
        return sorted(found, key=lambda each: -scores[each.name])

    def users_but(self, *others: InspectedColumn) -> list[InspectedColumn]:
        return [each for each in self.users if each not in others]

    def _is_step(self, column: InspectedColumn) -> bool:
        if not (column.says(_IN_ORDER) and column.numbers > 0.99 and column.whole > 0.99 and column.distinct > 2):
            return False
        ((first, last),) = self._connection.execute(
            f"SELECT min(n), max(n) FROM (SELECT TRY_CAST({column.key} AS DOUBLE) AS n FROM {self.table.name})"
        ).fetchall()
        return bool(first >= 0 and last <= LAST_POSITION)

    def _is_one_visit(self, column: InspectedColumn) -> bool:
        """Whether the rows of one value nearly all lie on one day, as those of an order or a session do."""
        assert self.time is not None
        day = f"{_when(self.time, self.positional)}::DATE"
        ((days, share),) = self._connection.execute(
            f"SELECT (SELECT count(DISTINCT {day}) FROM {self.table.name}), avg((days > 1)::INT) FROM (SELECT count(*) "
            f"AS n, count(DISTINCT {day}) AS days FROM {self.table.name} WHERE {column.key} IS NOT NULL "
            f"GROUP BY {column.key}) WHERE n > 1"
        ).fetchall()
        return bool(days > 2 and (share is None or share < 0.2))


def find_roles(connection: duckdb.DuckDBPyConnection, looked: list[InspectedTable]) -> Roles:
    """The pair of tables, and the columns by which one names rows of the other, that fit best; or the one table that
    holds interactions and what there is to know of the items.

    Raises `InputError` where there are none.
    """
    found = max(_pairs(connection, looked), key=lambda each: each[0], default=None)
    if found is not None:
        roles = found[1]
    elif len(looked) == 1:
        roles = _alone(connection, looked[0])
    else:
        raise InputError(_nothing(connection, looked))
    _rest(connection, roles)
    return roles


def _pairs(connection: duckdb.DuckDBPyConnection, looked: list[InspectedTable]) -> Iterator[tuple[float, Roles]]:
    for interactions in looked:
        shoppers = _Shoppers(connection, interactions)
        if shoppers.time is None or not shoppers.users:
            continue
        for items in (each for each in looked if each is not interactions):
            keys = [key for key in items.columns if _may_be_key(key)]
            said = _said(connection, items) if keys else 0.0
            for item in interactions.columns:
                users = shoppers.users_but(item)
                if item is shoppers.time or item.distinct >= 0.95 * item.filled or not users:
                    continue
                if item.times > 0.9 > item.numbers:
                    continue
                for key in _sharing(connection, interactions, item, items, keys):
                    share, back = (
                        overlap(connection, interactions, item, items, key),
                        overlap(connection, items, key, interactions, item),
                    )
                    if share <= 0.5:
                        continue
                    score = share + 0.3 * back + _alike(item, key) + said + key.distinct / max(1, key.filled)
                    score += 0.2 * (items.columns[0] is key)
                    places = [interactions.columns.index(each) for each in (users[0], item)]
                    score += 0.1 * (places[0] < places[1])
                    yield score, Roles(
                        interactions=interactions, items=items, item=item, item_key=key, coverage=share,
                        user=users[0], time=shoppers.time, positional=shoppers.positional,
                    )  # fmt: skip


def _may_be_key(key: InspectedColumn) -> bool:
    return key.filled >= 0.9 * key.rows and key.distinct >= 2 and key.filled <= 20 * key.distinct and key.words <= 1.5


def _said(connection: duckdb.DuckDBPyConnection, items: InspectedTable) -> float:
    """How much a table is like one of items: words and kinds in its columns, and what it is called."""
    guesses = [guess for each in items.columns if (guess := feature_of(connection, items, each)) is not None]
    called = items.path.stem
    told = 0.3 * any(not guess.is_number for guess in guesses)
    told += 0.3 * any(guess.is_text for guess in guesses) - 2.0 * (not guesses)
    return told + 0.5 * says(called, _ITEMS) - 0.7 * says(called, _PEOPLE)


def _sharing(
    connection: duckdb.DuckDBPyConnection,
    one: InspectedTable,
    column: InspectedColumn,
    other: InspectedTable,
    keys: list[InspectedColumn],
) -> list[InspectedColumn]:
    """Those of `keys` that have some of the values of `column`, by a sample of them."""
    if not keys:
        return []
    rows = connection.execute(
        f"SELECT DISTINCT k FROM (SELECT {column.key} AS k FROM {one.name}) WHERE k IS NOT NULL ORDER BY hash(k) "
        f"LIMIT {SAMPLE}"
    ).fetchall()
    values = ", ".join(literal(value) for (value,) in rows)
    if not values:
        return []
    counts = connection.execute(
        f"SELECT {', '.join(f'count(DISTINCT {key.key}) FILTER ({key.key} IN ({values}))' for key in keys)} "
        f"FROM {other.name}"
    ).fetchall()[0]
    return [key for key, count in zip(keys, counts, strict=True) if count > 0.2 * len(rows)]


def _alone(connection: duckdb.DuckDBPyConnection, table: InspectedTable) -> Roles:
    """The roles in a table of interactions that says itself what its items are."""
    shoppers = _Shoppers(connection, table)
    candidates = [
        each
        for each in table.columns
        if each is not shoppers.time and 1 < each.distinct < 0.8 * each.filled and each.words <= 1.5
        and each.says(_ITEM) and (each.times <= 0.9 or each.numbers > 0.9)
    ]  # fmt: skip
    best: tuple[float, Roles] | None = None
    for item in candidates if shoppers.time is not None else []:
        told = [
            each
            for each in table.columns
            if each not in (item, shoppers.time) and _determines(connection, table, item, each)
        ]
        users = shoppers.users_but(item, *told)
        score = len(told) + 2.0 * item.says(f"(?:{_ITEM})(?: ?id)") + item.distinct / max(1, item.filled)
        if not users or not told or shoppers.time is None or (best is not None and score <= best[0]):
            continue
        listed = ", ".join(f"mode({each.sql}) AS c{n}" for n, each in enumerate(told, start=1))
        name = f"items_by_{item.sql}"
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT {item.key} AS c0, {listed} FROM {table.name} "
            f"WHERE {item.key} IS NOT NULL GROUP BY ALL"
        )
        items = seen(connection, name, table.path, [item.name, *(each.name for each in told)])
        best = score, Roles(
            interactions=table, items=items, alone=True, item=item, item_key=items.columns[0], coverage=1.0,
            user=users[0], time=shoppers.time, positional=shoppers.positional,
        )  # fmt: skip
    if best is None:
        raise InputError(
            f"{table.path}: one table alone, and none of its columns is an item's id by its name with others that say "
            f"something of each item. {_what_is_there(shoppers)} Give the table of the items too: a line an item, with "
            "its id as the interactions have it, and at least one thing about it."
        )
    return best[1]


def _determines(
    connection: duckdb.DuckDBPyConnection, table: InspectedTable, item: InspectedColumn, column: InspectedColumn
) -> bool:
    """Whether who knows the item knows the column, by Goodman and Kruskal's lambda: what nearly all rows share anyway
    (a country) says nothing of the item, and a word that is spelled now so, now so, does."""
    ((share,),) = connection.execute(
        f"WITH pairs AS (SELECT {item.key} AS i, {column.key} AS v, count(*) AS n FROM {table.name} "
        "WHERE v IS NOT NULL AND i IS NOT NULL GROUP BY ALL), most AS (SELECT max(n) AS n FROM (SELECT sum(n) AS n "
        "FROM pairs GROUP BY v)) SELECT (sum(best) - any_value(most.n)) / (sum(total) - any_value(most.n)) "
        "FROM (SELECT max(n) AS best, sum(n) AS total FROM pairs GROUP BY i), most"
    ).fetchall()
    return bool(column.distinct > 1 and share is not None and share > TELLING)


def _nothing(connection: duckdb.DuckDBPyConnection, looked: list[InspectedTable]) -> str:
    told = " ".join(f"{each.path}: {_what_is_there(_Shoppers(connection, each))}" for each in looked)
    return (
        f"no table names the rows of another one and has times and shoppers beside. {told} Expected interactions (who, "
        "what, when) and items (what, and things about it); ids must be spelled alike in both."
    )


def _what_is_there(shoppers: _Shoppers) -> str:
    if shoppers.time is None:
        return "No column holds times (or numbers of days) that can be read."
    users = ", ".join(repr(each.name) for each in shoppers.users[:3])
    return f"Times are in {shoppers.time.name!r}, shoppers perhaps in {users or 'no column'}."


def _rest(connection: duckdb.DuckDBPyConnection, roles: Roles) -> None:
    taken = [roles.user, roles.item, roles.time]
    told = [each.name for each in roles.items.columns] if roles.alone else []
    for column in roles.interactions.columns:
        if column in taken or column.name in told:
            continue
        if roles.event_type is None and column.distinct <= 30 and column.numbers < 0.5:
            roles.event_type = strongest_types(column, counted(connection, roles.interactions, column, 30))
            if roles.event_type is not None:
                continue
        if roles.quantity is None and is_quantity(column):
            roles.quantity = column
        elif roles.basket is None and is_basket(column) and _of_one(connection, roles, column):
            roles.basket = column
        elif roles.alone and column.says("price|cost|amount") and column.numbers > 0.95:
            guess = feature_of(connection, roles.interactions, column)
            if guess is not None and guess.is_number:
                paid = {**guess.entry, "table": "interactions", "varies_in_time": True}
                roles.features.append(replace(guess, entry=paid))
    repeated = roles.item_key.distinct < roles.item_key.filled
    for column in roles.items.columns:
        if column is roles.item_key:
            continue
        if (
            roles.available is None
            and not roles.alone
            and column.times > 0.9
            and (repeated or column.says("since|available|from|launch(?:ed)?|created|added|listed"))
            and not roles.positional
            and column.format in (None, roles.time.format)
            and _known_in_time(connection, roles, column)
        ):
            roles.available = column
        elif (guess := _guess(connection, roles, column)) is not None:
            roles.features.append(guess)


def _guess(connection: duckdb.DuckDBPyConnection, roles: Roles, column: InspectedColumn) -> Guess | None:
    """What a column of the items says; of data that knows no times nobody knows how its dates are meant."""
    if is_moment(column):
        return None if roles.positional else date_of(column, roles.time.format)
    return feature_of(connection, roles.items, column)


def _of_one(connection: duckdb.DuckDBPyConnection, roles: Roles, column: InspectedColumn) -> bool:
    """Whether nearly every value of the column is one shopper's."""
    ((share,),) = connection.execute(
        f"SELECT avg((users <= 1)::INT) FROM (SELECT count(DISTINCT {roles.user.key}) AS users "
        f"FROM {roles.interactions.name} WHERE {column.key} IS NOT NULL GROUP BY {column.key})"
    ).fetchall()
    return bool((share or 0) > 0.99)


def _known_in_time(connection: duckdb.DuckDBPyConnection, roles: Roles, column: InspectedColumn) -> bool:
    """Whether nearly all interactions come after the date of their item."""
    ((share,),) = connection.execute(
        f"SELECT avg((m >= since)::INT) FROM (SELECT {roles.item.key} AS k, {roles.moment} AS m "
        f"FROM {roles.interactions.name}) JOIN (SELECT {roles.item_key.key} AS k, min({moment(column)}) AS since "
        f"FROM {roles.items.name} GROUP BY 1) USING (k)"
    ).fetchall()
    return bool((share or 0) > 0.99)


def _when(column: InspectedColumn, positional: bool) -> str:
    return order(Given(column.name, column.sql, column.kind)).value if positional else moment(column)


def _as_time(column: InspectedColumn) -> float:
    named = column.says("time|date|at|ts|timestamp|when|day|datetime|on|datum|fecha|data")
    return column.times + named + (column.numbers < 0.5) * 0.3


def _alike(item: InspectedColumn, key: InspectedColumn) -> float:
    same = item.name.lower() == key.name.lower() and re.fullmatch("column_[0-9]+", key.name) is None
    return 0.5 * same + 0.3 * item.says(_ITEM) - 0.5 * (is_user(item) > 1)
