"""Added and changed items, for the archives that serve: what an arm's model is sent, what rules and filters see.

V items of an archive's catalogue, and behind them the N that it does not know, or not as they are now.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson

from experiments.item_log import Upsert, Upserts
from serving.gateway.after.catalogue import (
    Catalogue,
    Codes,
    as_codes,
)
from serving.gateway.archive import Contents
from serving.scoring.filters import Mask

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def absorbed(upsert: Upsert, contents: Contents) -> bool:
    """Whether an archive's catalogue knows the item as of a later moment."""
    as_of = contents.as_of
    return as_of is not None and upsert.at <= as_of and upsert.item_id in contents.catalogue.row


class PutCatalogue(Catalogue):
    """A catalogue with the items that were put since: their rows follow, and those of changed items match nothing."""

    def __init__(self, base: Catalogue, items: Sequence[Upsert], title: str | None) -> None:
        first = len(base.ids)
        columns = {name: [item.features.get(name) for item in items] for name in base.filterable}
        ids = [item.item_id for item in items]
        self._put = Catalogue({"item_id": ids, "features": columns}, base.filterable)
        self._base = base
        self.ids = [*base.ids, *ids]
        self.row = {**base.row, **{item: first + n for n, item in enumerate(ids)}}
        self.titles = [*base.titles, *(item.features.get(title) if title is not None else None for item in items)]
        known = [base.row.get(item) for item in ids]
        events = [0 if row is None else int(base.events[row]) for row in known]
        self.events = np.append(base.events, np.array(events, np.int64))
        self.dates, self.filterable = base.dates, base.filterable
        self._former_V = np.zeros(first, bool)
        self._former_V[[row for row in known if row is not None]] = True

    def forbidden(self, where: Mapping[str, Any]) -> Mask:
        return np.concatenate([self._base.forbidden(where) | self._former_V, self._put.forbidden(where)])

    def codes(self, feature: str) -> Codes:
        self._base.codes(feature)
        return as_codes([*self._base.columns[feature], *self._put.columns[feature]])

    def numbers(self, feature: str) -> np.ndarray:
        base_V = np.where(self._former_V, np.nan, self._base.numbers(feature))
        return np.concatenate([base_V, self._put.numbers(feature)])


class ItemChanges:
    """Made once for each archive and reading of the item log; all else is a look-up."""

    def __init__(self) -> None:
        self._of = Upserts()
        self._sent: dict[int, tuple[Contents, orjson.Fragment | None]] = {}
        self._catalogues: dict[int, tuple[Contents, Catalogue]] = {}

    def sent(self, upserts: Upserts, contents: Contents) -> orjson.Fragment | None:
        """What a model of this archive is sent of them, as JSON; None where there is nothing that it takes."""
        self._follow(upserts)
        if id(contents) not in self._sent:
            self._sent[id(contents)] = contents, _sent(upserts, contents)
        return self._sent[id(contents)][1]

    def catalogue(self, upserts: Upserts, contents: Contents) -> Catalogue:
        """The archive's catalogue as the shop is now."""
        self._follow(upserts)
        if not upserts.items:
            return contents.catalogue
        if id(contents) not in self._catalogues:
            items = [each for each in upserts.items if not absorbed(each, contents) and _fits(each, contents)]
            found = PutCatalogue(contents.catalogue, items, contents.item_title) if items else contents.catalogue
            self._catalogues[id(contents)] = contents, found
        return self._catalogues[id(contents)][1]

    def _follow(self, upserts: Upserts) -> None:
        if upserts is not self._of or len(self._sent) > _MOST:
            self._of, self._sent, self._catalogues = upserts, {}, {}


_MOST = 8
"""Archives of which something is kept: more than serve at a time."""


def _fits(upsert: Upsert, contents: Contents) -> bool:
    """Whether the archive can read the values: another that serves now may have another kind of a feature."""
    return contents.item_values.fits(upsert.features)


def _sent(upserts: Upserts, contents: Contents) -> orjson.Fragment | None:
    if not contents.item_program:
        return None
    entries = [
        {
            "item_id": each.item_id,
            "features": contents.item_values.known(each.features),
            "since": (each.at - _EPOCH) / timedelta(days=1),
        }
        for each in upserts.items
        if not absorbed(each, contents) and _fits(each, contents)
    ]
    return orjson.Fragment(orjson.dumps(entries)) if entries else None
