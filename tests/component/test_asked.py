"""Who asks, from a request to an answer: the archive answers as the model does, each arm is told what it knows, and
what is said wrongly is refused by its name."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fastapi.testclient import TestClient

from components.package import step as package
from components.recommend.shown import Showing, Wanted
from events.segments import SegmentSink
from events.writer import EventLogWriter
from experiments.document import ModelVersion, Rollout
from feature_repo.wall_clock import WallClock
from heterrec.data.sequences import read_sequences
from heterrec.training.export import save_model
from heterrec.training.loop import train
from pipelines import audience
from serving.gateway.app import make_app
from serving.gateway.recommender import Recommender
from serving.scoring.scorer import Scorer
from serving.torchserve import archive as archives
from tests.component.make_events import START
from tests.component.test_package import CARD
from tests.serving.open_gateway import PATIENT, rows
from tests.unit.heterrec.test_asking import ASKING, CONFIG, asking

WHOSE = {"group": "user", "likes": "user", "age": "context"}
CLOCK = WallClock(by="hour", timezone="Asia/Tokyo")
READ_OFF = {"name": "hour", "kind": "categorical", "of": "context", "by": CLOCK.by, "timezone": CLOCK.timezone}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def mar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of a model that listens to who asks: its directions are drawn by chance."""
    root = tmp_path_factory.mktemp("asked")
    data = asking(root / "sequences", basket=3)
    about = json.loads((root / "sequences" / "features.json").read_text())
    about |= {"title": "title", "asking": [*({**each, "of": WHOSE[each["name"]]} for each in ASKING), READ_OFF]}
    (root / "sequences" / "features.json").write_text(json.dumps(about))
    hour = pa.array(CLOCK.at_each(data.time), pa.string())
    pq.write_table(
        pq.read_table(root / "sequences" / "events.parquet").append_column("hour", hour),
        root / "sequences" / "events.parquet",
    )
    trained = train(read_sequences(root / "sequences"), CONFIG)
    table = trained.model.asker.table
    noise = np.random.default_rng(0).normal(size=tuple(table.shape))
    table.data = torch.from_numpy(noise.astype(np.float32))
    save_model(trained, root / "model")
    (root / "archive").mkdir()
    places = {name: root / name for name in ("sequences", "model", "archive")}
    package.run(card=CARD, **places, name="shop", version="now")
    return root / "archive" / "shop.mar"


@pytest.fixture(scope="module")
def goldens(mar: Path) -> list[Json]:
    return [json.loads(line) for line in archives.read(mar, "goldens.jsonl").splitlines()]


@pytest.fixture(scope="module")
def told(goldens: list[Json]) -> Json:
    """A request of which the history, the user and the moment are known."""
    requests = (golden["request"] for golden in goldens)
    return next(
        r for r in requests if r["history"] and r.get("user_features", {}).get("group") == "a" and "context" in r
    )


@pytest.fixture(scope="module")
def scorer(mar: Path, tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    content = tmp_path_factory.mktemp("content")
    shutil.unpack_archive(mar, content, "zip")
    return Scorer.load(content)


@pytest.fixture(scope="module")
def arms(mar: Path) -> tuple[ModelVersion, ModelVersion]:
    """Of this archive, and of one of before."""
    digest = archives.digest(mar)
    now, before = (
        ModelVersion(version=v, archive=str(mar), archive_digest=d, recipe_digest="r", registered=START)
        for v, d in (("now", digest), ("before", "another"))
    )
    return now, before


@pytest.fixture
def gateway(mar: Path, told: Json, arms: tuple[ModelVersion, ModelVersion], tmp_path: Path) -> Iterator[TestClient]:
    """One without a model server: the tables answer. Its clock stands at `START`."""
    rollout = Rollout(model="shop", champion=arms[0], since=START, version=1)
    parts: Json = {"torchserve": "http://127.0.0.1:9", "history": lambda user: told["history"], "deadlines": PATIENT}
    log = EventLogWriter(SegmentSink(tmp_path / "log"))
    with TestClient(make_app(read_rollout=lambda: rollout, log=log, clock=lambda: START, **parts)) as client:
        yield client


def test_the_archive_answers_who_asks_as_the_model_does(goldens: list[Json], scorer: Scorer, told: Json) -> None:
    requests = [golden["request"] for golden in goldens]
    for field, of in (("user_features", "user"), ("context", "context")):
        said = {name for request in requests for name in request.get(field, {})}
        assert said == {name for name, whose in {**WHOSE, "hour": "context"}.items() if whose == of}
    for golden, answer in zip(goldens, scorer.score(requests), strict=True):
        expected = [(item["item_id"], pytest.approx(item["score"], abs=1e-4)) for item in golden["answer"]["items"]]
        assert [(item["item_id"], item["score"]) for item in answer["items"]] == expected
    for field, one, other in (
        ("user_features", {"group": "a"}, {"group": "b"}),
        ("context", {"age": 3}, {"age": 55.5}),
        ("context", {"hour": "09"}, {"hour": "21"}),
    ):
        nothing = [{}, None, dict.fromkeys(one)]
        asked = [{**told, field: each} for each in (one, other, *nothing)]
        first, second, *without = (answer["items"] for answer in scorer.score(asked))
        assert first != second and without == [without[0]] * 3 and without[0] not in (first, second)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"user_features": {"group": 3}}, "user_features.group"),
        ({"user_features": {"likes": "x"}}, "user_features.likes"),
        ({"user_features": {"size": 1}}, "user_features.size"),
        ({"user_features": {"age": 1}}, "user_features.age"),
        ({"user_features": [1]}, "user_features"),
        ({"context": {"age": "old"}}, "context.age"),
        ({"context": {"age": True}}, "context.age"),
        ({"context": {"group": "a"}}, "context.group"),
        ({"context": "a"}, "context"),
    ],
)
def test_the_archive_refuses_what_it_does_not_know(scorer: Scorer, told: Json, wrong: Json, field: str) -> None:
    assert scorer.score([{**told, **wrong}])[0]["error"]["field"] == field


def test_each_arm_is_told_what_it_knows_and_the_tables_nothing(
    gateway: TestClient, arms: tuple[ModelVersion, ModelVersion]
) -> None:
    now, before = arms
    recommender: Recommender = gateway.app.state.service.recommender  # type: ignore[attr-defined]
    known = recommender.archives._contents[now.archive_digest]
    recommender.archives._contents[before.archive_digest] = replace(known, asking={}, clocks={})
    asked = {"k": 3, "user_features": {"group": "a", "later": 1}, "context": {"age": 30, "page": "home"}, "now": START}
    here = {"age": 30, "hour": CLOCK.at(START)}
    assert recommender._for(asked, now) == {"k": 3, "user_features": {"group": "a"}, "context": here}
    assert recommender._for(asked, before) == recommender._for(asked, None) == {"k": 3}
    elsewhere = {"hour": replace(CLOCK, timezone="Europe/Berlin")}
    recommender.archives._contents[before.archive_digest] = replace(known, clocks=elsewhere)
    assert recommender._for(asked, before)["context"] == {"age": 30, "hour": elsewhere["hour"].at(START)} != here


def test_the_context_is_logged_as_it_was_said_and_one_that_cannot_be_is_refused(
    gateway: TestClient, tmp_path: Path
) -> None:
    said = {"age": 30, "page": "home", "group": 3}
    assert gateway.post("/v1/recommendations", json={"user_id": "u", "context": said}).status_code == 200
    for path, more in (("recommendations", {}), ("similar-items", {"items": ["i1"]}), ("rankings", {"items": ["i1"]})):
        for name, wrong in (("age", "old"), ("age", True), ("hour", "9"), ("hour", "24"), ("hour", 9)):
            reply = gateway.post(f"/v1/{path}", json={"user_id": "u", "context": {name: wrong}, **more})
            assert reply.status_code == 422 and reply.json()["errors"][0]["field"] == f"context.{name}", reply.text
    (exposure,) = rows(tmp_path / "log", "exposures")
    assert json.loads(exposure["context"]) == said


def test_the_gateway_asks_the_model_with_the_user_as_stored_and_the_moment_as_said(
    gateway: TestClient, scorer: Scorer, told: Json, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender: Recommender = gateway.app.state.service.recommender  # type: ignore[attr-defined]

    async def send(path: str, body: bytes, key: str, until: float) -> tuple[int, bytes]:
        """In place of the network."""
        return 200, json.dumps(scorer.score([json.loads(body)])[0]).encode()

    monkeypatch.setattr(recommender._models, "_send", send)
    recommender._models.breakers.clear()  # the probe had found no server
    monkeypatch.setattr(recommender, "_traits", lambda user: {"group": "b" if user == "other" else "a"})
    asked = [
        ("u", {"age": 3}),
        ("u", {"age": 55}),
        ("u", {}),
        ("other", {}),
        ("u", {"hour": "01"}),
        ("u", {"hour": None}),
    ]
    answers = []
    for user, context in asked:
        reply = gateway.post("/v1/recommendations", json={"user_id": user, "k": 10, "context": context}).json()
        assert (reply["status"], reply["version"]) == ("ok", "now"), reply
        answers.append([(item["item_id"], item["score"]) for item in reply["items"]])
    assert len({str(answer) for answer in answers}) == len(asked)
    for (user, context), answer, exposure in zip(asked, answers, rows(tmp_path / "log", "exposures"), strict=True):
        request = json.loads(exposure["request"])
        assert request["context"] == {"hour": CLOCK.at(START), **context}, "what the shop says goes before the clock"
        assert request["user_features"] == {"group": "b" if user == "other" else "a"}
        again = scorer.score([request])[0]["items"]
        assert [(item["item_id"], item["score"]) for item in again][: len(answer)] == answer, "what is logged replays"


def test_lists_and_audiences_are_of_the_hour_at_which_they_were_begun(mar: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(mar, tmp_path, "zip")
    for moment in (START, START + timedelta(hours=5)):
        begun = Wanted(now=moment)
        said = {"hour": CLOCK.at(moment)}
        assert Showing(tmp_path, begun, k=3, filters={}).asked["context"] == said
        audience._load(tmp_path, begun)
        assert audience._said == said
