"""Off-policy estimates against a truth that is known: what a policy earns, told from another one's log.

The marketplace's law says how likely each shopper is to click each item. A champion with a noisy taste serves, and slot
2 explores new items by the gateway's law (`serving.gateway.after`). From each log the values of a better and of a worse
policy are estimated and held against what the law gives. Letters: U shoppers, V items, E items that are explored, N
slots logged.
"""

import argparse
import json
import os
import platform
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from experiments import off_policy
from experiments.off_policy import Interval, Scored
from experiments.rules import Rules
from experiments.rules_table import RulesVersion
from marketplace.config import MarketplaceConfig
from marketplace.shop import Marketplace
from runtime.task import commit
from serving.gateway.after.catalogue import ServedCatalogue
from serving.gateway.after.compiled import Explorable, compiled
from serving.gateway.after.showing import ShowingLimits, draw, show
from serving.gateway.after.stock import Stock

RESULTS = Path(__file__).parents[1] / "results" / "off_policy.json"
SHARE, NEW, SLOT = 0.2, 20, 2
SHOPPERS, VISITS = 8_000, 4.0
"""Of a log: drawn from the shop's, each with a Poisson number of visits around a rate of its own."""
NOISE = {"champion": 1.0, "better": 0.5, "worse": 2.0}
"""Of a policy's taste, in standard deviations of the law's."""
CHECKED = 300
"""Requests of the first log that go through the gateway's own code."""


@dataclass(frozen=True)
class OffPolicyShop:
    """What is true. Clicks at slot 2 by shopper and item, and by what each policy goes."""

    click_UV: np.ndarray
    rate_U: np.ndarray
    score_UV: dict[str, np.ndarray]
    new_E: np.ndarray

    @cached_property
    def ranked_U2(self) -> np.ndarray:
        """The two best of the champion's ranking."""
        return np.argsort(-self.score_UV["champion"], axis=1, kind="stable")[:, :2]

    def open_UV(self) -> np.ndarray:
        """What slot 2 may show: the new items but the one that slot 1 shows, and the champion's second."""
        first, second = self.ranked_U2.T
        open_UV = np.zeros(self.click_UV.shape, bool)
        open_UV[:, self.new_E] = True
        every = np.arange(len(open_UV))
        open_UV[every, first], open_UV[every, second] = False, True
        return open_UV

    @cached_property
    def choice_U(self) -> dict[str, np.ndarray]:
        """What each policy shows in slot 2, of what is open."""
        open_UV = self.open_UV()
        return {name: np.argmax(np.where(open_UV, each, -np.inf), axis=1) for name, each in self.score_UV.items()}

    @cached_property
    def knots(self) -> dict[str, np.ndarray]:
        """Of each policy, scores above which a half, a quarter, … of all lie."""
        return {name: np.quantile(each, (0.5, 0.75, 0.9, 0.97)) for name, each in self.score_UV.items()}

    def truth(self, policy: str) -> float:
        """Clicks for each request, over all shoppers."""
        value_U = self.click_UV[np.arange(len(self.rate_U)), self.choice_U[policy]]
        return float((self.rate_U * value_U).sum() / self.rate_U.sum())


def shop(seed: int, users: int) -> OffPolicyShop:
    config = MarketplaceConfig(users=users, items=240, new_items_per_day=0, days=1, seed=seed, categories=8, brands=12)
    market, rng = Marketplace(config), np.random.default_rng(seed)
    ids = market.item_ids.to_pylist()
    lift_UV = np.array([market.lift(user, ids, config.start) for user in market.user_ids.to_pylist()])
    lift_UV = np.clip(lift_UV, -10, None)
    # `Marketplace.click`: examined by its place, clicked by the law.
    click_UV = 1 / np.log2(SLOT + 1) / (1 + np.exp(2 - 0.8 * lift_UV))
    spread = lift_UV.std()
    score_UV = {name: lift_UV + noise * spread * rng.normal(size=lift_UV.shape) for name, noise in NOISE.items()}
    new_E = np.sort(rng.choice(len(ids), NEW, replace=False))
    return OffPolicyShop(click_UV, VISITS * rng.lognormal(-0.18, 0.6, users), score_UV, new_E)


def repetition(world: OffPolicyShop, number: int) -> dict[str, dict[str, Interval]]:
    """One log, and what is told from it."""
    rng = np.random.default_rng([number, 1])
    drawn_G = rng.integers(0, len(world.rate_U), SHOPPERS)
    visits_G = rng.poisson(world.rate_U[drawn_G])
    shopper_N = np.repeat(np.arange(SHOPPERS), visits_G)
    user_N = drawn_G[shopper_N]
    shown_N, propensity_N = _logged(world, user_N, number)
    # Some click half as often as the law says and some half as often again: rows of one shopper are alike.
    mood_N = rng.choice([0.5, 1.5], SHOPPERS)[shopper_N]
    reward_N = (rng.random(len(user_N)) < world.click_UV[user_N, shown_N] * mood_N).astype(float)
    served = off_policy.logged(reward_N)
    found: dict[str, dict[str, Interval]] = {}
    kept: dict[str, Scored] = {}
    for policy in ("better", "worse"):
        choice_N = world.choice_U[policy][user_N]
        chance_N = (choice_N == shown_N).astype(float)
        modelled = off_policy.predicted(
            _features(world, user_N, shown_N), _features(world, user_N, choice_N), reward_N, propensity_N, shopper_N
        )
        weighed = off_policy.self_normalised(reward_N, propensity_N, chance_N)
        kept[policy] = off_policy.doubly_robust(reward_N, propensity_N, chance_N, *modelled)
        scored = {"ips": weighed, "dr": kept[policy], "dr against the log": kept[policy].against(served)}
        found[policy] = {name: off_policy.interval(each, shopper_N) for name, each in scored.items()}
    found["difference"] = {"dr": off_policy.interval(kept["better"].against(kept["worse"]), shopper_N)}
    return found


def _logged(world: OffPolicyShop, user_N: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """What slot 2 of each request showed, and with what probability: the gateway's law, many requests at once."""
    first_N, second_N = world.ranked_U2[user_N].T
    draw_N = np.array([draw(f"{number}-{n}", SLOT) for n in range(len(user_N))])
    place_N = np.searchsorted(world.new_E, first_N)
    is_new_N = np.isin(first_N, world.new_E)
    size_N = NEW - is_new_N
    index_N = np.minimum((draw_N / SHARE * size_N).astype(int), size_N - 1)
    index_N = index_N + (is_new_N & (index_N >= place_N))
    explored_N = draw_N < SHARE
    shown_N = np.where(explored_N, world.new_E[np.where(explored_N, index_N, 0)], second_N)
    among_N = np.isin(shown_N, world.new_E)
    propensity_N = SHARE / size_N * among_N + (1 - SHARE) * (shown_N == second_N)
    if number == 0:
        _check(world, user_N, shown_N, propensity_N)
    return shown_N, propensity_N


def _check(world: OffPolicyShop, user_N: np.ndarray, shown_N: np.ndarray, propensity_N: np.ndarray) -> None:
    """The same by the gateway's code."""
    ids = [f"i{row}" for row in range(world.click_UV.shape[1])]
    rules = Rules.of({"exploration": {"share": SHARE, "slots": [SLOT], "most_events": 0}})
    events = np.ones(len(ids), int)
    events[world.new_E] = 0
    made = compiled(
        RulesVersion(number=1, rules=rules), ServedCatalogue({"item_id": ids, "events": events.tolist()}, {}), _NOW
    )
    explorable, stock = Explorable(made), Stock()
    for n in range(min(CHECKED, len(user_N))):
        score_V = world.score_UV["champion"][user_N[n]]
        ranked = [{"item_id": ids[row], "score": score_V[row]} for row in np.argsort(-score_V, kind="stable")[:10]]
        asked = ShowingLimits(k=SLOT, request_id=f"0-{n}", hidden=frozenset())
        found = show(made, explorable, stock, asked, ranked, counts=False)
        assert found.items[1]["item_id"] == ids[shown_N[n]], n
        assert abs(found.propensities[1] - propensity_N[n]) < 1e-12, n


_NOW = MarketplaceConfig().start


def _features(world: OffPolicyShop, user_N: np.ndarray, item_N: np.ndarray) -> np.ndarray:
    """(N, F) what a shop knows of a request and an item: the scores of two models, bent at steps of their spread, and
    which new item it is."""
    columns = [np.ones(len(user_N))]
    for name in ("champion", "better"):
        score_N = world.score_UV[name][user_N, item_N]
        columns += [score_N, *(np.maximum(score_N - knot, 0) for knot in world.knots[name])]
    columns += [(item_N == row).astype(float) for row in world.new_E]
    return np.stack(columns, axis=1)


def measured(repetitions: int, users: int, seed: int) -> dict[str, Any]:
    world = shop(seed, users)
    truth = {policy: world.truth(policy) for policy in NOISE}
    logs = [repetition(world, number) for number in range(repetitions)]
    result: dict[str, Any] = {"truth": truth}
    for policy in ("better", "worse"):
        result[policy] = {
            name: {
                "covered": sum(log[policy][name].low <= truth[policy] <= log[policy][name].high for log in logs),
                "half_width": float(np.mean([(log[policy][name].high - log[policy][name].low) / 2 for log in logs])),
                "mean": float(np.mean([log[policy][name].value for log in logs])),
                "shoppers": float(np.median([log[policy][name].shoppers for log in logs])),
            }
            for name in ("ips", "dr")
        }
        result[policy]["dr_narrower"] = sum(
            log[policy]["dr"].high - log[policy]["dr"].low < log[policy]["ips"].high - log[policy]["ips"].low
            for log in logs
        )
    result["told_apart"] = sum(log["difference"]["dr"].low > 0 for log in logs)
    result["told_wrongly"] = sum(log["difference"]["dr"].high < 0 for log in logs)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--users", type=int, default=3_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    settings = {"share": SHARE, "new_items": NEW, "slot": SLOT, "shoppers": SHOPPERS, "visits": VISITS, "noise": NOISE}
    result = measured(options.repetitions, options.users, options.seed)
    told = {"commit": commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores", **vars(options), **settings}
    RESULTS.write_text(json.dumps({**told, **result}, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
