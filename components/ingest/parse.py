"""How a source column is read: an SQL value of the contract's type, and the conditions under which a row is bad.

A value that cannot be read makes its row bad; a column none of whose values can be read, or of a type that can
never be, contradicts the card and is an `InputError`.
"""

from dataclasses import dataclass, field, replace

from components.errors import InputError
from feature_repo.card import DatasetCard, Feature, Kind

STRUCTURED = ("STRUCT", "MAP", "UNION", "BLOB", "BIT")
WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
NAIVE_TIMES = ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS")
FOUR_DIGITS = "TIMESTAMPTZ '0100-01-01 00:00:00+00'"
"""DuckDB reads 01/06/25 as the 25th of June of the year 1: times before this had no year of four digits."""
LAST_POSITION = 90_000
"""Synthesised times are one day a position and must stay within what nanosecond clocks can hold (the year 2262)."""

SQL_TYPE: dict[Kind, str] = {
    "categorical": "VARCHAR",
    "multi_categorical": "VARCHAR[]",
    "numeric": "DOUBLE",
    "text": "VARCHAR",
    "embedding": "FLOAT[]",
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of the artifact, `value` in SQL over the source's `column`; read once, it is called `__<name>`."""

    name: str
    column: str
    value: str
    expected: str
    """In words, for messages."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Reason to SQL condition under which a value is there but is not what was expected."""
    unacceptable: dict[str, str] = field(default_factory=dict)
    """Reason to SQL condition under which a row is bad all the same."""
    advice: str = "Name the right column in the card."


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """An SQL string."""
    return "'" + text.replace("'", "''") + "'"


def key(name: str, column: str, kind: str, *, reason: str | None) -> Column:
    """An identifier as a string; whole numbers lose the `.0` that a missing value elsewhere gave them."""
    missing = {reason: f"{_read(name)} IS NULL"} if reason else {}
    value = _scalar(column, kind, f"key {name}")
    return Column(name=name, column=column, value=value, expected="a key", unacceptable=missing)


def time(name: str, column: str, kind: str, *, zone: str, latest: str) -> Column:
    """A moment. Strings (ISO 8601) and naive times are in `zone` unless they say otherwise; numbers are seconds,
    milliseconds or microseconds since 1970, by their size. A year of two digits is none. A local time that the clocks
    skipped is bad; of one that came twice the later is taken. `latest` is SQL: what comes after it is bad."""
    raw, given, value = quoted(column), _given(column, kind), _read(name)
    local = None
    if kind == "VARCHAR":
        parsed = f"coalesce(TRY_CAST({given} AS TIMESTAMPTZ), {_epoch(f'TRY_CAST({given} AS DOUBLE)')})"
        says_zone = f"regexp_matches({given}, '(Z|UTC|[+-][0-9]{{2}}(:?[0-9]{{2}})?)$')"
        local = f"CASE WHEN NOT {says_zone} THEN TRY_CAST({given} AS TIMESTAMP) END"
    elif kind in NAIVE_TIMES:
        parsed, local = f"CAST({raw} AS TIMESTAMPTZ)", f"CAST({raw} AS TIMESTAMP)"
    elif kind == "TIMESTAMP WITH TIME ZONE":
        parsed = raw
    elif _is_number(kind):
        parsed = _epoch(f"{raw}::DOUBLE")
    else:
        raise InputError(f"column {column!r} ({name}) has type {kind}, expected times: timestamps, ISO 8601 or epochs.")
    legible = f"isfinite({value}) AND {value} >= {FOUR_DIGITS}"
    bad = {"missing_time": f"{given} IS NULL", "future_time": f"isfinite({value}) AND {value} > {latest}"}
    if local is not None and zone != "UTC":
        bad["time_in_clock_change"] = f"isfinite({value}) AND timezone({literal(zone)}, {value}) <> {local}"
    return Column(
        name=name,
        column=column,
        value=parsed,
        expected="a time (ISO 8601 or an epoch)",
        unreadable={"malformed_time": f"{given} IS NOT NULL AND NOT coalesce({legible}, false)"},
        unacceptable=bad,
        advice="Name the right column in the card, or write its times as 2025-06-30 18:45:00, the year first.",
    )


def _written_down(column: Column) -> Column:
    """A moment that may be missing, with reasons of its own."""
    bad = {reason: test for reason, test in column.unacceptable.items() if reason != "missing_time"}
    named = [{reason.replace("time", "created_time", 1): test for reason, test in tests.items()}
             for tests in (column.unreadable, bad)]  # fmt: skip
    return replace(column, unreadable=named[0], unacceptable=named[1])


def order(column: str, kind: str) -> Column:
    """A position, turned into a synthesised time: 2000-01-01 plus one day a position."""
    if kind != "VARCHAR" and not _is_number(kind):
        raise InputError(f"column {column!r} (position) has type {kind}, expected whole numbers from 0.")
    given, number = _given(column, kind), f"TRY_CAST({quoted(column)} AS BIGINT)"
    return Column(
        name="event_time",
        column=column,
        value=f"CASE WHEN {number} BETWEEN 0 AND {LAST_POSITION} "
        f"THEN timezone('UTC', TIMESTAMP '2000-01-01' + to_days({number}::INTEGER)) END",
        expected=f"a whole number from 0 to {LAST_POSITION}",
        unreadable={"malformed_position": f"{given} IS NOT NULL AND {_read('event_time')} IS NULL"},
        unacceptable={"missing_position": f"{given} IS NULL"},
    )


def quantity(column: str, kind: str) -> Column:
    """A number of pieces; a missing one is taken as it comes."""
    given, value = _given(column, kind), _read("quantity")
    return Column(
        name="quantity",
        column=column,
        value=_number(column, kind, "quantity"),
        expected="a number",
        unreadable={"malformed_quantity": f"{given} IS NOT NULL AND NOT coalesce(isfinite({value}), false)"},
        unacceptable={"negative_quantity": f"{value} < 0", "zero_quantity": f"{value} = 0"},
    )


def feature(spec: Feature, kind: str) -> Column:
    """A feature of the card, as its kind's type. Raises `InputError` for a type that can never be of the kind."""
    column, what = spec.source_column, f"feature {spec.name!r} ({spec.kind})"
    value = _read(spec.name)
    if spec.kind == "numeric":
        return Column(
            name=spec.name,
            column=column,
            value=_number(column, kind, what),
            expected="a number",
            unreadable={
                f"{spec.name}_not_a_number": f"{_given(column, kind)} IS NOT NULL AND {value} IS NULL",
                f"{spec.name}_not_finite": f"NOT isfinite({value})",
            },
            advice="Name another column, declare it as categorical or text, or write its numbers as 1234.50.",
        )
    if spec.kind == "multi_categorical":
        return Column(name=spec.name, column=column, value=_strings(spec, kind), expected="a list of values")
    if spec.kind == "embedding":
        return Column(
            name=spec.name,
            column=column,
            value=_vector(spec, kind),
            expected=f"{spec.dimension} numbers",
            unreadable={
                f"{spec.name}_wrong_dimension": f"len({value}) <> {spec.dimension}",
                f"{spec.name}_not_finite": f"len(list_filter({value}, x -> x IS NULL OR NOT isfinite(x))) > 0",
            },
            advice=f"Correct its dimension (the card says {spec.dimension}) or separator (now {spec.separator!r}).",
        )
    return Column(name=spec.name, column=column, value=_scalar(column, kind, what), expected="a single value")


def _read(name: str) -> str:
    return quoted(f"__{name}")


def _given(column: str, kind: str) -> str:
    """The source's value, NULL where a string has nothing in it."""
    return f"nullif(trim({quoted(column)}), '')" if kind == "VARCHAR" else quoted(column)


def _is_number(kind: str) -> bool:
    return kind in WHOLE or kind in ("FLOAT", "DOUBLE") or (kind.startswith("DECIMAL") and not kind.endswith("]"))


def _is_list(kind: str) -> bool:
    """Of single values; DuckDB writes VARCHAR[] and FLOAT[16]."""
    return kind.endswith("]") and kind.count("[") == 1 and not kind.startswith(STRUCTURED)


def _scalar(column: str, kind: str, what: str) -> str:
    if kind.endswith("]") or kind.startswith(STRUCTURED):
        raise InputError(f"{what}: column {column!r} has type {kind}, expected single values. Correct the card.")
    raw = quoted(column)
    if kind in ("FLOAT", "DOUBLE"):
        whole = f"TRY_CAST({raw} AS BIGINT)"
        text = f"CASE WHEN {whole} = {raw} THEN {whole}::VARCHAR ELSE {raw}::VARCHAR END"
        return f"CASE WHEN isfinite({raw}) THEN {text} END"
    return f"nullif(trim({raw}::VARCHAR), '')"


def _number(column: str, kind: str, what: str) -> str:
    if kind != "VARCHAR" and not _is_number(kind):
        raise InputError(f"{what}: column {column!r} has type {kind}, expected numbers. Correct its kind or column.")
    return f"TRY_CAST({_given(column, kind)} AS DOUBLE)"


def _strings(spec: Feature, kind: str) -> str:
    raw = quoted(spec.source_column)
    if kind == "VARCHAR":
        parts = f"string_split({raw}, {literal(spec.separator)})"
    elif _is_list(kind):
        parts = f"CAST({raw} AS VARCHAR[])"
    else:
        raise InputError(
            f"feature {spec.name!r} (multi_categorical): column {spec.source_column!r} has type {kind}, expected a "
            "list of values, or a string with the card's `separator`. A single value is of kind categorical."
        )
    trimmed = f"list_filter(list_transform({parts}, x -> trim(x)), x -> x <> '')"
    return f"CASE WHEN len({trimmed}) > 0 THEN {trimmed} END"


def _vector(spec: Feature, kind: str) -> str:
    raw = quoted(spec.source_column)
    if kind == "VARCHAR":
        inner = f"nullif(trim({raw}, ' []()'), '')"
        return f"list_transform(string_split({inner}, {literal(spec.separator)}), x -> TRY_CAST(trim(x) AS FLOAT))"
    if _is_list(kind) and _is_number(kind[: kind.index("[")]):
        return f"CAST({raw} AS FLOAT[])"
    raise InputError(
        f"feature {spec.name!r} (embedding): column {spec.source_column!r} has type {kind}, expected a list of "
        "numbers, or a string of numbers with the card's `separator`. Correct its kind or column."
    )


def _epoch(number: str) -> str:
    scale = f"CASE WHEN {number} < 1e11 THEN 1e6 WHEN {number} < 1e14 THEN 1e3 ELSE 1 END"
    # From 1973 on, so that a year or a date written as one number is not taken for a moment in 1970.
    return f"CASE WHEN {number} BETWEEN 1e8 AND 1e17 THEN make_timestamptz(({number} * {scale})::BIGINT) END"


def columns_of_interactions(
    card: DatasetCard, types: dict[str, str], *, latest: str, all_features: bool
) -> list[Column]:
    """What the card reads from the interactions; `all_features` where the source has no items table."""
    names = card.columns
    found = [
        key("user_id", names.user_id, types[names.user_id], reason="missing_user"),
        key("item_id", names.item_id, types[names.item_id], reason="missing_item"),
    ]
    if names.event_time is not None:
        kind = types[names.event_time]
        found.append(time("event_time", names.event_time, kind, zone=card.source.timezone, latest=latest))
    else:
        assert names.position is not None
        found.append(order(names.position, types[names.position]))
    if names.created_time is not None:
        kind, zone = types[names.created_time], card.source.timezone
        found.append(_written_down(time("created_time", names.created_time, kind, zone=zone, latest=latest)))
    if names.event_type is not None:
        found.append(key("event_type", names.event_type, types[names.event_type], reason=None))
    if names.basket is not None:
        found.append(key("basket", names.basket, types[names.basket], reason=None))
    if names.quantity is not None:
        found.append(quantity(names.quantity, types[names.quantity]))
    read = [spec for spec in card.sourced if all_features or spec.table == "interactions"]
    return found + [feature(spec, types[spec.source_column]) for spec in read]


def columns_of_items(card: DatasetCard, types: dict[str, str], *, latest: str) -> list[Column]:
    """What the card reads from the items table."""
    names = card.columns
    found = [key("item_id", names.item_key, types[names.item_key], reason="missing_item")]
    if (column := names.item_available_at) is not None:
        found.append(time("event_time", column, types[column], zone=card.source.timezone, latest=latest))
    return found + [feature(spec, types[spec.source_column]) for spec in card.sourced if spec.table == "items"]
