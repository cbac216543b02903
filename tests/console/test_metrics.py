"""What is told of now, by the gateway's own metrics over the network; what nobody tells is unknown and not zero."""

import json
import socket
from collections.abc import Iterator

import orjson
import pytest
from prometheus_client import generate_latest

from console import metrics as console_metrics
from console.metrics import (
    Growth,
    MetricsReader,
    TrafficRates,
    median,
    parsed,
    replicas,
)
from console.now import now
from events.consumer.metrics import ConsumerMetrics
from serving.gateway.metrics import GatewayMetrics
from serving.gateway.operation import OperationServer, Page


class Gateway:
    """A gateway's metrics at a port of their own, as it serves them."""

    def __init__(self) -> None:
        self.metrics, self.problems = GatewayMetrics(), []
        ready = {"problems": self.problems}
        pages = {
            "/metrics": lambda: Page(200, "text/plain", generate_latest(self.metrics.registry)),
            "/ready": lambda: Page(200, "application/json", orjson.dumps(ready)),
        }
        self.server = OperationServer(pages, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{self.server.port}"

    def answer(self, times: int, status: str = "ok") -> None:
        self.metrics.served.labels("champion", "1.0", status).inc(times)


@pytest.fixture
def gateways() -> Iterator[list[Gateway]]:
    made = [Gateway(), Gateway()]
    yield made
    for gateway in made:
        gateway.server.close()


def test_rates_are_those_of_all_replicas_between_two_looks(gateways: list[Gateway]):
    moment = [0.0]
    told = MetricsReader(tuple(each.address for each in gateways), clock=lambda: moment[0])
    for each in gateways:
        each.answer(1000)  # of before the console looked
    first = told.traffic()
    assert first.requests is None and first.fallbacks is None, "one look knows no rate"
    for each in gateways:
        each.answer(90)
        each.answer(10, "fallback")
        each.metrics.accepted("click")
        each.metrics.history_age.observe(30)
    gateways[1].metrics.show_out(["1.0", "2.0"], ["2.0"])
    gateways[1].problems.append("2.0 is out of traffic")
    moment[0] = 20.0
    second = told.traffic()
    assert second.requests == pytest.approx(10) and second.fallbacks == pytest.approx(0.1)
    assert second.errors == 0 and second.events == pytest.approx(6)
    assert second.age is not None and 10 <= second.age <= 60
    assert second.out == ("2.0",) and second.problems == ("2.0 is out of traffic",) and not second.missing


def test_the_consumer_tells_how_far_it_is_behind(gateways: list[Gateway]):
    registry = ConsumerMetrics()
    registry.lag_seconds.set(42)
    page = {"/metrics": lambda: Page(200, "text/plain", generate_latest(registry.registry))}
    server = OperationServer(page, "127.0.0.1", 0)
    try:
        found = MetricsReader((f"http://127.0.0.1:{server.port}",)).traffic()
    finally:
        server.close()
    assert found.lag == 42 and found.requests is None and found.fallbacks is None


def test_what_nobody_tells_is_unknown_and_never_green(tmp_path, monkeypatch):
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        found = MetricsReader((address,)).traffic()
    assert found.missing == (address,)
    assert (found.requests, found.fallbacks, found.events, found.age, found.alerts) == (None,) * 5
    page = now(found)
    assert page.style != "good" and {part.large for part in page.parts[3:]} == {"unknown"}


def test_a_replica_that_began_anew_or_came_since_makes_no_rate_negative():
    counter = "gateway_recommendations_total"
    key = (counter, (("status", "ok"),))
    before, latest = {"a": {key: 500.0}, "b": {key: 5.0}}, {"a": {key: 30.0}, "b": {key: 9.0}, "c": {key: 7000.0}}
    grown = Growth(before, latest)
    assert grown.of(counter) == 34 and grown.of(counter, status="fallback") == 0


def test_a_median_lies_in_its_bucket():
    assert median({1.0: 0, 10.0: 10, 60.0: 10, float("inf"): 10}) == pytest.approx(5.5)
    assert median({1.0: 0, float("inf"): 4}) == 1.0  # as far as the buckets reach
    assert median({1.0: 0, float("inf"): 0}) is None and median({}) is None


def test_a_name_is_asked_at_every_machine_that_it_stands_for(monkeypatch):
    found = [(socket.AF_INET, 1, 6, "", (host, 8001)) for host in ("10.0.0.2", "10.0.0.1", "10.0.0.2")]
    monkeypatch.setattr(console_metrics.socket, "getaddrinfo", lambda *_: found)
    assert replicas("http://gateways:8001") == ["http://10.0.0.1:8001", "http://10.0.0.2:8001"]
    assert replicas("https://gateways:8001/") == ["https://gateways:8001"], "a certificate names the name"


def test_prometheus_tells_rates_and_alerts_and_its_absence_is_told():
    def answer(address: str) -> bytes:
        if address.endswith("alerts"):
            labels = {"alertname": "GatewayErrors", "severity": "critical"}
            firing = {"state": "firing", "labels": labels, "annotations": {"summary": "shoppers get errors"}}
            pending = {"state": "pending", "labels": {"alertname": "Other"}, "annotations": {}}
            return json.dumps({"data": {"alerts": [firing, pending]}}).encode()
        rows = (
            []
            if "out_of_traffic" in address
            else [{"metric": {}, "value": [0, "NaN" if "fallback" in address else "3"]}]
        )
        return json.dumps({"data": {"result": rows}}).encode()

    found = MetricsReader((), "http://prometheus:9090/", get=answer).traffic()
    assert found.requests == 3 and found.fallbacks is None and found.critical
    assert found.alerts == ("GatewayErrors: shoppers get errors",)

    def away(address: str) -> bytes:
        raise OSError("refused")

    gone = MetricsReader((), "http://prometheus:9090", get=away).traffic()
    assert gone.requests is None and gone.alerts is None and "Prometheus does not answer" in gone.problems[0]


@pytest.mark.parametrize(
    ("traffic", "style", "told"),
    [
        (TrafficRates(requests=10, fallbacks=0.2, errors=0), "bad", "20 % of the answers come from no model"),
        (TrafficRates(requests=10, fallbacks=0, errors=0.05), "bad", "5 % of the shoppers get no answer"),
        (TrafficRates(requests=10, fallbacks=0, errors=0, out=("2.0",)), "bad", "2.0 is out of traffic"),
        (TrafficRates(requests=10, fallbacks=0, errors=0, lag=7200), "warn", "behind"),
        (TrafficRates(requests=10, fallbacks=0, errors=0, alerts=("Quiet: no clicks",)), "warn", "Quiet: no clicks"),
        (TrafficRates(requests=10, fallbacks=0, errors=0, lag=0), "warn", "Nothing was released yet"),
    ],
)
def test_the_first_page_names_what_is_wrong(tmp_path, monkeypatch, traffic: TrafficRates, style: str, told: str):
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    found = now(traffic)
    assert (found.style, told in found.verdict) == (style, True), found.verdict


def test_what_is_well_is_green(home, monkeypatch):
    """A workspace whose last run ended well: the made-up one, whose gate warned and let pass."""
    monkeypatch.setenv("HETERREC_HOME", str(home))
    assert now(TrafficRates(requests=10, fallbacks=0, errors=0, lag=0)).style == "good"


def test_samples_are_read_as_prometheus_writes_them():
    assert parsed('# TYPE a counter\na_total{b="c \\"d\\""} 3\n') == {("a_total", (("b", 'c "d"'),)): 3.0}
