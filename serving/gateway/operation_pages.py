"""Health, readiness and metrics, for those who keep the service running."""

from collections.abc import Callable
from typing import Any

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from serving.gateway.operation import Page
from serving.gateway.service import NO_NEWS, NOTHING_RELEASED, Service


def pages(service: Service) -> dict[str, Callable[[], Page]]:
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
