"""What a shopper asks for, wherever in the shop, and what a model is asked for it."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from experiments.assignment import Variant, drawn
from experiments.document import Rollout
from experiments.rules import Holdout
from serving.gateway.archive import Contents, Filters
from serving.gateway.placements.session import Events
from serving.scoring.placed import (
    AGAIN,
    FOR_YOU,
    POPULAR,
    RANKING,
    SIMILAR,
)

History = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a shopper asks for. `user_id` is the shopper, the anonymous session, or "" for nobody, who is of no
    experiment; `session` what was just done; `exclude` are items that must not be shown, `arm` is that of a person
    who tests; `request_id` seeds what is drawn for it."""

    user_id: str
    k: int = 10
    exclude_seen: bool | None = None
    exclude: Sequence[str] = ()
    filters: Filters = field(default_factory=dict)
    arm: Variant | None = None
    session: Events = ()
    placement: str = FOR_YOU
    items: Sequence[str] = ()
    """What is given: items that others should be like or go with, or that are to be ranked."""
    kind: str = "popular"
    personal: bool = True
    """Whether the shopper's history counts, where the placement can do without."""
    explain: bool = False
    context: Mapping[str, Any] = field(default_factory=dict)
    """What the shop says of the moment; a model is told what it knows of that."""
    held: bool | None = None
    """Whether the shopper is held out of all models; None where that is not asked: of nobody, of people who test, of
    who does not want to be known, and where no model knows shoppers."""
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    request_id: str = field(default_factory=lambda: secrets.token_hex(16))

    def drawn(self, holdout: Holdout | None) -> "Wish":
        """The same, and whether its shopper is held out."""
        asked = holdout is not None and self.user_id and self.arm is None and self.personal
        if holdout is None or not asked or self.placement not in (FOR_YOU, SIMILAR, RANKING):
            return self
        return replace(self, held=holdout.has(self.user_id))

    @property
    def of_somebody(self) -> bool:
        """Whether what the shopper did counts."""
        return self.placement in (RANKING, AGAIN) or (self.placement in (FOR_YOU, SIMILAR) and self.personal)

    @property
    def modelled(self) -> bool:
        """Whether a model is asked: counts answer for you without you, what to buy again, and who is held out."""
        return not self.held and self.placement != AGAIN and (self.personal or self.placement != FOR_YOU)

    def variant(self, rollout: Rollout) -> Variant:
        """The arm that answers."""
        if self.held:
            return "holdout"
        return self.arm or (drawn(rollout, self.user_id).variant if self.user_id else "champion")

    def hidden(self, contents: Contents, history: History) -> frozenset[str]:
        """Items that it does not want to see."""
        return contents.hidden(
            history,
            placement=self.placement,
            items=self.items,
            exclude=self.exclude,
            exclude_seen=self.exclude_seen,
        )

    def before(self, history: History) -> History:
        """What says which segment is meant: the given items, as if they were the latest of the history."""
        if self.held:
            history = ()
        return history if self.placement == RANKING else [*history, *({"item_id": item} for item in self.items)]

    def request(self, history: list[dict[str, Any]], k: int, *, explain: bool = False) -> dict[str, Any]:
        """As docs/contracts.md sends it to a model, for `k` items."""
        asked: dict[str, Any] = {"user_id": self.user_id, "k": k, "history": history}
        if self.placement != FOR_YOU:
            asked["placement"] = self.placement
        if self.items:
            asked["items"] = list(self.items)
        if self.placement == POPULAR:
            asked["kind"] = self.kind
        if explain:
            asked["explain"] = True
        if self.exclude_seen is not None:
            asked["exclude_seen"] = self.exclude_seen
        if self.exclude:
            asked["exclude"] = list(self.exclude)
        if self.filters:
            asked["filters"] = dict(self.filters)
        return asked
