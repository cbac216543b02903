"""Every placement through a real TorchServe and gateway: what is answered, what is logged, what answers otherwise."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from events.logged import latest
from experiments.document import ModelVersion, Rollout
from serving.gateway.error_handlers import LONGER, MAX_BODY
from serving.replay import replay
from serving.scoring.scorer import Scorer
from serving.torchserve import archive
from tests.serving.open_gateway import HISTORY, OpenGateway, rows
from tests.serving.tiny_archive import EVENTS, ITEMS, vectors

NOBODY = "http://127.0.0.1:9"
PATHS = {
    "/v1/similar-items": {"items": ["i3"]},
    "/v1/rankings": {"user_id": "u1", "items": ["i3", "i5", "i7", "gone"]},
    "/v1/popular": {},
}


@pytest.fixture
def champion(rollout: Rollout) -> Rollout:
    """Alone."""
    return replace(rollout, challenger=None, stage=None, weight=0.0, salt="")


def post(client: TestClient, path: str, **body: Any) -> dict[str, Any]:
    reply = client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def ids(answer: dict[str, Any]) -> list[str]:
    return [item["item_id"] for item in answer["items"]]


def cosines(*given: int) -> torch.Tensor:
    unit = torch.nn.functional.normalize(vectors(0), dim=1)
    return unit @ torch.nn.functional.normalize(unit[list(given)].sum(0), dim=0)


def test_similar_items_are_the_nearest_by_the_networks_embeddings_without_those_given(
    open_gateway: OpenGateway, champion: Rollout, tmp_path: Path
) -> None:
    client = open_gateway(champion)
    for given in ((3,), (3, 8)):
        answer = post(client, "/v1/similar-items", items=[ITEMS[row] for row in given], k=4)
        expected = cosines(*given)
        expected[list(given)] = -2
        best = expected.topk(4)
        assert ids(answer) == [ITEMS[row] for row in best.indices] and answer["status"] == "ok"
        assert [item["score"] for item in answer["items"]] == pytest.approx(best.values.tolist(), abs=1e-5)
    low = post(client, "/v1/similar-items", items=["i3"], filters={"shelf": ["low"]}, exclude=["i5"], k=12)
    assert set(ids(low)) == {"i1", "i7", "i9"}
    logged = rows(tmp_path / "log", "exposures")
    assert {(row["placement"], row["user_id"], row["salt"], row["stage"]) for row in logged} == {
        ("similar", "", "", None)
    }, "nobody is of no experiment"
    assert json.loads(logged[0]["request"])["history"] == []


def test_a_shoppers_similar_items_are_put_in_the_order_of_likeness_and_of_the_shopper_together(
    open_gateway: OpenGateway, champion: Rollout, content: Path
) -> None:
    client = open_gateway(champion)
    unpersonal = [
        post(client, "/v1/similar-items", items=["i8"], k=9, user_id="u1", personalise=False),
        post(client, "/v1/similar-items", items=["i8"], k=9),
    ]
    mine = post(client, "/v1/similar-items", items=["i8"], user_id="u1", k=9, exclude_seen=False)
    assert ids(unpersonal[0]) == ids(unpersonal[1]) != ids(mine)
    request = {"history": HISTORY, "k": 12, "exclude": ["i8"], "exclude_seen": False}
    (own,) = Scorer.load(content).score([request])
    alike = cosines(8)
    alike[8] = -2
    order = {ITEMS[row]: place for place, row in enumerate(alike.argsort(descending=True).tolist())}
    # The archive gives ten at most, so that of the last one the place is known too.
    taste = {item: place for place, item in enumerate(ids(own))} | {
        item: 10 for item in ITEMS if item != "i8" and item not in ids(own)
    }
    expected = sorted(order, key=order.__getitem__)[:-1]  # of two that are equal the more alike one
    expected.sort(key=lambda item: -(1 / (61 + order[item]) + 1 / (61 + taste[item])))
    assert ids(mine) == expected[:9]


def test_a_ranking_scores_all_that_is_given_as_for_you_does_and_logs_what_is_shown(
    open_gateway: OpenGateway, champion: Rollout, arms: dict[str, ModelVersion], tmp_path: Path
) -> None:
    client = open_gateway(champion)
    given = ["gone", *ITEMS[:8], "i3", "away"]
    answer = post(client, "/v1/rankings", user_id="u1", items=given, k=2)
    whole = post(client, "/v1/recommendations", user_id="u1", k=10, exclude_seen=False)
    scores = {item["item_id"]: item["score"] for item in whole["items"]}
    assert sorted(ids(answer)) == ITEMS[:8] and answer["unknown_items"] == ["gone", "away"]
    found = [item["score"] for item in answer["items"]]
    assert found == sorted(found, reverse=True)
    for item in answer["items"]:
        if item["item_id"] in scores:
            assert item["score"] == pytest.approx(scores[item["item_id"]], abs=1e-5)
    logged = rows(tmp_path / "log", "exposures")
    assert (logged[0]["placement"], logged[0]["items"], logged[0]["n_items"]) == ("ranking", ids(answer)[:2], 2)
    post(client, "/v1/similar-items", items=["i8"], user_id="u1")
    post(client, "/v1/popular", user_id="u1", kind="new")
    done = replay(latest(tmp_path / "log", 10), arms)
    assert (done.same, done.differing) == (4, [])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("popular", ["i7", "i2", "i0"]), ("trending", ["i4", "i2"]), ("new", ["i7", "i6", "i5"])],
)
def test_popular_trending_and_new_items_by_segment(
    open_gateway: OpenGateway, champion: Rollout, kind: str, expected: list[str], tmp_path: Path
) -> None:
    client = open_gateway(champion)
    assert ids(post(client, "/v1/popular", kind=kind, k=3)) == expected
    top = post(client, "/v1/popular", kind=kind, k=3, filters={"shelf": ["top"]}, session_id="s")
    assert all(int(item[1:]) % 2 == 0 for item in ids(top)) and top["status"] == "ok"
    assert {row["salt"] for row in rows(tmp_path / "log", "exposures")} == {""}, "counts are no arm's doing"


def test_while_no_model_answers_every_placement_is_answered_all_the_same(
    open_gateway: OpenGateway, champion: Rollout, tmp_path: Path
) -> None:
    client = open_gateway(champion, torchserve=NOBODY)
    similar = post(client, "/v1/similar-items", items=["i4"], k=3)
    assert ids(similar) == ["i2", "i7"], "popular ones of its segment first"
    ranked = post(client, "/v1/rankings", user_id="u1", items=["gone", "i1", "i2", "i7"])
    assert ids(ranked) == ["i7", "i2", "i1"] and ranked["unknown_items"] == ["gone"]
    assert [item["score"] for item in ranked["items"]] == [EVENTS[7], EVENTS[2], EVENTS[1]]
    assert [ids(post(client, "/v1/popular", kind=kind)) for kind in ("popular", "trending", "new")] == [
        ["i7", "i2"], ["i2"], ["i7", "i2"],
    ]  # fmt: skip
    assert ids(post(client, "/v1/bought-together", items=["i2"])) == ["i7"]
    logged = rows(tmp_path / "log", "exposures")
    assert {row["status"] for row in logged} == {"fallback"} and {row["model_version"] for row in logged} == {"popular"}
    assert [row["cause"] for row in logged] == ["model"] * 5 + ["archive"], "whose tables never knew baskets"


def before_placements(mar: Path, folder: Path) -> Path:
    """The archive as it was packaged when there were none."""
    import hashlib
    import zipfile

    content = folder / "old"
    with zipfile.ZipFile(mar) as packed:
        packed.extractall(content)
    for name in ("serving", "MAR-INF"):
        shutil.rmtree(content / name)
    (content / "handler.py").unlink()
    for name, gone in (("items.json", ("trend", "since")), ("popular.json", ("trending", "new"))):
        kept = {key: value for key, value in json.loads((content / name).read_text()).items() if key not in gone}
        (content / name).write_text(json.dumps(kept))
    contract = json.loads((content / "serving.json").read_text())
    for key in ("placements", "kinds", "parts"):
        del contract[key]
    contract["digests"] |= {
        name: hashlib.sha256((content / name).read_bytes()).hexdigest() for name in ("items.json", "popular.json")
    }
    (content / "serving.json").write_text(json.dumps(contract))
    archive.build(content, folder / "old.mar", name="shop", version="1.0")
    return folder / "old.mar"


def test_an_archive_of_before_answers_for_you_and_costs_the_others_a_fallback_and_no_breaker(
    open_gateway: OpenGateway, champion: Rollout, mar: Path, tmp_path: Path
) -> None:
    assert champion.champion is not None
    old = before_placements(mar, tmp_path)
    arm = replace(champion.champion, archive=str(old), archive_digest=archive.digest(old))
    client = open_gateway(replace(champion, champion=arm))
    for _ in range(5):
        answer = post(client, "/v1/similar-items", items=["i4"])
        assert (answer["version"], answer["status"]) == ("popular", "fallback")
    told = client.post("/v1/popular", json={"kind": "trending"})
    assert told.status_code == 501 and "package it anew" in told.json()["detail"]
    assert post(client, "/v1/popular")["status"] == "fallback"
    explained = post(client, "/v1/recommendations", user_id="u1", explain=True)
    assert explained["status"] == "ok" and all(item["why"] is None for item in explained["items"])
    assert client.get("/ready").json()["out_of_traffic"] == []
    assert rows(tmp_path / "log", "exposures")[0]["cause"] == "archive"


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/similar-items", {}, "items"),
    ("/v1/similar-items", {"items": []}, "items"),
    ("/v1/similar-items", {"items": ["i1"] * 51}, "items"),
    ("/v1/similar-items", {"items": ["i1", " "]}, "items.1"),
    ("/v1/similar-items", {"items": ["i1"], "personalise": "perhaps"}, "personalise"),
    ("/v1/similar-items", {"items": ["i1"], "filters": {"colour": ["red"]}}, "filters.colour"),
    ("/v1/similar-items", {"items": ["i1"], "explain": 7}, "explain"),
    ("/v1/rankings", {"items": ["i1"]}, "user_id"),
    ("/v1/rankings", {"user_id": "u", "items": ["i1"] * 1001}, "items"),
    ("/v1/rankings", {"user_id": "u", "items": ["i1"], "k": 51}, "k"),
    ("/v1/rankings", {"user_id": "u", "items": ["i1"], "filters": {}}, "filters"),
    ("/v1/popular", {"kind": "best"}, "kind"),
    ("/v1/popular", {"filters": {"price": ["red"]}}, "filters.price"),
    ("/v1/popular", {"user_id": "session:x"}, "user_id"),
    ("/v1/bought-together", {"items": "i1"}, "items"),
    ("/v1/bought-together", {"items": ["i1"], "session": []}, "session"),
    ("/v1/recommendations", {"user_id": "u", "explain": "why"}, "explain"),
]


@pytest.mark.parametrize(("path", "body", "field"), BAD, ids=[f"{path}: {field}" for path, _, field in BAD])
def test_a_bad_field_is_named(
    open_gateway: OpenGateway, champion: Rollout, path: str, body: dict[str, Any], field: str
) -> None:
    reply = open_gateway(champion).post(path, json=body)
    assert reply.status_code == 422, reply.text
    assert field in [error["field"] for error in reply.json()["errors"]]


def test_a_ranking_may_be_longer_than_other_requests_and_has_a_limit_of_its_own(
    open_gateway: OpenGateway, champion: Rollout
) -> None:
    client, long = open_gateway(champion), [f"{number:0200d}" for number in range(990)]
    body = {"user_id": "u1", "items": [*long, *ITEMS[:8]]}
    assert MAX_BODY < len(json.dumps(body)) < LONGER["/v1/rankings"]
    answer = post(client, "/v1/rankings", **body)
    assert sorted(ids(answer)) == ITEMS[:8] and answer["unknown_items"] == long
    told = client.post("/v1/similar-items", json=body)
    assert (told.status_code, str(MAX_BODY) in told.text) == (413, True)
    kind = {"Content-Type": "application/json"}
    assert client.post("/v1/rankings", content=b" " * (LONGER["/v1/rankings"] + 1), headers=kind).status_code == 413


@pytest.mark.parametrize("path", PATHS)
def test_who_tests_chooses_the_arm_of_every_placement(
    open_gateway: OpenGateway, rollout: Rollout, path: str, tmp_path: Path
) -> None:
    from serving.gateway.access import Access, AccessTokens

    shop, tester = b"token-of-the-shop-backend", b"token-of-somebody-who-tests"
    import hashlib

    def tokens(token: bytes) -> AccessTokens:
        return AccessTokens(lambda: frozenset([hashlib.sha256(token).digest()]))

    client = open_gateway(rollout, access=Access(tokens(shop), tokens(tester)))
    chosen = {"X-Variant": "challenger"}
    for token, status in ((shop, 403), (tester, 200)):
        headers = {"Authorization": f"Bearer {token.decode()}", **chosen}
        reply = client.post(path, json=PATHS[path], headers=headers)
        assert reply.status_code == status
    assert reply.json()["version"] == "2.0"
    assert client.post(path, json=PATHS[path]).status_code == 401
    assert rows(tmp_path / "log", "exposures")[0]["override"] is True


SCORED: list[tuple[dict[str, Any], str]] = [
    ({"placement": "together", "items": ["i1"]}, "placement"),
    ({"placement": "nowhere"}, "placement"),
    ({"placement": "similar", "items": "i1"}, "items"),
    ({"placement": "similar", "items": [1]}, "items"),
    ({"placement": "ranking", "items": ["i1"] * 1001}, "items"),
    ({"placement": "popular", "kind": "best"}, "kind"),
    ({"explain": 1}, "explain"),
]


@pytest.mark.parametrize(("fields", "field"), SCORED)
def test_the_scorer_names_what_is_wrong_and_no_batch_mate_is_another(
    content: Path, fields: dict[str, Any], field: str
) -> None:
    scorer = Scorer.load(content)
    others = [{"history": HISTORY, "k": 3}, {"history": HISTORY, "placement": "ranking", "items": ["i3", "i4"]}]
    alone = scorer.score(others)
    first, bad, last = scorer.score([others[0], {"history": [], **fields}, others[1]])
    assert bad["error"]["field"] == field and bad["error"]["expected"]
    for mine, expected in zip((first, last), alone, strict=True):
        assert ids(mine) == ids(expected)
        assert [i["score"] for i in mine["items"]] == pytest.approx([i["score"] for i in expected["items"]], abs=1e-5)
    assert np.isfinite([item["score"] for item in last["items"]]).all()


@pytest.mark.parametrize("history", [lambda user: [], lambda user: HISTORY])
def test_a_ranking_of_nothing_known_is_empty_and_no_error_of_the_model(
    open_gateway: OpenGateway, champion: Rollout, history: Callable[[str], Any]
) -> None:
    answer = post(open_gateway(champion, history=history), "/v1/rankings", user_id="u1", items=["gone"], explain=True)
    assert (answer["items"], answer["unknown_items"], answer["status"]) == ([], ["gone"], "ok")
