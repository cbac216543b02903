"""What comes after a ranking, as this replica knows it: news and rules, applied to every answer."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

import orjson

from experiments.item_log import KnownUpserts
from experiments.rules import Fatigue
from serving.gateway.after.catalogue import ServedCatalogue
from serving.gateway.after.compiled import Compiled, Explorable, compiled
from serving.gateway.after.news import News
from serving.gateway.after.showing import (
    Items,
    ShowingLimits,
    ShownList,
    show,
)
from serving.gateway.after.upserts import ItemChanges
from serving.gateway.archive import Contents
from serving.scoring.placed import FOR_YOU

MORE, SPARE = 40, 10
"""Candidates beyond those that are shown: where rules choose among them; where some may be sold out."""


class After:
    """`news` says what is withdrawn and what rules hold; `clock` when."""

    def __init__(self, news: News, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.news, self._clock = news, clock
        self._made: tuple[Compiled, Explorable] | None = None
        self._changes = ItemChanges()

    def catalogue(self, contents: Contents) -> ServedCatalogue:
        """Of an archive, with the items that were put since."""
        return self._changes.catalogue(self.news.upserts, contents)

    def sent(self, upserts: KnownUpserts, contents: Contents) -> orjson.Fragment | None:
        """Those items as a model of the archive is sent them; None where there are none that it takes."""
        return self._changes.sent(upserts, contents)

    def candidates(self, catalogue: ServedCatalogue, k: int, placement: str = FOR_YOU) -> int:
        """How many to rank, so that `k` are left to be shown."""
        if not self._now(catalogue)[0].at(placement).idle:
            return 2 * k + MORE
        return k + SPARE if self.news.stock.withdrawn else k

    def fatigue(self, catalogue: ServedCatalogue, placement: str) -> Fatigue | None:
        """The rule that holds there, which needs to know what a shopper was shown."""
        rule = self._now(catalogue)[0].fatigue
        return rule if rule is not None and rule.at(placement) else None

    def tired(self, rule: Fatigue, impressions: Mapping[str, Sequence[int]]) -> frozenset[str]:
        """What a shopper has seen enough of: `impressions` are seconds since 1970 by item, without what was taken."""
        since = self._clock().timestamp() - 86_400 * rule.days
        return frozenset(item for item, at in impressions.items() if sum(each >= since for each in at) >= rule.after)

    def show(self, catalogue: ServedCatalogue, asked: ShowingLimits, ranked: Items, *, counts: bool) -> ShownList:
        """What is shown of `ranked`, best first, to who asked; see `showing.show`."""
        rules, explorable = self._now(catalogue)
        return show(rules, explorable, self.news.stock, asked, ranked, counts=counts)

    @property
    def problems(self) -> list[str]:
        """What is wrong with news and rules, for who keeps the service running."""
        found = [*self._made[0].problems] if self._made is not None else []
        return [*found, self.news.problem] if self.news.problem is not None else found

    def _now(self, catalogue: ServedCatalogue) -> tuple[Compiled, Explorable]:
        version, made, now = self.news.rules, self._made, self._clock()
        if (
            made is None
            or made[0].catalogue is not catalogue
            or made[0].version is not version
            or (made[0].until is not None and now >= made[0].until)
        ):
            rules = compiled(version, catalogue, now)
            self._made = made = rules, Explorable(rules)
        return made
