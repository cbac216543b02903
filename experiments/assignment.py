"""Which arm a shopper meets: a hash of the experiment's salt and the user's id, and nothing else.

The same user meets the same arm on every device and after every restart; a higher weight moves shoppers from the
champion to the challenger and never back; a new salt draws everybody anew.
"""

import hashlib
from typing import Literal, NamedTuple

from experiments.document import Rollout

Variant = Literal["champion", "challenger", "former", "holdout"]
"""The last is no arm of an experiment: see `experiments.rules.Holdout`."""
HOLDOUT = 0.02
"""Share of shoppers that keep the champion of before while all others meet its successor, through full traffic and the
watch: what happens to everybody then happens to them too, and is no fault of the new model."""
BITS = 52
"""Bits of the hash that are used: as many as a double holds exactly."""


def place(salt: str, user_id: str) -> float:
    """Where the user stands in this experiment, uniform on [0, 1)."""
    digest = hashlib.sha256(f"{salt}:{user_id}".encode()).hexdigest()
    return int(digest[: BITS // 4], 16) / 2.0**BITS


def variant(salt: str, user_id: str, weight: float) -> Variant:
    """The arm of the user while the challenger has `weight` (0 to 1) of the shoppers."""
    return "challenger" if place(salt, user_id) < weight else "champion"


class DrawnArm(NamedTuple):
    """The arm of a shopper, and the share of shoppers that meet the challenger."""

    variant: Variant
    weight: float


def drawn(rollout: Rollout, user_id: str) -> DrawnArm:
    """What a shopper meets by this row."""
    if rollout.challenger is not None:
        weight = min(rollout.weight, 1 - HOLDOUT)
        return DrawnArm(variant(rollout.salt, user_id, weight), weight)
    held = rollout.former is not None and rollout.salt and place(rollout.salt, user_id) >= 1 - HOLDOUT
    return DrawnArm("former" if held else "champion", 0.0)


PLACE_SQL = f"('0x' || substr(sha256(salt || ':' || user_id), 1, {BITS // 4}))::BIGINT / {2**BITS}.0"
"""`place` in DuckDB, to hold a log of exposures against what its salt draws."""
