"""Item features as arrays of numbers: one file, numpy and the standard library only.

Training and serving encode with this very file: it is copied into the serving archive beside `encoder.json`,
so it imports nothing of this package. Letters: V items of a catalogue, M values of a bag, N varying features.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

VERSION = 1
MISSING, UNKNOWN = 0, 1
"""Index of no value at all, and of a value that the vocabulary does not hold."""

MAX_VALUES = 10_000
MAX_ASKED = 8
"""Values of one bag of an asker that are kept."""
MAX_WORDS = 24
"""Values of one bag (words of a title) that are kept."""
BUCKETS = 16
CLIP = 5.0

EVENT_TYPE = "event_type"
"""Among the values of events: of which kind each is, where a history has several."""

BAG, NUMBER, VECTOR = "bag", "number", "vector"
"""Forms of a token: rows of a table by a vocabulary; a bucket and a slope; a map of a vector."""
ONE, LIST, WORDS = "one", "list", "words"
"""What a cell of a bag holds."""


@dataclass(frozen=True)
class TokenKind:
    """How a kind of feature becomes a token, and whatever else the model does with its values."""

    form: str
    cell: str = ""
    """Of a bag."""

    @property
    def several(self) -> bool:
        """Whether an item may have several values of a vocabulary."""
        return self.cell in (LIST, WORDS)

    @property
    def category(self) -> bool:
        """Whether an item has one value of a vocabulary."""
        return self.cell == ONE


KINDS = {
    "categorical": TokenKind(BAG, ONE),
    "multi_categorical": TokenKind(BAG, LIST),
    "numeric": TokenKind(NUMBER),
    "text": TokenKind(BAG, WORDS),
    "embedding": TokenKind(VECTOR),
}
"""The model's table of kinds; feature_repo/kinds.py is that of everything else."""

Encoded = tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]
"""`value` and `missing` (V,). A bag's value is int64 (V, M), padded with 0; a number's float32 (V,);
an embedding's float32 (V, dimension)."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """One feature and what was learned of it from the catalogue."""

    name: str
    kind: str
    varies_in_time: bool = False
    vocabulary: tuple[str, ...] = ()
    """Of a bag: its values, the first of which has index 2."""
    centre: tuple[float, ...] = (0.0,)
    scale: float = 1.0
    edges: tuple[float, ...] = ()
    """Of a number: boundaries between the buckets, on the standardised scale."""
    sifted: bool = False
    """Of a bag of several: the first MAX_WORDS known values count. Models before this counted the first of all."""
    cut: int = 0
    """Of a bag of several: known values of the catalogue's items beyond the first MAX_WORDS, which are left out."""

    @property
    def is_a(self) -> TokenKind:
        """What the table of kinds says of it."""
        return KINDS[self.kind]

    @property
    def form(self) -> str:
        """That of its token."""
        return self.is_a.form

    @property
    def size(self) -> int:
        """Rows of the embedding table of a bag, the missing and the unknown value included."""
        return len(self.vocabulary) + 2


@dataclass(frozen=True, kw_only=True)
class EventType:
    """A kind of event that a history may have (`events` of the card)."""

    name: str
    predict: bool = False
    weight: float = 1.0
    """Of the loss of a predicted one; of another, the most that the neighbour tables are reminded by it."""
    negative: bool = False


class FeatureEncoder:
    """Vocabularies and scales fitted on a catalogue.

    Items with few training events have no vocabulary entry: their ID is index 0, the learned null token. The
    model meets that token in training by random dropout of IDs, which is how it can rank an item never seen.
    """

    def __init__(
        self,
        fields: Sequence[Field],
        ids: Sequence[str],
        event_types: Sequence[EventType] = (),
        asking: Sequence[Field] = (),
    ) -> None:
        self.fields = tuple(fields)
        self.asking = tuple(asking)
        """What is known of who asks, in the order of `encode_asking`."""
        self.ids = tuple(ids)
        self.event_types = tuple(event_types)
        self._kind = {each.name: number for number, each in enumerate(self.event_types, start=1)}
        self._id = {item: index for index, item in enumerate(self.ids, start=1)}
        self._index = {
            field.name: {value: index for index, value in enumerate(field.vocabulary, start=2)}
            for field in (*self.fields, *self.asking)
        }

    @property
    def varying(self) -> tuple[Field, ...]:
        """The N features that change over time, in the order of the last axis of `encode_varying`."""
        return tuple(field for field in self.fields if field.varies_in_time)

    @property
    def per_event(self) -> int:
        """Values of an event that `encode_varying` gives: N, and one more where events are of several kinds."""
        return len(self.varying) + bool(self.event_types)

    @property
    def asking_names(self) -> frozenset[str]:
        return frozenset(field.name for field in self.asking)

    @property
    def asking_rows(self) -> int:
        """Rows that `encode_asking` names: of each field the missing value, and then the unknown one and each of the
        vocabulary, or a number's slope and its buckets."""
        return sum(map(asking_rows, self.asking))

    @classmethod
    def fit(
        cls,
        features: Sequence[Mapping[str, Any]],
        columns: Mapping[str, Sequence[Any]],
        item_ids: Sequence[str],
        counts: npt.NDArray[np.int64],
        *,
        event_types: Sequence[EventType] = (),
        asking: Sequence[Mapping[str, Any]] = (),
        asked: Mapping[str, Sequence[Any]] | None = None,
        min_events: int = 2,
        min_items: int = 2,
    ) -> "FeatureEncoder":
        """Learn from `columns` (`Catalogue.known_by`: a sequence of values a feature) and `counts` (V,).

        `features` are the entries of `features.json`; `counts` are the training events of each item. Items with
        fewer than `min_events` share the null ID; values that fewer than `min_items` items have are unknown, and so
        are words and values of a bag of several that more than half of the items have. `asking` are the entries of
        features.json about who asks, and `asked` their values at the training events.
        Raises `ValueError` for a feature without a column or of an unknown kind.
        """
        fields = []
        for feature in features:
            name, kind = feature["name"], feature["kind"]
            if name not in columns:
                raise ValueError(f"feature {name!r}: the catalogue has no such column, only {sorted(columns)}")
            fields.append(_fit(name, kind, bool(feature["varies_in_time"]), columns[name], min_items))
        ids = [item for item, count in zip(item_ids, counts, strict=True) if count >= min_events]
        who = [_fit(each["name"], each["kind"], False, (asked or {})[each["name"]], min_items) for each in asking]
        return cls(fields, ids, event_types, who)

    def encode_ids(self, item_ids: Iterable[str]) -> npt.NDArray[np.int64]:
        """Index of each item's own ID token (V,); 0, the null token, for items without one."""
        return np.array([self._id.get(item, MISSING) for item in item_ids], dtype=np.int64)

    def encode(self, columns: Mapping[str, Sequence[Any]]) -> dict[str, Encoded]:
        """Encode catalogue columns, each V values; see `Encoded` for the shapes."""
        absent = [field.name for field in self.fields if field.name not in columns]
        if absent:
            raise ValueError(f"catalogue: columns {absent} are missing; the model was trained with them")
        return {field.name: self._encode(field, columns[field.name]) for field in self.fields}

    def encode_varying(
        self, values: Mapping[str, Sequence[Any]], length: int | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Encode the varying features of `length` events as float32 (length, N) and missing (length, N).

        A feature that `values` lacks is missing at every event. A categorical one is its index in the vocabulary.
        Where events are of several kinds there is one column more, the last: the kind's number from 1, else missing.
        """
        if length is None:
            length = max((len(column) for column in values.values()), default=0)
        value = np.zeros((length, self.per_event), dtype=np.float32)
        missing = np.ones((length, self.per_event), dtype=bool)
        for n, field in enumerate(self.varying):
            if field.name in values:
                encoded, absent = self._encode(field, values[field.name])
                value[:, n] = encoded if field.form == NUMBER else encoded[:, 0]
                missing[:, n] = absent
        if self.event_types and EVENT_TYPE in values:
            value[:, -1] = self.kinds(values[EVENT_TYPE])
            missing[:, -1] = value[:, -1] == MISSING
        return value, missing

    def encode_asking(
        self, values: Mapping[str, Sequence[Any]], length: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Encode `length` askers as rows (length, J) and their weights (length, J): J is 1 for a category, 2 for a
        number (its bucket, and its slope weighted by the number) and MAX_ASKED for a bag, whose weights sum to one.

        A feature that `values` lacks is missing for all.
        """
        rows, weights, first = [], [], 0
        for field in self.asking:
            column = values.get(field.name, [None] * length)
            row, weight = self._of_asker(field, column)
            rows.append(row + first)
            weights.append(weight)
            first += asking_rows(field)
        if not rows:
            return np.zeros((length, 0), dtype=np.int64), np.zeros((length, 0), dtype=np.float32)
        return np.concatenate(rows, axis=1), np.concatenate(weights, axis=1)

    def _of_asker(self, field: Field, column: Sequence[Any]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        value, missing = self._encode(field, column)
        if field.form == NUMBER:
            edges = np.asarray(field.edges, dtype=np.float32)
            bucket = np.where(missing, MISSING, np.searchsorted(edges, value, side="left") + 2)
            row = np.stack([bucket, np.full(len(value), _SLOPE)], axis=1).astype(np.int64)
            return row, np.stack([np.ones(len(value)), np.where(missing, 0, value)], axis=1).astype(np.float32)
        width = 1 if field.is_a.category else MAX_ASKED
        row = np.zeros((len(value), width), dtype=np.int64)
        kept = value[:, :width]
        row[:, : kept.shape[1]] = kept
        weight = (row != MISSING).astype(np.float32)
        weight[missing, 0] = 1
        return row, weight / weight.sum(1, keepdims=True)

    def kinds(self, names: Iterable[Any]) -> npt.NDArray[np.int64]:
        """The number of each event's kind, from 1; 0 where it is not told or not known."""
        return np.array([self._kind.get(name, MISSING) for name in names], dtype=np.int64)

    def to_json(self) -> str:
        """The whole state as JSON text; `from_json` gives an encoder that encodes exactly the same."""
        state: dict[str, Any] = {
            "version": VERSION,
            "fields": [asdict(field) for field in self.fields],
            "ids": self.ids,
        }
        if self.event_types:
            state["event_types"] = [asdict(each) for each in self.event_types]
        if self.asking:
            state["asking"] = [asdict(field) for field in self.asking]
        return json.dumps(state, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "FeatureEncoder":
        """Read `to_json`'s text; `ValueError` where it is of another version."""
        state = json.loads(text)
        if state.get("version") != VERSION:
            raise ValueError(f"encoder: version {state.get('version')!r}, expected {VERSION}; train the model again")
        fields, asking = (
            [
                Field(**{**raw, **{key: tuple(raw[key]) for key in ("vocabulary", "centre", "edges")}})
                for raw in state.get(part, ())
            ]
            for part in ("fields", "asking")
        )
        return cls(fields, state["ids"], [EventType(**raw) for raw in state.get("event_types", ())], asking)

    def _encode(self, field: Field, column: Sequence[Any]) -> Encoded:
        if field.form == NUMBER:
            return _standardise(field, column)
        if field.form == VECTOR:
            return _vectors(field, column)
        return self._bags(field, column)

    def _bags(self, field: Field, column: Sequence[Any]) -> Encoded:
        index, kind = self._index[field.name], field.is_a
        bags = [[index.get(value, UNKNOWN) for value in _values(kind, cell)] for cell in column]
        if not field.sifted:
            bags = [bag[:MAX_WORDS] for bag in bags]
        if field.sifted or kind.cell == WORDS:  # an unknown value beside known ones says nothing
            bags = [[value for value in bag if value != UNKNOWN][:MAX_WORDS] or bag[:1] for bag in bags]
        width = 1 if kind.category else max(map(len, bags), default=0) or 1
        out = np.zeros((len(bags), width), dtype=np.int64)
        for row, bag in enumerate(bags):
            out[row, : len(bag)] = bag
        return out, np.array([not bag for bag in bags], dtype=bool)


_SLOPE = 1
"""Row of a number's slope among those of its field."""


def asking_rows(field: Field) -> int:
    """Rows of one field among those that `FeatureEncoder.encode_asking` names."""
    return len(field.edges) + 3 if field.form == NUMBER else field.size


def _fit(name: str, kind: str, varies: bool, column: Sequence[Any], min_items: int) -> Field:
    if kind not in KINDS:
        raise ValueError(f"feature {name!r}: kind {kind!r} is unknown, expected one of {tuple(KINDS)}")
    is_a = KINDS[kind]
    if is_a.form == BAG:
        items = Counter(value for cell in column for value in set(_values(is_a, cell)))
        common = [(-count, value) for value, count in items.items() if count >= min_items]
        if is_a.several:  # a word of more than half of the titles tells no two items apart; a tag likewise
            common = [(count, value) for count, value in common if -count <= max(len(column) / 2, min_items)]
        kept = tuple(sorted(value for _, value in sorted(common)[:MAX_VALUES]))
        cut = _cut(is_a, column, set(kept)) if is_a.several else 0
        return Field(name=name, kind=kind, varies_in_time=varies, vocabulary=kept, sifted=is_a.several, cut=cut)
    field = Field(name=name, kind=kind, varies_in_time=varies)
    return _fit_number(field, column) if is_a.form == NUMBER else _fit_vector(field, column)


def _cut(kind: TokenKind, column: Sequence[Any], known: set[str]) -> int:
    """Known values beyond the first MAX_WORDS of their item."""
    longer = (sum(value in known for value in _values(kind, cell)) - MAX_WORDS for cell in column)
    return sum(count for count in longer if count > 0)


def _fit_vector(field: Field, column: Sequence[Any]) -> Field:
    present = np.array([cell for cell in column if not _absent(cell)], dtype=np.float64)
    if not len(present):
        return field
    if present.ndim != 2:
        raise ValueError(f"feature {field.name!r}: embeddings must have one length and finite numbers")
    centre = present.mean(0)
    scale = float(np.sqrt(np.mean((present - centre) ** 2))) or 1.0
    return replace(field, centre=tuple(centre.tolist()), scale=scale)


def _fit_number(field: Field, column: Sequence[Any]) -> Field:
    present = np.array([_signed_log(float(cell)) for cell in column if not _absent(cell)], dtype=np.float64)
    if not len(present):
        return field
    low, centre, high = np.quantile(present, (0.25, 0.5, 0.75)).tolist()
    scale = (high - low) / 1.349 or float(present.std()) or 1.0
    standardised = np.clip((present - centre) / scale, -CLIP, CLIP).astype(np.float32)
    # Edges lie between values, so that rounding never moves a value over one.
    quantiles = np.unique(np.quantile(standardised, np.linspace(0, 1, BUCKETS + 1)[1:-1], method="lower"))
    following = [standardised[standardised > edge] for edge in quantiles]
    pairs = zip(quantiles, following, strict=True)
    edges = [float(np.float32((edge + above.min()) / 2)) for edge, above in pairs if len(above)]
    return replace(field, centre=(centre,), scale=scale, edges=tuple(edges))


def _standardise(field: Field, column: Sequence[Any]) -> Encoded:
    missing = np.array([_absent(cell) for cell in column], dtype=bool)
    logs = np.array(
        [field.centre[0] if absent else _signed_log(float(cell)) for cell, absent in zip(column, missing, strict=True)]
    )
    return np.clip((logs - field.centre[0]) / field.scale, -CLIP, CLIP).astype(np.float32), missing


def _vectors(field: Field, column: Sequence[Any]) -> Encoded:
    missing = np.array([_absent(cell) for cell in column], dtype=bool)
    value = np.zeros((len(column), len(field.centre)), dtype=np.float32)
    for row in np.flatnonzero(~missing).tolist():
        if len(column[row]) != len(field.centre):
            found, expected = len(column[row]), len(field.centre)
            raise ValueError(f"feature {field.name!r}: an embedding has {found} numbers, expected {expected}")
        value[row] = (np.asarray(column[row], dtype=np.float64) - field.centre) / field.scale
    return value, missing


def _values(kind: TokenKind, cell: Any) -> list[str]:
    if _absent(cell):
        return []
    if kind.cell == WORDS:
        return list(dict.fromkeys(re.findall(r"\w+", str(cell).lower())))
    if kind.cell == LIST:
        return [str(value) for value in dict.fromkeys(cell) if not _absent(value)]
    return [str(cell)]


def _absent(cell: Any) -> bool:
    """None, an empty string or list, a number or a vector that is not finite."""
    if cell is None or isinstance(cell, str):
        return not cell
    if isinstance(cell, (int, float, np.number)):
        return not math.isfinite(cell)
    return len(cell) == 0 or any((isinstance(v, float) and not math.isfinite(v)) or v is None for v in cell)


def _signed_log(value: float) -> float:
    return math.copysign(math.log1p(abs(value)), value)
