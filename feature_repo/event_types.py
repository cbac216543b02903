"""What each kind of event means: what enters a history, what is predicted, and how much it says."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field, model_validator

from feature_repo.keys import is_event_type
from feature_repo.limits import Strict


class CardEventType(Strict):
    """One kind of event (`events:` of the card). Kinds that are not named there are kept, can be counted by derived
    features, are shown by the gate, and are no part of the model."""

    predict: bool = False
    """Whether it is a target: what the model learns to foretell, and what it is judged by."""
    history: bool = True
    """Whether it enters the shopper's history; where several kinds do, the model sees which each event was. Left out,
    all do but the negative ones."""
    weight: float = Field(default=1.0, gt=0, le=100)
    """Of what is predicted: how much its loss counts. Of the others: how much the neighbour tables are reminded by
    it, against an event that is predicted; validation may lower it."""
    negative: bool = False
    """It speaks against the item (dismissed, returned): no target, and no evidence for the neighbour tables."""

    @model_validator(mode="before")
    @classmethod
    def _negative_stays_out(cls, raw: object) -> object:
        return {"history": False, **raw} if isinstance(raw, dict) and raw.get("negative") is True else raw

    @model_validator(mode="after")
    def _consistent(self) -> "CardEventType":
        if self.negative and self.predict:
            raise ValueError("negative and predict exclude each other: what speaks against an item is no target")
        if self.predict and not self.history:
            raise ValueError("what is predicted enters the history too: leave `history: false` out")
        if (self.negative or not self.history) and self.weight != 1:
            raise ValueError("weight has no effect on a kind that is negative or not in the history; leave it out")
        return self


def require_event_types(names: Sequence[str], *, field: str) -> None:
    """Raise `ValueError` for a name that no event can have."""
    if wrong := [name for name in names if not is_event_type(name)]:
        raise ValueError(
            f"{field}: {wrong[0]!r} is no type of an event: up to 40 letters a to z, digits, spaces and _ . : / -, "
            "a letter or digit first"
        )


def require_some_predicted(events: Mapping[str, CardEventType]) -> None:
    """Raise `ValueError` where the card's `events` leave nothing to predict."""
    require_event_types(list(events), field="events")
    if not any(each.predict for each in events.values()):
        raise ValueError(
            f"events: none of {', '.join(events) or 'no type'} is predicted; write predict: true at what the model is "
            "to foretell, e.g. purchase: {predict: true}"
        )


def described(events: Mapping[str, CardEventType] | None) -> list[dict[str, Any]]:
    """The kinds that a model tells apart, in the card's order; none where the history is of one kind alone, about
    which there is nothing to tell."""
    kinds = {name: each for name, each in (events or {}).items() if each.history}
    if len(kinds) < 2:
        return []
    return [
        {"name": name, "predict": each.predict, "weight": each.weight, "negative": each.negative}
        for name, each in kinds.items()
    ]
