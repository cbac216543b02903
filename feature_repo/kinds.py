"""The table of kinds: what a kind of feature is to files, stores, checks, requests and pages.

A new kind is one entry of `KINDS` here, its name in `Name`, and one entry of `KINDS` in heterrec/data/encoder.py, which
says how the model sees it. Everything else asks these two; a test scans that no other file names a kind.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Literal

Name = Literal["categorical", "multi_categorical", "numeric", "text", "embedding"]
"""What a card may say."""
OF_A_CLOCK: Name = "categorical"
"""What a clock on the wall says of a moment."""


class Storage(Enum):
    """What a value is in files and stores: its SQL type. Its Arrow, Feast and wire types are tables by this."""

    TEXT = "VARCHAR"
    TEXTS = "VARCHAR[]"
    NUMBER = "DOUBLE"
    VECTOR = "FLOAT[]"

    @property
    def numeric(self) -> bool:
        """Whether `min` and `max` bound it: a number, or a vector by its length."""
        return self in (Storage.NUMBER, Storage.VECTOR)

    @property
    def several(self) -> bool:
        """Whether a source that has text only holds it with a separator."""
        return self in (Storage.TEXTS, Storage.VECTOR)


@dataclass(frozen=True, kw_only=True)
class NumericMeasure:
    """The number by which values without a vocabulary are compared; `sql` is over the column {x}."""

    called: str
    sql: str


@dataclass(frozen=True, kw_only=True)
class FeatureKind:
    """One kind of feature; SQL is over the column {x}."""

    storage: Storage
    measure: NumericMeasure | None = None
    """Drift is measured over deciles of it; where there is none, over the most frequent of the values."""
    says: str | None = None
    """SQL: the list of things that a value says, of which drift and growth of the vocabulary are told; None where
    there is no vocabulary."""
    request: str | None = None
    """How a request says it, as a filter or of who asks (serving/scoring/forms.py); None where it cannot."""

    @property
    def single(self) -> bool:
        """Whether a request says it as one short value: such a feature may vary in time, or be of a moment."""
        return self.request is not None and not self.storage.several

    @property
    def category(self) -> bool:
        """Whether it is one value of a vocabulary, by which items are grouped."""
        return self.single and self.says is not None


_SQUARES = "list_sum(list_transform({x}, x -> x::DOUBLE * x))"

KINDS: dict[str, FeatureKind] = {
    "categorical": FeatureKind(storage=Storage.TEXT, says="[nullif({x}, '')]", request="categorical"),
    "multi_categorical": FeatureKind(
        storage=Storage.TEXTS, says="CASE WHEN len({x}) > 0 THEN {x} ELSE [NULL] END", request="multi_categorical"
    ),
    "numeric": FeatureKind(
        storage=Storage.NUMBER,
        measure=NumericMeasure(called="value", sql="(CASE WHEN NOT isnan({x}) THEN {x} END)"),
        request="numeric",
    ),
    "text": FeatureKind(
        storage=Storage.TEXT,
        measure=NumericMeasure(called="characters", sql="nullif(length({x}), 0)"),
        says="string_split(lower({x}), ' ')",
    ),
    "embedding": FeatureKind(
        storage=Storage.VECTOR,
        # A hole or an infinite number in the vector leaves no length.
        measure=NumericMeasure(
            called="length of the vector", sql=f"(CASE WHEN isfinite({_SQUARES}) THEN sqrt({_SQUARES}) END)"
        ),
    ),
}
