"""How a source column is read: an SQL value of the contract's type, and the conditions under which a row is bad.

A value that cannot be read makes its row bad; a column none of whose values can be read, or of a type that can
never be, contradicts the card and is an `InputError`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from feature_repo.card import DatasetCard
from feature_repo.card_features import Described, Feature
from feature_repo.card_source import CardSource
from feature_repo.keys import (
    EVENT_TYPE,
    MOST_CHARACTERS,
    inexact_sql,
    spelled_sql,
)
from feature_repo.kinds import Storage
from runtime.errors import InputError
from runtime.sql import literal, quoted

STRUCTURED = ("STRUCT", "MAP", "UNION", "BLOB", "BIT")
WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
NAIVE_TIMES = ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS")
FOUR_DIGITS = "TIMESTAMPTZ '0100-01-01 00:00:00+00'"
"""DuckDB reads 01/06/25 as the 25th of June of the year 1: times before this had no year of four digits."""
DAY = 86_400_000_000
"""Microseconds."""
LAST_POSITION = 90_000
"""Synthesised times are one day a position and must stay within what nanosecond clocks can hold (the year 2262)."""


@dataclass(frozen=True)
class Given:
    """A column of the source: what its file calls it, what it is called in SQL here, and its type."""

    name: str
    sql: str
    kind: str


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the artifact, `value` in SQL over what the source gives; read once, it is called `slot`.

    Names of the program, of the card's features and of the source's columns are apart by how they are written in SQL
    (`value.user_id`, `feature.user_id`, `c0`), so that no name of a person can be one of the program's.
    """

    name: str
    slot: str
    given: Given
    value: str
    expected: str
    """In words, for messages."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Reason to SQL condition under which a value is there but is not what was expected."""
    unacceptable: dict[str, str] = field(default_factory=dict)
    """Reason to SQL condition under which a row is bad all the same."""
    advice: str = "Name the right column in the card."


def value_of(name: str) -> str:
    """SQL: what was read for a column that the card maps (user_id, event_time, …)."""
    return quoted(f"value.{name}")


def feature_of(name: str) -> str:
    """SQL: what was read for a feature of the card."""
    return quoted(f"feature.{name}")


def key(name: str, given: Given, *, reason: str | None) -> Column:
    """An identifier in its one spelling (feature_repo/keys.py); `reason` is that of a row without it."""
    value, who = _scalar(given, f"key {name}"), name.removesuffix("_id")
    slot = value_of(name)
    inexact = inexact_sql(given.sql, given.kind)
    bad = {f"long_{who}": f"length({slot}) > {MOST_CHARACTERS}"}
    if reason:
        bad[reason] = f"{slot} IS NULL AND NOT coalesce({inexact}, false)"
    if name == "event_type":
        bad = {"malformed_event_type": f"NOT regexp_matches({slot}, {literal(EVENT_TYPE)})"}
    return Column(
        name=name,
        slot=slot,
        given=given,
        value=value,
        expected="a key that a floating number can tell from the next",
        unreadable={} if inexact == "false" else {f"inexact_{who}": inexact},
        unacceptable=bad,
        advice="Write these ids as whole numbers (int64) or as text: as floating numbers several of them are one.",
    )


def user(given: Given, nobody: Sequence[str]) -> Column:
    """Who it was; `nobody` are words that stand for no user."""
    column = key("user_id", given, reason="missing_user")
    if not nobody:
        return column
    words = ", ".join(literal(word.lower()) for word in nobody)
    return replace(
        column, unacceptable={**column.unacceptable, "word_for_no_user": f"lower({column.slot}) IN ({words})"}
    )


def time(name: str, given: Given, *, zone: str, latest: str, written: str | None = None) -> Column:
    """A moment. Strings (ISO 8601, or as `written`, see strptime) and naive times are in `zone` unless they
    say otherwise; numbers are seconds, milliseconds or microseconds since 1970, by their size. A year of two digits is
    none. A local time that the clocks skipped is bad; of one that came twice the later is taken. `latest` is SQL: what
    comes after it is bad."""
    raw, there, value, kind = given.sql, _there(given), value_of(name), given.kind
    local = None
    if kind == "VARCHAR":
        parsed, local = _moment(there, zone)
    elif kind in NAIVE_TIMES:
        local = f"CAST({raw} AS TIMESTAMP)"
        parsed = f"timezone({literal(zone)}, {local})"
    elif kind == "TIMESTAMP WITH TIME ZONE":
        parsed = raw
    elif _is_number(kind):
        parsed = _epoch(f"{raw}::DOUBLE")
    else:
        raise InputError(
            f"column {given.name!r} ({name}) has type {kind}, expected times: timestamps, ISO 8601 or epochs."
        )
    if written is not None and (kind == "VARCHAR" or _is_number(kind)):
        mine = f"try_strptime({there}::VARCHAR, {literal(written)})"
        parsed = f"coalesce(timezone({literal(zone)}, {mine}), {parsed})"
        local = mine if local is None else f"coalesce({mine}, {local})"
    legible = f"isfinite({value}) AND {value} >= {FOUR_DIGITS}"
    bad = {"missing_time": f"{there} IS NULL", "future_time": f"isfinite({value}) AND {value} > {latest}"}
    if local is not None and zone != "UTC":
        bad["time_in_clock_change"] = f"isfinite({value}) AND timezone({literal(zone)}, {value}) <> {local}"
    return Column(
        name=name,
        slot=value,
        given=given,
        value=parsed,
        expected="a time (ISO 8601 or an epoch)",
        unreadable={"malformed_time": f"{there} IS NOT NULL AND NOT coalesce({legible}, false)"},
        unacceptable=bad,
        advice="Name the right column in the card, or say by source.time_format how they are written (%d.%m.%Y %H:%M).",
    )


_OFFSET = r"[0-9]:[0-9]{2}(:[0-9]{2}(\.[0-9]*)?)? ?([zZ]|UTC|GMT|[+-][0-9]{2}(:?[0-9]{2})?)$"
"""A time of day with its distance from UTC. A date alone ends like one (2025-06-30)."""
_NAMED = r"[0-9] ([A-Za-z][A-Za-z0-9_+/-]+)$"


def _moment(text: str, zone: str) -> tuple[str, str]:
    """SQL of the moment that a text names, and of its local time where it says no zone.

    No named zone may come to a cast to a time with a zone: DuckDB's keeps it for the rows after.
    """
    offset, named = (f"regexp_matches({text}, {literal(pattern)})" for pattern in (_OFFSET, _NAMED))
    # Without the space that some write before the offset; +00:00 is how every reader knows UTC.
    instant = f"regexp_replace(regexp_replace({text}, ' ?([zZ]|UTC|GMT)$', '+00:00'), ' ([+-][0-9:]+)$', '\\1')"
    place = f"regexp_extract({text}, {literal(_NAMED)}, 1)"
    known = f"{place} IN (SELECT name FROM pg_timezone_names())"
    there = f"TRY_CAST(regexp_replace({text}, ' [A-Za-z][A-Za-z0-9_+/-]+$', '') AS TIMESTAMP)"
    naive = f"TRY_CAST({text} AS TIMESTAMP)"
    moment = f"""CASE
        WHEN {offset} THEN TRY_CAST(CASE WHEN {offset} THEN {instant} END AS TIMESTAMPTZ)
        WHEN {named} THEN CASE WHEN {known} THEN timezone({place}, {there}) END
        ELSE coalesce(timezone({literal(zone)}, {naive}), {_epoch(f"TRY_CAST({text} AS DOUBLE)")}) END"""
    return moment, f"CASE WHEN NOT {offset} AND NOT {named} THEN {naive} END"


def _written_down(column: Column) -> Column:
    """A moment that may be missing, with reasons of its own."""
    bad = {reason: test for reason, test in column.unacceptable.items() if reason != "missing_time"}
    named = [{reason.replace("time", "created_time", 1): test for reason, test in tests.items()}
             for tests in (column.unreadable, bad)]  # fmt: skip
    return replace(column, unreadable=named[0], unacceptable=named[1])


def order(given: Given) -> Column:
    """A position, turned into a synthesised time: 2000-01-01 plus one day a position."""
    if given.kind != "VARCHAR" and not _is_number(given.kind):
        raise InputError(f"column {given.name!r} (position) has type {given.kind}, expected whole numbers from 0.")
    there, number = _there(given), f"TRY_CAST({given.sql} AS BIGINT)"
    return Column(
        name="event_time",
        slot=value_of("event_time"),
        given=given,
        value=f"CASE WHEN {number} BETWEEN 0 AND {LAST_POSITION} "
        f"THEN timezone('UTC', TIMESTAMP '2000-01-01' + to_days({number}::INTEGER)) END",
        expected=f"a whole number from 0 to {LAST_POSITION}",
        unreadable={"malformed_position": f"{there} IS NOT NULL AND {value_of('event_time')} IS NULL"},
        unacceptable={"missing_position": f"{there} IS NULL"},
    )


def quantity(given: Given, decimal: str) -> Column:
    """A number of pieces; a missing one is taken as it comes."""
    there, value = _there(given), value_of("quantity")
    return Column(
        name="quantity",
        slot=value,
        given=given,
        value=_number(given, "quantity", decimal),
        expected="a number",
        unreadable={"malformed_quantity": f"{there} IS NOT NULL AND NOT coalesce(isfinite({value}), false)"},
        unacceptable={"negative_quantity": f"{value} < 0", "zero_quantity": f"{value} = 0"},
    )


def day(spec: Described, given: Given, source: CardSource) -> Column:
    """A feature that is a date: days since 1970 of a moment that is written as `time` reads it."""
    read = time(spec.name, given, zone=source.timezone, latest="'infinity'", written=source.time_format)
    value = feature_of(spec.name)
    return replace(
        read,
        slot=value,
        value=f"CASE WHEN isfinite({read.value}) AND {read.value} >= {FOUR_DIGITS} "
        f"THEN epoch_us({read.value}) / {DAY}.0 END",
        expected="a date or a time (ISO 8601 or an epoch)",
        unreadable={f"{spec.name}_not_a_date": f"{_there(given)} IS NOT NULL AND {value} IS NULL"},
        unacceptable={},
    )


def feature(spec: Described, given: Given, decimal: str, source: CardSource) -> Column:
    """A feature of the card, as its kind's type. Raises `InputError` for a type that can never be of the kind."""
    if isinstance(spec, Feature) and spec.date:
        return day(spec, given, source)
    what, value = f"feature {spec.name!r} ({spec.kind})", feature_of(spec.name)
    mine = partial(Column, name=spec.name, slot=value, given=given)
    match spec.storage:
        case Storage.NUMBER:
            return mine(
                value=_number(given, what, decimal),
                expected="a number",
                unreadable={
                    f"{spec.name}_not_a_number": f"{_there(given)} IS NOT NULL AND {value} IS NULL",
                    f"{spec.name}_not_finite": f"NOT isfinite({value})",
                },
                advice="Name another column, declare it as categorical or text, or write its numbers as 1234.50 "
                '(with a comma: `decimal: ","` in source.csv).',
            )
        case Storage.TEXTS:
            return mine(value=_strings(spec, given), expected="a list of values")
        case Storage.VECTOR:
            assert isinstance(spec, Feature), "who asks has no vectors"
            return mine(
                value=_vector(spec, given),
                expected=f"{spec.dimension} numbers",
                unreadable={
                    f"{spec.name}_wrong_dimension": f"len({value}) <> {spec.dimension}",
                    f"{spec.name}_not_finite": f"len(list_filter({value}, x -> x IS NULL OR NOT isfinite(x))) > 0",
                },
                advice=f"Correct its dimension (the card says {spec.dimension}) or separator (now {spec.separator!r}).",
            )
        case Storage.TEXT:
            return mine(value=_scalar(given, what), expected="a single value")


def _there(given: Given) -> str:
    """The source's value, NULL where a string has nothing in it."""
    return f"nullif(trim({given.sql}), '')" if given.kind == "VARCHAR" else given.sql


def _is_number(kind: str) -> bool:
    return kind in WHOLE or kind in ("FLOAT", "DOUBLE") or (kind.startswith("DECIMAL") and not kind.endswith("]"))


def _is_list(kind: str) -> bool:
    """Of single values; DuckDB writes VARCHAR[] and FLOAT[16]."""
    return kind.endswith("]") and kind.count("[") == 1 and not kind.startswith(STRUCTURED)


def _scalar(given: Given, what: str) -> str:
    kind = given.kind
    if kind.endswith("]") or kind.startswith(STRUCTURED):
        raise InputError(f"{what}: column {given.name!r} has type {kind}, expected single values. Correct the card.")
    return spelled_sql(given.sql, kind)


def _number(given: Given, what: str, decimal: str) -> str:
    kind = given.kind
    if kind != "VARCHAR" and not _is_number(kind):
        raise InputError(
            f"{what}: column {given.name!r} has type {kind}, expected numbers. Correct its kind or column."
        )
    there = _there(given)
    if decimal == "," and kind == "VARCHAR":
        whole = f"regexp_matches(trim({there}), '^[-+]?([0-9]{{1,3}}([.][0-9]{{3}})+|[0-9]+)(,[0-9]+)?$')"
        there = f"CASE WHEN {whole} THEN replace(replace({there}, '.', ''), ',', '.') END"
    return f"TRY_CAST({there} AS DOUBLE)"


def _strings(spec: Described, given: Given) -> str:
    if given.kind == "VARCHAR":
        parts, kind = f"string_split({given.sql}, {literal(spec.separator)})", "VARCHAR"
    elif _is_list(given.kind):
        parts, kind = given.sql, given.kind[: given.kind.index("[")]
    else:
        raise InputError(
            f"feature {spec.name!r} (multi_categorical): column {given.name!r} has type {given.kind}, expected a "
            "list of values, or a string with the card's `separator`. A single value is of kind categorical."
        )
    named = f"list_filter(list_transform({parts}, x -> {spelled_sql('x', kind)}), x -> x IS NOT NULL)"
    return f"CASE WHEN len({named}) > 0 THEN {named} END"


def _vector(spec: Feature, given: Given) -> str:
    if given.kind == "VARCHAR":
        inner = f"nullif(trim({given.sql}, ' []()'), '')"
        return f"list_transform(string_split({inner}, {literal(spec.separator)}), x -> TRY_CAST(trim(x) AS FLOAT))"
    if _is_list(given.kind) and _is_number(given.kind[: given.kind.index("[")]):
        return f"list_transform({given.sql}, x -> TRY_CAST(x AS FLOAT))"
    raise InputError(
        f"feature {spec.name!r} (embedding): column {given.name!r} has type {given.kind}, expected a list of "
        "numbers, or a string of numbers with the card's `separator`. Correct its kind or column."
    )


def _epoch(number: str) -> str:
    scale = f"CASE WHEN {number} < 1e11 THEN 1e6 WHEN {number} < 1e14 THEN 1e3 ELSE 1 END"
    # From 1973 on, so that a year or a date written as one number is not taken for a moment in 1970.
    return f"CASE WHEN {number} BETWEEN 1e8 AND 1e17 THEN make_timestamptz(({number} * {scale})::BIGINT) END"


def columns_of_interactions(
    card: DatasetCard, given: dict[str, Given], *, latest: str, all_features: bool
) -> list[Column]:
    """What the card reads from the interactions; `all_features` where the source has no items table."""
    names, source = card.columns, card.source
    moment = partial(time, zone=source.timezone, latest=latest, written=source.time_format)
    decimal = source.csv.interactions.decimal
    found = [
        user(given[names.user_id], names.nobody),
        key("item_id", given[names.item_id], reason="missing_item"),
    ]
    if names.event_time is not None:
        found.append(moment("event_time", given[names.event_time]))
    else:
        assert names.position is not None
        found.append(order(given[names.position]))
    if names.created_time is not None:
        found.append(_written_down(moment("created_time", given[names.created_time])))
    if names.event_type is not None:
        found.append(key("event_type", given[names.event_type], reason=None))
    if names.basket is not None:
        found.append(key("basket", given[names.basket], reason=None))
    if names.quantity is not None:
        found.append(quantity(given[names.quantity], decimal))
    read = card.read_off_interactions(has_items=not all_features)
    return found + [feature(spec, given[spec.source_column], decimal, source) for spec in read]


def columns_of_items(card: DatasetCard, given: dict[str, Given], *, latest: str) -> list[Column]:
    """What the card reads from the items table."""
    names, source = card.columns, card.source
    found = [key("item_id", given[names.item_key], reason="missing_item")]
    if (column := names.item_available_at) is not None:
        written = source.time_format
        found.append(time("event_time", given[column], zone=source.timezone, latest=latest, written=written))
    decimal = source.csv.items.decimal
    return found + [
        feature(spec, given[spec.source_column], decimal, source) for spec in card.sourced if spec.table == "items"
    ]
