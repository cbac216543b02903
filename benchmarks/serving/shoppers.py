"""Marketplace shoppers at the door of a gateway: they ask, look at what is shown, and answer by the shop's own law."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import httpx
import numpy as np

from marketplace.shop import Marketplace

AT_ONCE = 4
"""Shoppers who wait for an answer at the same time."""


class Clock:
    """The time that all parts of a simulated shop go by."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Tally:
    """What shoppers met: answers by (variant, version, status), and those of them that were clicked on."""

    answers: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    clicked: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    """Requests that got no answer, each with its reason."""

    @property
    def asked(self) -> int:
        return self.answers.total() + len(self.failed)


class LoadShoppers:
    """All shoppers of `shop`. They remember what they bought: before (`histories`, latest last), and here.

    Args:
        client: Of the gateway, with its address and, where it wants one, its token.
        clock: Moved on from visit to visit.
    """

    def __init__(
        self,
        shop: Marketplace,
        client: httpx.AsyncClient,
        clock: Clock,
        *,
        histories: dict[str, list[str]],
        k: int = 10,
        seed: int = 0,
    ) -> None:
        self._shop, self._client, self._clock, self._k = shop, client, clock, k
        self._rng = np.random.default_rng(seed)
        self._histories = defaultdict(list, {user: list(items) for user, items in histories.items()})
        self._ids: list[str] = shop.user_ids.to_pylist()
        self._activity = self._rng.lognormal(-0.32, 0.8, len(self._ids))

    def visits(self, start: datetime, hours: float, a_day: float) -> list[tuple[datetime, str]]:
        """Who comes when in the hours after `start`: a Poisson process each, some come often and many seldom."""
        times = self._rng.poisson(self._activity * a_day * hours / 24)
        who = np.repeat(np.arange(len(self._ids)), times)
        offsets = np.sort(self._rng.random(len(who))) * hours * 3600
        who = self._rng.permutation(who)
        return [(start + timedelta(seconds=float(at)), self._ids[user]) for at, user in zip(offsets, who, strict=True)]

    async def serve(self, visits: Sequence[tuple[datetime, str]], tally: Tally) -> None:
        """Let them all come, `AT_ONCE` at a time, in the order of their times."""
        for first in range(0, len(visits), AT_ONCE):
            together = visits[first : first + AT_ONCE]
            self._clock.now = max(self._clock.now, together[0][0])
            await asyncio.gather(*(self.visit(user, tally) for _, user in together))

    async def visit(self, user: str, tally: Tally) -> dict[str, Any] | None:
        """One shopper asks, looks, and says what was clicked on and bought; the answer, None where there was none."""
        try:
            reply = await self._client.post("/v1/recommendations", json={"user_id": user, "k": self._k})
            reply.raise_for_status()
        except httpx.HTTPError as error:
            tally.failed.append(f"{type(error).__name__}: {error}")
            return None
        answer: dict[str, Any] = reply.json()
        met = (answer["variant"], answer["version"], answer["status"])
        tally.answers[met] += 1
        shown = [item["item_id"] for item in answer["items"] if self._on_sale(item["item_id"])]
        if not shown:
            return answer
        response = self._shop.click(user, shown, self._clock.now, self._rng, history=self._histories[user])
        for place in np.flatnonzero(response.clicked):
            for event_type in ("click", *(["purchase"] if response.purchased[place] else [])):
                await self._send_event(answer["request_id"], event_type, shown[place], tally)
            if response.purchased[place]:
                self._histories[user].append(shown[place])
        tally.clicked[met] += bool(response.clicked.any())
        return answer

    async def _send_event(self, request_id: str, event_type: str, item_id: str, tally: Tally) -> None:
        event = {"request_id": request_id, "event_type": event_type, "item_id": item_id}
        try:
            (await self._client.post("/v1/events", json=event)).raise_for_status()
        except httpx.HTTPError as error:
            tally.failed.append(f"{event_type}: {type(error).__name__}: {error}")

    def _on_sale(self, item_id: str) -> bool:
        """A broken model shows what no shop has; nobody clicks on that."""
        return item_id.startswith("i") and item_id[1:].isdecimal() and int(item_id[1:]) < len(self._shop.item_ids)
