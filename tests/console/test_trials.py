"""What MLflow keeps is unknown where no server was told, or it does not answer as one: tests/k8s/test_mlflow.py has a
real one."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from console.trials import Trials


@pytest.mark.parametrize("url", ["", "sqlite:////work/mlflow.db", "file:///work/mlruns", "databricks"])
def test_without_a_server_it_is_unknown(url: str) -> None:
    kept = Trials(url).of("shop")
    assert kept.trials == () and kept.unknown == "no MLflow server was told to this console (MLFLOW_TRACKING_URI)"


def test_a_server_that_is_away_is_told_without_its_password() -> None:
    kept = Trials("http://somebody:s3cret@127.0.0.1:1/below/").made_by("shop", "shop-1")
    assert kept.unknown.startswith("http://127.0.0.1:1/below: MLflow does not answer (URLError") and not kept.trials
    assert "s3cret" not in repr(kept)


@pytest.fixture
def odd() -> Iterator[tuple[HTTPServer, list[bytes]]]:
    """Something that answers whatever is put into the list."""
    answers: list[bytes] = []

    class Odd(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers[0])

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Odd)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, answers
    server.shutdown()
    server.server_close()


def test_what_is_no_mlflow_is_told_and_ends_in_no_other_fault(odd: tuple[HTTPServer, list[bytes]]) -> None:
    server, answers = odd
    trials = Trials(f"http://127.0.0.1:{server.server_port}")
    shapes = [[], {}, {"experiment": None}, {"experiment": {"experiment_id": 1}, "runs": [{}]}, {"experiment": []},
              {"experiment": {"experiment_id": 1}, "runs": [{"info": {"run_id": 1}, "data": {"metrics": [{"key": "a", "value": None}]}}]}]  # noqa: E501  # fmt: skip
    for answer in [b"<html>", b"", b"\xff", *(json.dumps(shape).encode() for shape in shapes)]:
        answers[:] = [answer]
        for kept in (trials.of("shop"), trials.made_by("shop", "shop-1")):
            assert kept.trials == () and "MLflow does not answer (" in kept.unknown, answer
