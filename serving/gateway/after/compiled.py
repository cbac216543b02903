"""The rules as they are for one catalogue at one moment: masks over its V items, made beside the requests."""

import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from experiments.rules import (
    Block,
    Boost,
    Exploration,
    Fatigue,
    Pin,
    Rules,
    Value,
)
from experiments.rules_table import RulesVersion
from serving.gateway.after.catalogue import Codes, ServedCatalogue, UnknownFeature
from serving.gateway.after.stock import Stock
from serving.gateway.dates import STEP, minute, moves
from serving.scoring.filters import Mask
from serving.scoring.placed import FOR_YOU


class Chosen(NamedTuple):
    """Items that a rule means: by their ids, or by a mask."""

    ids: frozenset[str]
    match_V: Mask | None

    def among(self, ids: list[str], row_C: npt.NDArray[np.int64]) -> Mask:
        """(C,) which of these items it means; `row_C` is -1 for those that the catalogue does not have."""
        if self.match_V is not None:
            return np.asarray(self.match_V[row_C] & (row_C >= 0))
        return np.fromiter((item in self.ids for item in ids), bool, len(ids))


class PlacedRule(NamedTuple):
    """A rule, and what it means."""

    rule: Block | Boost
    chosen: Chosen


class Worth(NamedTuple):
    """What items bring, as is added to a logit: alpha times the logarithm."""

    rule: Value
    logarithm_V: npt.NDArray[np.float64]
    usual: float
    """Of an item that the catalogue does not have."""

    def of(self, row_C: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """(C,) of these rows; -1 is none of the catalogue."""
        return np.where(row_C < 0, self.usual, self.logarithm_V[row_C])


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """Of one catalogue, from the moment it was made until `until`."""

    version: RulesVersion
    since: datetime
    until: datetime | None
    catalogue: ServedCatalogue
    blocks: tuple[PlacedRule, ...]
    pins: tuple[Pin, ...]
    factors: tuple[tuple[float, PlacedRule], ...]
    """ln of the factor."""
    shares: tuple[tuple[float, PlacedRule], ...]
    worth: Worth | None
    caps: tuple[tuple[int, Codes], ...]
    relevance: float
    alike: tuple[Codes, ...]
    law: Exploration | None
    fresh_V: Mask | None
    """What may be explored as far as the rules say."""
    fatigue: Fatigue | None
    problems: tuple[str, ...]
    """Rules that this catalogue cannot follow, and why."""

    @property
    def idle(self) -> bool:
        """Whether nothing is to be done but to leave out what is withdrawn."""
        return not self.blocks and not self.arranges and self.fatigue is None

    @property
    def arranges(self) -> bool:
        """Whether more is done to a ranking than to leave out of it."""
        return (
            self.law is not None
            or self.worth is not None
            or any((self.pins, self.factors, self.shares, self.caps, self.alike))
        )

    def at(self, placement: str) -> "Compiled":
        """What of it counts there."""
        if self.idle:
            return self
        mixed = placement == FOR_YOU
        return replace(
            self,
            blocks=tuple(block for block in self.blocks if block.rule.at(placement)),
            pins=tuple(pin for pin in self.pins if pin.at(placement)),
            factors=tuple(boost for boost in self.factors if boost[1].rule.at(placement)),
            shares=tuple(boost for boost in self.shares if boost[1].rule.at(placement)),
            worth=self.worth if self.worth is not None and self.worth.rule.at(placement) else None,
            caps=self.caps if mixed else (),
            alike=self.alike if mixed else (),
            law=self.law if self.law is not None and self.law.at(placement) else None,
            fatigue=self.fatigue if self.fatigue is not None and self.fatigue.at(placement) else None,
        )


def compiled(version: RulesVersion, catalogue: ServedCatalogue, now: datetime) -> Compiled:
    """A rule that the catalogue cannot follow is left out and told: the others hold."""
    rules, problems = version.rules, list[str]()
    alone = [rule for rule in (rules.value, rules.exploration, rules.fatigue) if rule is not None]
    timed = [*rules.blocks, *rules.pins, *rules.boosts, *alone]
    turns = [turn for rule in timed for turn in (rule.since, rule.until) if turn is not None and turn > now]

    def placed(name: str, rule: Block | Boost) -> PlacedRule | None:
        try:
            match_V = catalogue.meant(rule.where, now) if rule.where else None
        except UnknownFeature as error:
            problems.append(f"rules {version.number}, {name}: {error}")
            return None
        return PlacedRule(rule, Chosen(frozenset(rule.items), match_V))

    blocks = [placed(f"blocks.{n}", rule) for n, rule in enumerate(rules.blocks) if rule.holds(now)]
    boosts = [(rule, placed(f"boosts.{n}", rule)) for n, rule in enumerate(rules.boosts) if rule.holds(now)]
    law = rules.exploration if rules.exploration is not None and rules.exploration.holds(now) else None
    fresh_V = None if law is None else _fresh(version, law, catalogue, now, problems)
    if any(moves(where) for _, where in rules.conditions):
        turns.append(minute(now) + STEP)
    return Compiled(
        version=version,
        since=now,
        until=min(turns, default=None),
        catalogue=catalogue,
        blocks=tuple(each for each in blocks if each is not None),
        pins=tuple(rule for rule in rules.pins if rule.holds(now)),
        factors=tuple((math.log(rule.factor), at) for rule, at in boosts if at is not None and rule.factor is not None),
        shares=tuple((rule.share, at) for rule, at in boosts if at is not None and rule.share is not None),
        worth=_worth(version, catalogue, now, problems),
        caps=_caps(version, catalogue, problems),
        relevance=rules.diversity.alike.relevance if rules.diversity.alike else 1.0,
        alike=_alike(version, catalogue, problems),
        law=law if fresh_V is not None else None,
        fresh_V=fresh_V,
        fatigue=rules.fatigue if rules.fatigue is not None and rules.fatigue.holds(now) else None,
        problems=tuple(problems),
    )


def faults(rules: Rules, catalogue: ServedCatalogue) -> list[str]:
    """What of `rules` a catalogue cannot follow, whenever it holds."""
    found = []
    for name, where in rules.conditions:
        try:
            catalogue.meant(where, datetime.now(UTC))
        except UnknownFeature as error:
            found.append(f"{name}: {error}")
    for name, feature in rules.categories:
        try:
            catalogue.codes(feature)
        except UnknownFeature as error:
            found.append(f"{name}: {error}")
    try:
        if rules.value is not None:
            catalogue.numbers(rules.value.by)
    except UnknownFeature as error:
        found.append(f"value.by: {error}")
    return found


class Explorable:
    """Rows that may be explored, without what is withdrawn; counted anew when the stock has changed."""

    def __init__(self, rules: Compiled) -> None:
        self._rules, self._known = rules, -1
        self._rows: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    def rows(self, stock: Stock) -> npt.NDArray[np.int64]:
        """Ascending."""
        if self._known != stock.changes:
            assert self._rules.fresh_V is not None
            left_V = self._rules.fresh_V.copy()
            row = self._rules.catalogue.row
            left_V[[row[item] for item in stock.withdrawn if item in row]] = False
            self._rows, self._known = np.flatnonzero(left_V), stock.changes
        return self._rows


def _fresh(
    version: RulesVersion, law: Exploration, catalogue: ServedCatalogue, now: datetime, problems: list[str]
) -> Mask | None:
    try:
        fresh_V = catalogue.meant(law.where, now)
    except UnknownFeature as error:
        problems.append(f"rules {version.number}, exploration.where: {error}; nothing is explored")
        return None
    if law.most_events is not None:
        fresh_V &= catalogue.events <= law.most_events
    return fresh_V


def _worth(version: RulesVersion, catalogue: ServedCatalogue, now: datetime, problems: list[str]) -> Worth | None:
    rule = version.rules.value
    if rule is None or not rule.holds(now):
        return None
    try:
        number_V = catalogue.numbers(rule.by)
    except UnknownFeature as error:
        problems.append(f"rules {version.number}, value.by: {error}")
        return None
    told_V = np.isfinite(number_V) & (number_V > 0)
    if not told_V.any():
        problems.append(f"rules {version.number}, value.by: no item has a {rule.by!r} above 0")
        return None
    usual = float(np.median(number_V[told_V]))
    logarithm_V = rule.alpha * np.log(np.where(told_V, number_V, usual))
    return Worth(rule, logarithm_V, rule.alpha * math.log(usual))


def _caps(version: RulesVersion, catalogue: ServedCatalogue, problems: list[str]) -> tuple[tuple[int, Codes], ...]:
    found = []
    for feature, most in version.rules.diversity.caps.items():
        try:
            found.append((most, catalogue.codes(feature)))
        except UnknownFeature as error:
            problems.append(f"rules {version.number}, diversity.caps: {error}")
    return tuple(found)


def _alike(version: RulesVersion, catalogue: ServedCatalogue, problems: list[str]) -> tuple[Codes, ...]:
    alike = version.rules.diversity.alike
    try:
        return tuple(catalogue.codes(feature) for feature in alike.by) if alike is not None else ()
    except UnknownFeature as error:
        problems.append(f"rules {version.number}, diversity.alike: {error}")
        return ()
