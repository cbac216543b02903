"""The front door is the pipeline's own code behind two tables."""

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from heterrec.data.sequences import NOW, Sequences
from heterrec.estimator import HeterRec, load
from heterrec.evaluation.comparison import compare
from heterrec.evaluation.metrics import rank
from heterrec.inference.answers import Answers, judged
from heterrec.inference.filtering import allowed
from heterrec.progress_bar import Bar
from heterrec.recipes import TrainConfig
from heterrec.training.export import load_model
from heterrec.training.loop import train
from heterrec.training.refit import refit
from heterrec.training.trained import Update
from serving.scoring.filters import Filters
from serving.scoring.forms import FORMS

START = datetime(2026, 1, 1, tzinfo=UTC)
TINY = {"model": {"width": 16, "item_layers": 1, "max_history": 12}, "epochs": 2, "epoch_events": None}


def tables(seed: int = 0, users: int = 40, items: int = 30) -> tuple[dict[str, Any], dict[str, Any]]:
    """Shoppers who keep to a brand."""
    rng = np.random.default_rng(seed)
    brand = rng.integers(0, 4, items)
    events: dict[str, list[Any]] = {"user_id": [], "item_id": [], "event_time": []}
    for user in range(users):
        own = rng.permutation(np.flatnonzero(brand == rng.integers(4)))[: rng.integers(3, 9)]
        for day, item in enumerate(own.tolist()):
            events["user_id"].append(f"u{user}")
            events["item_id"].append(f"i{item}")
            events["event_time"].append(START + timedelta(days=day, seconds=int(rng.integers(1000))))
    listed = {
        "item_id": [f"i{item}" for item in range(items)] + ["new"],
        "brand": [f"brand{number}" for number in brand] + ["brand0"],
        "price": [*rng.lognormal(2, 1, items).tolist(), None],
        "tags": [[f"tag{number}", "all"] for number in brand] + [[""]],
    }
    return events, listed


@pytest.fixture(scope="module")
def fitted() -> HeterRec:
    return HeterRec(TINY, progress=False).fit(*tables())


@pytest.fixture(scope="module")
def tables_alone() -> HeterRec:
    return HeterRec("neighbours", progress=False).fit(*tables())


@pytest.fixture(params=["fitted", "tables_alone"])
def model(request: pytest.FixtureRequest) -> Iterator[HeterRec]:
    yield request.getfixturevalue(request.param)


def brute(model: HeterRec, users: list[str], k: int, mask: Any, *, seen: bool) -> list[tuple[str, int, str, float]]:
    """Every item by every user, one by one, from the scores that the archive is made of."""
    sequences = model.sequences
    answers = Answers.to_serve((model._serving or model.trained).loaded, sequences)
    rows = []
    for user in users:
        number = sequences.user_ids.index(user)
        first, stop = sequences.offsets[number : number + 2].tolist()
        asked = sequences.queries("test").take(slice(0, 1))
        asked = replace(asked, user=np.array([number]), start=np.array([first]), stop=np.array([stop]), last=asked.last)
        (score,) = answers.scores(sequences, asked)(np.array([0]))
        own = set() if seen else set(sequences.row[first:stop].tolist())
        best = sorted((-score[row], row) for row in range(len(score)) if mask[row] and row not in own)[:k]
        rows += [
            (user, place, sequences.catalogue.item_ids[row], -value) for place, (value, row) in enumerate(best, start=1)
        ]
    return rows


@pytest.mark.parametrize("filters", [None, {"brand": ["brand1", "brand2"]}, {"price": {"min": 5}, "tags": ["tag3"]}])
@pytest.mark.parametrize("exclude", [None, True, False])
def test_recommends_the_best_of_what_is_allowed(
    model: HeterRec, filters: Any, exclude: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heterrec.estimator._AT_ONCE", 70)  # two users at a time
    users = ["u7", "u0", "u31", "u7", "u9"]
    found = model.recommend(users, k=6, filters=filters, exclude_seen=exclude)
    mask = allowed(model.sequences.catalogue, filters or {})
    expected = brute(model, users, 6, mask, seen=exclude is False)
    assert [tuple(row.values())[:3] for row in found.to_pylist()] == [row[:3] for row in expected]
    np.testing.assert_allclose(found["score"].to_numpy(), [row[3] for row in expected], atol=1e-5)


def test_all_users_are_asked_where_none_is_named(model: HeterRec) -> None:
    found = model.recommend(k=1)
    assert found["user_id"].to_pylist() == model.sequences.user_ids
    assert found.column_names == ["user_id", "rank", "item_id", "score"]


def test_training_is_that_of_the_pipeline(fitted: HeterRec) -> None:
    again = train(fitted.sequences, fitted.config)
    assert again.model is not None and fitted.trained.model is not None
    for name, value in again.model.state_dict().items():
        torch.testing.assert_close(fitted.trained.model.state_dict()[name], value, rtol=0, atol=0)


def test_evaluation_is_that_of_the_pipeline(fitted: HeterRec) -> None:
    found, sequences = fitted.evaluate({"newest": newest}), fitted.sequences
    queries = sequences.queries("test")
    rankings = {
        "model": rank(judged(fitted.trained.loaded, sequences, queries), sequences, queries),
        "neighbour tables": rank(
            judged(HeterRec("neighbours", progress=False).fit(sequences).trained.loaded, sequences, queries),
            sequences,
            queries,
        ),
        "newest": rank(newest(sequences, queries), sequences, queries),
    }
    rows = {row["model"]: row for row in found.table().to_pylist()}
    assert list(rows) == ["model", "neighbour tables", "popularity", "newest"]
    for name, ranking in rankings.items():
        for metric in ("hr", "ndcg", "mrr"):
            assert rows[name][f"{metric}@10"] == pytest.approx(ranking.mean(metric, 10))
    expected = compare(rankings["newest"], rankings["model"])
    assert (rows["newest"]["low"], rows["newest"]["high"]) == pytest.approx((expected.low, expected.high))
    assert rows["model"]["low"] is None
    assert all(name in str(found) for name in rows)


def newest(sequences: Sequences, queries: Any) -> Any:
    """A baseline of one's own."""
    since = sequences.catalogue.available_at.astype(np.float32)
    return lambda numbers: np.broadcast_to(since, (len(numbers), len(since)))


def test_what_is_saved_answers_as_before(model: HeterRec, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    for found, before in (
        (again.recommend(k=5), model.recommend(k=5)),
        (again.similar_items(["i0", "new"]), model.similar_items(["i0", "new"])),
        (again.evaluate().table(), model.evaluate().table()),
    ):
        assert found.drop_columns("score" if "score" in found.column_names else []).equals(
            before.drop_columns("score" if "score" in before.column_names else [])
        )
    np.testing.assert_allclose(
        again.recommend(k=5)["score"].to_numpy(), model.recommend(k=5)["score"].to_numpy(), atol=1e-6
    )
    again.save(tmp_path / "model")  # over itself
    load(tmp_path / "model").evaluate()


def test_a_refit_recommends_and_the_judged_model_is_judged_still(tmp_path: Path) -> None:
    model = HeterRec(TINY, progress=False).fit(*tables())
    before, judgement = model.recommend(k=3), model.evaluate().table()
    expected = refit(model.trained.loaded, model.trained.recipe, model.sequences)
    after = model.refit().recommend(k=3)
    assert not after.equals(before)
    assert model.evaluate().table().equals(judgement)
    assert expected.model is not None and model._serving is not None and model._serving.model is not None
    for name, value in expected.model.state_dict().items():
        torch.testing.assert_close(model._serving.model.state_dict()[name], value, rtol=0, atol=0)
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.recommend(k=3)["item_id"].equals(after["item_id"])
    assert again.evaluate().table().equals(judgement)


def test_similar_items_are_the_nearest_and_never_the_item_itself(fitted: HeterRec) -> None:
    found = fitted.similar_items(["i3", "new"], k=4).to_pylist()
    assert [(row["similar_to"], row["rank"]) for row in found] == [(n, r) for n in ("i3", "new") for r in range(1, 5)]
    matrix = Answers(fitted.trained.loaded, fitted.sequences.catalogue, NOW)
    from heterrec.inference.answers import item_matrix

    assert fitted.trained.model is not None
    vector = item_matrix(fitted.trained.model, fitted.trained.encoder, matrix.catalogue, NOW)[:, :-1]
    unit = vector / np.linalg.norm(vector, axis=1, keepdims=True)
    ids = matrix.catalogue.item_ids
    cosine = unit @ unit[ids.index("i3")]
    cosine[ids.index("i3")] = -np.inf
    assert [row["item_id"] for row in found[:4]] == [ids[row] for row in np.argsort(-cosine, kind="stable")[:4]]


def test_tables_alone_find_what_is_bought_with_an_item_and_alike(tables_alone: HeterRec) -> None:
    brands = dict(zip(tables()[1]["item_id"], tables()[1]["brand"], strict=True))
    found = tables_alone.similar_items(["i3"], k=4).to_pylist()
    assert found and all(brands[row["item_id"]] == brands["i3"] and row["item_id"] != "i3" for row in found)


def test_what_cannot_be_had_yet_is_not_recommended() -> None:
    events, items = tables()
    items = {**items, "since": [START - timedelta(days=1)] * 30 + [START + timedelta(days=900)]}
    model = HeterRec("neighbours", progress=False).fit(events, items, available_at="since")
    assert "new" not in model.recommend(k=40, exclude_seen=False)["item_id"].to_pylist()
    assert "new" not in model.similar_items(["i0"], k=40)["item_id"].to_pylist()


def test_filters_mean_what_they_mean_in_a_request(fitted: HeterRec) -> None:
    catalogue = fitted.sequences.catalogue
    forms = {feature["name"]: feature["kind"] for feature in catalogue.features if feature["kind"] in FORMS}
    served = Filters(forms, catalogue.fixed, len(catalogue))
    for wanted in (
        {"brand": ["brand0"]},
        {"brand": ["brand0", "none"], "tags": ["tag1", "all"]},
        {"price": {"min": 3}},
        {"price": {"max": 9.5}, "tags": ["all"]},
        {"price": {"min": 3, "max": 3}},
        {"tags": [""]},
    ):
        np.testing.assert_array_equal(allowed(catalogue, wanted), ~served.forbidden(served.read(wanted)), str(wanted))
    for wrong in (
        {"colour": ["red"]}, {"brand": "brand0"}, {"brand": []}, {"brand": [1]}, {"price": 3}, {"price": {}},
        {"price": {"least": 1}}, {"price": {"min": True}}, {"price": {"min": 2, "max": 1}}, {"price": {"min": np.nan}},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="filters"):
            allowed(catalogue, wrong)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.recommend(["u0", "ghost"]), r"users: 'ghost' \(1 of 2\): no user with an event"),
        (lambda model: model.recommend("u0"), r"users: found the text 'u0', expected a list"),
        (lambda model: model.recommend(["u0"], k=0), "k: found 0, expected a whole number of at least 1"),
        (lambda model: model.recommend(["u0"], filters={"size": ["L"]}), "filters: 'size' cannot be filtered by"),
        (lambda model: model.similar_items(["ghost"]), "items: 'ghost' .*: no item of the catalogue"),
        (lambda model: model.evaluate(name="popularity"), "name: 'popularity' is a baseline"),
        (lambda model: model.fit(model.sequences, split="time"), "fit: sequences hold items, columns and split"),
        (lambda _: HeterRec("heterrek"), "recipe 'heterrek' is unknown, expected one of"),
        (lambda _: HeterRec(changes={"model.widht": 3}), r"config\.model\.widht: no such field"),
        (lambda _: HeterRec(budget="huge"), "budget: found 'huge'"),
        (lambda _: load("nowhere"), r"nowhere/heterrec.json: no such file"),
    ],
)
def test_a_wrong_question_is_told(tables_alone: HeterRec, call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(tables_alone)


def test_nobody_held_out_is_told() -> None:
    events = {"user_id": ["a", "b"], "item_id": ["x", "y"], "event_time": [START, START]}
    with pytest.raises(ValueError, match="test: no shopper has an event held out and one before it"):
        HeterRec("neighbours", progress=False).fit(events).evaluate()


def test_without_a_fit_there_is_no_answer() -> None:
    for call in (lambda m: m.recommend(["a"]), lambda m: m.evaluate(), lambda m: m.save("x"), lambda m: m.refit()):
        with pytest.raises(RuntimeError, match="is not fitted yet; call fit"):
            call(HeterRec())


def test_save_writes_into_no_folder_of_other_things(tables_alone: HeterRec, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and holds no saved model"):
        tables_alone.save(tmp_path)


def test_a_pickle_in_place_of_weights_is_not_run(fitted: HeterRec, tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "owned",)

    fitted.save(tmp_path / "model")
    torch.save({"weights": Attack()}, tmp_path / "model" / "judged" / "weights.pt")
    with pytest.raises(ValueError, match=r"weights\.pt: holds more than tensors"):
        load(tmp_path / "model")
    assert not (tmp_path / "owned").exists()


def test_what_is_saved_is_of_the_pipeline_s_formats(fitted: HeterRec, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model")
    found = load_model(tmp_path / "model" / "judged")
    assert found.config == fitted.trained.config
    assert TrainConfig.from_json((tmp_path / "model" / "judged" / "recipe.json").read_text()) == fitted.config


def test_the_bar_ends_its_line_with_the_last_step(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar("fit")
    for step in (1, 2, 3):
        bar(Update(1, 1, step, 3, 2.5, 10.0, 1.0, None))
    shown = capsys.readouterr().err
    assert re.search(r"fit \[#{24}\] epoch 1/1  loss 2.500", shown) and shown.endswith("\n")


def test_a_table_of_answers_is_arrow(tables_alone: HeterRec) -> None:
    assert isinstance(tables_alone.recommend(["u0"], k=2), pa.Table)
