"""The gateway's metrics (docs/contracts.md), in a registry of their own."""

from collections.abc import Collection
from threading import Lock

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
)

from events.schema import REMEMBERED, TABLES, WITHOUT_A_MODEL
from serving.gateway.after.news import News

_SECONDS = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)
_AGES = (1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 30 * 86400, 365 * 86400)
_MOST_TYPES = 20
_PARTS = ("history", "news", "rollout", REMEMBERED)
_REFUSED = (401, 403, 408, 413, 431, 500, 503)
"""What an alert counts (k8s/components/monitoring/alerts.yaml)."""


class GatewayMetrics:
    """Of one gateway."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._types: set[str] = set()
        self._versions: set[str] = set()
        self._of_status: dict[int, Counter] = {}
        self._showing = Lock()

        def seconds(name: str, what: str, *labels: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(name, what, labels, buckets=buckets, registry=registry)

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(name, what, labels, registry=registry)

        self.served = counter("gateway_recommendations", "Answers given", "variant", "version", "status")
        self.request = seconds("gateway_request_seconds", "Seconds until an answer, its log included", "variant")
        self.model = seconds("gateway_model_seconds", "Seconds of each call of a model", "version")
        self.history = seconds("gateway_history_seconds", "Seconds to read a shopper's history")
        self.history_age = seconds(
            "gateway_history_age_seconds", "Age of the newest event of the history at the request", buckets=_AGES
        )
        self.failures = counter("gateway_failures", "Parts that did not answer in time", "part")
        self._out = Gauge("gateway_out_of_traffic", "1 while a version is out", ("version",), registry=registry)
        self.probes = counter("gateway_probes", "Probes of each pinned version", "version", "result")
        self.row_age = Gauge("gateway_rollout_age_seconds", "Age of the rollout row in use", registry=registry)
        self._news_age = Gauge(
            "gateway_news_age_seconds", "Age of what is known of withdrawn items and rules", registry=registry
        )
        self._withdrawn = Gauge("gateway_withdrawn_items", "Items that are withdrawn", registry=registry)
        self._put = Gauge("gateway_put_items", "Items that were put since the catalogue", registry=registry)
        self._rules = Gauge("gateway_rules_version", "Version of the rules in use", registry=registry)
        self.weight = Gauge("gateway_challenger_weight", "Share of shoppers of the challenger", registry=registry)
        self.append = seconds("gateway_log_append_seconds", "Seconds until an event was durable", "table")
        self.unlogged = counter("gateway_log_failures", "Events that could not be written", "table")
        self._events = counter("gateway_events", "Outcomes accepted", "event_type")
        self.in_flight = Gauge("gateway_in_flight", "Requests that wait for a model", registry=registry)
        self.bound = Gauge("gateway_in_flight_bound", "How many may, as things are", registry=registry)
        self.shed = counter("gateway_shed", "Requests for which no model had room", "answer")
        self._refused = counter("gateway_refused", "Requests answered with 400 and above", "code")
        self._born_at_zero()

    def _born_at_zero(self) -> None:
        """A series that appears with its first fault has no rate yet, and nobody is told of that fault."""
        for table in TABLES:
            self.unlogged.labels(table)
        for part in _PARTS:
            self.failures.labels(part)
        for code in _REFUSED:
            self._refused.labels(str(code))
        for variant in ("champion", "challenger"):
            for version in WITHOUT_A_MODEL:
                for status in ("fallback", "error"):
                    self.served.labels(variant, version, status)

    def show_out(self, serving: Collection[str], out: Collection[str]) -> None:
        """Which of the versions that serve are out of traffic; those that serve no more are no longer told of."""
        with self._showing:  # two scrapes at once, in threads of their own
            for version in self._versions - set(serving):
                self._out.remove(version)
            self._versions = set(serving)
            for version in serving:
                self._out.labels(version).set(version in out)
                self.failures.labels(version)
                for result in ("ok", "failed"):
                    self.probes.labels(version, result)

    def show_news(self, news: News) -> None:
        self._news_age.set(news.age)
        self._withdrawn.set(len(news.stock.withdrawn))
        self._put.set(len(news.upserts.items))
        self._rules.set(news.rules.number)

    def probed(self, version: str, answered: bool) -> None:
        self.probes.labels(version, "ok" if answered else "failed").inc()

    def accepted(self, event_type: str) -> None:
        """Who sends events chooses their types: a metric must not grow with them."""
        if len(self._types) < _MOST_TYPES:
            self._types.add(event_type)
        self._events.labels(event_type if event_type in self._types else "other").inc()

    def refused(self, status: int) -> None:
        """Costs little: with a flood there are thousands a second."""
        if (counted := self._of_status.get(status)) is None:
            counted = self._of_status[status] = self._refused.labels(str(status))
        counted.inc()
