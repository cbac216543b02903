"""What a shop wants shown whatever a model ranks: blocks, pins, boosts, value, diversity, exploration, fatigue, a
holdout.

One document a model, of plain values; `experiments.rules_table` keeps it and its history, `serving.gateway.after`
follows it. Slots are numbered from 1, as a person counts them.
"""

from collections.abc import Iterator
from datetime import datetime
from itertools import chain
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
)

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from events.schema import MOST_DAYS, MOST_SHOWN
from experiments.assignment import place
from serving.scoring.placed import (
    FOR_YOU,
    PLACEMENTS,
    POPULAR,
    RANKING,
    TOGETHER,
)

MOST_SLOTS = 50
"""As many items as a request may ask for."""
MOST_RULES = 500
"""Entries of a document: each costs every request a little."""
Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Share = Annotated[float, Field(gt=0, le=1)]
Slot = Annotated[int, Field(ge=1, le=MOST_SLOTS)]


def _known(placement: str) -> str:
    if placement not in PLACEMENTS:
        raise ValueError(f"expected one of {', '.join(PLACEMENTS)}")
    return placement


Placement = Annotated[str, AfterValidator(_known)]


class BadRules(ValueError):
    """A document that says what cannot be done; the message names the fields."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class _Timed(_Strict):
    since: AwareDatetime | None = Field(default=None, alias="from")
    until: AwareDatetime | None = None
    placements: tuple[Placement, ...] = ()
    """Where it counts; where none is named, at those of `usual`."""
    usual: ClassVar[tuple[str, ...]] = (FOR_YOU,)

    @model_validator(mode="after")
    def _in_order(self) -> "_Timed":
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise ValueError("from must be before until")
        return self

    def holds(self, now: datetime) -> bool:
        """From `from` on, until just before `until`."""
        return (self.since is None or self.since <= now) and (self.until is None or now < self.until)

    def at(self, placement: str) -> bool:
        return placement in (self.placements or self.usual)


class _Chooses(_Timed):
    needs_choice: ClassVar[bool] = True
    items: tuple[Text, ...] = ()
    where: dict[Text, Any] = {}
    """As the filters of a request."""

    @model_validator(mode="after")
    def _chosen(self) -> "_Chooses":
        if self.needs_choice and bool(self.items) == bool(self.where):
            raise ValueError("give items or where, one of them")
        return self


class _Adds(_Timed):
    """Shows what was not ranked: not among the items of a ranking, which are the shop's."""

    @model_validator(mode="after")
    def _not_in_a_ranking(self) -> "_Adds":
        if RANKING in self.placements:
            raise ValueError(f"placements: {RANKING} shows the given items only")
        return self


class Block(_Chooses):
    """Items that are not shown, wherever it be."""

    usual = PLACEMENTS


class Pin(_Adds):
    """An item at a slot, to everybody or to shoppers of `segments` (those of the popular items)."""

    item: Text
    slot: Slot
    segments: tuple[Text, ...] = ()


class Boost(_Chooses):
    """Items that come earlier: by `factor`, as if each were so many times as likely, or with a `share` of the slots."""

    factor: Annotated[float, Field(gt=0, le=1000)] | None = None
    share: Share | None = None

    @model_validator(mode="after")
    def _one(self) -> "Boost":
        if (self.factor is None) == (self.share is None):
            raise ValueError("give factor or share, one of them")
        return self


class Value(_Timed):
    """Items in the order of what showing them is expected to bring: chance times the number `by` (a price, a margin) to
    the power of `alpha`, where 1 is the expected value itself and 0 would be the model's order. An item without such a
    number, or with none above 0, counts with the median of the others."""

    by: Text
    alpha: Annotated[float, Field(gt=0, le=2)] = 1.0


class MarginalRelevance(_Strict):
    """Maximal marginal relevance (Carbonell and Goldstein 1998): `relevance` of 1 is the model's order; likeness is the
    share of the features `by` in which two items agree."""

    relevance: Annotated[float, Field(ge=0, le=1)]
    by: Annotated[tuple[Text, ...], Field(min_length=1)]


class Diversity(_Strict):
    """Of "for you". `caps`: of a category, how many items of one value at most. Pins count, and are not held back by
    it."""

    caps: dict[Text, Annotated[int, Field(ge=1)]] = {}
    alike: MarginalRelevance | None = None


class Exploration(_Adds):
    """Each of `slots` (all, where none is named) shows with probability `share` an item drawn evenly from those that
    the request allows and that match: `where`, and at most `most_events` events in the champion's data."""

    share: Annotated[float, Field(gt=0, le=0.5)]
    slots: tuple[Slot, ...] = ()
    where: dict[Text, Any] = {}
    most_events: Annotated[int, Field(ge=0)] | None = None


class Fatigue(_Timed):
    """What a shopper was shown `after` times within `days` and did nothing with comes after all else (`demote`), or not
    at all (`hide`). A pin stays; what was clicked or bought counts anew from then on."""

    after: Annotated[int, Field(ge=2, le=MOST_SHOWN)]
    days: Annotated[int, Field(ge=1, le=MOST_DAYS)] = MOST_DAYS
    then: Literal["demote", "hide"] = "demote"

    @model_validator(mode="after")
    def _of_somebody(self) -> "Fatigue":
        if found := {POPULAR, TOGETHER}.intersection(self.placements):
            raise ValueError(f"placements: {', '.join(sorted(found))} shows everybody the same")
        return self


class Holdout(_Strict):
    """A fixed `share` of shoppers, drawn by `salt`, who get popular items in place of a model's: beside them everybody
    else shows what a model is worth. A higher share adds shoppers and takes none out, another salt draws anew."""

    share: Annotated[float, Field(gt=0, le=0.5)]
    salt: Text = "holdout"

    def has(self, user_id: str) -> bool:
        return place(self.salt, user_id) < self.share


class Rules(_Strict):
    """The document."""

    blocks: tuple[Block, ...] = ()
    pins: tuple[Pin, ...] = ()
    boosts: tuple[Boost, ...] = ()
    value: Value | None = None
    diversity: Diversity = Diversity()
    exploration: Exploration | None = None
    fatigue: Fatigue | None = None
    holdout: Holdout | None = None

    @model_validator(mode="after")
    def _bounded(self) -> "Rules":
        if (found := len(self.blocks) + len(self.pins) + len(self.boosts)) > MOST_RULES:
            raise ValueError(f"{found} rules, expected at most {MOST_RULES}: join those that choose alike")
        return self

    @classmethod
    def of(cls, plain: Any) -> "Rules":
        """The document of JSON values. Raises `BadRules`."""
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            faults = [f"{'.'.join(map(str, fault['loc'])) or 'rules'}: {fault['msg']}" for fault in error.errors()]
            raise BadRules("; ".join(faults)) from error

    def to_json(self) -> dict[str, Any]:
        """JSON values only, without what has its default."""
        plain: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return plain

    @property
    def conditions(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Where a condition stands, and the condition."""
        named = chain(
            ((f"blocks.{n}.where", block.where) for n, block in enumerate(self.blocks)),
            ((f"boosts.{n}.where", boost.where) for n, boost in enumerate(self.boosts)),
        )
        yield from ((name, where) for name, where in named if where)
        if self.exploration is not None and self.exploration.where:
            yield "exploration.where", self.exploration.where

    @property
    def categories(self) -> Iterator[tuple[str, str]]:
        """Where a feature is named whose values are told apart, and its name."""
        yield from ((f"diversity.caps.{name}", name) for name in self.diversity.caps)
        if self.diversity.alike is not None:
            yield from ((f"diversity.alike.by.{n}", name) for n, name in enumerate(self.diversity.alike.by))
