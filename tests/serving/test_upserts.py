"""What a request brings along is answered as if the catalogue had had it from the beginning."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from feature_repo.kinds import KINDS
from heterrec.data.sequences import NOW, Catalogue, Sequences, read_sequences
from heterrec.inference.answers import Answers, Loaded
from heterrec.memory import neighbours
from heterrec.memory.gates import over, remember
from heterrec.memory.neighbours import Gate, Memory
from heterrec.model.network import HeterRecNetwork
from heterrec.recipes import TrainConfig
from heterrec.training.export import UserProgram
from heterrec.training.item_program import ItemProgram
from serving.scoring.remembering import Remembering
from serving.scoring.retrieval import Exact
from serving.scoring.scorer import Answer, Scorer
from tests.unit.heterrec.shop import KINDS as SHOP
from tests.unit.heterrec.shop import write_shop
from tests.unit.heterrec.small import SMALL, changed, encoder_of, lively

NEW, CHANGED = ["new0", "new1", "new2"], ["i003", "i007"]
FILTERABLE = {name: form for name, kind in SHOP.items() if (form := KINDS[kind].request) is not None}
FEATURES = [
    {"name": name, "holds": KINDS[kind].storage.name.lower(), "nullable": True, "derived": False}
    for name, kind in SHOP.items()
]
SINCE = 20_600.0


def columns_of(catalogue: Catalogue) -> dict[str, list[Any]]:
    return catalogue.columns(NOW)


def with_rows(catalogue: Catalogue, ids: Sequence[str], like: Sequence[int]) -> Catalogue:
    """The catalogue and further items, which are like these rows of it."""
    available = np.append(catalogue.available_at, catalogue.available_at[list(like)])
    more = changed(catalogue, lambda values: [*values, *(values[row] for row in like)])
    return replace(more, item_ids=[*catalogue.item_ids, *ids], available_at=available)


def with_values_of(catalogue: Catalogue, ids: Sequence[str], like: Sequence[int]) -> Catalogue:
    """The catalogue with the features of other rows for these items."""
    place = {catalogue.item_ids.index(item): row for item, row in zip(ids, like, strict=True)}
    return changed(catalogue, lambda values: [values[place.get(row, row)] for row in range(len(values))])


def memory_of(sequences: Sequences) -> Memory:
    """What is alike by content, which a gateway could not know of an item, plays no part."""
    memory = remember(sequences, ["together", "own"])
    gate = Gate(trust=0.8, bias_K=[0.3 * k for k in range(neighbours.BUCKETS)], gain_K=[0.7] * neighbours.BUCKETS,
                weight_CK=[[each] * neighbours.BUCKETS for each in (1.0, 0.0, 2.0)], trust_new=0.6)  # fmt: skip
    memory.beside = gate
    return memory


class Shop:
    """One model over any catalogue, as the scorer of an archive."""

    def __init__(self, root: Path, *, tokens: str, remembers: bool) -> None:
        torch.manual_seed(0)
        self.data = read_sequences(write_shop(root / "shop"))
        encoder = encoder_of(self.data)
        config = TrainConfig(model=replace(SMALL, tokens=tokens), memory=())
        model = lively(HeterRecNetwork(config.model, encoder)).eval()
        memory = memory_of(self.data) if remembers else None
        self.loaded = Loaded(model, encoder, config, memory, self.data.catalogue.item_ids)
        self.root = root

    def scorer(self, catalogue: Catalogue, name: str) -> Scorer:
        answers = Answers(self.loaded, catalogue, NOW)
        columns, count = columns_of(catalogue), len(catalogue)
        memory, trust = None, None
        if self.loaded.memory is not None:
            root = self.root / name
            root.mkdir()
            over(self.loaded.memory, self.loaded.item_ids, catalogue).save(root / "memory.npz")
            memory, trust = Remembering(root, neighbours, alone=False), self.loaded.memory.beside.trust
        events = np.bincount(self.data.row, minlength=count).tolist()
        items = {
            "item_id": catalogue.item_ids, "title": columns["title"], "events": events, "trend": [0.0] * count,
            "since": [20_000.0 + row if item not in NEW else SINCE for row, item in enumerate(catalogue.item_ids)],
            "features": {each: columns[each] for each in FILTERABLE},
        }  # fmt: skip
        contract = {
            "model": "shop", "version": name, "width": answers.items.shape[1], "max_history": 12, "default_k": 10,
            "max_k": 50, "exclude_seen": True, "filterable": FILTERABLE, "digests": {}, "item_features": FEATURES,
            "title": "title", "parts": parts(answers),
        }  # fmt: skip
        matrix = torch.from_numpy(answers.items)
        return Scorer(
            program=UserProgram(self.loaded.model, self.loaded.encoder, catalogue, NOW, trust),  # type: ignore[arg-type]
            encoder=self.loaded.encoder,
            memory=memory,
            retrieval=Exact(matrix),
            items=items,
            contract=contract,
            matrix=matrix,
            item_program=ItemProgram(self.loaded.model, self.loaded.encoder),  # type: ignore[arg-type]
        )


def parts(answers: Answers) -> dict[str, int]:
    from components.package.step import parts as of_answers

    return of_answers(answers)


@pytest.fixture(scope="module", params=[("flatten", True), ("flatten", False), ("sum", True)], ids=str)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    tokens, remembers = request.param
    return Shop(tmp_path_factory.mktemp("upserts"), tokens=tokens, remembers=remembers)


@pytest.fixture(scope="module")
def whole(shop: Shop) -> Catalogue:
    """As the shop is now."""
    new = with_rows(shop.data.catalogue, NEW, [5, 11, 20])
    new = changed(new, lambda values: [*values[:-1], None])  # of the last nothing is known
    return with_values_of(new, CHANGED, [12, 25])


def entries(catalogue: Catalogue, ids: Sequence[str]) -> list[dict[str, Any]]:
    columns = columns_of(catalogue)
    rows = [catalogue.item_ids.index(item) for item in ids]
    features = [{name: plain(column[row]) for name, column in columns.items()} for row in rows]
    return [{"item_id": item, "features": each, "since": SINCE} for item, each in zip(ids, features, strict=True)]


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value


def requests(ids: Sequence[str], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Of every placement, by shoppers and by nobody, with all that can limit an answer; no history has a changed item,
    whose tokens a program has frozen."""
    unchanged = [item for item in ids if item not in CHANGED and item not in NEW]
    found: list[dict[str, Any]] = []
    for _ in range(40):
        history = [
            {"item_id": str(item), "event_time": f"2026-02-0{n + 1}T10:00:00Z", "features": {"price": 3.0 + n}}
            for n, item in enumerate(rng.choice(unchanged, rng.integers(0, 5)))
        ]
        asked: dict[str, Any] = {"history": history, "k": int(rng.integers(1, 30))}
        placement = str(rng.choice(["for_you", "ranking", "similar", "popular"]))
        if placement != "for_you":
            asked["placement"] = placement
        if placement in ("ranking", "similar"):
            asked["items"] = rng.choice([*ids, "none"], 12 if placement == "ranking" else 2, replace=False).tolist()
        if placement == "popular":
            asked["kind"] = str(rng.choice(["popular", "new", "trending"]))
        if rng.random() < 0.4:
            asked["filters"] = {"brand": {"not": ["brand1"]}, "price": {"min": 2.0}}
        if rng.random() < 0.4:
            asked["exclude"] = rng.choice(ids, 4, replace=False).tolist()
        if rng.random() < 0.3:
            asked["exclude_seen"] = False
        if rng.random() < 0.3:
            asked["explain"] = True
        found.append(asked)
    return found


def by_item(answer: Answer) -> dict[str, Any]:
    return {item["item_id"]: item for item in answer["items"]}


def test_what_is_brought_along_is_ranked_as_if_the_catalogue_had_always_had_it(shop: Shop, whole: Catalogue) -> None:
    before, after = shop.scorer(shop.data.catalogue, "before"), shop.scorer(whole, "after")
    asked = requests(whole.item_ids, np.random.default_rng(3))
    brought = entries(whole, [*NEW, *CHANGED])
    expected, found = after.score(asked), before.score([{**each, "upserts": brought} for each in asked])
    met: set[str] = set()
    for request, one, other in zip(asked, expected, found, strict=True):
        assert "error" not in other, other
        scores = [[item["score"] for item in answer["items"]] for answer in (one, other)]
        assert scores[1] == pytest.approx(scores[0], abs=1e-4), request
        ours, theirs = by_item(other), by_item(one)
        same_score = {round(score, 3) for score in scores[0]}
        if len(same_score) == len(scores[0]):
            assert list(ours) == list(theirs)
            assert [item["title"] for item in ours.values()] == [item["title"] for item in theirs.values()]
        for item in ours.values() if request.get("explain") else ():
            assert sum(share["share"] for share in item["why"]) == pytest.approx(item["score"], abs=1e-3)
        met.update(ours)
    assert {*NEW, *CHANGED} <= met, "all of them were answered somewhere"


@pytest.fixture(scope="module")
def before(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return shop.scorer(shop.data.catalogue, f"now-{tmp_path_factory.mktemp('now').name}")


def answered(scorer: Scorer, brought: list[dict[str, Any]], **asked: Any) -> list[str]:
    history = [{"item_id": item, "event_time": "2026-02-01T10:00:00Z"} for item in asked.pop("seen", ["i001"])]
    others = [f"i0{n}" for n in range(10, 20)]  # so few are left that all of them are answered
    asked["exclude"] = [*others, *asked.get("exclude", ())]
    (answer,) = scorer.score([{"history": history, "k": 30, **asked, "upserts": brought}])
    return list(by_item(answer))


def test_what_was_seen_excluded_or_is_not_wanted_any_more_is_not_answered(before: Scorer, whole: Catalogue) -> None:
    brought = entries(whole, [*NEW, *CHANGED])
    every = {*NEW, *CHANGED}
    assert every <= {*answered(before, brought)}
    assert every & {*answered(before, brought, seen=["i001", "new0", "i003"])} == {"new1", "new2", "i007"}
    assert every <= {*answered(before, brought, seen=["i001", "new0", "i003"], exclude_seen=False)}
    assert every & {*answered(before, brought, exclude=["new1", "i007"])} == {"new0", "new2", "i003"}
    brands = [entry["features"]["brand"] for entry in brought]
    for brand in {each for each in brands if each is not None}:
        wanted = {entry["item_id"] for entry in brought if entry["features"]["brand"] == brand}
        for seen in (["i001"], []):  # by the model, and where nothing is known by counts
            assert every & {*answered(before, brought, seen=seen, filters={"brand": [brand]})} == wanted


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"features": {"price": "dear"}}, "upserts[0].features.price"),
        ({"features": {"image": [1.0, None]}}, "upserts[0].features.image"),
        ({"features": {"tags": "red"}}, "upserts[0].features.tags"),
        ({"features": {"brand": 3}}, "upserts[0].features.brand"),
        ({"features": []}, "upserts[0]"),
        ({"item_id": 3}, "upserts[0]"),
        ({"since": "now"}, "upserts[0].since"),
        ({"more": 1}, "upserts[0]"),
    ],
)
def test_a_bad_item_is_refused_by_its_field(before: Scorer, wrong: dict[str, Any], field: str) -> None:
    entry = {"item_id": "x", "features": {}, "since": 1.0, **wrong}
    good = {"history": [], "upserts": [{"item_id": "x", "features": {}, "since": 1.0}]}
    bad, many, none, fine = before.score(
        [{"history": [], "upserts": [entry]}, {"history": [], "upserts": [entry] * 257}, {"history": []}, good]
    )
    assert bad["error"]["field"] == field and many["error"]["field"] == "upserts"
    assert "error" not in none and "error" not in fine


def test_of_what_was_merely_looked_at_nothing_is_hidden(before: Scorer, whole: Catalogue) -> None:
    """Where events are of kinds, a new item is hidden by those that are predicted alone, as items of the catalogue."""
    reader = before._reader
    kinds = {"view": 1, "buy": 2}
    history = [{"item_id": f"new{n}", "event_time": "2026-02-01T10:00:00Z", "event_type": kind}
               for n, kind in enumerate(["view", "buy", "unheard of"])]  # fmt: skip
    upserts = entries(whole, NEW)
    reader._types, reader._others = kinds, frozenset([1])
    try:
        request = reader.read({"history": history, "upserts": upserts})
    finally:
        reader._types, reader._others = {}, frozenset()
    assert request.upserts is not None
    assert [request.upserts.named(row)[0] for row in request.upserts.open] == ["new0", "new2"]
