"""What the gateway takes from a version's archive: popular items for when no model answers, filters, a probe."""

import json
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from feature_repo.wall_clock import WallClock, clocks_of
from runtime.files import digest_file
from serving.gateway.after.catalogue import ServedCatalogue, UnknownFeature
from serving.gateway.dates import BadDate, in_days
from serving.gateway.placements.returns import Returns, returns_of
from serving.scoring.asker import known_askers
from serving.scoring.forms import FORMS
from serving.scoring.item_values import PROGRAM as ITEM_PROGRAM
from serving.scoring.item_values import ItemValues
from serving.scoring.placed import (
    COLUMN,
    FOR_YOU,
    POPULAR,
    RANKING,
)

Filters = Mapping[str, Any]
"""Feature to a list of allowed values, to {"not": values}, or to {"min", "max"}."""


class BadFilter(ValueError):
    """A filter that the catalogue cannot follow; `field` is its name."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(why)
        self.field = field


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A golden request, and the items of its answer as packaged (empty where the archive does not tell)."""

    body: bytes
    items: frozenset[str]

    def recognises(self, items: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the answer is of the right catalogue: half of the items are enough, for approximate ranking."""
        return 2 * len(self.items & {item["item_id"] for item in items}) >= len(self.items)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Of one archive."""

    filterable: Mapping[str, str]
    exclude_seen: bool
    """The data set's rule, where a request does not say."""
    overall: Sequence[Mapping[str, Any]]
    by_segment: Mapping[str, Sequence[Mapping[str, Any]]]
    segment_of: Mapping[str, str]
    """Of each item that has one."""
    probe: Probe
    catalogue: ServedCatalogue
    max_k: int
    """Most items that its model answers with."""
    events_of: Mapping[str, int]
    """Of each item."""
    counted: Mapping[str, Sequence[Mapping[str, Any]]]
    """The best items of each kind of popular ones that the archive tells of."""
    knows_not: bool = True
    """Whether its model knows filters of what an item must not be: the archive brings the code that scores it."""
    placements: frozenset[str] = frozenset([FOR_YOU])
    """What the archive itself can be asked for; of before there were placements, one."""
    asking: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By field of a request that says who asks, the names that a model of this archive knows, with their kinds."""
    clocks: Mapping[str, WallClock] = field(default_factory=dict)
    """Of `asking`'s context what is read off a clock, where a request does not say it."""
    looked_at: frozenset[str] = frozenset()
    """Kinds of events that a history may have and that no item is hidden for: what is not predicted."""
    returns: Returns | None = None
    """Where things are bought again, and the archive tells of it."""
    item_values: ItemValues = field(default_factory=lambda: ItemValues([]))
    """The features of its items; of an archive of before that was said, none."""
    item_title: str | None = None
    """The feature that is an item's title."""
    item_program: bool = False
    """Whether its model scores items that its catalogue does not have."""
    as_of: datetime | None = None
    """The moment as of which its catalogue knows its items; None where it does not say."""

    def had(self, history: Sequence[Mapping[str, Any]]) -> set[str]:
        """The items of a history that the shopper has, and that are hidden where what was seen is."""
        return {event["item_id"] for event in history if event.get("event_type") not in self.looked_at}

    def hidden(
        self,
        history: Sequence[Mapping[str, Any]],
        *,
        placement: str,
        items: Sequence[str],
        exclude: Sequence[str],
        exclude_seen: bool | None,
    ) -> frozenset[str]:
        """What a request does not want to see: what it excludes, what it gives for others to be like or to go with, and
        where it or the data set says so what the shopper has."""
        if placement in (RANKING, POPULAR):
            return frozenset(exclude)
        seen = self.had(history) if (self.exclude_seen if exclude_seen is None else exclude_seen) else ()
        return frozenset(exclude).union(items, seen)

    def in_days(self, filters: Filters, now: datetime) -> Filters:
        """`filters` with dates as archives have them. Raises `BadFilter`."""
        try:
            return in_days(filters, self.catalogue.dates, now)
        except BadDate as error:
            raise BadFilter(error.feature, str(error)) from error

    def check(self, filters: Filters) -> None:
        """Raises `BadFilter` for a feature that cannot be filtered by, or not like that."""
        for name, wanted in filters.items():
            named = self.filterable.get(name)
            if named is None:
                raise BadFilter(name, f"no such filter; there are {', '.join(self.filterable) or 'none'}")
            ranges = isinstance(wanted, Mapping) and "not" not in wanted
            if FORMS[named].ranges != ranges:
                shape = "min and max" if FORMS[named].ranges else "a list of values, or not with such a list"
                raise BadFilter(name, f"is {named}: give {shape}")
            if ranges != isinstance(wanted, Mapping) and not self.knows_not:
                raise BadFilter(name, "the archive that serves is of before there was `not`; package the model again")
            try:
                self.catalogue.forbidden({name: wanted})
            except UnknownFeature as error:
                raise BadFilter(name, str(error)) from error

    def segment(self, history: Sequence[Mapping[str, Any]]) -> str:
        """Of the shopper's latest known item; empty where there is none."""
        segments = (self.segment_of.get(event["item_id"]) for event in reversed(history))
        return next((value for value in segments if value is not None), "")

    def popular(
        self, history: Sequence[Mapping[str, Any]], *, k: int, hidden: Collection[str], filters: Filters
    ) -> list[dict[str, Any]]:
        """The most popular items of the segment of the shopper's latest known item, then those of all segments."""
        entries = (*self.by_segment.get(self.segment(history), ()), *self.overall)
        return self._first(entries, "events", k=k, hidden=hidden, filters=filters)

    def best(self, kind: str, *, k: int, hidden: Collection[str], filters: Filters) -> list[dict[str, Any]]:
        """The best items of one of the kinds of `counted`, among those that the archive tells of."""
        return self._first(self.counted[kind], COLUMN[kind], k=k, hidden=hidden, filters=filters)

    def ranked(self, items: Sequence[str]) -> list[dict[str, Any]]:
        """Those of the items that there are, the ones with the most events first."""
        known = [(item, float(self.events_of[item])) for item in dict.fromkeys(items) if item in self.events_of]
        known.sort(key=lambda each: -each[1])
        return [{"item_id": item, "score": events, "title": None} for item, events in known]

    def again(
        self,
        history: Sequence[Mapping[str, Any]],
        *,
        now: datetime,
        k: int,
        hidden: Collection[str],
        filters: Filters,
    ) -> list[dict[str, Any]]:
        """What the shopper has bought and may buy again, best first."""
        assert self.returns is not None
        bought = [event for event in history if event.get("event_type") not in self.looked_at]
        row, titles = self.catalogue.row, self.catalogue.titles
        entries = [
            {"item_id": item, "score": score, "title": titles[row[item]]}
            for item, score in self.returns.of(bought, now)
            if item in row
        ]
        return self._first(entries, "score", k=k, hidden=hidden, filters=filters)

    def _first(
        self,
        entries: Sequence[Mapping[str, Any]],
        column: str,
        *,
        k: int,
        hidden: Collection[str],
        filters: Filters,
    ) -> list[dict[str, Any]]:
        forbidden_V, row = self.catalogue.forbidden(filters) if filters else None, self.catalogue.row
        found: dict[str, dict[str, Any]] = {}
        for entry in entries:
            if len(found) == k:
                break
            item = entry["item_id"]
            if item in hidden or item in found:
                continue
            if forbidden_V is not None and (item not in row or forbidden_V[row[item]]):
                continue
            found[item] = {"item_id": item, "score": float(entry[column]), "title": entry.get("title")}
        return list(found.values())


def check_digest(path: Path, digest: str) -> None:
    """Raises `OSError` where there is no archive, `ValueError` where its SHA-256 is not `digest`."""
    if (found := digest_file(path)) != digest:
        raise ValueError(f"{path}: digest {found[:12]}, expected {digest[:12]}; restore the released archive")


def read_contents(path: Path, digest: str) -> Contents:
    """Raises `OSError` where there is no archive, `ValueError` where it is none of ours or its SHA-256 not `digest`."""
    check_digest(path, digest)
    try:
        with zipfile.ZipFile(path) as mar:  # not through serving.torchserve, which imports torch
            return _contents(mar.read)
    except OSError:
        raise
    except Exception as error:  # whatever somebody released under that digest
        raise ValueError(f"{path}: is no archive of ours ({type(error).__name__}: {error})") from error


def contents_in(folder: Path) -> Contents:
    """Of an archive that was checked and unpacked."""
    return _contents(lambda name: (folder / name).read_bytes())


def _contents(read: Callable[[str], bytes]) -> Contents:
    contract, popular, items = (json.loads(read(name)) for name in ("serving.json", "popular.json", "items.json"))
    goldens = [json.loads(line) for line in read("goldens.jsonl").splitlines()]
    segments = items.get("segment") or ()
    return Contents(
        filterable=contract.get("filterable", {}),
        exclude_seen=contract["exclude_seen"],
        overall=popular["overall"],
        by_segment=popular["by_segment"],
        segment_of={item: value for item, value in zip(items["item_id"], segments, strict=False) if value is not None},
        probe=_probe(goldens),
        catalogue=ServedCatalogue(items, contract.get("filterable", {}), contract.get("dates")),
        max_k=contract["max_k"],
        knows_not=contract.get("filters_not", False),
        asking=known_askers(contract),
        clocks=clocks_of(contract.get("asking", ())),
        looked_at=frozenset(each["name"] for each in contract.get("event_types", ()) if not each["predict"]),
        events_of=dict(zip(items["item_id"], items["events"], strict=True)),
        counted={
            kind: popular[name]
            for kind, name in (("popular", "overall"), ("trending", "trending"), ("new", "new"))
            if name in popular
        },
        placements=frozenset(contract.get("placements", [FOR_YOU])),
        returns=returns_of(items, contract),
        item_values=ItemValues(contract.get("item_features", ())),
        item_title=contract.get("title"),
        item_program=ITEM_PROGRAM in contract["digests"],
        as_of=datetime.fromisoformat(contract["as_of"]) if "as_of" in contract else None,
    )


def _probe(goldens: Sequence[Mapping[str, Any]]) -> Probe:
    """Of the golden request "for you" with the shortest history that the model itself answers."""
    for_you = [golden for golden in goldens if "placement" not in golden["request"]]
    asked = [golden for golden in for_you if golden["request"]["history"] and not golden["answer"]["unknown_items"]]
    golden = min(asked, key=lambda each: len(each["request"]["history"]))
    items = frozenset(item["item_id"] for item in golden["answer"].get("items", ()))
    return Probe(body=json.dumps({**golden["request"], "user_id": "probe"}).encode(), items=items)
