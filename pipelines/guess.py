"""What a column is likely to be: by its values first, by its name where values leave it open."""

import re
from dataclasses import dataclass
from typing import Any

import duckdb

from feature_repo.card_features import RESERVED
from feature_repo.keys import is_event_type
from pipelines.look import InspectedColumn, InspectedTable, shares

_BOUGHT = re.compile(r"purchas|buy|bought|order|transaction|sale|checkout|paid", re.I)
_SEEN = re.compile(
    r"view|click|cart|basket|wish|favou?rite|like|play|listen|rate|rating|read|watch|detail|impression", re.I
)
_AGAINST = re.compile(r"dislike|remove|return|refund|cancel|hide|skip|unlike|block|report", re.I)
_SEPARATORS = ("|", ";", ">", ",")
_LINK = r"^(https?://|www\.)|\.(jpe?g|png|gif)$"
_MARKUP = r"</?[a-zA-Z][^>]*>"
_COMMA = r"^ *[-+]?([0-9]{1,3}([.][0-9]{3})+|[0-9]+)(,[0-9]+)? *$"
_CODE = (
    "id|code|key|no|nr|num|number|nummer|index|type|category|class|group|zip|ean|gtin|upc|isbn|barcode|supplier|store|"
    "manufacturer|maker|vendor|publisher|department|[a-z]+(?:nr|nummer|code)"
)
_NUMBERS = r"^[\[( ]*-?[0-9.]+(e-?[0-9]+)?([;, |]+-?[0-9.]+(e-?[0-9]+)?){3,}[\]) ]*$"


@dataclass(frozen=True)
class Guess:
    """An entry of the card, and what it was seen by."""

    entry: dict[str, Any]
    evidence: str
    comma: bool = False
    """Whether its numbers have a comma before the fraction."""

    @property
    def is_number(self) -> bool:
        return bool(self.entry["kind"] == "numeric")

    @property
    def is_date(self) -> bool:
        return bool(self.entry.get("date", False))

    @property
    def is_text(self) -> bool:
        """Whether people could read it as an item's name."""
        return bool(self.entry["kind"] == "text")


def is_user(column: InspectedColumn) -> float:
    """How much a column is like that of shoppers; 0 where it cannot be."""
    if column.distinct < 2 or column.distinct >= 0.95 * column.filled or column.words > 1.5 or column.missing > 0.6:
        return 0.0
    if column.kind in ("FLOAT", "DOUBLE") and column.whole < 1:
        return 0.0
    if column.times > 0.9 and (column.numbers < 0.5 or column.says("time|date|ts|timestamp|at")):
        return 0.0
    hint = (
        "user|customer|visitor|client|member|shopper|account|reviewer|buyer|household|cust|person|patron|viewer|uid|"
        "email|e ?mail|kunde|kunden|kund|nutzer|benutzer|cliente|klient|usuario|utente|acheteur|player|subscriber|"
        "listener|reader|guest|login|profile|learner|student"
    )
    named = 2.0 * column.says(hint) + 0.5 * column.says("session|id")
    score = named + min(1.0, column.distinct / max(1, column.filled) * 4) - 1.5 * (column.distinct <= 30)
    # Where there is nobody else, a session is a shopper.
    return max(0.05, score - 1.5) if score > 0 and column.says("session|visit") else score


def is_number_of(column: InspectedColumn) -> bool:
    """Whether its numbers are ids by their name, also where they would do as seconds since 1970."""
    return column.numbers > 0.9 and (is_basket(column) or column.says("id|key|code|nr|no|num|number|nummer|ean|phone"))


def is_quantity(column: InspectedColumn) -> bool:
    return (
        column.says("qty|quantity|pieces|units|count|amount|menge|stueck|anzahl|cantidad|quantite")
        and column.numbers > 0.95
        and column.whole > 0.95
    )


def is_basket(column: InspectedColumn) -> bool:
    return (
        column.says(
            "order|invoice|basket|transaction|receipt|cart|ticket|bestell|bestellung|rechnung|beleg|bon|pedido|factura|name"
        )
        and column.distinct > 1
    )


def strongest_types(column: InspectedColumn, counts: dict[str, int]) -> Guess | None:
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
    meaning = {value: _meaning(value, value in types) for value in allowed}
    return Guess({"column": column.name, "types": types, "events": meaning}, shown) if types else None


def _meaning(value: str, counts: bool) -> dict[str, bool]:
    """An entry of the card's `events`: what counts is predicted; what it says besides is for a person to switch on."""
    if counts:
        return {"predict": True}
    return {"negative": True} if _AGAINST.search(value) else {"history": False}


def feature_of(connection: duckdb.DuckDBPyConnection, table: InspectedTable, column: InspectedColumn) -> Guess | None:
    """What a column of the items says of them; None for nothing: one value, a link, another id."""
    if column.distinct < 2 or column.filled < 0.05 * column.rows:
        return None
    if re.fullmatch(r"column [0-9]+|unnamed: [0-9]+|index", column.name.lower()) and column.distinct == column.rows:
        return None  # the rows' own number, as pandas writes it
    if is_moment(column):
        return None  # it is no number and no value that two items share; see `date_of`
    kind, more, evidence = _kind(connection, table, column)
    if not kind:
        return None
    return _named(column, {"kind": kind, **more}, evidence, comma="comma" in evidence and kind == "numeric")


def is_moment(column: InspectedColumn) -> bool:
    return column.times > 0.9 and (column.numbers < 0.5 or column.says("time|date|ts|timestamp|at"))


def date_of(column: InspectedColumn, written: str | None) -> Guess | None:
    """What a column of the items says where it is a day or a moment: something to filter by, and nothing that a model
    learns from. `written` is how the card says that times are written. None where ingest would not read it, and where
    it says when the row was written: that changes without the item."""
    if not is_moment(column) or column.format not in (None, written):
        return None
    if column.distinct < 2 or column.filled < 0.05 * column.rows:
        return None
    if column.says("updated?|modified|changed|edited|synced|exported|geaendert|letzte|last"):
        return None
    more = {"kind": "numeric", "date": True, "token": False}
    return _named(column, more, f"{column.times:.1%} are days or times, such as {column.example}")


def _named(column: InspectedColumn, more: dict[str, Any], evidence: str, *, comma: bool = False) -> Guess:
    """The entry of what `more` says of a column."""
    name = re.sub(r"[^a-z0-9]+", "_", column.name.lower()).strip("_")
    name = name if re.match("[a-z]", name) else f"f_{name}".rstrip("_")
    name = f"{name}_" if name in RESERVED or name.endswith("_y") else name
    entry: dict[str, Any] = {"name": name, "kind": more["kind"]}
    if name != column.name:
        entry["column"] = column.name
    entry |= more
    if column.missing > 0.25:
        entry["max_missing_rate"] = min(1.0, round(column.missing * 1.1 + 0.02, 2))
    return Guess(entry, f"{evidence}; {column.missing:.1%} missing", comma=comma)


def _kind(
    connection: duckdb.DuckDBPyConnection, table: InspectedTable, column: InspectedColumn
) -> tuple[str, dict[str, Any], str]:
    example = f"such as {' '.join(column.example.split())}"
    if column.kind.endswith("]"):
        if re.match(r"(FLOAT|DOUBLE)\[", column.kind):
            return _vector(connection, table, column, "")
        return "multi_categorical", {}, f"lists of values, {example}"
    separators = [re.escape(each) for each in _SEPARATORS]
    lists_of = [f"[^{each}]{each}[^{each}]" for each in separators]
    tests = [_LINK, _MARKUP, _COMMA, *lists_of, _NUMBERS]
    link, markup, comma, *lists, vector = shares(connection, table, column, tests)
    if link > 0.5:
        return "", {}, ""
    if vector > 0.95:
        separator = next(each for each in (";", ",", "|", " ") if each in column.example)
        return _vector(connection, table, column, separator)
    if column.numbers > 0.95 and column.distinct > 2:
        code = column.whole > 0.99 and column.says(_CODE)
        if column.whole > 0.99 and column.distinct > 0.9 * column.filled and (code or len(column.example) >= 8):
            return "", {}, ""
        if code:
            few = column.distinct <= 0.5 * column.filled
            return (
                ("categorical", {}, f"{column.distinct:,} numbers that name something, {example}")
                if few
                else ("", {}, "")
            )
        return "numeric", {}, f"numbers, {example}"
    if comma > 0.95 and column.distinct > 2:
        return "numeric", {}, f"numbers with a comma before the fraction, {example}"
    for separator, share in zip(_SEPARATORS, lists, strict=True):
        if (
            markup < 0.2
            and share > (0.2 if separator != "," else 0.6)
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
    connection: duckdb.DuckDBPyConnection, table: InspectedTable, column: InspectedColumn, separator: str
) -> tuple[str, dict[str, Any], str]:
    parts = f"string_split(trim({column.sql}, ' []()'), '{separator}')" if separator else column.sql
    ((dimension,),) = connection.execute(f"SELECT mode(len({parts})) FROM {table.name}").fetchall()
    more = {"dimension": dimension} | ({"separator": separator} if separator not in ("", "|") else {})
    return "embedding", more, f"{dimension} numbers in each"


def _few(connection: duckdb.DuckDBPyConnection, table: InspectedTable, column: InspectedColumn, separator: str) -> bool:
    """Whether the parts repeat, as tags do and words of a sentence between commas do not."""
    split = f"unnest(string_split({column.sql}::VARCHAR, '{separator}'))"
    ((parts, distinct),) = connection.execute(
        f"SELECT count(*), count(DISTINCT p) FROM (SELECT trim({split}) AS p FROM {table.name})"
    ).fetchall()
    return bool(distinct < 0.3 * parts)


def best_of(
    connection: duckdb.DuckDBPyConnection, table: InspectedTable, features: list[Guess], most: int
) -> list[Guess]:
    """At most `most` of the features, in their order: one of each pair that says the same, and of every kind some."""
    by_name = {column.name: column for column in table.columns}
    # What changes from one interaction to the next is no column of the items; there it is always a number.
    of_items = [guess for guess in features if guess.entry.get("table", "items") == "items"]
    paid = [guess for guess in features if guess not in of_items][:most]
    kept = _best(connection, table, of_items, by_name, most - len(paid))
    return [guess for guess in features if guess in kept or guess in paid]


def _best(
    connection: duckdb.DuckDBPyConnection,
    table: InspectedTable,
    features: list[Guess],
    by_name: dict[str, InspectedColumn],
    most: int,
) -> list[Guess]:
    columns = [by_name[guess.entry.get("column", guess.entry["name"])] for guess in features]
    kept: list[tuple[float, int]] = []
    texts = 0
    for number, (guess, column) in enumerate(zip(features, columns, strict=True)):
        kind = guess.entry["kind"]
        if kind == "categorical" and column.numbers > 0.95 and _has_words(connection, table, column, columns):
            continue
        texts += kind == "text"
        rank = {"text": 0 if texts == 1 else 3, "embedding": 1, "multi_categorical": 1, "numeric": 2}.get(kind)
        rank = 3 if guess.is_date else rank
        kept.append((rank if rank is not None else 1 + 2 * (column.distinct == 2), number))
    return [features[number] for number in sorted(number for _, number in sorted(kept)[:most])]


def _has_words(
    connection: duckdb.DuckDBPyConnection, table: InspectedTable, code: InspectedColumn, columns: list[InspectedColumn]
) -> bool:
    """Whether another column has a word for each value of one of codes."""
    for other in columns:
        if other is code or other.numbers > 0.5 or other.distinct != code.distinct:
            continue
        ((pairs,),) = connection.execute(
            f"SELECT count(DISTINCT ({code.key}, {other.key})) FROM {table.name} "
            f"WHERE {code.key} IS NOT NULL AND {other.key} IS NOT NULL"
        ).fetchall()
        if pairs == code.distinct:
            return True
    return False
