"""Where in a shop an answer is to stand, and what is asked for there beside a history."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from serving.scoring.faults import BadRequest

FOR_YOU, SIMILAR, RANKING, POPULAR = "for_you", "similar", "ranking", "popular"
TOGETHER, AGAIN = "together", "again"
PLACEMENTS = (FOR_YOU, SIMILAR, RANKING, POPULAR, TOGETHER, AGAIN)
KINDS = ("popular", "trending", "new")
MOST_ITEMS = 1000
FIELDS = ("placement", "items", "kind", "explain", "at")
"""Of a request that asks for more than "for you"."""


class Placed(NamedTuple):
    """What a request asks for, in rows of the catalogue."""

    placement: str = FOR_YOU
    rows: tuple[int, ...] = ()
    """Of the given items those that the catalogue holds, each once, in their order."""
    kind: str = KINDS[0]
    explain: bool = False
    at: str | None = None
    """The moment of the request, where the answer depends on it."""


def read(raw: Mapping[str, Any], rows: Mapping[str, int], allowed: tuple[str, ...]) -> Placed:
    """Check the `FIELDS` of a request; raises `BadRequest`. `allowed` are the placements that the archive can answer."""
    placement, items = raw.get("placement", FOR_YOU), raw.get("items", [])
    if placement not in allowed:
        raise BadRequest("placement", placement, f"one of {', '.join(allowed)}")
    if not isinstance(items, list) or len(items) > MOST_ITEMS or not all(isinstance(item, str) for item in items):
        raise BadRequest("items", items, f"a list of item ids, which are strings, at most {MOST_ITEMS}")
    kind, explain, at = raw.get("kind", KINDS[0]), raw.get("explain", False), raw.get("at")
    if kind not in KINDS:
        raise BadRequest("kind", kind, f"one of {', '.join(KINDS)}")
    if not isinstance(explain, bool):
        raise BadRequest("explain", explain, "true or false")
    if not isinstance(at, str | None):
        raise BadRequest("at", at, "an ISO 8601 time with its zone")
    return Placed(placement, tuple(dict.fromkeys(rows[item] for item in items if item in rows)), kind, explain, at)
