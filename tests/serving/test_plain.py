"""The scorer knows no server: a plain FastAPI server answers byte for byte as TorchServe does."""

import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from fastapi.testclient import TestClient

from serving.plain.app import MAX_REQUEST_BYTES, make_app
from serving.torchserve import archive
from serving.torchserve.server import TorchServe
from tests.serving.test_scorer import BAD, GOOD, event

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
def plain(mar: Path) -> Iterator[TestClient]:
    with TestClient(make_app(mar, digest=archive.digest(mar))) as client:
        yield client


def test_its_answers_are_those_of_torchserve_byte_for_byte(plain: TestClient, server: TorchServe) -> None:
    for body in BODIES:
        mine = plain.post("/predictions/shop/1.0", content=body, headers={"Content-Type": "application/json"})
        assert (mine.status_code, mine.content) == raw(f"{server.address}/predictions/shop/1.0", body), body


def raw(url: str, body: bytes) -> tuple[int, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
    try:
        with opener.open(request) as reply:
            return reply.status, reply.read()
    except HTTPError as error:
        return error.code, error.read()


def test_it_serves_its_one_version_within_limits(plain: TestClient) -> None:
    assert plain.get("/ping").json() == {"status": "Healthy"}
    assert plain.post("/predictions/shop", json=GOOD).json()["version"] == "1.0"
    assert plain.post("/predictions/shop/2.0", json=GOOD).status_code == 404
    assert plain.post("/predictions/shop", content=b" " * (MAX_REQUEST_BYTES + 1)).status_code == 413


def test_an_altered_archive_is_refused(mar: Path, tmp_path: Path) -> None:
    altered = shutil.copy(mar, tmp_path / "shop.mar")
    Path(altered).write_bytes(mar.read_bytes() + b" ")
    with pytest.raises(ValueError, match="refused"):
        make_app(Path(altered), digest=archive.digest(mar))
