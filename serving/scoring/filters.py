"""Which items of the catalogue a request's filters allow. Letter: V items of the catalogue.

A feature is coded once, when the archive is loaded; the masks of filters that come again are kept.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from serving.scoring.faults import BadRequest
from serving.scoring.forms import FORMS

Mask = npt.NDArray[np.bool_]
Wanted = frozenset[str] | tuple[float, float] | tuple[Literal["not"], frozenset[str]]
Filter = tuple[tuple[str, Wanted], ...]
"""Feature and what is wanted of it (values, values that it must not have, or the lowest and highest number), in the
order of the names."""
_MASK_BYTES = 1 << 26
"""Memory for the masks that are kept."""
_BOUNDS = {"min": -math.inf, "max": math.inf}


class _Coded(Protocol):
    def read(self, name: str, raw: object) -> Wanted: ...

    def allowed(self, wanted: Any) -> Mask: ...


class Filters:
    """The filterable features of a catalogue of V items.

    Args:
        forms: Of each filterable feature, one of `FORMS`.
        columns: The V values of each; null, an empty string or list and NaN are missing, and match nothing.
        items: V.
    """

    def __init__(self, forms: Mapping[str, str], columns: Mapping[str, Sequence[Any]], items: int) -> None:
        self._coded: dict[str, _Coded] = {
            name: _Numbers(columns[name]) if FORMS[form].ranges else _Values(columns[name])
            for name, form in forms.items()
        }
        self._items = items
        self._kept = lru_cache(maxsize=max(_MASK_BYTES // max(items, 1), 1))(self._make)

    def read(self, raw: object) -> Filter:
        """Check a request's `filters`; raises `BadRequest`."""
        if raw is None:
            return ()
        if not isinstance(raw, dict):
            raise BadRequest("filters", raw, "an object of feature names and what is wanted of them")
        for name in raw:
            if name not in self._coded:
                raise BadRequest("filters", name, f"one of {', '.join(self._coded) or 'no features at all'}")
        return tuple((name, self._coded[name].read(f"filters.{name}", raw[name])) for name in sorted(raw))

    def forbidden(self, wanted: Filter) -> Mask:
        """(V,) True where the item does not match all of `wanted`. Shared between requests: not to be written to."""
        return self._kept(wanted)

    def _make(self, wanted: Filter) -> Mask:
        mask = np.ones(self._items, bool)
        for name, value in wanted:
            mask &= self._coded[name].allowed(value)
        return ~mask


class _Values:
    """A category, or several: the rows of each value, one after the other."""

    def __init__(self, column: Sequence[Any]) -> None:
        code: dict[str, int] = {}
        rows, codes = [], []
        for row, cell in enumerate(column):
            for value in cell if isinstance(cell, (list, tuple)) else (cell,):
                if value is not None and value != "":
                    rows.append(row)
                    codes.append(code.setdefault(value, len(code)))
        coded = np.array(codes, np.int64)
        self._code, self._items = code, len(column)
        self._rows = np.array(rows, np.int64)[np.argsort(coded, kind="stable")]
        self._start = np.concatenate([[0], np.cumsum(np.bincount(coded, minlength=len(code)))]).astype(np.int64)

    def read(self, name: str, raw: object) -> Wanted:
        values = raw["not"] if isinstance(raw, dict) and raw.keys() == {"not"} else raw
        if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
            raise BadRequest(name, raw, 'a list of the strings that are allowed, at least one, or {"not": such a list}')
        return frozenset(values) if values is raw else ("not", frozenset(values))

    def allowed(self, wanted: frozenset[str] | tuple[Literal["not"], frozenset[str]]) -> Mask:
        """An item without a value is none of those that are allowed, and none of those that are not."""
        if isinstance(wanted, tuple):
            return ~self.allowed(wanted[1])
        mask = np.zeros(self._items, bool)
        for value in wanted:
            if (code := self._code.get(value)) is not None:
                mask[self._rows[self._start[code] : self._start[code + 1]]] = True
        return mask


class _Numbers:
    """A number, NaN where it is missing."""

    def __init__(self, column: Sequence[Any]) -> None:
        self._value = np.array([math.nan if cell is None else cell for cell in column], np.float64)

    def read(self, name: str, raw: object) -> Wanted:
        expected = 'an object of "min", "max" or both, numbers of which the first is not above the second'
        if not isinstance(raw, dict) or not raw or raw.keys() - _BOUNDS.keys():
            raise BadRequest(name, raw, expected)
        for bound in raw.values():
            if not isinstance(bound, int | float) or isinstance(bound, bool) or not abs(bound) <= sys.float_info.max:
                raise BadRequest(name, raw, expected)
        low, high = (float(raw.get(key, default)) for key, default in _BOUNDS.items())
        if low > high:
            raise BadRequest(name, raw, expected)
        return low, high

    def allowed(self, wanted: tuple[float, float]) -> Mask:
        low, high = wanted
        mask: Mask = (self._value >= low) & (self._value <= high)
        # An infinite price is within no bounds, also where only one was given.
        return mask & np.isfinite(self._value)
