"""The gateway as a whole: a damaged challenger, a full bound, a port for operation, a store that is away."""

import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from events.segments import SegmentSink
from events.writer import EventLogWriter
from experiments.document import ModelVersion, Rollout
from serving.gateway.access import Access, AccessTokens
from serving.gateway.app import make_app
from serving.gateway.archive import read_contents
from serving.gateway.online import _Opened
from serving.gateway.operation import OperationServer
from serving.gateway.operation_pages import pages
from serving.gateway.recommender import ServingDeadlines
from serving.torchserve import archive
from tests.serving.open_gateway import HISTORY, NOW, rows

TOKEN = "token-of-the-shop-backend"


@contextmanager
def model(mar: Path) -> Iterator[str]:
    """A server that answers as TorchServe does, always with the items of the archive's probe."""
    items = read_contents(mar, archive.digest(mar)).probe.items
    answer = {"items": [{"item_id": item, "score": 1.0} for item in sorted(items)]}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def rollout(mar: Path, tmp_path: Path) -> Rollout:
    """A champion, and a challenger whose archive was cut short on its way here."""
    digest, damaged = archive.digest(mar), tmp_path / "damaged.mar"
    damaged.write_bytes(mar.read_bytes()[:-200])
    champion = ModelVersion(version="1.0", archive=str(mar), archive_digest=digest, recipe_digest="1", registered=NOW)
    challenger = replace(champion, version="2.0", archive=str(damaged), archive_digest="0" * 64, recipe_digest="2")
    return Rollout(
        model="shop", champion=champion, challenger=challenger, stage=0, weight=0.5, salt="s", since=NOW, version=1
    )


@contextmanager
def gateway(rollout: Rollout, tmp_path: Path, address: str, **more: Any) -> Iterator[TestClient]:
    patient = ServingDeadlines(history=20, challenger=20, champion=20, log=20)
    settings = {"torchserve": address, "history": lambda user: HISTORY, "deadlines": patient, **more}
    app = make_app(read_rollout=lambda: rollout, log=EventLogWriter(SegmentSink(tmp_path / "log")), **settings)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_a_damaged_challenger_keeps_no_gateway_from_starting(rollout: Rollout, mar: Path, tmp_path: Path) -> None:
    with model(mar) as address, gateway(rollout, tmp_path, address) as client:
        assert client.get("/ready").status_code == 200
        for number in range(8):
            reply = client.post("/v1/recommendations", json={"user_id": f"u{number}"})
            assert (reply.status_code, reply.json()["status"]) == (200, "ok")
    cut = replace(rollout, champion=replace(rollout.challenger, version="1.0"), challenger=None, stage=None, weight=0.0)
    with model(mar) as address, gateway(cut, tmp_path, address) as client:
        reply = client.get("/ready")  # it lives, waits for the right archive, and says so
        assert reply.status_code == 503 and "digest" in reply.json()["detail"]
        assert client.get("/health").status_code == 200


def test_beyond_the_bound_popular_items_answer_and_then_nobody_and_the_log_says_why(
    rollout: Rollout, mar: Path, tmp_path: Path
) -> None:
    with model(mar) as address, gateway(rollout, tmp_path, address) as client:
        bound = client.app.state.service.door.bound  # type: ignore[attr-defined]
        bound.in_flight = 10**6  # as many as wait for a model
        bound._of[b""] = 10**6
        bound._memory, bound._clock = 2.0, lambda: bound._refilled  # and time stands still
        replies = [client.post("/v1/recommendations", json={"user_id": "u", "k": 2}) for _ in range(4)]
        assert [reply.status_code for reply in replies] == [200, 200, 503, 503]
        first = replies[0].json()
        assert (first["status"], first["version"], first["logged"]) == ("fallback", "popular", True)
        assert [item["item_id"] for item in first["items"]] == ["i7", "i2"]
        assert replies[3].headers["retry-after"] == "1" and "in flight" in replies[3].json()["detail"]
        text = client.get("/metrics").text
        assert 'gateway_shed_total{answer="memory"} 2.0' in text and "gateway_in_flight_bound" in text
        bound.in_flight, bound._of[b""], bound._clock = 0, 0, time.monotonic
        assert client.post("/v1/recommendations", json={"user_id": "u"}).json()["status"] == "ok"
        assert bound.in_flight == 0, "each request that is let in leaves"
    causes = [row["cause"] for row in rows(tmp_path / "log", "exposures")]
    assert causes == ["overload", "overload", None]


def test_operation_is_answered_beside_the_service_and_without_its_tokens(
    rollout: Rollout, mar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T", TOKEN)
    with (
        model(mar) as address,
        gateway(rollout, tmp_path, address, access=Access(AccessTokens.configured("T"))) as client,
    ):
        for path in ("/metrics", "/openapi.json", "/v1/recommendations", "/v1/nothing"):
            assert client.get(path).status_code == 401, path
        assert client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert client.get("/health").status_code == client.get("/ready").status_code == 200
        operation = OperationServer(pages(client.app.state.service), "127.0.0.1", 0)  # type: ignore[attr-defined]
        try:
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            for path, part in (("health", b"alive"), ("ready", b"rollout_age"), ("metrics", b"gateway_in_flight")):
                with opener.open(f"http://127.0.0.1:{operation.port}/{path}") as page:
                    assert part in page.read()
        finally:
            operation.close()


def test_a_store_that_cannot_be_opened_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def connect() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("no route to the registry")
        return "store"

    store = _Opened(connect)
    for _ in range(5):
        with pytest.raises(RuntimeError, match="no route"):
            store.get()
    assert len(tries) == 1, "not by each shopper"
    monkeypatch.setattr("serving.gateway.online.AGAIN_SECONDS", 0.0)
    with pytest.raises(RuntimeError):
        store.get()
    assert store.get() == store.get() == "store" and len(tries) == 3
