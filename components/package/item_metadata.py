"""What the archive tells of each item beside its vector: items.json, and popular.json for unknown shoppers."""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from feature_repo.kinds import KINDS
from heterrec.data.sequences import Sequences

_DAY, _WEEK, _BEFORE = 86_400_000_000, 7, 28
"""Microseconds; and days that a trend is of, and that it is held against."""
_APART, _PRIOR = 0.5, 20
"""Days that make two purchases of one; and purchases that stand for what holds of all items."""
MAX_SEGMENTS = 100
"""Segments with popular items of their own: those with the most events."""


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """The V items as a shopper and a filter see them, features at their value as of the catalogue."""

    item_ids: list[str]
    titles: list[str | None] | None
    events: list[int]
    """Events of each, held out or not: what is popular is asked about tomorrow."""
    segment: str | None
    """The feature that divides the catalogue."""
    trend: list[float]
    """By how many standard deviations of chance each was bought more in the last week than in the four before it."""
    since: list[float]
    """When each came, in days since 1970."""
    rhythm: float | None
    """Days between two purchases of an item by one shopper, the median; None where nothing is bought again."""
    again: list[float] | None
    """Of each item the share of its purchases after which the shopper bought it once more."""
    filterable: dict[str, str]
    """Kind of each feature that a request may filter by, tokens or not."""
    dates: dict[str, str]
    """The zone in which a day of it is meant, of each of them that is a date: a number of days since 1970."""
    features: dict[str, list[Any]]
    """The V values of each of them; null is missing."""

    def items(self) -> dict[str, Any]:
        """Content of items.json."""
        segments = self.features[self.segment] if self.segment else [None] * len(self.item_ids)
        titles = {"title": self.titles} if self.titles is not None else {}
        again = {"again": self.again} if self.again is not None else {}
        return {"item_id": self.item_ids, **titles, "segment": segments, "events": self.events,
                "trend": self.trend, "since": self.since, **again, "features": self.features}  # fmt: skip

    def by_events(self) -> list[int]:
        """Rows, those with the most events first; equal ones by their id."""
        return sorted(range(len(self.item_ids)), key=lambda row: (-self.events[row], self.item_ids[row]))

    def popular(self, count: int) -> dict[str, Any]:
        """Content of popular.json: the `count` items with the most events, overall and by segment."""
        best = self.by_events()
        by_segment: defaultdict[str, list[int]] = defaultdict(list)
        total: defaultdict[str, int] = defaultdict(int)
        if self.segment:
            for row in best:
                if value := self.features[self.segment][row]:
                    by_segment[value].append(row)
                    total[value] += self.events[row]
        largest = sorted(by_segment, key=lambda value: (-total[value], value))[:MAX_SEGMENTS]
        return {
            "segment": self.segment,
            "overall": [self._entry(row) for row in best[:count]],
            "by_segment": {value: [self._entry(row) for row in by_segment[value][:count]] for value in largest},
            "trending": [self._entry(row) for row in self._by(self.trend)[:count] if self.trend[row] > 0],
            "new": [self._entry(row) for row in self._by(self.since)[:count]],
        }

    def _by(self, column: list[float]) -> list[int]:
        """Rows, those with the greatest number first; equal ones as they stand in the catalogue."""
        return sorted(range(len(column)), key=lambda row: -column[row])

    def _entry(self, row: int) -> dict[str, Any]:
        return {
            "item_id": self.item_ids[row],
            "events": self.events[row],
            "trend": self.trend[row],
            "since": self.since[row],
            "title": self.titles[row] if self.titles is not None else None,
            "features": {name: values[row] for name, values in self.features.items()},
        }


def read_shelf(root: Path, sequences: Sequences, *, segment: str | None) -> Shelf:
    """Read a `sequences` artifact's catalogue, also the features that the model does not see."""
    described = json.loads((root / "features.json").read_text())
    told = described["features"] + described.get("others", [])
    kinds = {feature["name"]: feature["kind"] for feature in told}
    filterable = {name: form for name, kind in kinds.items() if (form := KINDS[kind].request) is not None}
    title = described.get("title")
    rhythm, again = returns(sequences)
    columns = list(dict.fromkeys([*filterable, *([title] if title else [])]))
    table = pq.read_table(root / "catalogue.parquet", columns=columns)
    return Shelf(
        item_ids=sequences.catalogue.item_ids,
        titles=table[title].to_pylist() if title else None,
        events=np.bincount(sequences.row, minlength=len(sequences.catalogue)).tolist(),
        trend=_trend(sequences),
        since=(sequences.catalogue.available_at / _DAY).round(6).tolist(),
        rhythm=rhythm,
        again=again,
        segment=segment,
        filterable=filterable,
        dates={feature["name"]: feature["date"] for feature in told if "date" in feature},
        features={name: [plain(value) for value in table[name].to_pylist()] for name in filterable},
    )


def _trend(sequences: Sequences) -> list[float]:
    """Of each item: events of the last week less those to expect by the four weeks before, over the root of these and
    one."""
    age = sequences.time.max() - sequences.time
    size = len(sequences.catalogue)
    lately = np.bincount(sequences.row[age < _WEEK * _DAY], minlength=size)
    before = np.bincount(sequences.row[(age >= _WEEK * _DAY) & (age < (_WEEK + _BEFORE) * _DAY)], minlength=size)
    expected = before * (_WEEK / _BEFORE)
    found: list[float] = ((lately - expected) / np.sqrt(expected + 1)).round(4).tolist()
    return found


def returns(sequences: Sequences) -> tuple[float | None, list[float] | None]:
    """The shop's rhythm in days, and of each item how much of what was bought of it was bought once more by the same
    shopper, half a day later at least; where little was bought of it mostly what holds for all."""
    if not sequences.repeats:
        return None, None
    bought = sequences.predicted
    user = np.repeat(np.arange(len(sequences.user_ids)), np.diff(sequences.offsets))[bought]
    row, time = sequences.row[bought], sequences.time[bought]
    order = np.lexsort((time, row, user))
    user, row, time = user[order], row[order], time[order]
    gap = np.diff(time) / _DAY
    anew = (np.diff(user) == 0) & (np.diff(row) == 0) & (gap > _APART)
    if not anew.any():
        return None, None
    size = len(sequences.catalogue)
    come, bought_V = np.bincount(row[:-1][anew], minlength=size), np.bincount(row, minlength=size)
    share = (come + _PRIOR * anew.sum() / len(row)) / (bought_V + _PRIOR)
    return round(float(np.median(gap[anew])), 4), share.round(4).tolist()


def plain(value: Any) -> Any:
    """JSON knows neither NaN nor infinities; for the encoder, and for filters, they are missing values."""
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
