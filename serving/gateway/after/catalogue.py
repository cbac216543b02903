"""What is known of each item of an archive where no model is: its features, as filters and as codes. V items."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.gateway.dates import BadDate, in_days
from serving.scoring.faults import BadRequest
from serving.scoring.filters import Filters, Mask
from serving.scoring.forms import FORMS

Codes = npt.NDArray[np.int32]
"""(V,) equal where two items have the same value of a category, -1 where it is missing."""


class UnknownFeature(ValueError):
    """A feature or condition that this catalogue does not have; the message says what there is."""


class ServedCatalogue:
    """Of one archive's `items.json`; `filterable` names the form of each feature that it tells, `dates` the zone of
    those that are dates."""

    def __init__(
        self, items: Mapping[str, Any], filterable: Mapping[str, str], dates: Mapping[str, str] | None = None
    ) -> None:
        self.ids: list[str] = items["item_id"]
        self.row = {item: row for row, item in enumerate(self.ids)}
        self.titles: list[str | None] = items.get("title") or [None] * len(self.ids)
        self.events: npt.NDArray[np.int64] = np.array(items.get("events") or [0] * len(self.ids), np.int64)
        columns = items.get("features", {})
        self.dates, self.filterable = dates or {}, filterable
        self._filters = Filters(filterable, columns, len(self.ids))
        self.columns, self._numbers = columns, {name for name, form in filterable.items() if FORMS[form].ranges}
        self._codes = {name: as_codes(columns[name]) for name, form in filterable.items() if FORMS[form].grouped}

    def forbidden(self, where: Mapping[str, Any]) -> Mask:
        """(V,) True where an item is not what the filters `where` say; read-only. Raises `UnknownFeature`."""
        try:
            return self._filters.forbidden(self._filters.read(dict(where)))
        except BadRequest as error:
            raise UnknownFeature(str(error)) from error

    def meant(self, where: Mapping[str, Any], now: datetime) -> Mask:
        """(V,) True where an item is what `where` says at that moment, dates as people do. Raises `UnknownFeature`."""
        try:
            return ~self.forbidden(in_days(where, self.dates, now))
        except BadDate as error:
            raise UnknownFeature(f"{error.feature}: {error}") from error

    def codes(self, feature: str) -> Codes:
        """Raises `UnknownFeature`."""
        if feature not in self._codes:
            raise UnknownFeature(
                f"{feature!r} is no category of the catalogue; there are {', '.join(self._codes) or 'none'}"
            )
        return self._codes[feature]

    def numbers(self, feature: str) -> npt.NDArray[np.float64]:
        """(V,) NaN where it is missing. Raises `UnknownFeature`."""
        if feature not in self._numbers:
            there = ", ".join(sorted(self._numbers)) or "none"
            raise UnknownFeature(f"{feature!r} is no number of the catalogue; there are {there}")
        return np.array([np.nan if cell is None else cell for cell in self.columns[feature]], np.float64)


def as_codes(column: list[Any]) -> Codes:
    """Of the values of a category."""
    code: dict[Any, int] = {None: -1, "": -1}
    return np.array([code.setdefault(value, len(code) - 2) for value in column], np.int32)
