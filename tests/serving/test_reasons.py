"""Why an item is answered: shares add up to its score, whoever answers, and the greatest is what was planted."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.package import step as package
from heterrec.data.sequences import read_sequences
from heterrec.recipes import neighbours
from heterrec.training.export import save_model
from heterrec.training.loop import train
from serving.scoring.reasons import SHOWN
from serving.scoring.scorer import Scorer
from serving.torchserve.server import TorchServe
from tests.component.shop_card import CARD
from tests.serving.open_gateway import OpenGateway, rows
from tests.serving.test_remembered import NOBODY, archives, bought, read, serving  # noqa: F401  (fixture)
from tests.unit.heterrec.shop import DAYS, write

ITEMS, SHOPPERS = 40, 80
BEFORE, AFTER, ONE, OTHER = "i001", "i002", "i003", "i004"
"""The second is bought in the basket after the first, and the last two lie in one basket."""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of a shop in which two things are no chance."""
    root, rng, events = tmp_path_factory.mktemp("planted"), np.random.default_rng(0), []
    for user in range(SHOPPERS):
        baskets = [[int(item)] for item in rng.integers(5, ITEMS, 6)]
        start = int(rng.integers(0, 4))
        baskets[start : start + 2] = [[1], [2]] if user % 2 else [[3, 4], [int(rng.integers(5, ITEMS))]]
        days = np.sort(rng.uniform(0, DAYS, len(baskets)))
        for number, (day, basket) in enumerate(zip(days, baskets, strict=True)):
            split = "train" if day < DAYS - 10 else "validation" if day < DAYS - 5 else "test"
            events += [{"user": user, "item": item, "day": day, "basket": number, "split": split} for item in basket]
    brands = {"brand": [f"brand{number % 4}" for number in range(ITEMS)]}
    sequences = write(root / "sequences", columns=brands, arrives=np.zeros(ITEMS), events=events, repeats=False)
    (root / "model").mkdir()
    save_model(train(read_sequences(sequences), neighbours()), root / "model")
    (root / "archive").mkdir()
    card = CARD.model_copy(update={"repeats": False})
    package.run(card=card, sequences=sequences, model=root / "model", archive=root / "archive", name="planted")
    return root / "archive" / "planted.mar"


@pytest.fixture(scope="module")
def scorers(
    archives: dict[str, Path],  # noqa: F811
    planted: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Scorer]]:
    """A network with its memory, that network without one, and tables alone, twice."""
    made = {}
    for name, mar in {**archives, "planted": planted}.items():
        folder = tmp_path_factory.mktemp("reasons")
        with zipfile.ZipFile(mar) as packed:
            packed.extractall(folder)
        if name != "no memory":  # which is made for the gateway alone: its contract still names the memory
            made[name] = Scorer.load(folder)
    yield made


KNOWN = [f"i{number:03d}" for number in range(ITEMS)]
REQUESTS = st.fixed_dictionaries(
    {
        "history": st.lists(st.sampled_from([*KNOWN, "gone"]), max_size=14).map(lambda items: bought(*items)),
        "placement": st.sampled_from(["for_you", "similar", "ranking", "popular", "together"]),
        "items": st.lists(st.sampled_from([*KNOWN, "gone"]), max_size=6),
        "k": st.integers(1, 20),
    }
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(request=REQUESTS)
def test_shares_add_up_to_the_score_in_every_placement(request: dict[str, Any], scorers: dict[str, Scorer]) -> None:
    for name, scorer in scorers.items():
        explained, bare = scorer.score([{**request, "explain": True}, request])
        assert "error" not in explained, (name, explained)
        for item, expected in zip(explained["items"], bare["items"], strict=True):
            why = item.pop("why")
            assert item["item_id"] == expected["item_id"]
            assert item["score"] == pytest.approx(expected["score"], rel=1e-4, abs=1e-4)
            shares = [share["share"] for share in why]
            assert sum(shares) == pytest.approx(item["score"], rel=1e-4, abs=1e-4), (name, why)
            assert shares == sorted(shares, key=lambda share: -abs(share)) and len(why) <= SHOWN + 6
            of = {event["item_id"] for event in request["history"]} | set(request["items"])
            assert {share["item_id"] for share in why} <= {*of, None}


@settings(max_examples=30, deadline=None, derandomize=True)
@given(request=REQUESTS)
def test_so_they_do_where_the_gateway_answers_from_the_tables(
    request: dict[str, Any],
    archives: dict[str, Path],  # noqa: F811
    planted: Path,
) -> None:
    for mar in (archives["network"], planted):
        if request["placement"] == "popular":
            continue
        for item in read(mar).answer({**request, "explain": True}) or []:
            shares = [share["share"] for share in item["why"]]
            assert sum(shares) == pytest.approx(item["score"], rel=1e-4, abs=1e-4)


def test_the_greatest_reason_is_the_planted_cause(scorers: dict[str, Scorer]) -> None:
    (answer,) = scorers["planted"].score([{"history": bought("i009", BEFORE, "i020"), "explain": True}])
    why = {item["item_id"]: item["why"] for item in answer["items"]}
    reason = next(share for share in why[AFTER] if share["by"] != "popularity")
    assert (reason["by"], reason["item_id"], reason["exact"]) == ("together", BEFORE, False)
    assert AFTER in list(why)[:3]


def test_bought_together_comes_from_baskets_and_from_the_order_through_the_gateway(
    planted: Path, server: TorchServe, open_gateway: OpenGateway, tmp_path: Path
) -> None:
    server.register(planted)
    rollout = serving(planted)
    assert rollout.champion is not None
    try:
        client = open_gateway(rollout, history=lambda user: [])
        away = open_gateway(rollout, history=lambda user: [], torchserve=NOBODY)
        for given_, expected, by in ((ONE, OTHER, "basket"), (BEFORE, AFTER, "order")):
            body = {"items": [given_, "gone"], "k": 5, "explain": True}
            answers = [each.post("/v1/bought-together", json=body).json() for each in (client, away)]
            assert [answer["status"] for answer in answers] == ["ok", "fallback"]
            assert answers[0]["items"] == answers[1]["items"], "from the archive, or from its tables in the gateway"
            first = answers[0]["items"][0]
            assert first["item_id"] == expected and given_ not in [item["item_id"] for item in answers[0]["items"]]
            assert (first["why"][0]["by"], first["why"][0]["item_id"]) == (by, given_)
        strange = client.post("/v1/bought-together", json={"items": ["gone"], "k": 5}).json()
        assert len(strange["items"]) == 5, "popular ones, of what nothing is known of"
    finally:
        server.unregister("planted", rollout.champion.version)
    assert {row["placement"] for row in rows(tmp_path / "log", "exposures")} == {"together"}
