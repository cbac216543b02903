"""The checks that a card implies: what should hold, in words, and between which bounds it warns or blocks."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from components.shared.columns import (
    missing,
    number,
    rows_of,
    source_of,
)
from feature_repo.card import DatasetCard
from feature_repo.card_features import Described, Feature
from feature_repo.kinds import Storage
from feature_repo.limits import Tolerance
from runtime.decision import Level

Unit = Literal["count", "share", "times", "index"]
BROKEN = (
    "ingest lets none of this pass, whatever the source: run again in a fresh workspace (HETERREC_HOME), and report it"
)
"""What no source and no card can bring about."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a measure may be, both ends included; None leaves an end open."""

    low: float | None = None
    high: float | None = None

    def told(self) -> float | str:
        """The bound, as a Reason's `allowed` has it."""
        if self.low is None or self.high is None:
            return self.high if self.low is None and self.high is not None else self.low or 0.0
        return f"{self.low:.3g} to {self.high:.3g}"


def told(value: object, unit: Unit) -> str:
    """A figure as people read it."""
    if not isinstance(value, int | float):
        return "none" if value is None else str(value)
    if unit == "share":
        return f"{value:.2%}" if abs(value) < 0.1 else f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


@dataclass(frozen=True, kw_only=True)
class Check:
    """What should hold of the measure called `name`. Outside `bounds["block"]` it blocks, outside `bounds["warn"]`
    it warns."""

    name: str
    message: str
    bounds: dict[Level, Bounds]
    unit: Unit = "count"
    field: str = ""
    """Where the card says what is allowed, if it does."""
    remedy: str = ""
    """What to do where it does not hold; by `field`, where that is all there is to say."""

    def __post_init__(self) -> None:
        if not self.remedy:
            if not self.field:
                raise ValueError(f"check {self.name!r} names neither a field of the card nor a remedy")
            object.__setattr__(self, "remedy", f"correct the source, or change {self.field} in the card")

    @property
    def against_reference(self) -> "Check":
        """The same as one that only looks at what changed since the last accepted run."""
        return replace(self, remedy=f"{self.remedy}; where the change is meant, run once with --new-reference")


@dataclass(frozen=True, kw_only=True)
class RowCheck(Check):
    """Its measure is the share of the rows of `table` for which `offending` holds, an SQL condition."""

    table: str
    offending: str


def at_most(
    name: str,
    message: str,
    *,
    warn: float | None = None,
    block: float | None = None,
    unit: Unit = "count",
    field: str = "",
    remedy: str = "",
) -> Check:
    bounds: dict[Level, Bounds] = {}
    if block is not None:
        bounds["block"] = Bounds(high=block)
    if warn is not None:
        bounds["warn"] = Bounds(high=warn)
    return Check(name=name, message=message, bounds=bounds, unit=unit, field=field, remedy=remedy)


def within(
    name: str,
    message: str,
    limit: Tolerance,
    *,
    field: str,
    slack: float = 0.0,
    unit: Unit = "share",
    remedy: str = "",
) -> Check:
    """At most what `limit` says, and `slack` more for chance."""
    warn, block = limit.warn + slack, limit.block + slack
    return at_most(name, message, warn=warn, block=block, unit=unit, field=field, remedy=remedy)


def factor(name: str, message: str, warn: float, block: float, *, field: str) -> Check:
    """A ratio that is 1 where nothing changed: no more than that many times larger or smaller."""
    bounds: dict[Level, Bounds] = {
        "block": Bounds(low=1 / block, high=block),
        "warn": Bounds(low=1 / warn, high=warn),
    }
    return Check(name=name, message=message, bounds=bounds, unit="times", field=field)


def columns_check() -> Check:
    """What must hold before anything else can be looked at."""
    message = "Every column that the card declares is there, with the type of its kind"
    remedy = "correct columns and features in the card, or the source, and run again"
    return at_most("columns", message, block=0, remedy=remedy)


def run_checks(card: DatasetCard) -> list[Check]:
    """About the run as a whole; the measures are in `figures.py`."""
    limits = card.limits
    enough: dict[Level, Bounds] = {"block": Bounds(low=limits.min_interactions)}
    least, missing_days = "limits.min_interactions", card.calendar.max_missing_days
    found = [
        Check(name="interactions", message="There are enough interactions", bounds=enough, field=least),
        _rejected("rejected_rate", "Few of the source's rows were set aside", limits.max_rejected_rate),
        _rejected("item_rejected_rate", "Few rows of the items table were set aside", limits.max_rejected_rate),
        at_most("missing_days", "Every open day has events", block=missing_days, field="calendar.max_missing_days"),
        at_most("closed_days", "No events on closed days", warn=0, field="calendar.closed_weekdays or closed_days"),
        at_most(
            "later_events",
            "No events after as_of, or known only later (they are left out)",
            warn=0,
            remedy="nothing, where --as-of is a moment of the past; else correct the clock of what writes them",
        ),
        at_most(
            "long_baskets",
            "No basket lasts longer than a day",
            warn=0,
            remedy="see whether columns.basket names the basket's own id, which is never used again",
        ),
        at_most("event_id unique", "No event is there twice", block=0, remedy=BROKEN),
        at_most("event_time missing", "Every interaction has event_time", block=0, remedy=BROKEN),
    ]
    if card.user_features:
        found.append(
            _rejected("user_rejected_rate", "Few rows of the users table were set aside", limits.max_rejected_rate)
        )
    if limits.max_age_days is not None:
        message, field = "The newest event is recent (days before as_of)", "limits.max_age_days"
        found.append(at_most("age_days", message, block=limits.max_age_days, field=field))
    if limits.max_catalogue_age_days is not None:
        message, field = "The newest row about an item is recent (days before as_of)", "limits.max_catalogue_age_days"
        found.append(at_most("catalogue_age_days", message, block=limits.max_catalogue_age_days, field=field))
    if card.varying:
        message = "An item changes once at a time; of two changes at one time nobody could say which holds"
        remedy = "write one row an item and moment in the items table (columns.item_available_at)"
        found.append(at_most("one change an instant", message, block=0, remedy=remedy))
    return found


def _rejected(name: str, message: str, limit: float) -> Check:
    return at_most(name, message, block=limit, unit="share", field="limits.max_rejected_rate")


def row_checks(card: DatasetCard) -> list[RowCheck]:
    """Of single rows, of `interactions`, `latest_items` (a row an item), `latest_users` (a row a user), `varying` and
    `derived` (a row a change)."""
    return [*_about_interactions(card), *(check for feature in card.described for check in _about_feature(feature))]


def _about_interactions(card: DatasetCard) -> Iterator[RowCheck]:
    for column in ("event_id", "user_id", "item_id"):
        message = f"Every interaction has {column}"
        yield _share(f"{column} missing", "traded", f"{column} IS NULL", message, 0.0, remedy=BROKEN)
    orphans = card.limits.max_orphan_rate
    message, field = "The items table has the item of an interaction", "limits.max_orphan_rate"
    yield _share("item known", "traded", "NOT item_known", message, orphans, field=field)
    message = "Items were available when they were bought; earlier purchases see no features"
    remedy = (
        "date the rows of the items table from when the item could be bought, or leave columns.item_available_at out"
    )
    yield _share("item known by then", "traded", "NOT item_known_by_then", message, 0.0, level="warn", remedy=remedy)
    message = "Nothing was known before it happened (created_time is not before event_time)"
    remedy = "correct columns.created_time in the card, or the clock of what writes the source"
    yield _share("order of times", "traded", "created_time < event_time", message, 0.0, remedy=remedy)


def _about_feature(feature: Described) -> Iterator[RowCheck]:
    table, name = source_of(feature), feature.name
    rows = rows_of(feature)
    lacks = missing(feature)
    message, field = f"Few of the {rows} lack {name}", f"max_missing_rate of feature {name}"
    yield _share(f"{name} missing", table, lacks, message, feature.max_missing_rate, field=field)
    value, wrong = number(feature), f"correct {name} in the source: the page has the rows that are wrong"
    if not feature.storage.numeric:
        return
    what = name if feature.storage is Storage.NUMBER else f"{name} (its length)"
    if feature.min is not None or feature.max is not None:
        low, high = ("…" if bound is None else f"{bound:g}" for bound in (feature.min, feature.max))
        outside = [f"{value} < {feature.min!r}"] if feature.min is not None else []
        outside += [f"{value} > {feature.max!r}"] if feature.max is not None else []
        message, field = f"Every {what} lies in {low} to {high}", f"min and max of feature {name}"
        yield _share(f"{name} range", table, " OR ".join(outside), message, 0.0, field=field)
    if isinstance(feature, Feature) and feature.dimension is not None:
        message = f"Every {name} has {feature.dimension} numbers, as the card says"
        yield _share(f"{name} dimension", table, f'len("{name}") NOT IN (0, {feature.dimension})', message, 0.0,
                     field=f"dimension of feature {name}")  # fmt: skip
        broken = f'NOT list_bool_and(list_transform("{name}", x -> x IS NOT NULL AND isfinite(x)))'
        yield _share(f"{name} finite", table, broken, f"Every {name} is finite", 0.0, remedy=wrong)
        if feature.min is None:
            message = f"No {name} is all zeros"
            yield _share(f"{name} zero", table, f"{value} = 0", message, feature.max_missing_rate, level="warn",
                         field=f"max_missing_rate of feature {name}")  # fmt: skip
    else:
        yield _share(f"{name} finite", table, f'isinf("{name}")', f"Every {name} is finite", 0.0, remedy=wrong)


def _share(
    name: str,
    table: str,
    offending: str,
    message: str,
    limit: float,
    *,
    level: Level = "block",
    field: str = "",
    remedy: str = "",
) -> RowCheck:
    return RowCheck(
        name=name,
        message=message,
        table=table,
        offending=offending,
        bounds={level: Bounds(high=limit)},
        unit="share",
        field=field,
        remedy=remedy,
    )
