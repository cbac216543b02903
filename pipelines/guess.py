"""What a column is likely to be: by its values first, by its name where values leave it open."""

import re
from dataclasses import dataclass
from typing import Any

import duckdb

from feature_repo.card import RESERVED
from feature_repo.keys import is_event_type
from pipelines.look import Looked, Seen, shares

_BOUGHT = re.compile(r"purchas|buy|bought|order|transaction|sale|checkout|paid", re.I)
_SEEN = re.compile(
    r"view|click|cart|basket|wish|favou?rite|like|play|listen|rate|rating|read|watch|detail|impression", re.I
)
_AGAINST = re.compile(r"dislike|remove|return|refund|cancel|hide|skip|unlike|block|report", re.I)
_SEPARATORS = ("|", ";", ">", ",")
_LINK = r"^(https?://|www\.)|\.(jpe?g|png|gif)$"
_NUMBERS = r"^[\[( ]*-?[0-9.]+(e-?[0-9]+)?([;, |]+-?[0-9.]+(e-?[0-9]+)?){3,}[\]) ]*$"


@dataclass(frozen=True)
class Guess:
    """An entry of the card, and what it was seen by."""

    entry: dict[str, Any]
    evidence: str


def is_user(column: Seen) -> float:
    """How much a column is like that of shoppers; 0 where it cannot be."""
    if column.distinct < 2 or column.distinct >= 0.95 * column.filled or column.words > 1.5 or column.missing > 0.6:
        return 0.0
    if column.kind in ("FLOAT", "DOUBLE") and column.whole < 1:
        return 0.0
    if column.times > 0.9 and (column.numbers < 0.5 or column.says("time|date|ts|timestamp|at")):
        return 0.0
    hint = "user|customer|visitor|client|member|shopper|account|reviewer|buyer|household|cust|person|patron|viewer|uid"
    named = 2.0 * column.says(hint) + 0.5 * column.says("session|id")
    return named + min(1.0, column.distinct / max(1, column.filled) * 4) - 1.5 * (column.distinct <= 30)


def is_quantity(column: Seen) -> bool:
    return column.says("qty|quantity|pieces|units|count|amount") and column.numbers > 0.95 and column.whole > 0.95


def is_basket(column: Seen) -> bool:
    return column.says("order|invoice|basket|transaction|receipt|cart|ticket") and column.distinct > 1


def strongest_types(column: Seen, counts: dict[str, int]) -> Guess | None:
    """Kinds of events, where the values are words for what shoppers do; purchases count where there are enough."""
    if not any(pattern.search(value) for value in counts for pattern in (_BOUGHT, _SEEN, _AGAINST)):
        return None
    if len(counts) < 2 and not column.says("type|event|action|kind|behaviou?r"):
        return None
    allowed = {value: n for value, n in counts.items() if is_event_type(value)}
    bought = {value: n for value, n in allowed.items() if _BOUGHT.search(value) and not _AGAINST.search(value)}
    for_it = {value: n for value, n in allowed.items() if not _AGAINST.search(value)}
    enough = sum(bought.values()) >= max(1_000, 0.05 * sum(counts.values()))
    types = list(bought if enough else for_it)
    shown = ", ".join(f"{value} {n:,}" for value, n in counts.items())
    return Guess({"column": column.name, "types": types}, shown) if types else None


def feature_of(connection: duckdb.DuckDBPyConnection, table: Looked, column: Seen) -> Guess | None:
    """What a column of the items says of them; None for nothing: one value, a link, another id."""
    if column.distinct < 2 or column.filled < 0.05 * column.rows:
        return None
    if re.fullmatch(r"column [0-9]+|unnamed: [0-9]+|index", column.name.lower()) and column.distinct == column.rows:
        return None  # the rows' own number, as pandas writes it
    kind, more, evidence = _kind(connection, table, column)
    if not kind:
        return None
    name = re.sub(r"[^a-z0-9]+", "_", column.name.lower()).strip("_")
    name = name if re.match("[a-z]", name) else f"f_{name}".rstrip("_")
    name = f"{name}_" if name in RESERVED or name.endswith("_y") else name
    entry: dict[str, Any] = {"name": name, "kind": kind}
    if name != column.name:
        entry["column"] = column.name
    entry |= more
    if column.missing > 0.25:
        entry["max_missing_rate"] = min(1.0, round(column.missing * 1.1 + 0.02, 2))
    return Guess(entry, f"{evidence}; {column.missing:.1%} missing")


def _kind(connection: duckdb.DuckDBPyConnection, table: Looked, column: Seen) -> tuple[str, dict[str, Any], str]:
    example = f"such as {' '.join(column.example.split())}"
    if column.kind.endswith("]"):
        if re.match(r"(FLOAT|DOUBLE)\[", column.kind):
            return _vector(connection, table, column, "")
        return "multi_categorical", {}, f"lists of values, {example}"
    separators = [re.escape(each) for each in _SEPARATORS]
    lists_of = [f"[^{each}]{each}[^{each}]" for each in separators]
    link, *lists, vector = shares(connection, table, column, [_LINK, *lists_of, _NUMBERS])
    if link > 0.5:
        return "", {}, ""
    if vector > 0.95:
        separator = next(each for each in (";", ",", "|", " ") if each in column.example)
        return _vector(connection, table, column, separator)
    if column.numbers > 0.95 and column.distinct > 2:
        if column.whole > 0.99 and column.distinct > 0.9 * column.filled and column.says("id|code|key|no|number"):
            return "", {}, ""
        return "numeric", {}, f"numbers, {example}"
    for separator, share in zip(_SEPARATORS, lists, strict=True):
        if (
            share > (0.2 if separator != "," else 0.6)
            and column.words < 12
            and _few(connection, table, column, separator)
        ):
            return (
                "multi_categorical",
                {"separator": separator},
                f"{share:.0%} have several values by {separator}, {example}",
            )
    if column.words >= 2 and column.distinct > 0.5 * column.filled:
        return "text", {}, f"{column.words:.1f} words, nearly each another, {example}"
    if column.distinct > 0.5 * column.filled and column.filled > 50:
        # An id of something else, or a title of one word.
        return ("text", {}, f"a word, {example}") if column.says("name|title|label") else ("", {}, "")
    return "categorical", {}, f"{column.distinct:,} values, {example}"


def _vector(
    connection: duckdb.DuckDBPyConnection, table: Looked, column: Seen, separator: str
) -> tuple[str, dict[str, Any], str]:
    parts = f"string_split(trim({column.sql}, ' []()'), '{separator}')" if separator else column.sql
    ((dimension,),) = connection.execute(f"SELECT mode(len({parts})) FROM {table.name}").fetchall()
    more = {"dimension": dimension} | ({"separator": separator} if separator not in ("", "|") else {})
    return "embedding", more, f"{dimension} numbers in each"


def _few(connection: duckdb.DuckDBPyConnection, table: Looked, column: Seen, separator: str) -> bool:
    """Whether the parts repeat, as tags do and words of a sentence between commas do not."""
    split = f"unnest(string_split({column.sql}::VARCHAR, '{separator}'))"
    ((parts, distinct),) = connection.execute(
        f"SELECT count(*), count(DISTINCT p) FROM (SELECT trim({split}) AS p FROM {table.name})"
    ).fetchall()
    return bool(distinct < 0.3 * parts)
