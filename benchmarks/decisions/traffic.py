"""Simulated canaries, many at a time: what shoppers see and click while the challenger's weight rises.

Traffic grows, the base rate falls, a few shoppers bring most of the exposures, and each has a taste for clicking of
their own: what makes the plain comparison of two rates wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.log import MOST_OF_USER
from experiments.sequential_test import Floats


@dataclass(frozen=True, kw_only=True)
class SimulatedCanary:
    """The world of one canary. Weights are by day; `lift` is the challenger's relative gain in click-through."""

    users: int = 2000
    weights: tuple[float, ...] = (0.01, 0.01, 0.05, 0.05, 0.25, 0.25, 0.25, *(0.5,) * 14)
    batches: int = 4
    """Looks a day."""
    exposures: float = 1.0
    """Mean exposures of a shopper on the first day."""
    traffic: float = 2.0
    """Traffic of the last day over that of the first."""
    first_rate: float = 0.14
    last_rate: float = 0.07
    heavy: float = 1.0
    """Spread of the shoppers' activity (sigma of a log-normal)."""
    taste: float = 0.6
    """Spread of their rates (sigma of a log-normal)."""
    lift: float = 0.0
    lost: float = 0.0
    """Share of the challenger's shoppers whose log is lost: a planted sample-ratio mismatch."""
    week: float = 0.0
    """How far the rate rises and falls with the days of a week."""
    bots: int = 0
    """How many users ask `bot_exposures` times a day and never click; the salt draws their arms as anybody's."""
    eager: int = 0
    """How many ask as often, and click as they like."""
    bot_exposures: float = 10_000.0
    most: int = MOST_OF_USER
    """Exposures of a user that count in a day; the log's own rule."""
    novelty: float = 0.0
    """What the challenger gains with a shopper who meets it first; half of it `novelty_days` later, and so on."""
    novelty_days: float = 0.25
    carried: float = 0.0
    """What the challenger of an experiment before left behind with the half of the shoppers who had met it."""
    fresh_salt: bool = True
    """Whether this experiment draws its arms anew, or as the one before did."""
    value: float | None = None
    """Spread (sigma of a log-normal of mean 1) of what a success is worth; None where it counts as one."""
    cap: float = np.inf
    """What a success counts for at most."""


class Batch(NamedTuple):
    """One batch of `rows` canaries at once; arrays are (canaries, users)."""

    day: int
    weight: float
    treated: Floats
    exposures: Floats
    clicks: Floats


def batches(world: SimulatedCanary, rows: int, rng: np.random.Generator) -> Iterator[Batch]:
    """The batches of `rows` independent canaries, in their order."""
    shape = (rows, world.users)
    place = rng.random(shape)  # the hash of salt and user: one draw a user, whatever the weight
    activity = rng.lognormal(-(world.heavy**2) / 2, world.heavy, shape) * world.exposures / world.batches
    taste = rng.lognormal(-(world.taste**2) / 2, world.taste, shape)
    lost = rng.random(shape) < world.lost
    before = 1 + world.carried * ((rng.random(shape) if world.fresh_salt else place) < 0.5)
    activity[:, : world.bots + world.eager] = world.bot_exposures / world.batches
    taste[:, : world.bots] = 0
    met = np.full(shape, np.inf)
    days = len(world.weights)
    for day, weight in enumerate(world.weights):
        progress = day / max(days - 1, 1)
        treated = (place < weight).astype(float)
        met = np.where(treated > 0, np.minimum(met, day), np.inf)
        traffic = world.traffic**progress
        rate = world.first_rate * (world.last_rate / world.first_rate) ** progress
        rate *= 1 + world.week * np.sin(2 * np.pi * day / 7)
        mean = activity * traffic * np.where(lost & (treated > 0), 0.0, 1.0)
        today = np.zeros(shape)
        for part in range(world.batches):
            age = np.where(treated > 0, day + part / world.batches - met, 0)
            new = world.novelty * 0.5 ** (age / world.novelty_days)
            chance = np.minimum(rate * taste * before * (1 + (world.lift + new) * treated), 0.95)
            exposures = np.minimum(rng.poisson(mean), world.most - today)
            today += exposures
            clicks = rng.binomial(exposures.astype(int), chance)
            yield Batch(day, weight, treated, exposures.astype(float), _worth(world, clicks, rng))


def _worth(world: SimulatedCanary, clicks: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """What successes count for: one each, or what they brought in, each up to the cap."""
    if world.value is None:
        return clicks.astype(float)
    owner = np.repeat(np.arange(clicks.size), clicks.ravel())
    worth = np.minimum(rng.lognormal(-(world.value**2) / 2, world.value, len(owner)), world.cap)
    return np.bincount(owner, worth, clicks.size).reshape(clicks.shape)
