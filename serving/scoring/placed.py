"""Where in a shop an answer is to stand, and what is asked for there beside a history."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from serving.scoring.faults import BadRequest

FOR_YOU, SIMILAR, RANKING = "for_you", "similar", "ranking"
POPULAR, TOGETHER, AGAIN = "popular", "together", "again"
OF_ARCHIVES = (FOR_YOU, SIMILAR, RANKING, POPULAR, TOGETHER)
"""What an archive can be asked for."""
PLACEMENTS = (*OF_ARCHIVES, AGAIN)
COLUMN = {"popular": "events", "trending": "trend", "new": "since"}
"""Of items.json and popular.json, by the kind of popular items that it tells of."""
KINDS = tuple(COLUMN)
MOST_ITEMS = 1000
FIELDS = ("placement", "items", "kind", "explain")
"""Of a request that asks for more than "for you"."""


class PlacementRequest(NamedTuple):
    """What a request asks for, in rows of the catalogue."""

    placement: str = FOR_YOU
    rows: tuple[int, ...] = ()
    """Of the given items those that the catalogue holds, each once, in their order."""
    kind: str = KINDS[0]
    explain: bool = False


def read(
    raw: Mapping[str, Any], rows: Mapping[str, int], allowed: tuple[str, ...], kinds: tuple[str, ...]
) -> PlacementRequest:
    """Check the `FIELDS` of a request, where `allowed` placements and `kinds` are those that the archive can answer.

    Raises `BadRequest`.
    """
    placement, items = raw.get("placement", FOR_YOU), raw.get("items", [])
    if placement not in allowed:
        raise BadRequest("placement", placement, f"one of {', '.join(allowed)}")
    if not isinstance(items, list) or len(items) > MOST_ITEMS or not all(isinstance(item, str) for item in items):
        raise BadRequest("items", items, f"a list of item ids, which are strings, at most {MOST_ITEMS}")
    kind, explain = raw.get("kind", KINDS[0]), raw.get("explain", False)
    if kind not in kinds:
        raise BadRequest("kind", kind, f"one of {', '.join(kinds)}")
    if not isinstance(explain, bool):
        raise BadRequest("explain", explain, "true or false")
    return PlacementRequest(
        placement, tuple(dict.fromkeys(rows[item] for item in items if item in rows)), kind, explain
    )
