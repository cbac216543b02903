"""The recommendation service over HTTP: recommendations, events, health, metrics."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, HTTPException, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from events.writer import EventLog, LogUnavailable
from experiments.assignment import drawn
from experiments.availability import Availability
from experiments.document import ModelVersion, Rollout
from experiments.item_log import ItemLog
from experiments.rules_table import RulesTable
from serving.gateway import lag
from serving.gateway.access import Access
from serving.gateway.after.after import After
from serving.gateway.after.endpoints import add_availability
from serving.gateway.after.item_endpoints import add_items
from serving.gateway.after.news import News
from serving.gateway.api import Accepted, Event, Problem
from serving.gateway.archive import BadFilter
from serving.gateway.archives import Archives
from serving.gateway.door import FULL, Door
from serving.gateway.error_handlers import guard
from serving.gateway.metrics import Metrics
from serving.gateway.models import KeyFile, Models
from serving.gateway.operation import Page
from serving.gateway.overload import RETRY_SECONDS, Bound
from serving.gateway.placements.endpoints import PROBLEMS, Authorization, add_placements
from serving.gateway.placements.session import plausible
from serving.gateway.probes import probe_all
from serving.gateway.recommender import (
    Deadlines,
    History,
    ImpressionsOf,
    NotOffered,
    Recommended,
    Recommender,
    Traits,
)
from serving.gateway.rollout_watch import Row
from serving.gateway.tables import MOST_BYTES
from serving.gateway.wish import Wish
from serving.scoring.asker import misfit
from serving.scoring.placed import POPULAR, RANKING

_logger = logging.getLogger(__name__)
NOTHING_RELEASED = "no model was released yet"
NO_NEWS = "what is withdrawn is not known yet"
TELL_SECONDS = 10.0
IN_TIME = 0.4
"""Share of the champion's deadline from which too much is in flight: well before deadlines pass and breakers open."""
EVENT_SECONDS = 5.0
"""Most time until an event is durable."""


@dataclass(frozen=True, kw_only=True)
class _Service:
    """What the endpoints share."""

    models: Models
    recommender: Recommender
    row: Row
    log: EventLog
    metrics: Metrics
    door: Door
    clock: Callable[[], datetime]
    told: dict[str, float] = field(default_factory=dict)
    """Part that failed, and when the console last heard of it."""

    def failed(self, part: str, reason: str) -> None:
        """Count a part that did not answer, and say why."""
        self.metrics.failures.labels(part).inc()
        self.tell(part, reason)

    def tell(self, part: str, reason: str) -> None:
        """On the console: at once, and then every `TELL_SECONDS` while it lasts."""
        now = time.monotonic()
        if now - self.told.get(part, -math.inf) >= TELL_SECONDS:
            self.told[part] = now
            _logger.warning("%s did not answer: %s", part, reason)

    def released(self) -> Rollout:
        rollout = self.row.rollout
        if rollout is None or rollout.champion is None:
            raise HTTPException(503, NOTHING_RELEASED)
        if not self.recommender.after.news.known:
            raise HTTPException(503, NO_NEWS)
        return rollout

    async def append(self, table: str, event: dict[str, Any], seconds: float, *, synced: bool = True) -> bool | None:
        """Whether the event is durable, None where that is not known in time; see `EventLog.append`."""
        began = time.perf_counter()
        try:
            await self.log.append(table, event, synced=synced, seconds=seconds)
        except LogUnavailable as error:
            self.metrics.unlogged.labels(table).inc()
            self.tell("event log", str(error))
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


def make_app(
    *,
    read_rollout: Callable[[], Rollout],
    torchserve: str,
    history: History,
    traits: Traits = lambda user_id: {},
    log: EventLog,
    archive_of: Callable[[ModelVersion], Path | None] = lambda arm: Path(arm.archive),
    deadlines: Deadlines | None = None,
    access: Access | None = None,
    keys: KeyFile | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    table_bytes: int = MOST_BYTES,
    availability: Availability | None = None,
    rules: RulesTable | None = None,
    impressions: ImpressionsOf = lambda user_id: {},
    items: ItemLog | None = None,
) -> FastAPI:
    """The service. `read_rollout` reads the row of the one model it serves, `torchserve` is the inference address,
    `keys` the file with its inference key where it asks for one, `clock` tells the time of what is logged.
    `archive_of` says where the archive of a version lies: None while it is on its way, `OSError` or `ValueError` where
    it cannot be had. `table_bytes` bounds the neighbour tables that are kept in memory. `availability` and `rules` say
    what is withdrawn and what else is to hold of what is shown, `traits` what is known of a user beside the history,
    `impressions` what a rule of fatigue has to know; `items` are those that were put since the catalogue."""
    metrics = Metrics()
    news = News(availability, rules, metrics.failures.labels("news").inc, items)
    models = Models(torchserve, keys, lambda version, seconds: metrics.model.labels(version).observe(seconds))
    after = After(news, clock)
    archives = Archives(archive_of, table_bytes)
    recommender = Recommender(models, history, deadlines, archives, after, traits, impressions)
    row = Row(read_rollout, archives, metrics.failures.labels("rollout").inc)
    service = _Service(
        models=models,
        recommender=recommender,
        row=row,
        log=log,
        metrics=metrics,
        door=Door(access or Access(), Bound(IN_TIME * recommender.deadlines.champion)),
        clock=clock,
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as undo:
            await models.start()
            undo.push_async_callback(models.close)
            undo.enter_context(log)
            await news.begin()
            await row.begin()
            probing = probe_all(models, recommender, lambda: row.rollout, metrics.probed)
            for work in (row.follow(), news.follow(), probing, lag.watch(service.door.bound.lag)):
                task = asyncio.create_task(work)
                undo.callback(task.cancel)
            yield

    # No pages of documentation: they load their scripts from public networks.
    app = FastAPI(
        title="Recommendations",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    guard(app, service.door, metrics.refused)
    _add_service(app, service)
    if availability is not None:
        add_availability(app, news, PROBLEMS)
    if items is not None:
        add_items(app, news, archives, service.released, PROBLEMS)
    _add_operation(app, service)
    app.state.service = service
    return app


def _add_service(app: FastAPI, service: _Service) -> None:
    """What shops call."""
    metrics = service.metrics

    async def serve(wish: Wish, context: dict[str, Any], authorization: str | None) -> Response:
        began = time.perf_counter()
        rollout = service.released()
        if wish.arm == "challenger" and rollout.challenger is None:
            raise HTTPException(409, "no challenger serves")
        wish = wish.drawn(service.recommender.after.news.rules.rules.holdout)
        wish = _filtered(service, rollout, wish)
        _check_context(service, rollout, wish)
        found = await service.recommend(rollout, wish, authorization)
        for part, reason in found.failures:
            service.failed(part, reason)
        latency = 1000 * (time.perf_counter() - began)
        exposure = _exposure(rollout, wish, context, found, time=service.clock(), latency_ms=latency)
        if wish.arm is not None or not wish.user_id or wish.placement == POPULAR or not wish.modelled:
            # Of no experiment: what people who test see is not judged, nor what is shown to nobody in particular, nor
            # counts, which are no arm's doing: to who is held out, too.
            exposure |= {"override": wish.arm is not None, "salt": "", "stage": None}
        logged = await service.append("exposures", exposure, service.recommender.deadlines.log, synced=False)
        metrics.served.labels(found.variant, found.version, found.status).inc()
        metrics.history.observe(found.history_seconds)
        if found.history:
            newest = datetime.fromisoformat(found.history[-1]["event_time"])
            metrics.history_age.observe(max(0.0, (service.clock() - newest).total_seconds()))
        metrics.request.labels(found.variant).observe(time.perf_counter() - began)
        answer: dict[str, Any] = {
            "request_id": exposure["request_id"],
            "variant": found.variant,
            "model": rollout.model,
            "version": found.version,
            "status": found.status,
            "logged": logged,
            "items": [
                {"item_id": item["item_id"], "score": item["score"], "title": item.get("title")}
                for item in found.shown.items
            ],
        }
        if wish.explain:
            for told, item in zip(answer["items"], found.shown.items, strict=True):
                told["why"] = item.get("why")
        if wish.placement == RANKING:
            known = {item["item_id"] for item in found.shown.items}.union(found.shown.withheld)
            answer["unknown_items"] = [item for item in dict.fromkeys(wish.items) if item not in known]
            answer["withheld_items"] = found.shown.withheld
        return Response(orjson.dumps(answer), media_type="application/json")

    add_placements(app, serve, service.clock)

    @app.post("/v1/events", status_code=202, responses=PROBLEMS)
    async def events(event: Event, authorization: Authorization = None) -> Accepted:
        now = service.clock()
        outcome = {
            **event.model_dump(exclude={"time"}),
            "time": plausible(event.time or now, now, "time").isoformat(),
            "received": now.isoformat(),
        }
        if not await service.append("outcomes", outcome, EVENT_SECONDS):
            raise HTTPException(503, "the event could not be written; send it again")
        metrics.accepted(event.event_type)
        return Accepted()


def _add_operation(app: FastAPI, service: _Service) -> None:
    """What those call who keep the service running; on the service's own port as on that of `OperationServer`."""
    for path, make in pages(service).items():
        app.get(path, response_class=Response, responses={503: {"model": Problem}})(_endpoint(make))


def _endpoint(make: Callable[[], Page]) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        found = make()
        return Response(found.body, found.status, media_type=found.kind)

    return page


def pages(service: "_Service") -> dict[str, Callable[[], Page]]:
    """Health, readiness and metrics, by path; may be made in any thread."""
    metrics, row = service.metrics, service.row

    def told(status: int, plain: dict[str, Any]) -> Page:
        return Page(status, "application/json", orjson.dumps(plain))

    def ready() -> Page:
        """Ready is who can answer, be it with popular items: what else is wrong is told, and is for the alerts."""
        if row.rollout is None or row.rollout.champion is None:
            metrics.refused(503)
            return told(503, {"detail": row.problem or NOTHING_RELEASED, "errors": []})
        after = service.recommender.after
        if not after.news.known:
            metrics.refused(503)
            return told(503, {"detail": after.news.problem or NO_NEWS, "errors": []})
        out = service.out_of_traffic()
        others = [*filter(None, [row.problem, service.log.problem]), *service.door.access.problems]
        others += [*service.recommender.archives.problems, *after.problems]
        problems = [*(f"{version} is out of traffic" for version in out), *others]
        status = "degraded" if problems else "ready"
        ages = {"rollout_age_seconds": round(row.age, 1), "news_age_seconds": round(after.news.age, 1)}
        return told(200, {"status": status, "problems": problems, "out_of_traffic": out, **ages})

    def metrics_page() -> Page:
        rollout = row.rollout
        versions = [arm.version for arm in rollout.serving] if rollout is not None else []
        metrics.show_out(versions, service.out_of_traffic())
        metrics.weight.set(rollout.weight if rollout is not None else 0)
        metrics.row_age.set(row.age)
        metrics.show_news(service.recommender.after.news)
        metrics.in_flight.set(service.door.bound.in_flight)
        metrics.bound.set(service.door.bound.limit)
        return Page(200, CONTENT_TYPE_LATEST, generate_latest(metrics.registry))

    return {"/health": lambda: told(200, {"status": "alive"}), "/ready": ready, "/metrics": metrics_page}


def _filtered(service: _Service, rollout: Rollout, wish: Wish) -> Wish:
    """The wish, with its filters as all archives that serve can follow them."""
    serving = service.recommender.archives.contents_of(rollout) if wish.filters else []
    try:
        for contents in serving[:1]:
            wish = replace(wish, filters=contents.in_days(wish.filters, wish.now))
        for contents in serving:
            contents.check(wish.filters)
    except BadFilter as error:
        fault = {"loc": ("body", "filters", error.field), "msg": str(error), "type": "filter"}
        raise RequestValidationError([fault]) from error
    return wish


def _check_context(service: _Service, rollout: Rollout, wish: Wish) -> None:
    """What a model knows of the moment must be of its kind; what none knows is kept with the exposure as it is."""
    for contents in service.recommender.archives.contents_of(rollout) if wish.context else ():
        for name, kind in contents.asking.get("context", {}).items():
            value, clock = wish.context.get(name), contents.clocks.get(name)
            wrong = misfit(kind, value)
            if wrong is None and clock is not None and value is not None and value not in clock.values:
                wrong = f"one of {', '.join(clock.values)}"
            if wrong is not None:
                fault = {"loc": ("body", "context", name), "msg": f"expected {wrong}", "type": "context"}
                raise RequestValidationError([fault])


def _exposure(
    rollout: Rollout, wish: Wish, context: dict[str, Any], found: Recommended, *, time: datetime, latency_ms: float
) -> dict[str, Any]:
    shown = found.shown.items[: wish.k]  # of a ranking all are told and the best are shown
    return {
        "request_id": wish.request_id,
        "user_id": wish.user_id,
        "variant": found.variant,
        "model_version": found.version,
        "stage": rollout.stage,
        "weight": drawn(rollout, wish.user_id).weight,
        "salt": rollout.salt,
        "time": time.isoformat(),
        "latency_ms": latency_ms,
        "status": found.status,
        "n_items": len(shown),
        "items": [item["item_id"] for item in shown],
        "scores": [item["score"] for item in shown],
        "origins": found.shown.origins[: wish.k],
        "propensities": found.shown.propensities[: wish.k],
        "draws": found.shown.draws[: wish.k],
        "explorable": found.shown.explorable[: wish.k],
        "rules": found.shown.rules,
        "request": found.request,
        "context": orjson.dumps(context).decode(),
        "override": False,
        "cause": found.cause,
        "placement": wish.placement,
        "tired": None if found.tired is None else sorted(found.tired),
        "holdout": wish.held,
    }
