"""What shoppers do besides buying: they look at things, put some into the cart, and wave others away (ours).

Purchases are those of the shop without it, to the row: nothing here moves them. Before each purchase the shopper has
the same wants as in making it, so that

    view        of the item itself, with `SEEN`, and of others: `OTHERS` in the mean (Poisson), by the very law
    cart        of the item itself, with `IN_CART`, after the views; of one of the others with `LEFT_IN_CART`
    dismissed   with `WAVED_AWAY`: an item of the next category by the law, with odds the inverse of those of a purchase

A view says what is wanted now, a cart that it is wanted much, and a dismissal what is not.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marketplace.catalogue import Integers
from marketplace.choice_model import Law
from marketplace.config import MarketplaceConfig

PURCHASE = "purchase"
KINDS = (PURCHASE, "view", "cart", "dismissed")
SEEN, OTHERS, IN_CART, LEFT_IN_CART, WAVED_AWAY = 0.35, 2.5, 0.15, 0.3, 0.4
LONGEST = 20 * 60
"""Seconds from the first view to the purchase; carts come in the last minute."""
_MICROSECONDS = 1_000_000

Events = tuple[Integers, Integers, NDArray[np.int64], NDArray[np.int64]]
"""User, item, number of the kind, and microseconds before the purchase that they are about."""


class Browsing:
    """Draws what comes before the purchases of a round, from streams of its own."""

    def __init__(self, config: MarketplaceConfig, law: Law) -> None:
        self._config, self._law = config, law

    def before(self, users: Integers, history: Integers, bought: Integers, day: int, round_: int) -> Events:
        """Before these purchases; `history` is that of before them."""
        rng = np.random.default_rng([self._config.seed, 9, day, round_])
        count = len(users)
        other = np.repeat(np.arange(count), rng.poisson(OTHERS, count))
        others = self._law.choose(users[other], history[other], day, rng)
        apart = others != bought[other]
        other, others = other[apart], others[apart]
        seen, in_cart, waved = (np.flatnonzero(rng.random(count) < share) for share in (SEEN, IN_CART, WAVED_AWAY))
        left = np.flatnonzero(rng.random(len(other)) < LEFT_IN_CART / OTHERS)
        unwanted = self._law.choose(users[waved], history[waved], day, rng, against=True)
        parts = [
            (seen, bought[seen], 1),
            (other, others, 1),
            (in_cart, bought[in_cart], 2),
            (other[left], others[left], 2),
            (waved, unwanted, 3),
        ]
        who = np.concatenate([row for row, _, _ in parts])
        items = np.concatenate([item for _, item, _ in parts])
        kind = np.repeat([number for _, _, number in parts], [len(row) for row, _, _ in parts])
        seconds = np.where(kind == 2, 5 + 55 * rng.random(len(kind)), 60 + (LONGEST - 60) * rng.random(len(kind)))
        ago: NDArray[Any] = (seconds * _MICROSECONDS).astype(np.int64)
        return users[who], items, kind, ago
