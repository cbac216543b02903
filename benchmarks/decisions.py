"""Years of nights, with the real functions that decide: blessing, release, canary and its moves; a known truth.

Each night a model of a model is "trained": its quality is drawn, and so is what it finds for every held-out shopper, in
windows of seven days of which the next night's shares six. Two peers stand beside ours on the same nights: "always
release the newest", and "release if tonight's estimate is higher than the champion's". `make bench-decisions YEARS=10`
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from components.evaluate.blessing import Night, Rule, bless, change
from components.task import commit
from serving.rollout.document import ModelVersion, Rollout, release
from serving.rollout.judgement import Evidence, judge, planned_exposures
from serving.rollout.log import Traffic
from serving.rollout.policy import Policy
from serving.rollout.sequential import UNKNOWN, difference

RESULTS = Path(__file__).parent / "results" / "decisions.json"
START = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW, PLACES = 7, 10
RULE, POLICY = Rule(), Policy()


@dataclass(frozen=True, kw_only=True)
class World:
    """What is true of one shop. Qualities are shares of the first model's."""

    shoppers: int = 500
    """Held-out shoppers of a day."""
    found: float = 0.2
    """Share of them for whom the first model finds what they bought."""
    moved: float = 0.3
    """Share of them for whom two models answer unlike each other."""
    spread: float = 0.01
    """Standard deviation of a night's quality about its recipe's: seeds and days."""
    drift: float = 0.0
    """What each night's refresh loses against the one before."""
    broken: tuple[int, float] | None = None
    """A night, and what its model loses."""
    candidate: tuple[int, float] | None = None
    """A night from which on every model is of another recipe, and its gain."""
    exposures: int = 4000
    """A day, in the shop."""
    rate: float = 0.1
    """Of success of an exposure, with the first model."""


WORLDS = {
    "equal refreshes": World(),
    "equal refreshes, a small shop": World(shoppers=40, exposures=400),
    "decay of .5 % a night": World(drift=-0.005),
    "decay of 5 % a night": World(drift=-0.05),
    "decay of .5 %, a small shop": World(drift=-0.005, shoppers=40, exposures=400),
    "a broken night, -30 %": World(broken=(40, -0.3)),
    "a recipe of +10 %": World(candidate=(10, 0.1)),
    "a recipe of +2 %": World(candidate=(10, 0.02)),
    "a recipe of -10 %": World(candidate=(10, -0.1)),
    "another recipe without effect": World(candidate=(10, 0.0)),
    "the same, purchases at .1 %": World(candidate=(10, 0.0), rate=0.001, exposures=40_000),
}


class Shop:
    """One simulated year: the models of its nights, and what its shoppers would find with each."""

    def __init__(self, world: World, nights: int, seed: int) -> None:
        self.world, self.rng = world, np.random.default_rng(seed)
        self.days = self.rng.random((nights + WINDOW, world.shoppers, 2))
        change = self.rng.normal(0, world.spread, nights)
        self.quality = (1 + world.drift) ** np.arange(nights) * (1 + change)
        if world.broken is not None:
            self.quality[world.broken[0]] *= 1 + world.broken[1]
        if world.candidate is not None:
            self.quality[world.candidate[0] :] *= 1 + world.candidate[1]
        self.seeds = self.rng.integers(0, 2**32, nights)

    def recipe(self, night: int) -> str:
        return "new" if self.world.candidate is not None and night >= self.world.candidate[0] else "old"

    def finds(self, model: int, night: int) -> Any:
        """NDCG of the model of one night for every shopper of another night's window."""
        shared = self.days[night : night + WINDOW].reshape(-1, 2)
        own = np.random.default_rng([int(self.seeds[model]), night]).random((len(shared), 3))
        alone = own[:, 0] < self.world.moved
        hit, place = (np.where(alone, own[:, n + 1], shared[:, n]) for n in (0, 1))
        return (hit < self.world.found * self.quality[model]) / np.log2(2 + (PLACES * place).astype(int))

    def window(self, model: int, peer: int, night: int) -> Night:
        users = [f"{day}-{n}" for day in range(night, night + WINDOW) for n in range(self.world.shoppers)]
        return Night(users, self.finds(model, night), self.finds(peer, night))


def ours(shop: Shop, nights: int) -> Iterator[int]:
    """The model that serves after each night, by the functions that decide in the pipelines."""
    row, history = Rollout(model="shop"), []
    log = _Canary(shop)
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
            tonight = shop.window(night, int(reference), night)
            earlier = [seen for at, against, seen in history if against == reference and night - at < RULE.pool_days]
            age = (now - row.champion.fresh_as_of) / timedelta(days=1)
            made = bless(tonight, earlier, age_days=age, rule=RULE)
            history.append((night, reference, tonight))
            passed, better = made.passed, change([tonight], alpha=0.025).low > 0
        if passed:
            row = release(row, model, now=now, salt=lambda at=night: f"s{at}", better=better).rollout
        row = log.day(row, now)
        assert row.champion is not None
        yield int(row.champion.version)


class _Canary:
    """A day of shoppers in both arms and the look at its end; a shopper has one exposure."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._salt, self._opened = "", START
        self._rows: list[tuple[int, int, float, float]] = []

    def day(self, row: Rollout, now: datetime) -> Rollout:
        if row.challenger is None and row.former is None:
            return row
        if row.salt != self._salt:
            self._salt, self._opened, self._rows = row.salt, now, []
        evidence = self._evidence(row, now + timedelta(days=1))
        verdict = judge(row, evidence, POLICY, opened=self._opened, salt=lambda: f"n{now}")
        return verdict.rollout or row

    def _evidence(self, row: Rollout, now: datetime) -> Evidence:
        world, quality = self._shop.world, self._shop.quality
        stratum = len(self._rows) // 4
        if row.challenger is not None and row.weight < 1:
            assert row.champion is not None
            for treated, arm in enumerate((row.champion, row.challenger)):
                exposures = round(world.exposures * (row.weight if treated else 1 - row.weight))
                hits = int(self._shop.rng.binomial(exposures, min(world.rate * quality[int(arm.version)], 1)))
                # Shoppers who succeeded and who did not: one row each, as many alike as `times` says.
                self._rows += [(stratum, treated, 1.0, hits), (stratum, treated, 0.0, exposures - hits)]
        found, rate = UNKNOWN, world.rate
        if self._rows:
            found, rate = _compared(self._rows)
        busy = Traffic(exposures=10**6, stage_exposures=10**6, misdrawn=0, latest=now)
        plain = {"champion_rate": rate, "challenger_rate": rate, "users": 10**6, "guardrails": (), "full": False}
        return Evidence(at=now, traffic=busy, outcome=found, ratio=0.0, **plain)


def _compared(rows: list[tuple[int, int, float, float]]) -> tuple[Any, float]:
    """`difference` of single exposures, which are equal in groups: its sums, weighed by how many there are."""
    stratum, treated, outcome, times = (np.array(column) for column in zip(*rows, strict=True))
    # A group of n alike shoppers is n users of one exposure; their squares add up as sqrt(n) of each would.
    exposures = times.astype(float)
    successes = outcome * exposures
    planned = planned_exposures(exposures, successes, POLICY)
    made = _grouped(stratum, treated.astype(float), exposures, outcome, planned)
    champion = treated == 0
    return made, float(successes[champion].sum() / max(exposures[champion].sum(), 1))


def _grouped(stratum: Any, treated: Any, times: Any, outcome: Any, planned: float) -> Any:
    """As `serving.rollout.sequential.difference` of users with one exposure each, `times` of them alike."""
    from serving.rollout.sequential import Difference, half_width, mixing

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
    return Difference(estimate, estimate - half, estimate + half, effective)


def newest(shop: Shop, nights: int) -> Iterator[int]:
    """Always release the newest."""
    yield from range(nights)


def higher(shop: Shop, nights: int) -> Iterator[int]:
    """Release if tonight's estimate is higher than the champion's."""
    champion = 0
    for night in range(nights):
        tonight = shop.window(night, champion, night)
        if tonight.ours.mean() > tonight.theirs.mean():
            champion = night
        yield champion


WAYS: dict[str, Callable[[Shop, int], Iterator[int]]] = {
    "ours": ours, "always the newest": newest, "if the estimate is higher": higher,
}  # fmt: skip


def told(shop: Shop, served: list[int]) -> dict[str, float]:
    """What a year came to."""
    quality = shop.quality[served]
    best = np.array([shop.quality[max(0, night - 29) : night + 1].max() for night in range(len(served))])
    ever = np.array([quality[max(0, night - 29) : night + 1].max() for night in range(len(served))])
    first = [night for night, model in enumerate(served) if shop.recipe(model) == "new"]
    start = shop.world.candidate[0] if shop.world.candidate else 0
    return {
        "worst_against_what_served": float((quality / ever).min() - 1),
        "mean_against_best": float((quality / best).mean() - 1),
        "releases": float(len(set(served))),
        "oldest_days": float(max(night - model for night, model in enumerate(served))),
        "new_recipe_days": float(first[0] - start) if first else float("inf"),
        "ends_with_new_recipe": float(shop.recipe(served[-1]) == "new"),
    }


def check() -> None:
    """The grouped sums are those of the judge itself."""
    rng = np.random.default_rng(0)
    treated = (rng.random(400) < 0.3).astype(float)
    outcome, stratum = (rng.random(400) < 0.2).astype(float), rng.integers(0, 3, 400)
    one = np.ones(400)
    mine = _grouped(stratum, treated, one, outcome, 500.0)
    theirs = difference(user=np.arange(400), stratum=stratum, treated=treated, exposures=one, outcome=outcome,
                        planned=500.0, alpha=POLICY.alpha)  # fmt: skip
    assert np.allclose(mine, theirs), (mine, theirs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--years", type=int, default=10)
    parser.add_argument("--nights", type=int, default=365)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shoppers", type=float, default=1.0, help="factor of the held-out shoppers, for a quick look")
    options = parser.parse_args()
    check()
    console, started = Console(), time.monotonic()
    result: dict[str, Any] = {
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **vars(options),
        "rule": asdict(RULE),
        "worlds": {},
    }
    worst = "worst against the best served in 30 days, median [5th percentile]"
    recipe = "new recipe after days (ends with it)"
    table = Table("world", "way", worst, "mean against the best", "releases", "oldest, days", recipe)
    for name, world in WORLDS.items():
        sized = replace(world, shoppers=max(2, round(world.shoppers * options.shoppers)))
        of_world = result["worlds"][name] = {}
        for way, decide in WAYS.items():
            years = []
            for year in range(options.years):
                shop = Shop(sized, options.nights, options.seed + year)
                years.append(told(shop, list(decide(shop, options.nights))))
            found = {key: np.array([year[key] for year in years]) for key in years[0]}
            of_world[way] = {
                "worst": [float(np.quantile(found["worst_against_what_served"], q)) for q in (0.05, 0.5)],
                "within_margin": float((found["worst_against_what_served"] >= -RULE.margin).mean()),
                **{key: float(np.median(values)) for key, values in found.items() if key != "ends_with_new_recipe"},
                "ends_with_new_recipe": float(found["ends_with_new_recipe"].mean()),
            }
            row = of_world[way]
            days = row["new_recipe_days"]
            row["new_recipe_days"] = days if np.isfinite(days) else None  # never, or there was none
            told_days = "never" if row["new_recipe_days"] is None else f"{days:.0f}"
            recipe = f"{told_days} ({row['ends_with_new_recipe']:.0%})" if world.candidate else ""
            table.add_row(
                name, way, f"{row['worst'][1]:+.1%} [{row['worst'][0]:+.1%}]", f"{row['mean_against_best']:+.1%}",
                f"{row['releases']:.0f}", f"{row['oldest_days']:.0f}", recipe,
            )  # fmt: skip
            console.print(f"{name}, {way}: {row['worst'][1]:+.1%}, {time.monotonic() - started:.0f} s")
    console.print(table)
    result["seconds"] = time.monotonic() - started
    if options.shoppers == 1:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        console.print(f"written to {RESULTS} after {result['seconds']:.0f} s")


if __name__ == "__main__":
    main()
