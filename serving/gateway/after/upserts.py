"""Added and changed items, for the archives that serve: what an arm's model is sent, what rules and filters see.

V items of an archive's catalogue, and behind them the N that it does not know, or not as they are now.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson

from experiments.item_log import KnownUpserts, Upsert
from serving.gateway.after.catalogue import (
    Codes,
    ServedCatalogue,
    as_codes,
)
from serving.gateway.archive import Contents
from serving.scoring.filters import Mask

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def absorbed(upsert: Upsert, contents: Contents) -> bool:
    """Whether an archive's catalogue knows the item as of a later moment."""
    as_of = contents.as_of
    return as_of is not None and upsert.at <= as_of and upsert.item_id in contents.catalogue.row


class PutCatalogue(ServedCatalogue):
    """A catalogue with the items that were put since: their rows follow, and those of changed items match nothing."""

    def __init__(self, base: ServedCatalogue, items: Sequence[Upsert], title: str | None) -> None:
        first = len(base.ids)
        columns = {name: [item.features.get(name) for item in items] for name in base.filterable}
        ids = [item.item_id for item in items]
        self._put = ServedCatalogue({"item_id": ids, "features": columns}, base.filterable)
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
    """Made once for each archive and reading of the item log; all else is a look-up. For a moment two readings are in
    use: that of requests which a model still has, and the latest."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], _Seen] = {}

    def sent(self, upserts: KnownUpserts, contents: Contents) -> orjson.Fragment | None:
        """What a model of this archive is sent of them, as JSON; None where there is nothing that it takes."""
        return self._by(upserts, contents).sent if upserts.items else None

    def catalogue(self, upserts: KnownUpserts, contents: Contents) -> ServedCatalogue:
        """The archive's catalogue as the shop is now."""
        return self._by(upserts, contents).catalogue if upserts.items else contents.catalogue

    def _by(self, upserts: KnownUpserts, contents: Contents) -> "_Seen":
        key = id(upserts), id(contents)
        if key not in self._seen:
            self._seen[key] = _Seen(upserts, contents)
            while len(self._seen) > _MOST:
                del self._seen[next(iter(self._seen))]
        return self._seen[key]


_MOST = 8
"""Pairs of an archive and a reading of the log that are kept: of two readings, more than serve."""


class _Seen:
    """What one archive makes of one reading of the log; both are held, so that no other has their place in memory."""

    def __init__(self, upserts: KnownUpserts, contents: Contents) -> None:
        self._of = upserts, contents
        items = [each for each in upserts.items if not absorbed(each, contents) and _fits(each, contents)]
        base = contents.catalogue
        self.catalogue = PutCatalogue(base, items, contents.item_title) if items else base
        self.sent = _as_json(items, contents) if items and contents.item_program else None


def _fits(upsert: Upsert, contents: Contents) -> bool:
    """Whether the archive can read the values: it may be of before one that serves now, with another kind of a feature,
    or of before archives said what features they have."""
    return bool(contents.item_values.features) and contents.item_values.fits(upsert.features)


def _as_json(items: Sequence[Upsert], contents: Contents) -> orjson.Fragment:
    entries = [
        {
            "item_id": each.item_id,
            "features": contents.item_values.known(each.features),
            "since": (each.at - _EPOCH) / timedelta(days=1),
        }
        for each in items
    ]
    return orjson.Fragment(orjson.dumps(entries))
