"""The recommendation service in front of a real TorchServe, and its log on a real disk."""

import json
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from events import segments
from events.writer import LogUnavailable, Sink
from experiments.assignment import variant
from experiments.document import ModelVersion, Rollout
from serving.gateway.archives import ArchiveCache
from serving.gateway.breaker import FAILURES, REST_SECONDS
from serving.gateway.online import OnlineStore
from serving.gateway.recommender import ServingDeadlines
from serving.gateway.rollout_watch import READ_SECONDS
from serving.torchserve.server import TorchServe
from tests.serving.open_gateway import (
    PATIENT,
    OpenGateway,
    ask,
    rows,
)

ROOT = Path(__file__).parents[2]


def test_each_shopper_gets_the_arm_that_was_drawn_and_what_was_shown_is_logged(
    open_gateway: OpenGateway, rollout: Rollout, tmp_path: Path
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

    written = {row["request_id"]: row for row in rows(tmp_path / "log", "exposures")}
    assert written.keys() == {answer["request_id"] for answer in answers.values()}
    assert '"price":12.5' in written[clicked["request_id"]]["request"]


def test_a_failing_challenger_is_replaced_by_the_champion_and_taken_out_of_traffic(
    open_gateway: OpenGateway, rollout: Rollout, arms: dict[str, ModelVersion], tmp_path: Path
) -> None:
    client = open_gateway(replace(rollout, challenger=arms["9.9"], weight=1.0))
    answers = [ask(client) for _ in range(FAILURES + 2)]
    assert {(a["variant"], a["version"], a["status"]) for a in answers} == {("challenger", "1.0", "fallback")}
    assert client.get("/ready").json()["out_of_traffic"] == ["9.9"]
    metrics = client.get("/metrics").text
    assert 'gateway_out_of_traffic{version="9.9"} 1.0' in metrics
    assert 'gateway_recommendations_total{status="fallback",variant="challenger",version="1.0"} 5.0' in metrics


def test_a_version_that_dies_under_traffic_is_out_within_two_seconds_and_comes_back(
    open_gateway: OpenGateway, rollout: Rollout, arms: dict[str, ModelVersion], server: TorchServe
) -> None:
    client = open_gateway(replace(rollout, weight=1.0))
    assert ask(client)["version"] == "2.0"
    server.unregister("shop", "2.0")
    answers, first_failure, out = [], None, None
    while out is None and (first_failure is None or time.monotonic() - first_failure < 2):
        answers.append(ask(client))
        if answers[-1]["status"] == "fallback":
            first_failure = first_failure or time.monotonic()
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
    open_gateway: OpenGateway, rollout: Rollout
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:  # and not listened to for HTTP: calls run into the deadline
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        client = open_gateway(
            rollout, torchserve=address, deadlines=ServingDeadlines(history=20, challenger=0.1, champion=0.1)
        )
        answer = ask(client, exclude=["i7"])
    assert (answer["version"], answer["status"]) == ("popular", "fallback")
    assert [item["item_id"] for item in answer["items"]] == ["i2"]


@pytest.mark.parametrize(
    "history, why", [(lambda user: time.sleep(1), "TimeoutError"), (lambda user: {}["store"], "KeyError: 'store'")]
)
def test_a_history_that_is_late_or_fails_costs_the_answer_nothing_but_its_model_and_says_why_once(
    open_gateway: OpenGateway,
    rollout: Rollout,
    history: Callable[[str], Any],
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = open_gateway(rollout, history=history, deadlines=replace(PATIENT, history=0.1))
    for _ in range(2):
        answer = ask(client)
        assert (answer["version"], answer["status"], len(answer["items"])) == ("popular", "fallback", 2)
    told = [record.getMessage() for record in caplog.records if "history" in record.getMessage()]
    assert len(told) == 1 and told[0].startswith(f"history did not answer: {why}")


def test_the_history_comes_from_feasts_online_store_and_is_logged_as_the_model_saw_it(
    open_gateway: OpenGateway, rollout: Rollout, tmp_path: Path
) -> None:
    from tests.component.make_events import (
        at,
        change,
        event,
        item,
    )
    from tests.component.test_materialise import materialise

    items, prices = [item(f"i{n}") for n in range(5)], [change(f"i{n}", at(0), 10.0 + n, None) for n in range(5)]
    materialise(tmp_path, [event(f"u{n % 2}", f"i{n % 5}", at(1 + n)) for n in range(10)], items, prices, at(20))
    client = open_gateway(rollout, history=OnlineStore("tiny", tmp_path / "feast").history)
    answers = [ask(client, "u1"), ask(client, "stranger")]
    assert [answer["status"] for answer in answers] == ["ok", "ok"]
    asked = {row["user_id"]: json.loads(row["request"]) for row in rows(tmp_path / "log", "exposures")}
    assert [event["item_id"] for event in asked["u1"]["history"]] == ["i1", "i3", "i0", "i2", "i4"]
    assert [event["features"]["price"] for event in asked["u1"]["history"]] == [11.0, 13.0, 10.0, 12.0, 14.0]
    assert asked["stranger"]["history"] == []


def test_excluded_items_are_not_shown_and_the_rest_is_filled_up(open_gateway: OpenGateway, rollout: Rollout) -> None:
    client = open_gateway(rollout)
    first = [item["item_id"] for item in ask(client)["items"]]
    rest = [item["item_id"] for item in ask(client, exclude=first[:2])["items"]]
    assert rest[0] == first[2] and len(rest) == 3 and not set(rest) & set(first[:2])


def test_the_last_good_row_serves_while_the_table_is_away(open_gateway: OpenGateway, rollout: Rollout) -> None:
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


def test_a_request_that_began_before_its_champion_was_refreshed_is_answered_all_the_same(
    open_gateway: OpenGateway, rollout: Rollout, arms: dict[str, ModelVersion]
) -> None:
    row = alone = replace(rollout, challenger=None, stage=None, weight=0.0)

    def history(user: str) -> list[dict[str, Any]]:
        nonlocal row
        row = replace(alone, champion=arms["2.0"], version=4)
        time.sleep(2 * READ_SECONDS)
        raise ConnectionError("the store is away")

    answer = ask(open_gateway(lambda: row, history=history))
    assert (answer["version"], answer["status"]) == ("popular", "fallback")


def test_what_the_row_in_use_needs_stays_until_another_one_is_in_use(
    rollout: Rollout, arms: dict[str, ModelVersion]
) -> None:
    old = replace(rollout, challenger=None, stage=None, weight=0.0)
    new = replace(old, champion=arms["2.0"], version=4)
    archives = ArchiveCache()
    archives.prepare(old)
    archives.prepare(new)
    assert archives.contents(arms["1.0"]) and archives.contents(arms["2.0"])
    archives.let_go(new)
    with pytest.raises(KeyError):
        archives.contents(arms["1.0"])


def test_an_event_that_cannot_be_written_is_told_on_the_console_and_not_for_each_shopper(
    open_gateway: OpenGateway, rollout: Rollout, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(Sink):
        def write(self, lines: Sequence[bytes]) -> None:
            raise LogUnavailable("no space left")

    client = open_gateway(rollout, sink=Full())
    answers = [ask(client) for _ in range(3)]
    assert not any(answer["logged"] for answer in answers)
    (line,) = [line for line in caplog.messages if "event log" in line]
    assert "no space left" in line


def test_what_comes_too_late_is_told_with_its_deadline(
    open_gateway: OpenGateway, rollout: Rollout, caplog: pytest.LogCaptureFixture
) -> None:
    def slow(user: str) -> list[dict[str, Any]]:
        time.sleep(0.3)
        return []

    client = open_gateway(rollout, history=slow, deadlines=replace(PATIENT, history=0.05))
    assert ask(client)["status"] == "fallback"
    (line,) = [line for line in caplog.messages if line.startswith("history")]
    assert line == "history did not answer: TimeoutError: not within 0.05 s"


def test_a_table_that_was_emptied_takes_no_model_out_of_traffic(
    open_gateway: OpenGateway, rollout: Rollout, caplog: pytest.LogCaptureFixture
) -> None:
    readings = [rollout]
    client = open_gateway(lambda: readings.pop() if readings else Rollout(model="shop"))
    time.sleep(1.5)
    assert ask(client)["status"] == "ok"
    told = client.get("/ready")
    assert told.status_code == 200 and "it was emptied" in told.text
    assert told.json()["rollout_age_seconds"] > 1, "what the alert of the table looks at"
    assert sum("emptied" in line for line in caplog.messages) == 1


def test_bad_requests_are_refused_by_field_and_nothing_released_is_said(
    open_gateway: OpenGateway, rollout: Rollout
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
    open_gateway: OpenGateway, rollout: Rollout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_gateway(rollout)
    event = {"request_id": "r1", "event_type": "click"}
    with monkeypatch.context() as full, Path("/dev/full").open("wb", buffering=0) as device:
        full.setattr(segments.SegmentSink, "_begin", lambda sink: device)
        assert client.post("/v1/events", json=event).status_code == 503
        assert ask(client)["logged"] is False
        assert "No space left" in client.get("/ready").text
    assert client.post("/v1/events", json={**event, "request_id": "r2"}).status_code == 202
    assert "r2" in {row["request_id"] for row in rows(tmp_path / "log", "outcomes")}
