"""The features of an item as a shop sends them, checked against what an archive's contract says of its items."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from serving.scoring.forms import HOLDS

PROGRAM = "items.pt2"
"""File of an archive: its item side."""
FIELD = "upserts"
"""Of a request; entries `{"item_id", "features", "since"}`, the last in days since 1970."""


class ItemFeature(NamedTuple):
    """An entry of the contract's `item_features`."""

    name: str
    holds: str
    nullable: bool = True
    derived: bool = False
    """Computed from events: what a shop does not send."""
    dimension: int | None = None

    def misfit(self, value: object) -> str | None:
        """What was expected, where that was not found."""
        if value is None:
            return None if self.nullable or self.derived else self.expected
        fits = HOLDS[self.holds].fits(value)
        if fits and self.dimension is not None:
            fits = isinstance(value, list) and len(value) == self.dimension
        return None if fits else self.expected

    @property
    def expected(self) -> str:
        """In words."""
        length = "" if self.dimension is None else f" ({self.dimension} of them)"
        return f"{HOLDS[self.holds].expected}{length}{' or null' if self.nullable else ''}"


class ItemValues:
    """Of one archive; `described` are the contract's entries."""

    def __init__(self, described: Sequence[Mapping[str, Any]]) -> None:
        self.features = {each["name"]: ItemFeature(**each) for each in described}

    def fault(self, values: Mapping[str, Any]) -> tuple[str, str] | None:
        """The first of the known features whose value is not what it must be, or that is not said at all, and what was
        expected: a shop that does not know a value says null. Names that are not known are not looked at."""
        for name, feature in self.features.items():
            if name not in values and not feature.derived:
                return name, feature.expected
            if (wrong := feature.misfit(values.get(name))) is not None:
                return name, wrong
        return None

    def plain(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Checked values, with numbers as such: JSON has whole ones of any length."""
        return {name: _plain(value) if name in self.features else value for name, value in values.items()}

    def known(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the values whose features this archive knows."""
        return {name: value for name, value in values.items() if name in self.features}

    def fits(self, values: Mapping[str, Any]) -> bool:
        """Whether an item can be scored by these: what is not said counts as missing, as an archive may know more
        features than those before it."""
        return all(
            values.get(name) is None or feature.misfit(values[name]) is None for name, feature in self.features.items()
        )


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return float(value) if isinstance(value, int) else value
