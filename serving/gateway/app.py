"""The recommendation service over HTTP: recommendations, events, health, metrics."""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import httpx
from fastapi import FastAPI, HTTPException, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from serving.gateway.eventlog import EventLog, LogUnavailable
from serving.gateway.recommender import Deadlines, History, Recommender, Wish
from serving.rollout.document import Rollout

_logger = logging.getLogger(__name__)
Id = Annotated[str, Field(min_length=1, max_length=200)]
READ_SECONDS = 1.0
"""How often the rollout row is read."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Filters(_Strict):
    exclude: list[Id] = Field(default=[], max_length=50, description="items that must not be shown")


class RecommendationRequest(_Strict):
    user_id: Id
    k: int = Field(default=10, ge=1, le=50)
    exclude_seen: bool | None = Field(default=None, description="hide items seen; the data set's rule if absent")
    filters: Filters = Filters()
    context: dict[str, str | float | bool | None] = Field(default={}, description="kept with the exposure")


class Item(BaseModel):
    item_id: str
    score: float
    title: str | None = None


class Recommendations(BaseModel):
    request_id: str
    variant: str
    model: str
    version: str
    status: str
    logged: bool = Field(description="false where the exposure could not be written: it then counts for nothing")
    items: list[Item]


class Event(_Strict):
    request_id: Id
    event_type: Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
    item_id: Id | None = None
    time: AwareDatetime | None = Field(default=None, description="now if absent")


class Accepted(BaseModel):
    accepted: bool = True


class _Metrics:
    """Of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("variant", "version", "status")
        self.served = Counter("gateway_recommendations", "Answers given", labels, registry=self.registry)
        self.latency = Histogram("gateway_seconds", "Seconds until an answer", ("variant",), registry=self.registry)
        self.failures = Counter("gateway_failures", "Parts that failed", ("part",), registry=self.registry)
        self.outcomes = Counter("gateway_events", "Events accepted", ("event_type",), registry=self.registry)
        self.unlogged = Counter("gateway_unlogged", "Events that could not be written", registry=self.registry)
        self.out = Gauge("gateway_out_of_traffic", "1 while a version is out", ("version",), registry=self.registry)
        self.row_age = Gauge("gateway_rollout_age_seconds", "Age of the rollout row in use", registry=self.registry)


class _Row:
    """The last good copy of the rollout row, read again and again by `follow`."""

    def __init__(self, read: Callable[[], Rollout], recommender: Recommender, metrics: _Metrics) -> None:
        self._read, self._recommender, self._metrics = read, recommender, metrics
        self._read_at = 0.0
        self.rollout: Rollout | None = None

    @property
    def age(self) -> float:
        return time.monotonic() - self._read_at

    async def refresh(self) -> None:
        def read() -> Rollout:
            rollout = self._read()
            self._recommender.prepare(rollout)
            return rollout

        self.rollout = await asyncio.to_thread(read)
        self._read_at = time.monotonic()

    async def follow(self) -> None:
        while True:
            await asyncio.sleep(READ_SECONDS)
            try:
                await self.refresh()
            except Exception as error:  # a table that is away must not stop what serves; its age tells
                _logger.warning("rollout table cannot be read, the last row holds: %s", error)
                self._metrics.failures.labels("rollout").inc()


def make_app(
    *,
    read_rollout: Callable[[], Rollout],
    torchserve: str,
    history: History,
    log: EventLog,
    deadlines: Deadlines | None = None,
) -> FastAPI:
    """The service. `read_rollout` reads the row of the one model it serves, `torchserve` is the inference address."""
    metrics = _Metrics()
    client = httpx.AsyncClient(trust_env=False, limits=httpx.Limits(max_connections=100))
    recommender = Recommender(client, torchserve, history, deadlines)
    row = _Row(read_rollout, recommender, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with log:
            await row.refresh()
            following = asyncio.create_task(row.follow())
            yield
            following.cancel()
            await client.aclose()

    app = FastAPI(title="Recommendations", version="1", lifespan=lifespan)

    @app.post("/v1/recommendations")
    async def recommendations(asked: RecommendationRequest) -> Recommendations:
        began = time.perf_counter()
        rollout = row.rollout
        if rollout is None or rollout.champion is None:
            raise HTTPException(503, "no model was released yet")
        wish = Wish(
            user_id=asked.user_id,
            k=asked.k,
            exclude_seen=asked.exclude_seen,
            exclude=frozenset(asked.filters.exclude),
        )
        found = await recommender.recommend(rollout, wish)
        for part, _ in found.failures:
            metrics.failures.labels(part).inc()
        seconds = time.perf_counter() - began
        request_id = secrets.token_hex(16)
        exposure = {
            "request_id": request_id,
            "user_id": asked.user_id,
            "variant": found.variant,
            "model_version": found.version,
            "stage": rollout.stage,
            "weight": rollout.weight,
            "salt": rollout.salt,
            "time": datetime.now(UTC).isoformat(),
            "latency_ms": 1000 * seconds,
            "status": found.status,
            "n_items": len(found.items),
            "items": [item["item_id"] for item in found.items],
            "scores": [item["score"] for item in found.items],
            "request": json.dumps(found.request),
            "context": json.dumps(asked.context),
        }
        logged = await _append("exposures", exposure)
        metrics.served.labels(found.variant, found.version, found.status).inc()
        metrics.latency.labels(found.variant).observe(seconds)
        return Recommendations(
            request_id=request_id,
            variant=found.variant,
            model=rollout.model,
            version=found.version,
            status=found.status,
            logged=logged,
            items=[Item(**item) for item in found.items],
        )

    async def _append(table: str, event: dict[str, Any]) -> bool:
        try:
            await log.append(table, event)
        except LogUnavailable:
            metrics.unlogged.inc()
            return False
        return True

    @app.post("/v1/events", status_code=202)
    async def events(event: Event) -> Accepted:
        moment = (event.time or datetime.now(UTC)).astimezone(UTC).isoformat()
        if not await _append("outcomes", {**event.model_dump(exclude={"time"}), "time": moment}):
            raise HTTPException(503, "the event could not be written; send it again")
        metrics.outcomes.labels(event.event_type).inc()
        return Accepted()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready")
    async def ready() -> dict[str, Any]:
        champion = row.rollout.champion if row.rollout else None
        out = sorted(version for version, breaker in recommender.breakers.items() if breaker.open)
        problems = [
            *(["no model was released yet"] if champion is None else []),
            *([f"champion {champion.version} is out of traffic"] if champion and champion.version in out else []),
            *([log.problem] if log.problem else []),
        ]
        if problems:
            raise HTTPException(503, "; ".join(problems))
        return {"status": "ready", "out_of_traffic": out, "rollout_age_seconds": round(row.age, 1)}

    @app.get("/metrics")
    async def metrics_page() -> Response:
        for version, breaker in recommender.breakers.items():
            metrics.out.labels(version).set(breaker.open)
        metrics.row_age.set(row.age)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app
