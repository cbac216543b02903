"""What the gateway would show of a ranking: the shop's rules, stock and filters over lists for all shoppers.

All lists of a folder are of one moment, also where a run goes on later: what the shop wanted then is kept beside them.
Nothing is explored: a draw is of a request that is logged.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.rules import Rules
from experiments.rules_table import RulesVersion
from feature_repo.wall_clock import said_at
from runtime.errors import InputError
from runtime.files import replace_text
from serving.gateway.after.after import After
from serving.gateway.after.news import News
from serving.gateway.after.rounds import until_full
from serving.gateway.after.showing import Items, ShowingLimits, ShownList
from serving.gateway.archive import BadFilter, contents_in
from serving.gateway.wish import Wish

if TYPE_CHECKING:  # Feast, which only who reads the store needs
    from feature_repo.impressions import Impressions

History = list[dict[str, Any]]
Rank = Callable[[dict[str, Any]], Awaitable[Items]]
"""The items that answer these fields of a request of a shopper."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the shop wants shown at one moment."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    rules: RulesVersion = field(default_factory=RulesVersion)
    withdrawn: frozenset[str] = frozenset()

    def write(self, path: Path) -> None:
        rules = {"version": self.rules.number, "document": self.rules.rules.to_json()}
        content = {"now": self.now.isoformat(), "rules": rules, "withdrawn": sorted(self.withdrawn)}
        replace_text(path, json.dumps(content, indent=1))

    @classmethod
    def read(cls, path: Path) -> "Wanted":
        raw = json.loads(path.read_text())
        rules = RulesVersion(number=raw["rules"]["version"], rules=Rules.of(raw["rules"]["document"]))
        return cls(now=datetime.fromisoformat(raw["now"]), rules=rules, withdrawn=frozenset(raw["withdrawn"]))


class Showing:
    """Of one unpacked archive, whose lists are of `k` items.

    `filters` are those of a request. Raises `InputError` for what the archive cannot filter by.
    """

    def __init__(self, content: Path, wanted: Wanted, *, k: int, filters: Mapping[str, Any]) -> None:
        self._contents = contents_in(content)
        news = News(None, None)
        news.rules = replace(wanted.rules, rules=wanted.rules.rules.model_copy(update={"exploration": None}))
        news.stock.withdrawn = set(wanted.withdrawn)
        self._after, self._holdout = After(news, lambda: wanted.now), wanted.rules.rules.holdout
        try:
            meant = self._contents.in_days(filters, wanted.now)
            self._contents.check(meant)
        except BadFilter as error:
            raise InputError(f"filters.{error.field}: {error}") from error
        self._wish = Wish(user_id="", k=k, filters=meant, now=wanted.now)
        self.fatigue = self._after.fatigue(self._contents.catalogue, self._wish.placement)
        """The rule that needs to know what a shopper was shown."""

    @property
    def asked(self) -> dict[str, Any]:
        """What a model is asked for, beside who asks."""
        k = self._after.candidates(self._contents.catalogue, self._wish.k, self._wish.placement)
        asked = self._wish.request([], k)
        if said := said_at(self._contents.clocks, self._wish.now):
            asked["context"] = said
        return {name: value for name, value in asked.items() if name not in ("user_id", "history")}

    @property
    def problems(self) -> list[str]:
        """Rules that the archive cannot follow."""
        return self._after.problems

    async def list(
        self, user: str, history: History, answer: Mapping[str, Any], impressions: "Impressions", rank: Rank
    ) -> tuple[Items, str]:
        """What is shown to a shopper to whom the model answers `answer`, and by what it was ranked."""
        wish = replace(self._wish, user_id=user).drawn(self._holdout)
        asked, by, items = self.asked, answer.get("fallback", "model"), answer["items"]
        if wish.held:
            by, items = "holdout", self._popular(wish, history, asked)
        tired = frozenset[str]()
        if self.fatigue is not None and not wish.held:
            tired = self._after.tired(self.fatigue, impressions)

        def show(ranked: Items) -> ShownList:
            return self._shown(wish, history, ranked, tired)

        async def again(more: dict[str, Any]) -> Items:
            return self._popular(wish, history, more) if wish.held else await rank(more)

        most = min(asked["k"], self._contents.max_k)
        _, shown = await until_full(asked, items, k=wish.k, most=most, show=show, rank=again)
        return shown.items, by

    def _popular(self, wish: Wish, history: History, asked: Mapping[str, Any]) -> Items:
        """Of all shoppers: for who is held out."""
        without = replace(wish, exclude=asked.get("exclude", ()))
        hidden = without.hidden(self._contents, history)
        return self._contents.popular(wish.before(history), k=asked["k"], hidden=hidden, filters=wish.filters)

    def _shown(self, wish: Wish, history: History, ranked: Items, tired: frozenset[str]) -> ShownList:
        asked = ShowingLimits(
            k=wish.k,
            request_id=wish.user_id,
            hidden=wish.hidden(self._contents, history),
            filters=wish.filters,
            segment=self._contents.segment(wish.before(history)),
            placement=wish.placement,
            tired=tired,
        )
        return self._after.show(self._contents.catalogue, asked, ranked, counts=bool(wish.held))
