"""Which arm a shopper meets: a hash of the experiment's salt and the user's id, and nothing else.

The same user meets the same arm on every device and after every restart; a higher weight moves shoppers from the
champion to the challenger and never back; a new salt draws everybody anew.
"""

import hashlib
from typing import Literal

Variant = Literal["champion", "challenger"]
BITS = 52
"""Bits of the hash that are used: as many as a double holds exactly."""


def place(salt: str, user_id: str) -> float:
    """Where the user stands in this experiment, uniform on [0, 1)."""
    digest = hashlib.sha256(f"{salt}:{user_id}".encode()).hexdigest()
    return int(digest[: BITS // 4], 16) / 2.0**BITS


def variant(salt: str, user_id: str, weight: float) -> Variant:
    """The arm of the user while the challenger has `weight` (0 to 1) of the shoppers."""
    return "challenger" if place(salt, user_id) < weight else "champion"


PLACE_SQL = f"('0x' || substr(sha256(salt || ':' || user_id), 1, {BITS // 4}))::BIGINT / {2**BITS}.0"
"""`place` in DuckDB, to hold a log of exposures against what its salt draws."""
