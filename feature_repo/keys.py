"""What an id and an event type are: one spelling and one set of bounds for ingest, gateway, consumer and erasure.

Text stays as it is written, so that an article number (`007`, `1.0`, `1e3`) never becomes another one; only what nobody
sees is taken off: white space and control characters at both ends, and marks without a width anywhere. Of a column of
numbers the text is the number's: doubles and decimals lose a fraction of zeros alone (17.0 and 17.0000000000 are 17).
"""

import re
from collections.abc import Iterable

MOST_CHARACTERS = 200
"""Of an id. A longer one is set aside by ingest and refused by the gateway."""
EVENT_TYPE = r"^[A-Za-z0-9][A-Za-z0-9 _.:/-]{0,39}$"
"""`view`, `add-to-cart`, `Purchase`: what a card may name, ingest accepts and the gateway takes."""
ANONYMOUS = "session:"
"""Before the id of a session that nobody has a name for, where a shopper's id would stand; no shopper's begins so."""
NOBODY = (
    "null",
    "none",
    "nan",
    "nil",
    "n/a",
    "na",
    "<na>",
    "(null)",
    "\\n",
    "undefined",
    "guest",
    "anonymous",
    "unknown",
)
"""Whole user ids, in any case of letters, that stand for no user; a card adds to them or clears them."""  # fmt: skip

_BLANK = "".join(map(chr, [*range(1, 33), *range(127, 161), 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F,
                           0x205F, 0x3000]))  # fmt: skip
"""White space and control characters."""
_WITHOUT_WIDTH = "\u200b\u2060\ufeff"  # and the character 0, which DuckDB can only replace
_NOTHING = str.maketrans("", "", _WITHOUT_WIDTH + "\0")

WHOLE_DOUBLES = {"FLOAT": 2**24, "DOUBLE": 2**53}
"""From where on a number of that type no longer tells every whole number from the next."""


def spelled(key: str) -> str:
    """The one spelling of an id or event type; empty where nothing can be seen of it."""
    return key.translate(_NOTHING).strip(_BLANK)


def spelled_sql(value: str, kind: str) -> str:
    """SQL of the same over a column of DuckDB type `kind`: text, or NULL where there is nothing.

    A double that is no longer exact gives NULL; `inexact_sql` tells it.
    """
    if kind in WHOLE_DOUBLES:
        whole = f"TRY_CAST({value} AS BIGINT)"
        text = f"CASE WHEN {whole} = {value} THEN {whole}::VARCHAR ELSE {value}::VARCHAR END"
        return f"CASE WHEN isfinite({value}) AND NOT {inexact_sql(value, kind)} THEN {text} END"
    if kind.startswith("DECIMAL"):
        return f"regexp_replace({value}::VARCHAR, '\\.0+$', '')"
    if kind != "VARCHAR":
        return f"nullif(trim({value}::VARCHAR), '')"
    # Most are plain, words and spaces of ASCII; to translate and trim the others costs fifty times as much.
    plain = f"NOT regexp_matches({value}, '[^ -~]')"
    shown = f"translate(replace({value}, chr(0), ''), '{_WITHOUT_WIDTH}', '')"
    seen = f"nullif(trim({shown}, '{_BLANK}'), '')"
    return f"CASE WHEN {plain} THEN nullif(trim({value}, ' '), '') ELSE {seen} END"


def inexact_sql(value: str, kind: str) -> str:
    """SQL condition: a floating number that has the same value as another id."""
    return f"abs({value}) >= {WHOLE_DOUBLES[kind]}" if kind in WHOLE_DOUBLES else "false"


def is_event_type(text: str) -> bool:
    return re.fullmatch(EVENT_TYPE, text) is not None


def is_nobody(user_id: str, words: Iterable[str] = NOBODY) -> bool:
    """Whether a spelled user id is one of `words` for no user, or empty."""
    return not user_id or user_id.lower() in {word.lower() for word in words}
