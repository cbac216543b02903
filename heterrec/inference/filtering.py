"""Which items of a catalogue filters allow, in the words and with the meaning of a request's `filters`."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from heterrec.data.encoder import KINDS, LIST, NUMBER
from heterrec.data.sequences import NOW, Catalogue


def allowed(catalogue: Catalogue, filters: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
    """(V,) True where an item matches all of `filters`: of a feature the values that are wanted, as a list of strings,
    or of a number {"min": …, "max": …}. What is missing matches nothing. `ValueError` names a filter that is none."""
    of = {feature["name"]: KINDS[feature["kind"]] for feature in catalogue.features}
    kinds = {name: kind for name, kind in of.items() if kind.form == NUMBER or kind.category or kind.cell == LIST}
    mask = np.ones(len(catalogue), dtype=bool)
    for name, wanted in filters.items():
        if name not in kinds:
            raise ValueError(f"filters: {name!r} cannot be filtered by, expected one of {sorted(kinds)}")
        column = catalogue.columns(NOW)[name]
        mask &= _within(name, column, wanted) if kinds[name].form == NUMBER else _among(name, column, wanted)
    return mask


def _among(name: str, column: list[Any], wanted: Any) -> npt.NDArray[np.bool_]:
    if not isinstance(wanted, list | tuple | set) or not wanted or not all(isinstance(each, str) for each in wanted):
        raise ValueError(f"filters.{name}: found {wanted!r}, expected a list of the strings that are allowed")
    kept = set(wanted) - {""}
    several = (cell if isinstance(cell, list) else [cell] for cell in column)
    return np.array([not kept.isdisjoint(cell) for cell in several], dtype=bool)


def _within(name: str, column: list[Any], wanted: Any) -> npt.NDArray[np.bool_]:
    expected = '{"min": …, "max": …}, numbers of which the first is not above the second, or one of them'
    if not isinstance(wanted, Mapping) or not wanted or set(wanted) - {"min", "max"}:
        raise ValueError(f"filters.{name}: found {wanted!r}, expected {expected}")
    for bound in wanted.values():
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not math.isfinite(bound):
            raise ValueError(f"filters.{name}: found {wanted!r}, expected {expected}")
    low, high = wanted.get("min", -math.inf), wanted.get("max", math.inf)
    if low > high:
        raise ValueError(f"filters.{name}: found {wanted!r}, expected {expected}")
    value = np.array([math.nan if cell is None else cell for cell in column], dtype=np.float64)
    mask: npt.NDArray[np.bool_] = (value >= low) & (value <= high) & np.isfinite(value)
    return mask
