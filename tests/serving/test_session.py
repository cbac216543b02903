"""What somebody just did counts, known or not: anonymous sessions, and sessions beside a history."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from events.logged import latest
from experiments.assignment import drawn
from experiments.document import ModelVersion, Rollout
from feature_repo.forgotten import Forgotten
from feature_repo.keys import ANONYMOUS
from serving.replay import replay
from serving.scoring.scorer import Scorer
from tests.serving.live_shop import Transport, fill
from tests.serving.open_gateway import (
    HISTORY,
    PATIENT,
    OpenGateway,
    rows,
)

NOW = datetime.now(UTC).replace(microsecond=0)


def did(*items: str, **more: Any) -> list[dict[str, Any]]:
    return [{"item_id": item, "time": (NOW + timedelta(minutes=n)).isoformat(), **more} for n, item in enumerate(items)]


def post(client: Any, **body: Any) -> dict[str, Any]:
    reply = client.post("/v1/recommendations", json={"k": 3, **body})
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def test_an_anonymous_session_is_answered_by_the_arm_that_it_drew_and_comes_again_from_the_log(
    open_gateway: OpenGateway, rollout: Rollout, arms: dict[str, ModelVersion], tmp_path: Path
) -> None:
    client = open_gateway(rollout, history=lambda user: [])
    answers = {n: post(client, session_id=f"s{n}", session=did("i5", "i3", event_type="view")) for n in range(12)}
    for number, answer in answers.items():
        unit = f"{ANONYMOUS}s{number}"
        assert (answer["status"], answer["variant"]) == ("ok", drawn(rollout, unit).variant)
        assert not {"i3", "i5"} & {item["item_id"] for item in answer["items"]}
    assert {answer["variant"] for answer in answers.values()} == {"champion", "challenger"}
    logged = rows(tmp_path / "log", "exposures")
    assert {row["user_id"] for row in logged} == {f"{ANONYMOUS}s{number}" for number in range(12)}
    assert {row["salt"] for row in logged} == {rollout.salt}, "it is judged as a shopper is"
    assert json.loads(logged[0]["request"])["history"][1]["event_type"] == "view"
    done = replay(latest(tmp_path / "log", 100), arms)
    assert (done.same, done.differing) == (12, [])
    other = post(client, session_id="s0", session=did("i9", "i1"))
    assert other["items"] != answers[0]["items"] and other["variant"] == answers[0]["variant"]


def test_a_session_joins_the_known_history_in_the_order_of_time_and_an_event_of_both_counts_once(
    open_gateway: OpenGateway, rollout: Rollout, tmp_path: Path
) -> None:
    known = {**HISTORY[0], "event_time": (NOW + timedelta(seconds=30)).isoformat()}
    client = open_gateway(rollout, history=lambda user: [known])
    again = {"item_id": known["item_id"], "time": known["event_time"]}
    post(client, user_id="u1", session_id="tab", session=[*did("i5", "i7"), again])
    (logged,) = rows(tmp_path / "log", "exposures")
    asked = json.loads(logged["request"])["history"]
    assert [event["item_id"] for event in asked] == ["i5", "i3", "i7"] and asked[1] == known
    assert logged["user_id"] == "u1", "whoever is known is the unit"


def test_while_the_store_is_away_a_model_answers_from_the_session_alone(
    open_gateway: OpenGateway, rollout: Rollout, tmp_path: Path
) -> None:
    def away(user: str) -> list[dict[str, Any]]:
        raise ConnectionError("the store is away")

    client = open_gateway(replace(rollout, challenger=None, stage=None, weight=0.0), history=away, deadlines=PATIENT)
    answer = post(client, user_id="u1", session=did("i5"))
    assert (answer["version"], answer["status"]) == ("1.0", "fallback")
    (logged,) = rows(tmp_path / "log", "exposures")
    assert logged["cause"] == "history", "no fault of the model's, to the judge"
    assert post(client, user_id="u1")["version"] == "popular"


@pytest.mark.parametrize("history", [lambda user: [], lambda user: HISTORY])
def test_without_a_model_popular_items_are_those_of_the_sessions_segment(
    open_gateway: OpenGateway, rollout: Rollout, history: Callable[[str], Any]
) -> None:
    client = open_gateway(rollout, torchserve="http://127.0.0.1:9", history=history)
    shown = {item: post(client, session_id="s", session=did(item))["items"][0]["item_id"] for item in ("i4", "i5")}
    assert shown == {"i4": "i2", "i5": "i7"}


def test_an_event_without_features_has_those_of_the_catalogue(content: Path) -> None:
    scorer, values = Scorer.load(content), json.loads((content / "items.json").read_text())["features"]
    bare = {"item_id": "i4", "event_time": NOW.isoformat()}
    given = {**bare, "features": {name: values[name][4] for name in ("price", "shelf")}}
    other = {**bare, "features": {"price": None, "shelf": None}}
    left_out, said, missing = scorer.score([{"history": [event]} for event in (bare, given, other)])
    assert left_out == said != missing


BAD = [
    ({"session": did("i1")}, "user_id", "give user_id, or session_id"),
    ({"user_id": f"{ANONYMOUS}s"}, "user_id", "give session_id"),
    ({"session_id": "s" * 195}, "session_id", "at most 192"),
    ({"session_id": " "}, "session_id", "characters that can be seen"),
    ({"session_id": "s", "session": did("i1", "")}, "session.1.item_id", "characters that can be seen"),
    ({"session_id": "s", "session": [{"item_id": "i1"}]}, "session.0.time", "required"),
    ({"session_id": "s", "session": did("i1", event_type="!")}, "session.0.event_type", "match"),
    ({"session_id": "s", "session": did(*["i1"] * 120)}, "session", "at most 100"),
    ({"session_id": "s", "session": [*did("i1"), {**did("i1")[0], "time": "2020-01-01T00:00:00Z"}]}, "session.1.time",
     "is not within 30 days"),
    ({"session_id": "s", "session": [{**did("i1")[0], "price": 3}]}, "session.0.price", "not permitted"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "field", "message"), BAD, ids=[f"{field}: {why}" for _, field, why in BAD])
def test_what_is_wrong_with_a_session_is_named(
    open_gateway: OpenGateway, rollout: Rollout, body: dict[str, Any], field: str, message: str
) -> None:
    reply = open_gateway(rollout).post("/v1/recommendations", json=body)
    assert reply.status_code == 422
    (error,) = reply.json()["errors"]
    assert error["field"] == field and message in error["message"]


def test_a_session_can_be_forgotten(open_gateway: OpenGateway, rollout: Rollout, tmp_path: Path) -> None:
    fill(tmp_path, name="shop")
    transport = Transport(tmp_path, name="shop")
    transport.log = tmp_path / "log"
    client, bought = open_gateway(rollout, history=lambda user: []), {}
    for session in ("gone", "kept"):
        answer = post(client, session_id=session, session=did("i5"))
        bought[session] = answer["items"][0]["item_id"]
        told = {"request_id": answer["request_id"], "event_type": "purchase", "item_id": bought[session]}
        assert client.post("/v1/events", json=told).status_code == 202
    client.__exit__()
    forgotten = Forgotten(tmp_path / "forgotten.txt")
    with transport.consumer(forgotten=forgotten) as consumer:
        transport.settle(consumer)
        assert [each.item_id for each in transport.history(f"{ANONYMOUS}gone")] == [bought["gone"]]
        forgotten.add([f"{ANONYMOUS}gone"], datetime.now(UTC) + timedelta(hours=1))
        while consumer._erasure.outstanding() is not None:
            transport.settle(consumer)
            consumer._erasure.carry_out()
    for table in ("exposures", "interactions"):
        assert {row["user_id"] for row in transport.rows(table)} == {f"{ANONYMOUS}kept"}
