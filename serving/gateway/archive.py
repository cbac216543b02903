"""What the gateway takes from a version's archive: popular items for when no model answers, filters, a probe."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.scoring.placed import COLUMN, FOR_YOU

Filters = Mapping[str, Any]
"""Feature to a list of allowed values, or to {"min", "max"}."""


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
    events_of: Mapping[str, int]
    """Of each item."""
    counted: Mapping[str, Sequence[Mapping[str, Any]]]
    """The best items of each kind of popular ones that the archive tells of."""
    placements: frozenset[str] = frozenset([FOR_YOU])
    """What the archive itself can be asked for; of before there were placements, one."""
    looked_at: frozenset[str] = frozenset()
    """Kinds of events that a history may have and that no item is hidden for: what is not predicted."""

    def had(self, history: Sequence[Mapping[str, Any]]) -> set[str]:
        """The items of a history that the shopper has, and that are hidden where what was seen is."""
        return {event["item_id"] for event in history if event.get("event_type") not in self.looked_at}

    def check(self, filters: Filters) -> None:
        """Raises `BadFilter` for a feature that cannot be filtered by, or not like that."""
        for name, wanted in filters.items():
            kind = self.filterable.get(name)
            if kind is None:
                raise BadFilter(name, f"no such filter; there are {', '.join(self.filterable) or 'none'}")
            if (kind == "numeric") != isinstance(wanted, Mapping):
                raise BadFilter(name, f"is {kind}: give {'min and max' if kind == 'numeric' else 'a list of values'}")

    def popular(
        self, history: Sequence[Mapping[str, Any]], *, k: int, hidden: Collection[str], filters: Filters
    ) -> list[dict[str, Any]]:
        """The most popular items of the segment of the shopper's latest known item, then those of all segments."""
        segments = (self.segment_of.get(event["item_id"]) for event in reversed(history))
        segment = next((value for value in segments if value is not None), "")
        entries = (*self.by_segment.get(segment, ()), *self.overall)
        return _first(entries, "events", k=k, hidden=hidden, filters=filters)

    def best(self, kind: str, *, k: int, hidden: Collection[str], filters: Filters) -> list[dict[str, Any]]:
        """The best items of one of the kinds of `counted`, among those that the archive tells of."""
        return _first(self.counted[kind], COLUMN[kind], k=k, hidden=hidden, filters=filters)

    def ranked(self, items: Sequence[str]) -> list[dict[str, Any]]:
        """Those of the items that there are, the ones with the most events first."""
        known = [(item, float(self.events_of[item])) for item in dict.fromkeys(items) if item in self.events_of]
        known.sort(key=lambda each: -each[1])
        return [{"item_id": item, "score": events, "title": None} for item, events in known]


def _first(
    entries: Sequence[Mapping[str, Any]], column: str, *, k: int, hidden: Collection[str], filters: Filters
) -> list[dict[str, Any]]:
    tests = [(name, _test(wanted)) for name, wanted in filters.items()]
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if len(found) == k:
            break
        item, features = entry["item_id"], entry.get("features", {})
        if item in hidden or item in found or not all(test(features.get(name)) for name, test in tests):
            continue
        found[item] = {"item_id": item, "score": float(entry[column]), "title": entry.get("title")}
    return list(found.values())


def check_digest(path: Path, digest: str) -> None:
    """Raises `OSError` where there is no archive, `ValueError` where its SHA-256 is not `digest`."""
    with path.open("rb") as file:
        if (found := hashlib.file_digest(file, "sha256").hexdigest()) != digest:
            raise ValueError(f"{path}: digest {found[:12]}, expected {digest[:12]}; restore the released archive")


def read_contents(path: Path, digest: str) -> Contents:
    """Raises `OSError` where there is no archive, `ValueError` where it is none of ours or its SHA-256 not `digest`."""
    check_digest(path, digest)
    try:
        return _contents(path)
    except OSError:
        raise
    except Exception as error:  # whatever somebody released under that digest
        raise ValueError(f"{path}: is no archive of ours ({type(error).__name__}: {error})") from error


def _contents(path: Path) -> Contents:
    with zipfile.ZipFile(path) as mar:  # not through serving.torchserve, which imports torch
        contract, popular, items = (
            json.loads(mar.read(name)) for name in ("serving.json", "popular.json", "items.json")
        )
        goldens = [json.loads(line) for line in mar.read("goldens.jsonl").splitlines()]
    segments = items.get("segment") or ()
    return Contents(
        filterable=contract.get("filterable", {}),
        exclude_seen=contract["exclude_seen"],
        overall=popular["overall"],
        by_segment=popular["by_segment"],
        segment_of={item: value for item, value in zip(items["item_id"], segments, strict=False) if value is not None},
        probe=_probe(goldens),
        looked_at=frozenset(each["name"] for each in contract.get("event_types", ()) if not each["predict"]),
        events_of=dict(zip(items["item_id"], items["events"], strict=True)),
        counted={
            kind: popular[name]
            for kind, name in (("popular", "overall"), ("trending", "trending"), ("new", "new"))
            if name in popular
        },
        placements=frozenset(contract.get("placements", [FOR_YOU])),
    )


def _probe(goldens: Sequence[Mapping[str, Any]]) -> Probe:
    """Of the golden request with the shortest history that the model itself answers."""
    asked = [golden for golden in goldens if golden["request"]["history"] and not golden["answer"]["unknown_items"]]
    golden = min(asked, key=lambda each: len(each["request"]["history"]))
    items = frozenset(item["item_id"] for item in golden["answer"].get("items", ()))
    return Probe(body=json.dumps({**golden["request"], "user_id": "probe"}).encode(), items=items)


def _test(wanted: Any) -> Callable[[Any], bool]:
    """Whether a value of an item is what is wanted; a missing one never is."""
    if isinstance(wanted, Mapping):
        low, high = wanted.get("min"), wanted.get("max")
        return lambda value: (
            isinstance(value, int | float) and (low is None or value >= low) and (high is None or value <= high)
        )
    allowed = frozenset(wanted)
    return lambda value: bool(allowed.intersection(value if isinstance(value, list) else [value]))
