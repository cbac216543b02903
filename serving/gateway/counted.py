"""What an archive's counts answer, where no model is asked or none answers."""

from serving.gateway.archive import Contents
from serving.gateway.models import Items
from serving.gateway.wish import History, Wish
from serving.scoring.placed import AGAIN, POPULAR, RANKING


def popular(contents: Contents, history: History, wish: Wish) -> Items:
    """The most popular items of the segment of the latest item, or of the given ones, then of all; of a ranking, of
    popular items and of what to buy again what is asked for, by counts."""
    found = _popular(contents, history, wish)
    if wish.explain:
        own = wish.placement == AGAIN
        for item in found:
            of = (AGAIN, item["item_id"]) if own else (wish.kind, None)
            item["why"] = [{"by": of[0], "item_id": of[1], "share": item["score"], "exact": True}]
    return found


def _popular(contents: Contents, history: History, wish: Wish) -> Items:
    hidden = wish.hidden(contents, history)
    if wish.placement == RANKING:
        return contents.ranked(wish.items)
    if wish.placement == POPULAR:
        return contents.best(wish.kind, k=wish.k, hidden=hidden, filters=wish.filters)
    if wish.placement == AGAIN:
        return contents.again(history, now=wish.now, k=wish.k, hidden=hidden, filters=wish.filters)
    return contents.popular(wish.before(history), k=wish.k, hidden=hidden, filters=wish.filters)
