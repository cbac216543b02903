"""What a card accepts of its data: the calendar of the shop, limits that block, tolerances for what changes."""

from datetime import date
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
Rate = Annotated[float, Field(ge=0, le=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Calendar(Strict):
    """On which days no events are expected."""

    closed_weekdays: list[Weekday] = Field(default_factory=list)
    closed_days: list[date] = Field(default_factory=list)
    unusual_days: list[date] = Field(default_factory=list)
    """Open days unlike others, such as those before Christmas: not held against usual days, nor one of them."""
    max_missing_days: int = 0
    """Open days without events above which validation blocks."""


class Limits(Strict):
    """What is acceptable before the run blocks, and how long anything is kept."""

    max_rejected_rate: Rate = 0.05
    min_interactions: int = 1
    max_orphan_rate: Rate = 0.0
    """Share of interactions whose item the items table does not have."""
    max_age_days: float | None = None
    """Age of the newest event at `as_of` above which the data counts as stale."""
    max_catalogue_age_days: float | None = None
    """Age of the newest row about an item above which the catalogue counts as stale; needs item_available_at."""
    retention_days: float | None = Field(default=None, gt=0)
    """Age above which events are dropped, offline and online; kept for ever where it is left out."""


class Tolerance(Strict):
    """Above `warn` it is said, above `block` the run stops."""

    warn: float = Field(ge=0)
    block: float = Field(ge=0)

    @model_validator(mode="after")
    def _rising(self) -> "Tolerance":
        if self.block < self.warn:
            raise ValueError("block must not be below warn")
        return self


def _tolerance(warn: float, block: float) -> Any:
    return Field(default_factory=lambda: Tolerance(warn=warn, block=block))


class Tolerances(Strict):
    """How far new data may stray from what was accepted before. Where few rows were seen, chance is allowed for."""

    volume: Tolerance = _tolerance(1.5, 3)
    """Events, and shoppers, of a new day: how many times more, or fewer, than on a usual day."""
    busiest: Tolerance = _tolerance(2, 5)
    """Events of one shopper, or of one item, in a day: how many times more than the most on a usual day."""
    newcomers: Tolerance = _tolerance(0.15, 0.4)
    """Share of a new day's shoppers, or items, never seen before: above the highest of the last usual days."""
    copied: Tolerance = _tolerance(0.2, 0.5)
    """Share of a new day's events that another day has at the same time of day."""
    hours: Tolerance = _tolerance(0.25, 2)
    """Population stability index of the hours at which shoppers come."""
    event_types: Tolerance = _tolerance(0.25, 1)
    """Population stability index of the kinds of events, of all and of the new ones (cards with `events`)."""
    lost: Tolerance = _tolerance(0.001, 0.01)
    """Share of the accepted events that their days no longer have."""
    rejected: Tolerance = _tolerance(0.1, 0.5)
    """Share of the rows since the last accepted run that were set aside: above `limits.max_rejected_rate`."""
    one_shopper: Tolerance = _tolerance(0.1, 0.4)
    """Share of all events that a single shopper has; looked at from 1,000 events on."""
    one_day: Tolerance = _tolerance(0.5, 0.8)
    """Share of all events that a single day has; looked at from 1,000 events on."""
    restless: Tolerance = _tolerance(2, 5)
    """Changes of a static feature, an item: what changes that often varies in time."""
    late: Tolerance = _tolerance(0.02, 0.2)
    """Events that came late into accepted days, as a share of these."""
    changed: Tolerance = _tolerance(0.1, 0.5)
    """Share of the items whose value of a static feature is another one than before."""
    jump: Tolerance = _tolerance(1.5, 3)
    """A number that varies: the middle one of new values against the same item's value before, as a factor."""
    vocabulary: Tolerance = _tolerance(0.2, 1)
    """Values (of text: words) never seen before, as a share of those accepted."""
    skew: Tolerance = _tolerance(0.01, 0.25)
    """Share of the exposures for which another value was served than is trained on."""
