"""What the endpoints of the gateway share: one answer from the model or from memory, and word of what failed."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fastapi import HTTPException

from events.writer import EventLogWriter, LogUnavailable
from experiments.document import Rollout
from serving.gateway.door import FULL, GatewayDoor
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.models import TorchServeModels
from serving.gateway.overload import RETRY_SECONDS
from serving.gateway.recommender import (
    NotOffered,
    Recommended,
    Recommender,
)
from serving.gateway.rollout_watch import RolloutWatch
from serving.gateway.wish import Wish

NOTHING_RELEASED = "no model was released yet"
NO_NEWS = "what is withdrawn is not known yet"
TELL_SECONDS = 10.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Service:
    """What the endpoints share."""

    models: TorchServeModels
    recommender: Recommender
    row: RolloutWatch
    log: EventLogWriter
    metrics: GatewayMetrics
    door: GatewayDoor
    clock: Callable[[], datetime]
    told: dict[str, float] = field(default_factory=dict)
    """Part that failed, and when the console last heard of it."""

    def failed(self, part: str, reason: str) -> None:
        """Count a part that did not answer, and say why."""
        self.metrics.failures.labels(part).inc()
        self.warn(part, reason)

    def warn(self, part: str, reason: str) -> None:
        """On the console: at once, and then every `TELL_SECONDS` while it lasts."""
        now = time.monotonic()
        if now - self.told.get(part, -math.inf) >= TELL_SECONDS:
            self.told[part] = now
            _logger.warning("%s did not answer: %s", part, reason)

    def released_rollout(self) -> Rollout:
        rollout = self.row.rollout
        if rollout is None or rollout.champion is None:
            raise HTTPException(503, NOTHING_RELEASED)
        if not self.recommender.after.news.known:
            raise HTTPException(503, NO_NEWS)
        return rollout

    async def append(self, table: str, event: dict[str, Any], seconds: float, *, synced: bool = True) -> bool | None:
        """Whether the event is durable, None where that is not known in time; see `EventLogWriter.append`."""
        began = time.perf_counter()
        try:
            await self.log.append(table, event, synced=synced, seconds=seconds)
        except LogUnavailable as error:
            self.metrics.unlogged.labels(table).inc()
            self.warn("event log", str(error))
            return False if error.certain else None
        self.metrics.append.labels(table).observe(time.perf_counter() - began)
        return True

    async def recommend(self, rollout: Rollout, wish: Wish, authorization: str | None) -> Recommended:
        """Raises 503 where the bound is full and the memory has answered enough."""
        bound, shop = self.door.bound, self.door.shop(authorization)
        verdict = bound.enter(shop)
        if verdict == "model":
            began = time.perf_counter()
            try:
                return await self.recommender.recommend(rollout, wish)
            except NotOffered as error:
                raise HTTPException(error.status, str(error)) from error
            finally:
                bound.leave(shop, time.perf_counter() - began)
        self.metrics.shed.labels(verdict).inc()
        if verdict == "refused":
            raise HTTPException(503, FULL, {"Retry-After": str(RETRY_SECONDS)})
        try:
            return self.recommender.from_memory(rollout, wish)
        except NotOffered as error:
            raise HTTPException(error.status, str(error)) from error

    def refused(self, status: int) -> None:
        """What the HTTP protocol has refused."""
        self.metrics.refused(status)
        if status == 503:
            self.metrics.shed.labels("refused").inc()

    def out_of_traffic(self) -> list[str]:
        rollout = self.row.rollout
        serving = rollout.serving if rollout is not None else ()
        return sorted(arm.version for arm in serving if self.models.breakers[arm.version].open)
