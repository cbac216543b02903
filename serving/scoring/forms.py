"""The forms in which a request says a value: what an archive's contract has beside each filter and asker's field.

An archive is packed with the form of each of its features (feature_repo/kinds.py has it of each kind), so that scorer
and gateway know forms and no kinds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Form:
    """One of `FORMS`."""

    expected: str
    """Of a single value, in words."""
    ranges: bool = False
    """A filter gives the least and the greatest; else the values that are allowed, or that are not."""
    several: bool = False
    """A value is a list of strings."""

    @property
    def grouped(self) -> bool:
        """Whether each item has one value, by which items are told apart."""
        return not (self.ranges or self.several)

    def misfit(self, value: object) -> str | None:
        """What was expected, where that was not found; null is a missing value."""
        if value is None:
            return None
        if self.ranges:
            fits = _finite(value)
        elif self.several:
            fits = isinstance(value, list) and all(isinstance(each, str) for each in value)
        else:
            fits = isinstance(value, str)
        return None if fits else self.expected


FORMS = {
    "categorical": Form(expected="a string or null"),
    "multi_categorical": Form(expected="a list of strings, or null", several=True),
    "numeric": Form(expected="a number or null", ranges=True),
}


@dataclass(frozen=True, kw_only=True)
class Holds:
    """What a value of an item's feature is, by how it is stored (feature_repo/kinds.py, `Storage`)."""

    expected: str
    fits: Callable[[Any], bool]


def is_text(value: object) -> bool:
    """Half of a character (a surrogate by itself) is none."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= each <= "\udfff" for each in value))


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(map(is_text, value))


def _numbers(value: object) -> bool:
    return isinstance(value, list) and all(map(_finite, value))


HOLDS = {
    "text": Holds(expected="a string", fits=is_text),
    "texts": Holds(expected="a list of strings", fits=_texts),
    "number": Holds(expected="a number", fits=lambda value: _finite(value)),
    "vector": Holds(expected="a list of numbers", fits=_numbers),
}


def is_number(field: Any) -> bool:
    """Whether a varying feature of an archive's encoder is a number; the encoders of before say their kind alone."""
    form = FORMS.get(field.kind)
    return getattr(field, "form", None) == "number" or (form is not None and form.ranges)


def _finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(float(value))
    except OverflowError:
        return False
