"""What gateways, consumer and Prometheus tell of now. Nobody tells: unknown, which is not zero.

One scrape sees one replica, and counters since its start; so every address of a name is asked, and rates are those
between the looks that the console remembers for some minutes.
"""

import json
import math
import socket
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from prometheus_client.parser import text_string_to_metric_families

REMEMBERED = 300.0
"""Seconds back that rates look."""
APART = 1.0
"""Two looks nearer to each other are one."""
TIMEOUT = 1.0
_MOST_BYTES = 4 << 20
_ANSWERS = "sum(rate(gateway_recommendations_total[5m]))"
_BY_STATUS = 'sum(rate(gateway_recommendations_total{status="%s"}[5m])) / ' + _ANSWERS
ASKED = {
    "requests": _ANSWERS,
    "fallbacks": _BY_STATUS % "fallback",
    "errors": _BY_STATUS % "error",
    "events": "60 * sum(rate(gateway_events_total[5m]))",
    "age": "histogram_quantile(0.5, sum by (le) (rate(gateway_history_age_seconds_bucket[5m])))",
    "lag": "max(consumer_lag_seconds)",
}
"""What Prometheus is asked."""
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@dataclass(frozen=True, kw_only=True)
class TrafficRates:
    """None is unknown."""

    requests: float | None = None
    """A second."""
    fallbacks: float | None = None
    """Share of the answers that no model gave."""
    errors: float | None = None
    events: float | None = None
    """A minute."""
    age: float | None = None
    """Seconds: the median age of the newest event of a history."""
    lag: float | None = None
    """Seconds that the consumer is behind."""
    out: tuple[str, ...] = ()
    """Versions out of traffic."""
    problems: tuple[str, ...] = ()
    """What gateways say is wrong, and what of the asked addresses cannot be read."""
    alerts: tuple[str, ...] | None = None
    critical: bool = False
    source: str = ""
    """Who told."""
    missing: tuple[str, ...] = field(default=())
    """Addresses that did not answer."""


class MetricsReader:
    """Of the addresses that the console was told; may be asked by several threads.

    Args:
        get: Gives the body at an address within `TIMEOUT`; raises `OSError` and `ValueError`.
    """

    def __init__(
        self,
        addresses: tuple[str, ...],
        prometheus: str = "",
        *,
        get: "Callable[[str], bytes] | None" = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._addresses, self._prometheus = addresses, prometheus.rstrip("/")
        self._get, self._clock, self._lock = get or fetch, clock, threading.Lock()
        self._looks: deque[tuple[float, dict[str, Samples]]] = deque()
        self._told: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())

    def traffic(self) -> TrafficRates:
        """What is known of now: by Prometheus where there is one, else by the machines themselves."""
        return self._by_prometheus() if self._prometheus else self._by_machines()

    def _by_machines(self) -> TrafficRates:
        with self._lock:
            now = self._clock()
            if not self._looks or now - self._looks[-1][0] >= APART:
                found, missing, problems = self._look()
                self._looks.append((now, found))
                self._told = missing, problems
                while len(self._looks) > 2 and now - self._looks[0][0] > REMEMBERED:
                    self._looks.popleft()
            (began, before), (ended, latest) = self._looks[0], self._looks[-1]
            missing, problems = self._told
        if not latest:
            return TrafficRates(missing=missing, problems=problems)
        grown, seconds = Growth(before, latest), ended - began
        answers = grown.of("gateway_recommendations_total")
        gateways = any(_has(samples, "gateway_recommendations_total") for samples in latest.values())
        fallbacks, errors = (grown.of("gateway_recommendations_total", status=word) for word in ("fallback", "error"))
        events, lags = grown.of("gateway_events_total"), list(_all(latest, "consumer_lag_seconds"))
        return TrafficRates(
            requests=answers / seconds if seconds and gateways else None,
            fallbacks=fallbacks / answers if answers else None,
            errors=errors / answers if answers else None,
            events=60 * events / seconds if seconds and gateways else None,
            age=median(grown.buckets("gateway_history_age_seconds")),
            lag=max((value for _, value in lags), default=None),
            out=tuple(sorted({labels["version"] for labels, v in _all(latest, "gateway_out_of_traffic") if v})),
            problems=problems,
            source=f"{len(latest)} of {len(latest) + len(missing)} addresses",
            missing=missing,
        )

    def _look(self) -> tuple[dict[str, Samples], tuple[str, ...], tuple[str, ...]]:
        """Samples by address, addresses that do not answer, and what gateways say of themselves."""
        targets = [each for address in self._addresses for each in replicas(address)]
        with ThreadPoolExecutor(max(1, min(8, len(targets)))) as pool:
            answers = list(pool.map(self._ask, targets))
        found = {target: samples for target, (samples, _) in zip(targets, answers, strict=True) if samples is not None}
        missing = tuple(target for target, (samples, _) in zip(targets, answers, strict=True) if samples is None)
        return found, missing, tuple(dict.fromkeys(problem for _, told in answers for problem in told))

    def _ask(self, target: str) -> tuple[Samples | None, list[str]]:
        try:
            samples = parsed(self._get(f"{target}/metrics").decode())
        except (OSError, ValueError):
            return None, []
        if not _has(samples, "gateway_recommendations_total"):
            return samples, []
        try:
            return samples, [str(problem) for problem in json.loads(self._get(f"{target}/ready"))["problems"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            return samples, [f"{target}: is not ready ({error})"]

    def _by_prometheus(self) -> TrafficRates:
        try:
            values = {name: self._number(query) for name, query in ASKED.items()}
            out = self._query("gateway_out_of_traffic == 1")
            firing = [each for each in self._ask_prometheus("alerts")["alerts"] if each["state"] == "firing"]
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            why = f"{self._prometheus}: Prometheus does not answer ({type(error).__name__}: {error})"
            return TrafficRates(missing=(self._prometheus,), problems=(why,))
        told = [f"{each['labels']['alertname']}: {each['annotations'].get('summary', '')}" for each in firing]
        return TrafficRates(
            requests=values["requests"],
            fallbacks=values["fallbacks"],
            errors=values["errors"],
            events=values["events"],
            age=values["age"],
            lag=values["lag"],
            out=tuple(sorted({row["metric"]["version"] for row in out})),
            alerts=tuple(sorted(set(told))),
            critical=any(each["labels"].get("severity") in ("critical", "page") for each in firing),
            source="Prometheus, over 5 min",
        )

    def _number(self, query: str) -> float | None:
        rows = self._query(query)
        value = float(rows[0]["value"][1]) if rows else math.nan
        return value if math.isfinite(value) else None

    def _query(self, query: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._ask_prometheus(f"query?query={quote(query)}")["result"]
        return rows

    def _ask_prometheus(self, what: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._get(f"{self._prometheus}/api/v1/{what}"))["data"]
        return found


class Growth:
    """How far counters rose between two looks; one that was begun anew counts from nothing, a machine that came since
    counts for nothing."""

    def __init__(self, before: Mapping[str, Samples], latest: Mapping[str, Samples]) -> None:
        self._before, self._latest = before, latest

    def rows(self, name: str) -> Iterator[tuple[dict[str, str], float]]:
        for machine, samples in self._latest.items():
            if machine not in self._before:
                continue
            for (sample, labels), value in samples.items():
                if sample == name:
                    was = self._before[machine].get((sample, labels), 0.0)
                    yield dict(labels), value - was if value >= was else value

    def of(self, name: str, **wanted: str) -> float:
        return sum(value for labels, value in self.rows(name) if wanted.items() <= labels.items())

    def buckets(self, name: str) -> dict[float, float]:
        """By upper end, how many fell at or below it."""
        found: dict[float, float] = {}
        for labels, value in self.rows(f"{name}_bucket"):
            found[float(labels["le"])] = found.get(float(labels["le"]), 0.0) + value
        return dict(sorted(found.items()))


def median(buckets: Mapping[float, float]) -> float | None:
    """Of a histogram, within its bucket by a straight line; None where nothing fell into it."""
    total = max(buckets.values(), default=0.0)
    if not total:
        return None
    low, below = 0.0, 0.0
    for high, count in buckets.items():
        if count >= total / 2:
            inside = (total / 2 - below) / (count - below)
            return low + (high - low) * inside if math.isfinite(high) else low
        low, below = high, count
    return None


def parsed(text: str) -> Samples:
    """Prometheus' text by sample and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def replicas(address: str) -> list[str]:
    """The address for each machine that its name stands for; as it is where the name is not known, or is what a
    certificate is compared with."""
    parts = urlsplit(address)
    if parts.scheme == "https":
        return [address.rstrip("/")]
    port = parts.port or 80
    try:
        found = {entry[4][0] for entry in socket.getaddrinfo(parts.hostname, port, socket.AF_INET, socket.SOCK_STREAM)}
    except OSError:
        return [address.rstrip("/")]
    return [urlunsplit((parts.scheme, f"{host}:{port}", parts.path.rstrip("/"), "", "")) for host in sorted(found)]


def fetch(address: str) -> bytes:
    """The body at `address`, without a proxy: these are machines of one's own."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=TIMEOUT) as answer:
        body: bytes = answer.read(_MOST_BYTES)
        return body


def _has(samples: Samples, name: str) -> bool:
    return any(sample == name for sample, _ in samples)


def _all(latest: Mapping[str, Samples], name: str) -> Iterator[tuple[dict[str, str], float]]:
    for samples in latest.values():
        for (sample, labels), value in samples.items():
            if sample == name:
                yield dict(labels), value
