"""Golden requests of every placement: an archive that is wrong at one of them alone is found wrong."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from components.package import step as package
from heterrec import recipes
from heterrec.data.sequences import read_sequences
from heterrec.training.export import save_model
from heterrec.training.loop import train
from serving.scoring.alike import parts_of
from serving.scoring.placed import (
    FOR_YOU,
    KINDS,
    OF_ARCHIVES,
    POPULAR,
    RANKING,
    SIMILAR,
    TOGETHER,
)
from serving.scoring.scorer import Scorer
from serving.torchserve.client import HttpReply
from serving.torchserve.goldens import differences
from tests.component.test_package import CARD
from tests.unit.heterrec.shop import write_shop

NETWORK, TABLES = "heterrec", "neighbours"
Contents = dict[str, Path]


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """Unpacked archives of a shop with baskets, by recipe: of a network with a memory, and of tables alone."""
    root = tmp_path_factory.mktemp("placed")
    write_shop(root / "sequences", basket=3)
    found = {}
    for name in (NETWORK, TABLES):
        config = replace(recipes.by_name(name), epochs=1, least_steps=0)
        if name == NETWORK:
            config = replace(config, model=replace(config.model, width=16, item_layers=1, max_history=6))
        save_model(train(read_sequences(root / "sequences"), config), root / name)
        archive = root / f"{name}_archive"
        archive.mkdir()
        places = {"sequences": root / "sequences", "model": root / name, "archive": archive}
        package.run(card=CARD.model_copy(update={"title": None}), **places, name="shop")
        found[name] = root / f"{name}_content"
        with zipfile.ZipFile(archive / "shop.mar") as mar:
            mar.extractall(found[name])
    return found


def goldens(content: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (content / "goldens.jsonl").read_text().splitlines()]


def of_placements(found: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Goldens by placement; those of a session, whose events have no features, by themselves."""
    by: dict[str, list[dict[str, Any]]] = {}
    for golden in found:
        history = golden["request"]["history"]
        session = history and not any("features" in event for event in history)
        by.setdefault("session" if session else golden["request"].get("placement", FOR_YOU), []).append(golden)
    return by


@pytest.mark.parametrize("recipe", [NETWORK, TABLES])
def test_goldens_ask_at_every_placement_that_the_archive_offers(recipe: str, contents: Contents) -> None:
    offered = json.loads((contents[recipe] / "serving.json").read_text())["placements"]
    found = of_placements(goldens(contents[recipe]))
    assert set(offered) == set(OF_ARCHIVES) and set(found) == {*offered, "session"}
    for placement in set(offered) - {FOR_YOU}:
        asked = [golden["request"] for golden in found[placement]]
        assert len(asked) > 1 and any("filters" in request for request in asked), placement
        assert all(golden["answer"]["items"] for golden in found[placement]), placement
    histories = {placement: {bool(each["request"]["history"]) for each in found[placement]} for placement in found}
    assert histories[SIMILAR] == histories[RANKING] == {True, False}, "for somebody and for nobody"
    assert {golden["request"].get("kind") for golden in found[POPULAR]} == set(KINDS)
    named = {each["request"]["user_id"] for placement in found for each in found[placement] if placement != FOR_YOU}
    assert named <= {"", *(each["request"]["user_id"] for each in found[FOR_YOU])}, "no more histories than before"


NOTHING = np.zeros(0, np.int64), np.zeros(0, np.float32)
FAULTS = {
    "session": lambda scorer: setattr(scorer._reader, "_present", {}),
    "taste": lambda scorer: setattr(scorer, "_taste", lambda rows, *_: np.arange(len(rows), dtype=float)),
    "alike": lambda scorer: setattr(scorer._alike, "_length_V", torch.ones_like(scorer._alike._length_V)),
    "order": lambda scorer: setattr(scorer._memory, "after", lambda row: NOTHING),
    "baskets": lambda scorer: setattr(scorer._shelves._baskets, "of", lambda row: NOTHING),
    "trending": lambda scorer: scorer._shelves._kinds.update(trending=scorer._shelves._kinds["popular"]),
    "nobody": lambda scorer: setattr(scorer._shelves, "events_V", scorer._shelves.events_V[::-1]),
    "filters": lambda scorer: setattr(
        scorer._shelves, "_filters", SimpleNamespace(forbidden=lambda asked: np.zeros(len(scorer._ids), bool))
    ),
    "filters of what is alike": lambda scorer: setattr(
        scorer._alike, "best", lambda given, k, hidden, _, best=scorer._alike.best: best(given, k, hidden, None)
    ),
}
"""What may go wrong at some placements and leaves "for you" as it is, with where it is to be seen."""
SEEN_AT = {
    "session": {"session"},
    "taste": {RANKING, SIMILAR},
    "alike": {SIMILAR},
    "order": {TOGETHER},
    "baskets": {TOGETHER},
    "trending": {POPULAR},
    "nobody": {RANKING},
    "filters": {RANKING, POPULAR, TOGETHER},
    "filters of what is alike": {SIMILAR},
}


def wrong(scorer: Scorer, content: Path) -> dict[str, list[str]]:
    """What is answered otherwise than a golden says, by placement."""
    found: dict[str, list[str]] = {}
    for placement, asked in of_placements(goldens(content)).items():
        answers = scorer.score([golden["request"] for golden in asked])
        for golden, answer in zip(asked, answers, strict=True):
            if told := differences(golden, HttpReply(200, answer)):
                found.setdefault(placement, []).append(f"{golden['request']}: {told}")
    return found


@pytest.mark.parametrize("recipe", [NETWORK, TABLES])
def test_the_scorer_answers_at_every_placement_as_the_trained_model_does(recipe: str, contents: Contents) -> None:
    assert wrong(Scorer.load(contents[recipe]), contents[recipe]) == {}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_at_one_placement_alone_is_found_wrong(fault: str, contents: Contents) -> None:
    scorer = Scorer.load(contents[NETWORK])
    FAULTS[fault](scorer)
    assert wrong(scorer, contents[NETWORK]).keys() == SEEN_AT[fault]


@pytest.mark.parametrize("names", permutations(["identity", "features", "appeal", "popularity"]))
def test_the_parts_of_an_item_s_row_are_where_they_are_however_the_contract_is_sorted(names: Sequence[str]) -> None:
    size = {"identity": 16, "features": 8, "appeal": 1, "popularity": 1}
    assert parts_of({"parts": {name: size[name] for name in names}}, memory=True) == {
        "identity": slice(0, 16), "features": slice(16, 24), "appeal": slice(24, 25), "popularity": slice(25, 26),
    }  # fmt: skip
