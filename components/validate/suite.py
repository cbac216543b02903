"""The checks that a card implies, each a Great Expectations expectation with what it means to people."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.decision import Level
from feature_repo.card import DatasetCard, Feature

if TYPE_CHECKING:
    from great_expectations.expectations import Expectation


@dataclass(frozen=True, kw_only=True)
class Check:
    """`expectation` on `table`; `found` of its Reason is a share of rows, or with `figure` a value of the run."""

    name: str
    table: str
    expectation: "Expectation"
    allowed: Any
    message: str
    level: Level = "block"
    figure: str | None = None


def column_checks() -> list[Check]:
    """What must hold before anything else can be looked at."""
    return [_at_most("columns", 0, "Every column that the card declares is there, with the type of its kind")]


def checks(card: DatasetCard) -> list[Check]:
    """Every check of `card`, in the order in which people should read them."""
    found = [*_about_the_run(card), *_about_interactions(card)]
    for feature in card.features:
        found += _about_feature(feature)
    if card.varying:
        found.append(_one_value_an_instant())
    return found


def _about_the_run(card: DatasetCard) -> Iterator[Check]:
    limits = card.limits
    yield _at_least("interactions", limits.min_interactions, "There are enough interactions")
    yield _at_most("rejected_rate", limits.max_rejected_rate, "Few of the source's rows were set aside")
    if limits.max_age_days is not None:
        yield _at_most("age_days", limits.max_age_days, "The newest event is recent (days before as_of)")
    yield _at_most("missing_days", card.calendar.max_missing_days, "Every open day has events")
    yield _at_most("closed_days", 0, "No events on closed days", level="warn")
    yield _at_most("later_events", 0, "No events after as_of (later ones are left out)", level="warn")
    yield _at_most("long_baskets", 0, "No basket lasts longer than a day", level="warn")


def _about_interactions(card: DatasetCard) -> Iterator[Check]:
    from great_expectations import expectations as gxe

    for column in ("event_id", "user_id", "item_id", "event_time"):
        yield Check(
            name=f"interactions.{column} not null",
            table="interactions",
            expectation=gxe.ExpectColumnValuesToNotBeNull(column=column),
            allowed=0.0,
            message=f"Every interaction has {column}",
        )
    yield Check(
        name="interactions.event_id unique",
        table="interactions",
        expectation=gxe.ExpectColumnValuesToBeUnique(column="event_id"),
        allowed=0.0,
        message="No event is there twice",
    )
    orphans = card.limits.max_orphan_rate
    yield _all_true(
        "interactions.item known",
        "interactions",
        "item_known",
        orphans,
        "The items table has the item of an interaction",
    )
    yield _all_true(
        "interactions.item known by then", "interactions", "item_known_by_then", 0.0,
        "Items were available when they were bought; earlier purchases see no features", level="warn",
    )  # fmt: skip


def _about_feature(feature: Feature) -> Iterator[Check]:
    from great_expectations import expectations as gxe

    table = feature.stored_in
    limit = feature.max_missing_rate
    yield Check(
        name=f"{feature.name} missing",
        table=table,
        expectation=gxe.ExpectColumnValuesToNotBeNull(column=feature.name, mostly=1 - limit),
        allowed=limit,
        message=f"Few of the {'changes' if feature.varies_in_time else 'items'} lack {feature.name}",
    )
    if feature.min is not None or feature.max is not None:
        expected = gxe.ExpectColumnValuesToBeBetween(column=feature.name, min_value=feature.min, max_value=feature.max)
        low, high = ("…" if bound is None else f"{bound:g}" for bound in (feature.min, feature.max))
        message = f"Every {feature.name} lies in {low} to {high}"
        yield Check(name=f"{feature.name} range", table=table, expectation=expected, allowed=0.0, message=message)
    if feature.kind == "embedding":
        yield Check(
            name=f"{feature.name} dimension",
            table=table,
            expectation=gxe.ExpectColumnValuesToBeInSet(
                column=f"{feature.name}.dimension", value_set=[feature.dimension]
            ),
            allowed=0.0,
            message=f"Every {feature.name} has {feature.dimension} numbers, as the card says",
        )
    if feature.kind in ("embedding", "numeric"):
        message = f"Every {feature.name} is finite"
        yield _all_true(f"{feature.name} finite", table, f"{feature.name}.finite", 0.0, message)


def _one_value_an_instant() -> Check:
    from great_expectations import expectations as gxe

    columns = ["item_id", "event_time", "created_time"]
    return Check(
        name="varying one value an instant",
        table="varying",
        expectation=gxe.ExpectCompoundColumnsToBeUnique(column_list=columns),
        allowed=0.0,
        message="An item changes once at a time; of two changes at one time nobody could say which holds",
    )


def _all_true(name: str, table: str, column: str, limit: float, message: str, level: Level = "block") -> Check:
    from great_expectations import expectations as gxe

    expectation = gxe.ExpectColumnValuesToBeInSet(column=column, value_set=[True], mostly=1 - limit)
    return Check(name=name, table=table, expectation=expectation, allowed=limit, message=message, level=level)


def _at_most(figure: str, limit: float, message: str, level: Level = "block") -> Check:
    from great_expectations import expectations as gxe

    expectation = gxe.ExpectColumnMaxToBeBetween(column=figure, max_value=limit)
    return Check(
        name=figure, table="run", expectation=expectation, allowed=limit, message=message, level=level, figure=figure
    )


def _at_least(figure: str, limit: float, message: str) -> Check:
    from great_expectations import expectations as gxe

    expectation = gxe.ExpectColumnMinToBeBetween(column=figure, min_value=limit)
    return Check(name=figure, table="run", expectation=expectation, allowed=limit, message=message, figure=figure)
