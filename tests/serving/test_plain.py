"""The plain server is asked what TorchServe is asked: the tests of the contract run here against it, and it answers
byte for byte as TorchServe does. So do those of the gateway in test_plain_online.py and of the reconciler in
test_plain_reconciled.py."""

import json
import signal
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psutil
import pytest

from serving.plain.app import APIS, MAX_REQUEST_BYTES
from serving.plain.server import PlainServer
from serving.torchserve.server import TorchServe
from tests.serving.test_scorer import BAD, GOOD, event
from tests.serving.test_server import (  # noqa: F401
    test_a_server_that_cannot_start_is_told_with_its_log_and_nothing_of_it_stays,
    test_an_archive_that_is_not_the_approved_one_is_refused,
    test_archives_from_elsewhere_are_refused,
    test_bad_requests_get_400_and_leave_the_worker_and_their_batch_mates_alone,
    test_metrics_are_prometheus_on_a_port_of_their_own_and_workers_have_one_thread,
    test_the_server_answers_as_the_scorer_does,
    test_two_versions_serve_side_by_side_and_one_can_go,
    test_unknown_models_and_versions_get_404,
)
from tests.termination import terminated

REQUESTS: list[Any] = [
    GOOD,
    {"history": []},
    {"history": [event("i3"), event("gone", 1), event("i5", 2, price=3.0, shelf="low")], "k": 10},
    {"history": [event("i3")], "filters": {"shelf": ["low"], "price": {"max": 8}}, "exclude": ["i1"], "k": 5},
    {"history": [], "filters": {"tags": ["odd"]}},
    *(request for request, _, _ in BAD),
]
BODIES = [*(json.dumps(request).encode() for request in REQUESTS), b"", b"{no json", b"\xff\xfe"]


@pytest.fixture(scope="module")
def torchserve(request: pytest.FixtureRequest, mar: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with TorchServe(tmp_path_factory.mktemp("torchserve")) as running:
        running.register(mar)
        yield running


@pytest.fixture(scope="module")
def server(mar: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlainServer]:
    """In place of TorchServe, for all tests of this file and what they are made of."""
    with PlainServer(tmp_path_factory.mktemp("logs")) as running:
        running.register(mar)
        yield running
        assert running._process is not None and terminated(running._process) == -signal.SIGTERM


def test_its_answers_are_those_of_torchserve_byte_for_byte(server: PlainServer, torchserve: TorchServe) -> None:
    for body in BODIES:
        asked = [raw(f"{each.address}/predictions/shop/1.0", body) for each in (server, torchserve)]
        assert asked[0] == asked[1], body


def raw(url: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, body, {"Content-Type": "application/json", **headers}, method="POST")
    try:
        with opener.open(request) as reply:
            return reply.status, reply.read()
    except HTTPError as error:
        return error.code, error.read()


def test_large_bodies_and_what_nobody_waits_for_are_refused(server: PlainServer) -> None:
    url = f"{server.address}/predictions/shop/1.0"
    assert raw(url, b" " * (MAX_REQUEST_BYTES + 1))[0] == 413
    for deadline, status in (("1.0", 200), (f"{time.time() - 1:.3f}", 408), (f"{time.time() + 60:.3f}", 200)):
        assert raw(url, json.dumps(GOOD).encode(), **{"x-deadline": deadline})[0] == status, "1.0 is of another clock"


def test_management_is_on_its_own_port_alone(server: PlainServer, tmp_path: Path) -> None:
    assert server.call("inference", "POST", "/models?url=shop-1.0.mar").status == 404
    assert server.call("inference", "GET", "/models/shop/all").status == 404
    assert server.call("management", "POST", "/predictions/shop/1.0", b"{}").status == 404
    assert server.call("management", "POST", "/models?url=shop-1.0.mar").status == 409
    with pytest.raises(ValueError, match=r"on 127\.0\.0\.1 only"), PlainServer(tmp_path, tokens=True):
        pass


def test_beyond_loopback_only_its_metrics_are_read(tmp_path: Path) -> None:
    with PlainServer(tmp_path, host="0.0.0.0") as running:
        listening = {each.laddr for each in psutil.net_connections() if each.status == psutil.CONN_LISTEN}
        hosts = {api: {host for host, port in listening if port == running._ports[api]} for api in APIS}
    assert hosts == {"inference": {"127.0.0.1"}, "management": {"127.0.0.1"}, "metrics": {"0.0.0.0"}}


def test_what_comes_together_is_scored_together(server: PlainServer) -> None:
    def batches() -> int:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{server._ports['metrics']}/metrics") as reply:
            lines = reply.read().decode().splitlines()
        return sum(int(line.split()[-1]) for line in lines if line.startswith("ts_batches_total{"))

    before = batches()
    with ThreadPoolExecutor(32) as pool:
        asked = [pool.submit(server.predict, "shop", "1.0", GOOD) for _ in range(320)]
        assert {each.result().status for each in asked} == {200}
    assert 10 <= batches() - before < 160


def test_a_killed_worker_is_started_again_and_costs_its_batch_alone(server: PlainServer) -> None:
    assert server._process is not None
    (worker,) = psutil.Process(server._process.pid).children()
    worker.kill()
    end = time.monotonic() + 60
    while server.predict("shop", "1.0", GOOD).status != 200 and time.monotonic() < end:
        time.sleep(0.1)
    assert server.predict("shop", "1.0", GOOD).status == 200 and server.versions("shop") == {"1.0": True}
