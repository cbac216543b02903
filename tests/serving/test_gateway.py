"""The recommendation service in front of a real TorchServe, and its log on a real disk."""

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from conftest import write_content
from fastapi.testclient import TestClient
from serving.gateway.eventlog import EventLog, compact

from serving.gateway import eventlog
from serving.gateway.app import make_app
from serving.gateway.breaker import DOUBT_SECONDS, FAILURES, REST_SECONDS, Breaker
from serving.gateway.online import feast_history
from serving.gateway.recommender import Deadlines
from serving.rollout import log as rollout_log
from serving.rollout.assignment import variant
from serving.rollout.document import ModelVersion, Rollout
from serving.rollout.policy import Policy
from serving.torchserve import archive
from serving.torchserve.server import TorchServe

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 1, 5, tzinfo=UTC)
PATIENT = Deadlines(history=20, challenger=20, champion=20)
"""A loaded machine must not make these tests fail; what deadlines do is tested with ones of their own."""
HISTORY = [{"item_id": "i3", "event_time": "2026-01-05T10:00:00Z", "features": {"price": 12.5, "shelf": "top"}}]


@pytest.fixture(scope="module")
def arms(server: TorchServe, mar: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ModelVersion]]:
    """Two versions that the server has, and one that it does not have; the server is left as it was."""
    folder = tmp_path_factory.mktemp("second")
    second = folder / "second.mar"
    archive.build(write_content(folder / "c", version="2.0", seed=1), second, name="shop", version="2.0")
    server.register(second)
    yield {
        name: ModelVersion(
            version=name, archive=str(path), archive_digest=archive.digest(path), recipe_digest=name, registered=NOW
        )
        for name, path in {"1.0": mar, "2.0": second, "9.9": second}.items()
    }
    server.unregister("shop", "2.0")


@pytest.fixture
def rollout(arms: dict[str, ModelVersion]) -> Rollout:
    return Rollout(
        model="shop", champion=arms["1.0"], challenger=arms["2.0"], stage=3, weight=0.5, salt="s", since=NOW, version=3
    )


@pytest.fixture
def open_gateway(server: TorchServe, tmp_path: Path) -> Iterator[Callable[..., TestClient]]:
    opened: list[TestClient] = []

    def start(rollout: Rollout | Callable[[], Rollout], **options: Any) -> TestClient:
        read = rollout if callable(rollout) else lambda: rollout
        settings = {"torchserve": server.address, "history": lambda user: HISTORY, "deadlines": PATIENT, **options}
        client = TestClient(make_app(read_rollout=read, log=EventLog(tmp_path / "log"), **settings))
        opened.append(client.__enter__())
        return client

    yield start
    for client in opened:
        client.__exit__()


def rows(root: Path, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ds.dataset(root / table, format="parquet").to_table().to_pylist()
    return found


def ask(client: TestClient, user: str = "u1", **fields: Any) -> dict[str, Any]:
    reply = client.post("/v1/recommendations", json={"user_id": user, "k": 3, **fields})
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def test_each_shopper_gets_the_arm_that_was_drawn_and_the_log_is_what_the_rollout_reads(
    open_gateway: Callable[..., TestClient], rollout: Rollout, tmp_path: Path
) -> None:
    client = open_gateway(rollout)
    answers = {user: ask(client, user) for user in (f"u{number}" for number in range(8))}
    for user, answer in answers.items():
        drawn = variant("s", user, 0.5)
        assert (answer["variant"], answer["status"], answer["logged"]) == (drawn, "ok", True)
        assert answer["version"] == {"champion": "1.0", "challenger": "2.0"}[drawn]
        assert len(answer["items"]) == 3 and answer["items"][0]["title"].startswith("Kettle")
    assert len({answer["variant"] for answer in answers.values()}) == 2
    clicked = answers["u0"]
    event = {"request_id": clicked["request_id"], "event_type": "click", "item_id": clicked["items"][0]["item_id"]}
    assert client.post("/v1/events", json=event).status_code == 202
    client.__exit__()

    written = {row["request_id"]: row for row in rows(tmp_path / "log", "exposures")}
    assert written.keys() == {answer["request_id"] for answer in answers.values()}
    assert '"price": 12.5' in written[clicked["request_id"]]["request"]
    now = datetime.now(UTC) + timedelta(seconds=1)
    policy = Policy(novelty_hours=0)
    with rollout_log.EventLog(
        tmp_path / "log", salt="s", opened=now, now=now + timedelta(hours=2), policy=policy
    ) as log:
        traffic, counted = log.traffic(3), log.successes()
    assert (traffic.exposures, traffic.misdrawn) == (8, 0)
    assert (counted.exposures.sum(), counted.outcomes["success"].sum()) == (8, 1)


def test_a_failing_challenger_is_replaced_by_the_champion_and_taken_out_of_traffic(
    open_gateway: Callable[..., TestClient], rollout: Rollout, arms: dict[str, ModelVersion], tmp_path: Path
) -> None:
    client = open_gateway(replace(rollout, challenger=arms["9.9"], weight=1.0))
    answers = [ask(client) for _ in range(FAILURES + 2)]
    assert {(a["variant"], a["version"], a["status"]) for a in answers} == {("challenger", "1.0", "fallback")}
    assert client.get("/ready").json()["out_of_traffic"] == ["9.9"]
    metrics = client.get("/metrics").text
    assert 'gateway_out_of_traffic{version="9.9"} 1.0' in metrics
    assert 'gateway_recommendations_total{status="fallback",variant="challenger",version="1.0"} 5.0' in metrics


def test_a_version_that_dies_under_traffic_is_out_within_two_seconds_and_comes_back(
    open_gateway: Callable[..., TestClient], rollout: Rollout, arms: dict[str, ModelVersion], server: TorchServe
) -> None:
    client = open_gateway(replace(rollout, weight=1.0))
    assert ask(client)["version"] == "2.0"
    server.unregister("shop", "2.0")
    answers, first_failure, out = [], None, None
    while out is None and (first_failure is None or time.monotonic() - first_failure < 2):
        began = time.monotonic()
        answers.append(ask(client))
        if answers[-1]["status"] == "fallback":
            first_failure = first_failure or began
        if client.get("/ready").json()["out_of_traffic"] == ["2.0"]:
            out = time.monotonic()
    assert first_failure is not None and out is not None and out - first_failure < 2
    assert {answer["version"] for answer in answers if answer["status"] == "fallback"} == {"1.0"}
    server.register(Path(arms["2.0"].archive))
    deadline = time.monotonic() + 3 * REST_SECONDS
    while ask(client)["version"] != "2.0":
        assert time.monotonic() < deadline, "never tried again"
        time.sleep(0.2)


def test_without_any_model_the_popular_items_answer_without_those_excluded(
    open_gateway: Callable[..., TestClient], rollout: Rollout
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:  # and not listened to for HTTP: calls run into the deadline
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        client = open_gateway(
            rollout, torchserve=address, deadlines=Deadlines(history=20, challenger=0.1, champion=0.1)
        )
        answer = ask(client, filters={"exclude": ["i7"]})
    assert (answer["version"], answer["status"]) == ("popular", "fallback")
    assert [item["item_id"] for item in answer["items"]] == ["i2"]


@pytest.mark.parametrize("history", [lambda user: time.sleep(1), lambda user: {}["store"]])
def test_a_history_that_is_late_or_fails_costs_the_answer_nothing_but_its_model(
    open_gateway: Callable[..., TestClient], rollout: Rollout, history: Callable[[str], Any]
) -> None:
    answer = ask(open_gateway(rollout, history=history, deadlines=replace(PATIENT, history=0.1)))
    assert (answer["version"], answer["status"], len(answer["items"])) == ("popular", "fallback", 2)


def test_the_history_comes_from_feasts_online_store_and_is_logged_as_the_model_saw_it(
    open_gateway: Callable[..., TestClient], rollout: Rollout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "component"))
    from make_events import at, change, event, item
    from test_materialise import materialise

    items, prices = [item(f"i{n}") for n in range(5)], [change(f"i{n}", at(0), 10.0 + n, None) for n in range(5)]
    materialise(tmp_path, [event(f"u{n % 2}", f"i{n % 5}", at(1 + n)) for n in range(10)], items, prices, at(20))
    client = open_gateway(rollout, history=feast_history("tiny", tmp_path / "feast"))
    answers = [ask(client, "u1"), ask(client, "stranger")]
    assert [answer["status"] for answer in answers] == ["ok", "ok"]
    client.__exit__()
    asked = {row["user_id"]: json.loads(row["request"]) for row in rows(tmp_path / "log", "exposures")}
    assert [event["item_id"] for event in asked["u1"]["history"]] == ["i1", "i3", "i0", "i2", "i4"]
    assert [event["features"]["price"] for event in asked["u1"]["history"]] == [11.0, 13.0, 10.0, 12.0, 14.0]
    assert asked["stranger"]["history"] == []


def test_excluded_items_are_not_shown_and_the_rest_is_filled_up(
    open_gateway: Callable[..., TestClient], rollout: Rollout
) -> None:
    client = open_gateway(rollout)
    first = [item["item_id"] for item in ask(client)["items"]]
    rest = [item["item_id"] for item in ask(client, filters={"exclude": first[:2]})["items"]]
    assert rest[0] == first[2] and len(rest) == 3 and not set(rest) & set(first[:2])


def test_the_last_good_row_serves_while_the_table_is_away(
    open_gateway: Callable[..., TestClient], rollout: Rollout
) -> None:
    readings = [rollout]

    def read() -> Rollout:
        if not readings:
            raise ConnectionError("the table is away")
        return readings.pop()

    client = open_gateway(read)
    time.sleep(1.5)
    assert ask(client)["status"] == "ok"
    assert client.get("/ready").json()["rollout_age_seconds"] > 1
    assert 'gateway_failures_total{part="rollout"}' in client.get("/metrics").text


def test_bad_requests_are_refused_by_field_and_nothing_released_is_said(
    open_gateway: Callable[..., TestClient], rollout: Rollout
) -> None:
    client = open_gateway(rollout)
    for body, named in (({"k": 3}, "user_id"), ({"user_id": "u", "k": 0}, "k"), ({"user_id": "u", "kk": 1}, "kk")):
        reply = client.post("/v1/recommendations", json=body)
        assert reply.status_code == 422 and named in reply.text
    assert client.post("/v1/events", json={"request_id": "r", "event_type": "CLICK!"}).status_code == 422
    empty = open_gateway(Rollout(model="shop"))
    assert empty.post("/v1/recommendations", json={"user_id": "u"}).status_code == 503
    assert empty.get("/ready").status_code == 503 and empty.get("/health").status_code == 200


def test_a_full_disk_refuses_events_serves_on_and_heals(
    open_gateway: Callable[..., TestClient], rollout: Rollout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_gateway(rollout)
    event = {"request_id": "r1", "event_type": "click"}
    with monkeypatch.context() as full:

        def fsync(descriptor: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        full.setattr(eventlog.os, "fsync", fsync)
        assert client.post("/v1/events", json=event).status_code == 503
        assert ask(client)["logged"] is False
        assert "No space left" in client.get("/ready").text
    assert client.post("/v1/events", json={**event, "request_id": "r2"}).status_code == 202
    client.__exit__()
    assert "r2" in {row["request_id"] for row in rows(tmp_path / "log", "outcomes")}


WRITER = """
import asyncio, sys
from pathlib import Path
from serving.gateway.eventlog import EventLog
async def write(log, number):
    while True:
        name = f"{number}"
        await log.append("outcomes", {"request_id": name, "event_type": "click", "time": "2026-01-05T23:59:59+00:00"})
        print(name, flush=True)
        number += 100
async def main():
    with EventLog(Path(sys.argv[1]), roll_seconds=0.2) as log:
        await asyncio.gather(*(write(log, number) for number in range(20)))
asyncio.run(main())
"""


def test_what_was_acknowledged_survives_kill_9_and_is_there_once(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    acknowledged = [process.stdout.readline().strip() for _ in range(3000)]
    compact(tmp_path)  # as a second gateway beside it would
    process.send_signal(signal.SIGKILL)
    acknowledged += [line.strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    process.wait()
    assert list((tmp_path / "segments").glob("*.jsonl")), "killed while a segment was open"
    compact(tmp_path)
    found = [row["request_id"] for row in rows(tmp_path, "outcomes")]
    assert set(acknowledged) <= set(found) and len(found) == len(set(found))
    assert not list((tmp_path / "segments").glob("*.jsonl"))


def test_a_torn_last_line_is_dropped_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "segments"
    folder.mkdir()
    line = '{"table":"outcomes","schema":1,"request_id":"r1","event_type":"click","time":"2026-01-05T10:00:00+00:00"}\n'
    (folder / "1-a.jsonl").write_text(line + line[:30])
    assert compact(tmp_path) == 1
    assert [row["request_id"] for row in rows(tmp_path, "outcomes")] == ["r1"]
    (folder / "2-b.jsonl").write_text(line[:30] + "\n" + line)
    with pytest.raises(ValueError, match=r"2-b\.jsonl: line 1 is no event"):
        compact(tmp_path)
    assert (folder / "2-b.jsonl").exists()


def test_a_compaction_that_was_killed_before_the_segment_went_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write() -> None:
        with EventLog(tmp_path, roll_seconds=1000) as log:
            await log.append("outcomes", {"request_id": "r1", "event_type": "click", "time": NOW.isoformat()})
            (segment,) = (tmp_path / "segments").glob("*.jsonl")
            (tmp_path / "kept").write_bytes(segment.read_bytes())
            os.rename(tmp_path / "kept", tmp_path / "kept.jsonl")
            names.append(segment.name)

    names: list[str] = []
    asyncio.run(write())
    os.rename(tmp_path / "kept.jsonl", tmp_path / "segments" / names[0])  # as if it had not been removed
    assert compact(tmp_path) == 1 and len(rows(tmp_path, "outcomes")) == 1


def test_a_version_is_out_within_two_seconds_of_its_first_failure_and_comes_back_after_one_good_trial() -> None:
    now = [0.0]
    quick, slow = Breaker(lambda: now[0]), Breaker(lambda: now[0])
    for _ in range(FAILURES):
        assert quick.allows()
        quick.failed()
    assert not quick.allows()
    slow.failed()  # one failure, then silence
    assert slow.allows()
    now[0] = DOUBT_SECONDS
    assert DOUBT_SECONDS < 2 and not slow.allows()
    now[0] += REST_SECONDS
    assert slow.allows() and not slow.allows(), "one trial at a time"
    slow.failed()
    assert not slow.allows()
    now[0] += REST_SECONDS
    assert slow.allows()
    slow.succeeded()
    assert slow.allows() and slow.allows()


def test_single_failures_among_answers_take_nothing_out() -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0])
    for _ in range(20):
        breaker.failed()
        breaker.succeeded()
        now[0] += 1
        assert breaker.allows()
