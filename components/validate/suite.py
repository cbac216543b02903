"""The checks that a card implies: what should hold, in words, and between which bounds it warns or blocks."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

from components.shared.columns import rows_of
from components.validate.checked import ITEMS_OF_EVENTS
from feature_repo.card import DatasetCard
from feature_repo.card_features import Described, Feature
from feature_repo.expectations import BESIDE, Expectation
from feature_repo.kinds import Storage
from feature_repo.limits import Tolerance
from runtime.decision import Level

Unit = Literal["count", "share", "times", "index"]
BROKEN = (
    "ingest lets none of this pass, whatever the source: run again in a fresh workspace (HETERREC_HOME), and report it"
)
"""What no source and no card can bring about."""
IN_SET = "expect_column_values_to_be_in_set"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a measure may be, both ends included; None leaves an end open."""

    low: float | None = None
    high: float | None = None

    def text(self) -> float | str:
        """The bound, as a Reason's `allowed` has it."""
        if self.low is None or self.high is None:
            return self.high if self.low is None and self.high is not None else self.low or 0.0
        return f"{self.low:.3g} to {self.high:.3g}"


def figure_text(value: object, unit: Unit) -> str:
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
class DataCheck(Check):
    """Asked of the rows of `table` (`checked.py`) by Great Expectations: an expectation of this type, these kwargs.

    Its measure is the share of the rows that have a value and are not as expected; of a type that asks nothing of
    single rows, what Great Expectations calls the observed value.
    """

    table: str
    type: str
    kwargs: Mapping[str, Any]
    level: Level
    asks_rows: bool = True

    @property
    def allowed(self) -> float | str:
        """The share of rows that may differ, or what was asked of the table."""
        if self.asks_rows:
            return self.bounds[self.level].text()
        kwargs = {name: value for name, value in self.kwargs.items() if name != "column"}
        return ", ".join(f"{name} {json.dumps(value)}" for name, value in kwargs.items())


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


def data_checks(card: DatasetCard) -> list[DataCheck]:
    """What Great Expectations is asked: what features and limits of the card imply, then the card's own."""
    implied = [*_about_interactions(card), *(check for feature in card.described for check in _about_feature(feature))]
    return [*implied, *_own(card)]


def _own(card: DatasetCard) -> list[DataCheck]:
    names = [each.name for each in card.expectations]
    return [
        _as_check(each, field=f"expectations.{place}", ordinal=names[:place].count(each.name) + 1)
        for place, each in enumerate(card.expectations)
    ]


def _as_check(asked: Expectation, *, field: str, ordinal: int) -> DataCheck:
    """`ordinal` tells several of one name apart."""
    mostly = asked.kwargs.get("mostly", 1)
    may_differ = _rest(mostly) if isinstance(mostly, int | float) else 0.0
    return DataCheck(
        name=asked.name if ordinal == 1 else f"{asked.name} ({ordinal})",
        message=asked.notes or f"As the card expects ({asked.type})",
        table=asked.table,
        type=asked.type,
        kwargs=asked.kwargs,
        level=asked.severity,
        bounds={asked.severity: Bounds(high=may_differ)},
        unit="share" if asked.asks_rows else "count",
        asks_rows=asked.asks_rows,
        field=field,
    )


def _about_interactions(card: DatasetCard) -> Iterator[DataCheck]:
    for column in ("event_id", "user_id", "item_id"):
        message = f"Every interaction has {column}"
        yield _present(f"{column} missing", "interactions", column, message, 0.0, remedy=BROKEN)
    orphans = card.limits.max_orphan_rate
    message, field = "The items table has the item of an interaction", "limits.max_orphan_rate"
    yield _true("item known", ITEMS_OF_EVENTS, "item_known", message, orphans, field=field)
    message = "Items were available when they were bought; earlier purchases see no features"
    remedy = (
        "date the rows of the items table from when the item could be bought, or leave columns.item_available_at out"
    )
    by_then = "item_known_by_then"
    yield _true("item known by then", ITEMS_OF_EVENTS, by_then, message, 0.0, level="warn", remedy=remedy)
    message = "Nothing was known before it happened (created_time is not before event_time)"
    remedy = "correct columns.created_time in the card, or the clock of what writes the source"
    order = {"column_A": "created_time", "column_B": "event_time", "or_equal": True,
             "ignore_row_if": "either_value_is_missing"}  # fmt: skip
    asked = "expect_column_pair_values_a_to_be_greater_than_b"
    yield _asked("order of times", "interactions", asked, order, message, 0.0, remedy=remedy)


def _about_feature(feature: Described) -> Iterator[DataCheck]:
    table, name = feature.stored_in, feature.name
    message, field = f"Few of the {rows_of(feature)} lack {name}", f"max_missing_rate of feature {name}"
    # Of a list its size: as text it would be written out for every row.
    column = f"{name} size" if "size" in BESIDE.get(feature.storage, ()) else name
    yield _present(f"{name} missing", table, column, message, feature.max_missing_rate, field=field)
    wrong = f"correct {name} in the source: the page has the rows that are wrong"
    if not feature.storage.numeric:
        return
    column, what = (name, name) if feature.storage is Storage.NUMBER else (f"{name} length", f"{name} (its length)")
    if feature.min is not None or feature.max is not None:
        low, high = ("…" if bound is None else f"{bound:g}" for bound in (feature.min, feature.max))
        message, field = f"Every {what} lies in {low} to {high}", f"min and max of feature {name}"
        between = {"column": column, "min_value": feature.min, "max_value": feature.max}
        asked = "expect_column_values_to_be_between"
        yield _asked(f"{name} range", table, asked, between, message, 0.0, field=field)
    if isinstance(feature, Feature) and feature.dimension is not None:
        message = f"Every {name} has {feature.dimension} numbers, as the card says"
        field, numbers = (
            f"dimension of feature {name}",
            {"column": f"{name} size", "value_set": [feature.dimension]},
        )
        yield _asked(f"{name} dimension", table, IN_SET, numbers, message, 0.0, field=field)
        if feature.min is None:
            message, field = f"No {name} is all zeros", f"max_missing_rate of feature {name}"
            zero = {"column": f"{name} zero", "value_set": [False]}
            limit = feature.max_missing_rate
            yield _asked(f"{name} zero", table, IN_SET, zero, message, limit, level="warn", field=field)
    yield _true(f"{name} finite", table, f"{name} finite", f"Every {name} is finite", 0.0, remedy=wrong)


def _present(name: str, table: str, column: str, message: str, limit: float, **more: Any) -> DataCheck:
    return _asked(name, table, "expect_column_values_to_not_be_null", {"column": column}, message, limit, **more)


def _true(name: str, table: str, column: str, message: str, limit: float, **more: Any) -> DataCheck:
    return _asked(name, table, IN_SET, {"column": column, "value_set": [True]}, message, limit, **more)


def _asked(
    name: str,
    table: str,
    type: str,
    kwargs: Mapping[str, Any],
    message: str,
    limit: float,
    *,
    level: Level = "block",
    field: str = "",
    remedy: str = "",
) -> DataCheck:
    """Of the rows at most the share `limit` may be otherwise."""
    return DataCheck(
        name=name,
        message=message,
        table=table,
        type=type,
        kwargs={**kwargs, "mostly": _rest(limit)},
        level=level,
        bounds={level: Bounds(high=limit)},
        unit="share",
        field=field,
        remedy=remedy,
    )


def _rest(share: float) -> float:
    """One less the share, as people subtract: 1 - .7 is .3, which 3 of 10 rows reach."""
    return float(1 - Decimal(str(share)))
