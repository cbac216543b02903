"""Simulated canaries, many at a time: what shoppers see and click while the challenger's weight rises.

Traffic grows, the base rate falls, a few shoppers bring most of the exposures, and each has a taste for clicking of
their own: what makes the plain comparison of two rates wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from serving.rollout.sequential import Floats


@dataclass(frozen=True, kw_only=True)
class Canary:
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


class Batch(NamedTuple):
    """One batch of `rows` canaries at once; arrays are (canaries, users)."""

    day: int
    weight: float
    treated: Floats
    exposures: Floats
    clicks: Floats


def batches(world: Canary, rows: int, rng: np.random.Generator) -> Iterator[Batch]:
    """The batches of `rows` independent canaries, in their order."""
    shape = (rows, world.users)
    place = rng.random(shape)  # the hash of salt and user: one draw a user, whatever the weight
    activity = rng.lognormal(-(world.heavy**2) / 2, world.heavy, shape) * world.exposures / world.batches
    taste = rng.lognormal(-(world.taste**2) / 2, world.taste, shape)
    lost = rng.random(shape) < world.lost
    days = len(world.weights)
    for day, weight in enumerate(world.weights):
        progress = day / max(days - 1, 1)
        treated = (place < weight).astype(float)
        traffic = world.traffic**progress
        rate = world.first_rate * (world.last_rate / world.first_rate) ** progress
        chance = np.minimum(rate * taste * (1 + world.lift * treated), 0.95)
        mean = activity * traffic * np.where(lost & (treated > 0), 0.0, 1.0)
        for _ in range(world.batches):
            exposures = rng.poisson(mean)
            yield Batch(day, weight, treated, exposures.astype(float), rng.binomial(exposures, chance).astype(float))
