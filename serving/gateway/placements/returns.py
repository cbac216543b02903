"""What of a shopper's own purchases comes again, by counts: how many of an item, how lately, and how often such an item
was bought anew by who had bought it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

FADES = 4
"""A purchase counts 1/e after so many rhythms of the shop; chosen on Online Retail (benchmarks/NOTES.md)."""
_DAY = 86_400


@dataclass(frozen=True, kw_only=True)
class Returns:
    """Of one archive."""

    rhythm: float
    """Days between two purchases of an item by one shopper: their median over the shop."""
    share: Mapping[str, float]
    """Of each item of the catalogue: the share of its purchases after which the shopper bought it once more."""

    def of(self, purchases: Sequence[Mapping[str, Any]], now: datetime) -> list[tuple[str, float]]:
        """Items with their scores, best first. What was bought at one moment counts once."""
        counted: dict[str, float] = {}
        for item, moment in {(event["item_id"], datetime.fromisoformat(event["event_time"])) for event in purchases}:
            age = max(0.0, (now - moment).total_seconds() / _DAY)
            counted[item] = counted.get(item, 0.0) + math.exp(-age / (FADES * self.rhythm))
        scored = [(item, count * math.sqrt(self.share[item])) for item, count in counted.items() if item in self.share]
        return sorted(scored, key=lambda each: (-each[1], each[0]))


def returns_of(items: Mapping[str, Any], contract: Mapping[str, Any]) -> Returns | None:
    """Of `items.json` and `serving.json`; None where these do not tell."""
    if "again" not in items or "rhythm" not in contract:
        return None
    return Returns(rhythm=contract["rhythm"], share=dict(zip(items["item_id"], items["again"], strict=True)))
