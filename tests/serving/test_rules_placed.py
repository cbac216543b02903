"""Stock and rules at every placement: what is withdrawn or blocked is nowhere, other rules where they are meant."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from events.logged import latest
from experiments.document import ModelVersion, Rollout
from experiments.rules import BadRules, Rules
from experiments.rules_table import RulesTable
from serving.replay import replay
from tests.serving.open_gateway import OpenGateway, rows
from tests.serving.test_availability import NOBODY
from tests.serving.test_rules import hold, table  # noqa: F401  (fixture)

PATHS: dict[str, dict[str, Any]] = {
    "/v1/recommendations": {"user_id": "u1", "exclude_seen": False},
    "/v1/similar-items": {"items": ["i3"], "user_id": "u1", "exclude_seen": False},
    "/v1/rankings": {"user_id": "u1", "items": ["gone", "i1", "i2", "i4", "i7"]},
    "/v1/popular": {},
    "/v1/bought-together": {"items": ["i3"]},
}


def post(client: TestClient, path: str, **more: Any) -> dict[str, Any]:
    reply = client.post(path, json={**PATHS[path], **more})
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


@pytest.mark.parametrize("torchserve", [None, NOBODY], ids=["model", "memory"])
def test_what_is_withdrawn_or_blocked_is_at_no_placement(
    open_gateway: OpenGateway,
    rollout: Rollout,
    arms: dict[str, ModelVersion],
    table: RulesTable,  # noqa: F811
    tmp_path: Path,
    torchserve: str | None,
) -> None:
    champion = replace(rollout, challenger=None, stage=None, weight=0.0, salt="")
    client = open_gateway(champion, **({"torchserve": torchserve} if torchserve else {}))
    before = {path: ids(post(client, path, k=10)) for path in PATHS}
    assert all({"i2", "i7"} & set(items) for items in before.values())
    assert client.put("/v1/availability", json={"withdrawn": ["i7"]}).status_code == 200
    hold(client, table, {"blocks": [{"items": ["i2"]}], "pins": [{"item": "i9", "slot": 1}]})
    after = {path: post(client, path, k=6) for path in PATHS}
    for path, answer in after.items():
        assert not {"i2", "i7"} & set(ids(answer))
        if path != "/v1/recommendations":
            assert ids(answer)[:1] != ["i9"] or before[path][:1] == ["i9"], "a pin that names no placement"
    assert ids(after["/v1/recommendations"])[0] == "i9"
    ranking = after["/v1/rankings"]
    assert (sorted(ids(ranking)), sorted(ranking["withheld_items"])) == (["i1", "i4"], ["i2", "i7"])
    assert ranking["unknown_items"] == ["gone"]
    best = post(client, "/v1/rankings", k=1)
    (logged,) = [row for row in rows(tmp_path / "log", "exposures") if row["request_id"] == best["request_id"]]
    assert logged["items"] == ids(best)[:1] and len(ids(best)) == 2
    assert [len(logged[name]) for name in ("scores", "origins", "propensities", "draws", "explorable")] == [1] * 5
    if torchserve is None:
        ranked = ("/v1/recommendations", "/v1/similar-items", "/v1/popular")
        assert [len(ids(after[path])) for path in ranked] == [6, 6, 6], "others fill the places"
        done = replay(latest(tmp_path / "log", 20), arms)
        assert not done.differing and done.same >= 8


def test_a_rule_that_names_a_placement_counts_there_alone(
    open_gateway: OpenGateway,
    rollout: Rollout,
    table: RulesTable,  # noqa: F811
) -> None:
    client = open_gateway(replace(rollout, challenger=None, stage=None, weight=0.0, salt=""))
    first = ids(post(client, "/v1/recommendations"))
    last = ids(post(client, "/v1/rankings"))[-1]
    boost = {"items": [last], "factor": 1000, "placements": ["ranking"]}
    hold(client, table, {"pins": [{"item": "i9", "slot": 1, "placements": ["similar"]}], "boosts": [boost]})
    assert ids(post(client, "/v1/recommendations")) == first
    similar = post(client, "/v1/similar-items", filters={"shelf": {"not": ["top"]}}, explain=True)
    assert ids(similar)[0] == "i9" and all(item["why"] for item in similar["items"] if item["score"] is not None)
    assert "i9" not in ids(post(client, "/v1/similar-items", items=["i9"])), "nor what is given itself"
    assert ids(post(client, "/v1/rankings"))[0] == last and len(ids(post(client, "/v1/rankings"))) == 4
    for path in ("/v1/similar-items", "/v1/popular", "/v1/bought-together"):
        found = ids(post(client, path, k=12, filters={"shelf": {"not": ["top"]}}))
        assert found and all(int(item[1:]) % 2 for item in found)


def test_what_a_rule_put_there_unranked_has_neither_score_nor_reason(
    open_gateway: OpenGateway,
    rollout: Rollout,
    table: RulesTable,  # noqa: F811
) -> None:
    client = open_gateway(rollout, torchserve=NOBODY)
    hold(client, table, {"pins": [{"item": "i9", "slot": 1}]})
    pinned, *others = post(client, "/v1/recommendations", explain=True)["items"]
    assert (pinned["item_id"], pinned["score"], pinned["why"]) == ("i9", None, None)
    assert others and all(item["why"][0]["share"] == item["score"] for item in others)


@pytest.mark.parametrize(
    "rules",
    [
        {"blocks": [{"items": ["i1"], "placements": ["for-you"]}]},
        {"pins": [{"item": "i1", "slot": 1, "placements": ["ranking"]}]},
        {"exploration": {"share": 0.1, "placements": ["ranking", "for_you"]}},
    ],
)
def test_a_placement_that_there_is_not_is_refused(rules: dict[str, Any]) -> None:
    with pytest.raises(BadRules, match=r"placements"):
        Rules.of(json.loads(json.dumps(rules)))
