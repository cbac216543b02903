"""The consumer's metrics (docs/contracts.md), in a registry of their own, and the small server that shows them."""

import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

_PARTS = ("log", "histories", "partitions", "erasure", "upkeep")
_RESULTS = ("added", "known", "forgotten", "refused", "unmatched")
_DELAYS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 15.0, 60.0, 300.0, 3600.0)


class ConsumerMetrics:
    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.events = Counter("consumer_events", "Events read from the log", ("table",), registry=registry)
        self.lag_events = Gauge("consumer_lag_events", "Acknowledged events that wait to be read", registry=registry)
        self.lag_seconds = Gauge(
            "consumer_lag_seconds", "Age of the oldest event that was not processed", registry=registry
        )
        self.delay = Histogram(
            "consumer_delay_seconds", "From an outcome's arrival to its history", buckets=_DELAYS, registry=registry
        )
        self.interactions = Counter(
            "consumer_interactions", "Outcomes that are interactions", ("result",), registry=registry
        )
        self.set_aside = Counter(
            "consumer_set_aside", "Lines and outcomes that nothing follows from", ("why",), registry=registry
        )
        self.clocks = Counter(
            "consumer_outcomes_before_exposure",
            "Interactions of before their exposure, by clocks that differ",
            registry=registry,
        )
        self.waiting = Gauge("consumer_waiting_outcomes", "Outcomes whose exposure was not seen yet", registry=registry)
        self.failures = Counter("consumer_failures", "Attempts that failed", ("part",), registry=registry)
        self.rows = Counter("consumer_partition_rows", "Rows written to day partitions", ("table",), registry=registry)
        self.success = Gauge(
            "consumer_last_success_timestamp_seconds", "When the log was last read to its end", registry=registry
        )
        # A series that appears with its first fault has no rate yet, and nobody is told of that fault.
        for part in _PARTS:
            self.failures.labels(part)
        for result in _RESULTS:
            self.interactions.labels(result)


class MetricsServer:
    """`/metrics` and `/health` on `host:port` (0: a free one, see `port`); `healthy` says why not, or None."""

    def __init__(self, metrics: ConsumerMetrics, host: str, port: int, healthy: Callable[[], str | None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/metrics":
                    self._send(200, CONTENT_TYPE_LATEST, generate_latest(metrics.registry))
                elif self.path == "/health":
                    problem = healthy()
                    body = json.dumps({"status": problem or "alive"}).encode()
                    self._send(503 if problem else 200, "application/json", body)
                else:
                    self._send(404, "application/json", b'{"detail": "there are /metrics and /health"}')

            def _send(self, status: int, kind: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: one line an event, and a scrape is none."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self.port = int(self._server.server_address[1])
        Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
