"""A version that starts failing with nobody asking it is found out by its probes; and the keys that calls need."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from experiments.document import ModelVersion, Rollout
from serving.gateway.models import KeyFile
from serving.gateway.recommender import ServingDeadlines
from serving.torchserve import archive
from serving.torchserve.server import TorchServe
from tests.serving.open_gateway import PATIENT, OpenGateway, ask
from tests.serving.tiny_archive import write_content

QUIET = 1e-9
"""A weight that no shopper of these tests meets."""


def out_of_traffic(client: TestClient) -> list[str]:
    found: list[str] = client.get("/ready").json()["out_of_traffic"]
    return found


def seconds_until_out(client: TestClient, version: str) -> float:
    began = time.monotonic()
    while version not in out_of_traffic(client):
        assert time.monotonic() - began < 10, "never taken out"
        time.sleep(0.02)
    return time.monotonic() - began


def probed(client: TestClient, version: str) -> None:
    """Wait until a probe of `version` was answered."""
    deadline = time.monotonic() + 20
    while f'gateway_probes_total{{result="ok",version="{version}"}}' not in client.get("/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_canary_that_nobody_asks_is_out_two_seconds_after_it_began_to_fail_and_comes_back(
    open_gateway: OpenGateway,
    rollout: Rollout,
    arms: dict[str, ModelVersion],
    server: TorchServe,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # TorchServe leaves a request unanswered that waits in a version's queue when the version is unloaded.
    client = open_gateway(replace(rollout, weight=QUIET), deadlines=replace(PATIENT, challenger=0.5))
    probed(client, "2.0")
    assert out_of_traffic(client) == []
    server.unregister("shop", "2.0")
    try:
        seconds = seconds_until_out(client, "2.0")
        print(f"\nout of traffic {seconds:.2f} s after it was gone")
        assert seconds < 2.5
        page = client.get("/metrics").text
        assert 'gateway_out_of_traffic{version="2.0"} 1.0' in page
        assert 'gateway_out_of_traffic{version="1.0"} 0.0' in page
        assert 'result="failed",version="2.0"' in page
        assert ask(client)["version"] == "1.0"
    finally:
        server.register(Path(arms["2.0"].archive))
    deadline = time.monotonic() + 20
    while out_of_traffic(client):
        assert time.monotonic() < deadline, "never brought back"
        time.sleep(0.05)
    time.sleep(0.5)
    (out, back) = [line for line in caplog.messages if "traffic" in line]
    assert out.startswith("shop 2.0 is out of traffic: ") and back == "shop 2.0 is back in traffic"


def test_a_version_with_another_catalogue_is_out_though_it_answers(
    open_gateway: OpenGateway, rollout: Rollout, server: TorchServe, tmp_path: Path
) -> None:
    content = write_content(tmp_path / "c", version="3.0", seed=2)
    right = tmp_path / "right.mar"
    archive.build(content, right, name="shop", version="3.0")
    for name in ("items.json", "popular.json"):
        text = (content / name).read_text()
        (content / name).write_text(re.sub(r'"i(\d+)"', r'"other\1"', text))
    contract = json.loads((content / "serving.json").read_text())
    contract["digests"] = {name: archive.digest(content / name) for name in contract["digests"]}
    (content / "serving.json").write_text(json.dumps(contract))
    wrong = tmp_path / "wrong.mar"
    archive.build(content, wrong, name="shop", version="3.0")
    server.register(wrong)
    try:
        arm = replace(rollout.champion, version="3.0", archive=str(right), archive_digest=archive.digest(right))
        client = open_gateway(replace(rollout, challenger=arm, weight=QUIET))
        assert seconds_until_out(client, "3.0") < 3
    finally:
        server.unregister("shop", "3.0")


@contextmanager
def slow(server: TorchServe) -> Iterator[tuple[str, threading.Event]]:
    """A server in front of `server` that, once told, answers for version 2.0 after a second only."""
    late = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if late.is_set() and self.path.endswith("/2.0"):
                time.sleep(1)
            reply = httpx.post(server.address + self.path, content=body, headers={"Content-Type": "application/json"})
            self.send_response(reply.status_code)
            self.send_header("Content-Length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    front = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=front.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{front.server_port}", late
    front.shutdown()


def test_a_version_that_becomes_slow_is_out_within_two_seconds(
    open_gateway: OpenGateway, rollout: Rollout, server: TorchServe
) -> None:
    deadlines = ServingDeadlines(history=20, challenger=0.4, champion=20, log=20)
    with slow(server) as (address, late):
        client = open_gateway(replace(rollout, weight=QUIET), torchserve=address, deadlines=deadlines)
        probed(client, "2.0")
        late.set()
        assert seconds_until_out(client, "2.0") < 2.4, "the first failure is known after its deadline"
        assert ask(client)["status"] == "ok"


def test_calls_bear_the_key_of_the_file_and_the_next_one_when_it_is_changed(
    open_gateway: OpenGateway, rollout: Rollout, arms: dict[str, ModelVersion], tmp_path: Path
) -> None:
    with TorchServe(tmp_path / "logs", tokens=True) as server:
        server.register(Path(arms["1.0"].archive))
        keys = server.keys
        assert keys is not None and server.key_file is not None
        keys.publish()
        alone = replace(rollout, challenger=None, stage=None, weight=0.0)
        assert ask(open_gateway(alone, torchserve=server.address, deadlines=PATIENT))["version"] == "popular"
        client = open_gateway(alone, torchserve=server.address, keys=KeyFile(server.key_file))
        assert ask(client)["version"] == "1.0"
        server.renew("inference")
        published = threading.Timer(0.3, keys.publish)  # as its reconciler does a little later
        published.start()
        began = time.monotonic()
        answer = ask(client)
        assert (answer["version"], answer["status"]) == ("1.0", "ok") and time.monotonic() - began > 0.2
        published.join()
        assert 'gateway_failures_total{part="1.0"} 0.0' in client.get("/metrics").text


def test_a_key_file_of_another_kind_is_told(tmp_path: Path) -> None:
    (path := tmp_path / "key_file.json").write_text('{"inference": {"key": "abc"}}')
    with pytest.raises(
        ValueError, match=r"key_file.json: holds more than a key; name TorchServe's file inference\.key"
    ):
        KeyFile(path).key()
