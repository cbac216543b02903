"""Rankings of one request, where rules and stock leave less of one than was asked for."""

from collections.abc import Awaitable, Callable
from typing import Any

from serving.gateway.after.showing import Items, ShownList

MOST = 3
"""Rankings of a request in all."""


async def until_full(
    asked: dict[str, Any],
    items: Items,
    *,
    k: int,
    most: int,
    show: Callable[[Items], ShownList],
    rank: Callable[[dict[str, Any]], Awaitable[Items | None]],
) -> tuple[dict[str, Any], ShownList]:
    """The request that was answered last, and what is shown of that answer.

    `items` answer `asked`. While fewer than `k` of them are shown, all that can be shown is ranked again, with others
    in the place of what cannot: by `rank`, None where who ranked does no more. An answer of fewer than `most` is all
    that there is.
    """
    shown = show(items)
    for _ in range(1, MOST):
        if len(shown.items) == k or len(items) < most or not shown.withheld:
            break
        more = {**asked, "exclude": [*asked.get("exclude", ()), *shown.withheld]}
        found = await rank(more)
        if found is None:
            break
        asked, items, shown = more, found, show(found)
    return asked, shown
