"""The recommendation service over HTTP: recommendations, events, health, metrics."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, HTTPException, Response
from fastapi.exceptions import RequestValidationError

from events.writer import EventLogWriter
from experiments.assignment import drawn
from experiments.availability import AvailabilityTable
from experiments.document import ModelVersion, Rollout
from experiments.item_log import ItemLog
from experiments.rules_table import RulesTable
from serving.gateway import lag
from serving.gateway.access import Access
from serving.gateway.after.after import After
from serving.gateway.after.endpoints import add_availability
from serving.gateway.after.item_endpoints import add_items
from serving.gateway.after.news import News
from serving.gateway.api import EventAccepted, EventRequest, Problem
from serving.gateway.archive import BadFilter
from serving.gateway.archives import ArchiveCache
from serving.gateway.door import GatewayDoor
from serving.gateway.error_handlers import guard
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.models import KeyFile, TorchServeModels
from serving.gateway.operation import Page
from serving.gateway.operation_pages import pages
from serving.gateway.overload import Bound
from serving.gateway.placements.endpoints import PROBLEMS, Authorization, add_placements
from serving.gateway.placements.session import plausible
from serving.gateway.probes import probe_all
from serving.gateway.recommender import (
    History,
    ImpressionsOf,
    Recommended,
    Recommender,
    ServingDeadlines,
    Traits,
)
from serving.gateway.rollout_watch import RolloutWatch
from serving.gateway.service import Service
from serving.gateway.tables import MOST_BYTES
from serving.gateway.wish import Wish
from serving.scoring.asker import misfit
from serving.scoring.placed import POPULAR, RANKING

IN_TIME = 0.4
"""Share of the champion's deadline from which too much is in flight: well before deadlines pass and breakers open."""
EVENT_SECONDS = 5.0
"""Most time until an event is durable."""


def make_app(
    *,
    read_rollout: Callable[[], Rollout],
    torchserve: str,
    history: History,
    traits: Traits = lambda user_id: {},
    log: EventLogWriter,
    archive_of: Callable[[ModelVersion], Path | None] = lambda arm: Path(arm.archive),
    deadlines: ServingDeadlines | None = None,
    access: Access | None = None,
    keys: KeyFile | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    table_bytes: int = MOST_BYTES,
    availability: AvailabilityTable | None = None,
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
    metrics = GatewayMetrics()
    news = News(availability, rules, metrics.failures.labels("news").inc, items)
    models = TorchServeModels(torchserve, keys, lambda version, seconds: metrics.model.labels(version).observe(seconds))
    after = After(news, clock)
    archives = ArchiveCache(archive_of, table_bytes)
    recommender = Recommender(models, history, deadlines, archives, after, traits, impressions)
    row = RolloutWatch(read_rollout, archives, metrics.failures.labels("rollout").inc)
    service = Service(
        models=models,
        recommender=recommender,
        row=row,
        log=log,
        metrics=metrics,
        door=GatewayDoor(access or Access(), Bound(IN_TIME * recommender.deadlines.champion)),
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
        add_items(app, news, archives, service.released_rollout, PROBLEMS)
    _add_operation(app, service)
    app.state.service = service
    return app


def _add_service(app: FastAPI, service: Service) -> None:
    """What shops call."""
    metrics = service.metrics

    async def serve(wish: Wish, context: dict[str, Any], authorization: str | None) -> Response:
        began = time.perf_counter()
        rollout = service.released_rollout()
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
    async def events(event: EventRequest, authorization: Authorization = None) -> EventAccepted:
        now = service.clock()
        outcome = {
            **event.model_dump(exclude={"time"}),
            "time": plausible(event.time or now, now, "time").isoformat(),
            "received": now.isoformat(),
        }
        if not await service.append("outcomes", outcome, EVENT_SECONDS):
            raise HTTPException(503, "the event could not be written; send it again")
        metrics.accepted(event.event_type)
        return EventAccepted()


def _add_operation(app: FastAPI, service: Service) -> None:
    """What those call who keep the service running; on the service's own port as on that of `OperationServer`."""
    for path, make in pages(service).items():
        app.get(path, response_class=Response, responses={503: {"model": Problem}})(_endpoint(make))


def _endpoint(make: Callable[[], Page]) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        found = make()
        return Response(found.body, found.status, media_type=found.kind)

    return page


def _filtered(service: Service, rollout: Rollout, wish: Wish) -> Wish:
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


def _check_context(service: Service, rollout: Rollout, wish: Wish) -> None:
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
