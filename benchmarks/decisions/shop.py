"""A simulated shop for `benchmarks.decisions.years`: a model every night, and what its shoppers would find with each.

Two models of one recipe answer a shopper alike but for their noise, which is fitted to the nights of real runs
(`benchmarks.decisions.pair_noise`): a model answers a held-out shopper the same in all of the seven windows that hold
him.
"""

import ast
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr

from benchmarks.decisions.pair_noise import RESULTS, ndcg
from components.evaluate.blessing import NightlyValues
from runtime import code_digest

NOISE = json.loads(RESULTS.read_text())
WINDOW = 7
GROUPS = 25
"""Rows of a day, where they divide its shoppers: some are one row, their mean, and every interval stays as it is."""


@dataclass(frozen=True, kw_only=True)
class SimulatedWorld:
    """What is true of one shop. Qualities are shares of the first model's."""

    shoppers: int = 500
    """Held-out shoppers of a day."""
    found: float = NOISE["found"]
    """Share of them for whom the first model finds what they bought."""
    spread: float = 0.005
    """Standard deviation of a night's quality about its recipe's."""
    drift: float = 0.0
    """What each night's refresh loses against the one before, from the night `onset` on."""
    onset: int = 0
    ageing: float = 0.0
    """What a model loses with every day after its night, as the shop changes."""
    season: float = 0.0
    """How far a year's wave lifts and lowers what any model finds."""
    broken: tuple[int, float] | None = None
    """A night, and what its model loses."""
    candidate: tuple[int, float] | None = None
    """A night from which on every model is of another recipe, and its gain."""
    rewords: bool = False
    """Whether every night's code has other docstrings than the night before."""
    catalogue: bool = False
    """Whether the catalogue run puts a fresh archive of the same weights in the champion's place every day."""
    outage: tuple[int, int] | None = None
    """The first day without an event log, and how many there are."""
    half_outage: tuple[int, int] | None = None
    """The same of days on which half of the challenger's log is lost, all of its successes among it."""
    exposures: int = 4000
    """A day, in the shop."""
    rate: float = 0.1
    """Of success of an exposure, with the first model."""


class SimulatedShop:
    """One simulated year. Models are called by their night."""

    def __init__(self, world: SimulatedWorld, nights: int, seed: int) -> None:
        self.world, self.rng, self.seed = world, np.random.default_rng(seed), seed
        change = self.rng.normal(0, world.spread, nights)
        self.quality = (1 + world.drift) ** np.maximum(0, np.arange(nights) - world.onset) * (1 + change)
        if world.broken is not None:
            self.quality[world.broken[0]] *= 1 + world.broken[1]
        if world.candidate is not None:
            self.quality[world.candidate[0] :] *= 1 + world.candidate[1]
        self.rows = world.shoppers if world.shoppers % GROUPS else GROUPS
        # What all models have in common about a shopper, and what is a model's own.
        self._shared = np.sqrt(NOISE["alike"]) * self.rng.standard_normal((nights + WINDOW, world.shoppers))
        self._answers: dict[int, tuple[int, Any]] = {}

    def serves(self, model: int, night: int) -> float:
        """What the model is worth on the night."""
        return float(self.quality[model] * (1 - self.world.ageing) ** (night - model))

    def recipe(self, night: int) -> str:
        recipe = "new" if self.world.candidate is not None and night >= self.world.candidate[0] else "old"
        return f"{recipe} {worded(night)}" if self.world.rewords else recipe

    def season(self, night: int) -> float:
        return 1 + self.world.season * float(np.sin(2 * np.pi * night / 365))

    def window(self, model: int, peer: int, night: int) -> NightlyValues:
        users = np.arange(night * self.rows, (night + WINDOW) * self.rows)
        return NightlyValues(users, *(self._finds(each, night).ravel() for each in (model, peer)))

    def _finds(self, model: int, night: int) -> Any:
        """NDCG of the model for the rows of seven days, (days, rows); of a shopper the same in every window."""
        world, days = self.world, np.arange(night, night + WINDOW)
        own = np.empty((WINDOW, world.shoppers))
        for place, day in enumerate(days):
            own[place] = np.random.default_rng([self.seed, model, int(day)]).standard_normal(world.shoppers)
        latent = self._shared[days] + np.sqrt(1 - NOISE["alike"]) * own
        share = world.found * self.serves(model, night) * self.season(night)
        value = ndcg(ndtr(latent), share, NOISE["values"])
        return value.reshape(WINDOW, self.rows, -1).mean(2)


@cache
def worded(night: int) -> str:
    """The identity that a training whose docstring says something else tonight has, by the real digest."""
    tree = ast.parse((Path(__file__).parents[2] / "heterrec" / "loss" / "objective.py").read_text())
    tree.body[0] = ast.Expr(ast.Constant(f"As it is told on night {night}."))
    return hashlib.sha256(code_digest.canonical(tree).encode()).hexdigest()
