"""The ways to decide that `benchmarks.decisions.years` compares: the functions of the pipelines, and two peers.

Each yields, night by night, the model that serves after it, and what it did wrong is for `benchmarks.decisions.years`
to say.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from benchmarks.decisions.shop import SimulatedShop
from components.evaluate.blessing import Rule, bless
from experiments import transitions
from experiments.decision import (
    WITHHELD,
    Evidence,
    Verdict,
    judge,
    planned_exposures,
)
from experiments.document import ModelVersion, Rollout, release
from experiments.log import Draws, LoggedTraffic
from experiments.policy import Policy
from experiments.sample_ratio import evidence as ratio_evidence
from experiments.sequential_test import (
    UNKNOWN,
    RateDifference,
    difference,
    half_width,
    mixing,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
RULE, POLICY = Rule(), Policy()
PERSON_DAYS = 3
"""After so many days of a decision withheld, the person who was told sends the canary back."""


@dataclass(kw_only=True)
class YearEvents:
    """What happened in a year besides which model served."""

    canaries: int = 0
    rollbacks: list[tuple[int, int]] = field(default_factory=list)
    """Champion and challenger of each canary that was sent back as worse."""


def ours(shop: SimulatedShop, nights: int, told: YearEvents) -> Iterator[int]:
    """By the functions that decide in the pipelines."""
    row, history = Rollout(model="shop"), []
    log = CanaryDay(shop, told)
    for night in range(nights):
        now = START + timedelta(days=night)
        model = ModelVersion(
            version=str(night), archive="", archive_digest=str(night), recipe_digest=shop.recipe(night),
            registered=now, data_until=now,
        )  # fmt: skip
        passed, better = True, False
        if row.champion is not None and row.champion.recipe_digest == model.recipe_digest:
            assert row.held_against is not None
            reference = row.held_against.version
            tonight = shop.window(night, weights(row.held_against), night)
            earlier = [
                seen._replace(days_ago=float(night - at))
                for at, against, seen in history[-int(RULE.month_days) :] if against == reference
            ]  # fmt: skip
            age = (now - row.champion.fresh_as_of) / timedelta(days=1)
            made = bless(tonight, earlier, age_days=age, rule=RULE)
            passed, better = made.passed, made.rises
            history.append((night, reference, tonight))
        if passed:
            became = release(row, model, now=now, salt=lambda at=night: f"s{at}", better=better)
            row, told.canaries = became.rollout, told.canaries + (became.status == "challenger")
        row = log.day(row, now)
        if shop.world.catalogue and row.champion is not None:
            version = f"{row.champion.version}.{night}"
            later = now + timedelta(hours=1)
            fresh = replace(row.champion, version=version, archive_digest=version, registered=later)
            row = replace(row, champion=fresh)  # all that components.refresh.release changes
        assert row.champion is not None
        yield weights(row.champion)


def weights(version: ModelVersion) -> int:
    """The night whose weights a version has; catalogue runs add their own day to its name."""
    return int(version.version.split(".")[0])


class CanaryDay:
    """A day of shoppers in both arms and the look at its end; a shopper has one exposure."""

    def __init__(self, shop: SimulatedShop, told: YearEvents) -> None:
        self._shop, self._told = shop, told
        self._begin("", START)

    def _begin(self, salt: str, now: datetime) -> None:
        self._salt, self._opened, self._latest, self._withheld = salt, now, now, 0
        self._rows: list[tuple[int, int, float, float]] = []
        self._draws: list[Draws] = []

    def day(self, row: Rollout, now: datetime) -> Rollout:
        if row.challenger is None and row.former is None:
            return row
        if row.salt != self._salt:
            self._begin(row.salt, now)
        evidence = self._evidence(row, now + timedelta(days=1))
        verdict = judge(row, evidence, POLICY, opened=self._opened, salt=lambda: f"n{now}")
        return self._after(row, verdict, now)

    def _after(self, row: Rollout, verdict: Verdict, now: datetime) -> Rollout:
        self._withheld = self._withheld + 1 if verdict.why.startswith(WITHHELD) else 0
        if self._withheld > PERSON_DAYS:
            # The person knows that the log was broken and not the recipe.
            back = transitions.roll_back(row, now=now, salt=lambda: f"p{now}")
            return transitions.readmit(back, now=now)
        if verdict.action == "roll back" and verdict.why.startswith("worse"):
            assert row.champion is not None and row.challenger is not None
            self._told.rollbacks.append((weights(row.champion), weights(row.challenger)))
        return verdict.rollout or row

    def _evidence(self, row: Rollout, now: datetime) -> Evidence:
        day = (now - START).days - 1
        if not _within(self._shop.world.outage, day):
            self._latest = now
            if row.challenger is not None and row.weight < 1:
                self._log(row, day)
        found, rate = UNKNOWN, self._shop.world.rate
        if self._rows:
            found, rate = _compared(self._rows)
        ratio = ratio_evidence(self._draws) if self._draws else 0.0
        busy = LoggedTraffic(exposures=10**6, stage_exposures=10**6, misdrawn=0, latest=self._latest)
        plain = {"champion_rate": rate, "challenger_rate": rate, "users": 10**6, "guardrails": (), "full": False}
        return Evidence(at=now, traffic=busy, outcome=found, ratio=ratio, **plain)

    def _log(self, row: Rollout, day: int) -> None:
        world, counts = self._shop.world, []
        for treated, arm in enumerate((row.champion, row.challenger)):
            assert arm is not None
            exposures = round(world.exposures * (row.weight if treated else 1 - row.weight))
            rate = min(world.rate * self._shop.serves(weights(arm), day) * self._shop.season(day), 1)
            hits = int(self._shop.rng.binomial(exposures, rate))
            if treated and _within(world.half_outage, day):
                exposures, hits = max(exposures // 2, 1), 0
            # Shoppers who succeeded and who did not: one row each, as many alike as `times` says.
            stratum = len(self._draws)
            self._rows += [(stratum, treated, 1.0, hits), (stratum, treated, 0.0, exposures - hits)]
            counts.append(exposures)
        self._draws.append(Draws(row.weight, sum(counts), counts[1]))


def _within(days: tuple[int, int] | None, day: int) -> bool:
    return days is not None and days[0] <= day < days[0] + days[1]


def _compared(rows: list[tuple[int, int, float, float]]) -> tuple[RateDifference, float]:
    """`difference` of single exposures, which are equal in groups: its sums, weighed by how many there are."""
    stratum, treated, outcome, times = (np.array(column) for column in zip(*rows, strict=True))
    exposures = times.astype(float)
    successes = outcome * exposures
    planned = planned_exposures(exposures, successes, POLICY)
    champion = treated == 0
    rate = float(successes[champion].sum() / max(exposures[champion].sum(), 1))
    return grouped(stratum, treated.astype(float), exposures, outcome, planned), rate


def grouped(stratum: Any, treated: Any, times: Any, outcome: Any, planned: float) -> RateDifference:
    """As `experiments.sequential_test.difference` of users with one exposure each, `times` of them alike."""
    strata = int(stratum.max()) + 1
    total, challenger, hits = (
        np.bincount(stratum, column, strata) for column in (times, treated * times, outcome * times)
    )
    share, rate = challenger / np.maximum(total, 1e-300), hits / np.maximum(total, 1e-300)
    residual = outcome - rate[stratum]
    part = (treated - share[stratum]) * residual
    effective, variance = float((challenger * (1 - share)).sum()), float((times * part**2).sum())
    if not effective or not variance:
        return UNKNOWN
    tight = mixing(np.asarray((times * residual**2).sum()), times.sum(), planned, POLICY.alpha)
    half = float(half_width(np.asarray(variance), tight, POLICY.alpha)) / effective
    estimate = float((times * part).sum()) / effective
    return RateDifference(estimate, estimate - half, estimate + half, effective)


def check() -> None:
    """The grouped sums are those of the judge itself."""
    rng = np.random.default_rng(0)
    treated = (rng.random(400) < 0.3).astype(float)
    outcome, stratum = (rng.random(400) < 0.2).astype(float), rng.integers(0, 3, 400)
    one = np.ones(400)
    theirs = difference(user=np.arange(400), stratum=stratum, treated=treated, exposures=one, outcome=outcome,
                        planned=500.0, alpha=POLICY.alpha)  # fmt: skip
    mine = grouped(stratum, treated, one, outcome, 500.0)
    assert np.allclose(mine, theirs), (mine, theirs)


def newest(shop: SimulatedShop, nights: int, told: YearEvents) -> Iterator[int]:
    """Always release the newest."""
    yield from range(nights)


def higher(shop: SimulatedShop, nights: int, told: YearEvents) -> Iterator[int]:
    """Release if tonight's estimate is higher than the champion's."""
    champion = 0
    for night in range(nights):
        tonight = shop.window(night, champion, night)
        if tonight.ours.mean() > tonight.theirs.mean():
            champion = night
        yield champion


WAYS: dict[str, Callable[[SimulatedShop, int, YearEvents], Iterator[int]]] = {
    "ours": ours, "always the newest": newest, "if the estimate is higher": higher,
}  # fmt: skip
