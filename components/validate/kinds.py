"""Kinds of events against those of the last accepted run: a tracker that broke, a kind that is spelled anew."""

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from components.validate.drift import chance, moved, stability_index
from components.validate.profile import Distribution, kinds_of
from components.validate.suite import Check, at_most
from components.validate.verdicts import Measurement
from feature_repo.card import DatasetCard

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ENOUGH = 50
"""New events below which their kinds say nothing."""


def kind_checks(
    card: DatasetCard, db: "DuckDBPyConnection", as_of: datetime, before: Distribution, since: datetime
) -> Iterator[tuple[Check, Measurement]]:
    """The shares of the kinds among all events, and among those since the last accepted run: in all of them those of
    one day would hardly show."""
    whole = kinds_of(db, as_of, chosen=before["values"])
    yield _drift(card, "event types drift", "The kinds of events have the shares", before, whole)
    new = kinds_of(db, as_of, since, before["values"])
    if sum(new["counts"]) + new["missing"] >= ENOUGH:
        yield _drift(card, "event types drift of new events", "The kinds of new events have the shares", before, new)


def _drift(
    card: DatasetCard, name: str, what: str, before: Distribution, now: Distribution
) -> tuple[Check, Measurement]:
    limit, slack = card.tolerances.event_types, chance(before, now)
    check = at_most(
        name,
        f"{what} that they had in the last accepted run (population stability index)",
        warn=limit.warn + slack,
        block=limit.block + slack,
        unit="index",
        field="tolerances.event_types",
    )
    return check, Measurement(found=stability_index(before, now), evidence=lambda: moved(before, now))
