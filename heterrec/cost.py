"""What a training costs, before it begins: steps, processor time and memory, from what is learned and what is ranked.

The constants are of one core of the machine on which benchmarks/NOTES.md was measured (width 64, two item layers); by
them Amazon Beauty's full budget is 7.1 minutes for HeterRec and 4.3 for item ID only, where 6.8 and 3.7 were measured.
Another machine is quicker or slower as a whole, which a training says itself after its first steps.
"""

import math
from typing import NamedTuple

POSITION = 9e-5
"""Seconds a step takes for an event of its batch, forward and back."""
ROW = 1.8e-6
"""Seconds for each feature of an item that is encoded."""
SCORE = 4.4e-9
"""Seconds for each score of a state against a candidate, forward and back."""
STEP = 8e-3
"""Seconds of a step however small it is."""
USUAL_FEATURES = 8
FIXED_MIB, EVENT_MIB, ITEM_MIB = 650, 4e-4, 8e-3
"""Memory of the libraries; of an event with its features; of an item with its row in weights, moments and averages."""


class Cost(NamedTuple):
    """Of one training."""

    steps: int
    cpu_seconds: float
    memory_mib: int


def of_catalogue(*, learned: int, batch: int, catalogue: int) -> float:
    """Processor seconds of a run that encodes and scores the whole catalogue at each step, `learned` events long.

    By a usual number of features, whatever the recipe has: a model and the baseline that it is measured against are to
    have the same loss.
    """
    return catalogue * (learned * SCORE + learned / batch * USUAL_FEATURES * ROW)


def estimate(*, learned: int, batch: int, catalogue: int, candidates: int | None, features: int, events: int) -> Cost:
    """Of a run over `learned` events (those of all its epochs) in batches of `batch`; `candidates` are drawn at a step,
    or all of the `catalogue`; `features` with the item ID; `events` are held in memory."""
    steps = math.ceil(learned / batch)
    scored = catalogue if candidates is None else candidates
    encoded = catalogue if candidates is None else min(catalogue, candidates + batch)
    seconds = steps * STEP + learned * (POSITION + scored * SCORE) + steps * encoded * features * ROW
    # Scores are held by chunks, twice, and the gradients of what is encoded.
    working = 2e-6 * (4 * 1024 * scored + 4 * 64 * 4 * encoded * features)
    memory = FIXED_MIB + events * EVENT_MIB + catalogue * ITEM_MIB + working
    return Cost(steps, seconds, round(memory))
