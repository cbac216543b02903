"""The model gate as a step: real models ranked on a small shop, what is released, and the decision that says so."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from components.evaluate import held, step, tables
from components.shared import choice
from components.shared.model_names import NEIGHBOURS, baseline_name, name_of
from components.shared.recipe_digest import recipe_digest
from feature_repo.card import DatasetCard
from heterrec import recipes
from heterrec.beyond import ShownScores, beyond
from heterrec.data.sequences import read_sequences
from heterrec.evaluation.baselines import popularity
from heterrec.evaluation.comparison import MeanDifference
from heterrec.evaluation.metrics import rank
from heterrec.inference.answers import judged
from heterrec.training.export import load_model, save_model
from heterrec.training.loop import train
from runtime.decision import Decision
from tests.component.shop_card import CARD
from tests.reasons import assert_told
from tests.unit.heterrec.shop import write_shop


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("evaluate") / "sequences", users=120)


@pytest.fixture(scope="module")
def models(sequences: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A trained model, one of item IDs, the trained one without its memory and with its items' tokens confused, the
    neighbour tables alone, and such of items that are alike, which tell little here: `good` is surely better than
    these and cannot be told from the whole tables, and `broken` is surely worse than those."""
    root, made = tmp_path_factory.mktemp("evaluate"), {}
    recipes_ = {
        "good": recipes.heterrec(),
        "baseline": recipes.sasrec(),
        "tables": recipes.neighbours(),
        "poor tables": replace(recipes.neighbours(), memory=("content",)),
    }
    for name, recipe in recipes_.items():
        tiny = replace(recipe, epochs=3, least_steps=0)
        tiny = replace(tiny, model=replace(tiny.model, width=16, item_layers=1, max_history=10))
        made[name] = root / name
        save_model(train(read_sequences(sequences), tiny if tiny.network else recipe), made[name])
    made["broken"] = root / "broken"
    shutil.copytree(made["good"], made["broken"], ignore=shutil.ignore_patterns("memory*"))
    weights = torch.load(made["good"] / "weights.pt", weights_only=True)
    torch.save({name: -value for name, value in weights.items()}, made["broken"] / "weights.pt")
    return made


def champion_of(root: Path, sequences: Path, model: Path | None, *, recipe: str = "", **facts: Any) -> Path:
    """The artifact that resolve would make where `model` serves and is the reference."""
    root.mkdir()
    told: dict[str, Any] = {"version": None}
    if model is not None:
        digest = recipe or recipe_of(model, sequences)
        shutil.copytree(model, root / "model")
        told = {"version": "7", "recipe_digest": digest, "data_until": None, "reference": "6", "nights": [], **facts}
    (root / "champion.json").write_text(json.dumps(told))
    return root


@pytest.fixture
def gate(tmp_path: Path, sequences: Path, models: dict[str, Path]):
    def run(
        new: str, champion: str | None = None, *, card: DatasetCard = CARD, tables: str = "poor tables", **facts: Any
    ) -> Decision:
        against = champion_of(tmp_path / "champion", sequences, models[champion] if champion else None, **facts)
        (tmp_path / "evaluation").mkdir()
        step.run(
            card=card, sequences=sequences, model=models[new], baseline=models["baseline"], tables=models[tables],
            champion=against, evaluation=tmp_path / "evaluation",
        )  # fmt: skip
        decision = Decision.read(tmp_path / "evaluation")
        assert_told(decision)
        return decision

    return run


def report(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "evaluation" / "report.json").read_text())


def released(tmp_path: Path) -> tuple[str, str | None]:
    """What was judged, and what is released."""
    release = report(tmp_path)["release"]
    return release["judged"], release["released"]


def test_the_first_model_needs_to_beat_popularity_and_the_tables(gate, tmp_path: Path) -> None:
    decision = gate("good")
    assert decision.passed, [reason.message for reason in decision.reasons]
    assert {reason.check: reason.level for reason in decision.reasons} == {
        "better than popularity": "block",
        "better than neighbour tables": "block",
        "better than item ID only": "warn",
    }
    assert released(tmp_path) == ("HeterRec", "HeterRec") and report(tmp_path)["release"]["why"] == ""
    assert report(tmp_path)["nights"] == [] and not (tmp_path / "evaluation" / "night.parquet").exists()
    page = (tmp_path / "evaluation" / "page.html").read_text()
    assert "HeterRec" in page and "Released" not in page


def test_every_model_is_told_what_its_lists_are_like(gate, tmp_path: Path, sequences: Path) -> None:
    gate("good")
    found, data = report(tmp_path), read_sequences(sequences)
    assert set(found["beyond"]) == set(found["models"])
    queries = data.queries("test")
    shown = ShownScores(popularity(data), data, queries)
    rank(shown, data, queries)
    expected = beyond(shown.row_QK, data, queries, category="brand")
    assert expected is not None and found["beyond"]["popularity"] == pytest.approx(asdict(expected))
    page = (tmp_path / "evaluation" / "page.html").read_text()
    assert "What the lists are like" in page
    assert all(f"<td>{name}</td>" in page.split("What the lists are like")[1] for name in found["beyond"])


@pytest.mark.parametrize("new", ["good", "broken"])
def test_where_no_model_is_surely_better_the_tables_are_the_release_and_the_page_says_why(
    gate, tmp_path: Path, new: str
) -> None:
    """Which cannot be told from them, or is worse."""
    decision = gate(new, tables="tables")
    found, name = report(tmp_path), name_of(recipes.heterrec())
    assert decision.passed and released(tmp_path) == (name, "neighbour tables")
    short = next(reason for reason in decision.reasons if reason.check == "better than neighbour tables")
    assert (short.held, short.level) == (False, "warn") and short.message in found["release"]["why"]
    assert found["differences"]["neighbour tables"]["high"] > 0 or new == "broken"
    page = (tmp_path / "evaluation" / "page.html").read_text()
    assert f"Judged: {name}. Released: the neighbour tables" in page and short.message in page


def test_tables_that_are_not_surely_above_popularity_are_no_release(gate, tmp_path: Path) -> None:
    decision = gate("broken")
    assert not decision.passed and released(tmp_path) == ("HeterRec", None)
    assert "neighbour tables: better than popularity" in {reason.check for reason in decision.blocking}


def test_a_network_that_serves_stays_and_is_refreshed_where_the_window_cannot_tell_it_from_the_tables(
    gate, tmp_path: Path
) -> None:
    decision = gate("good", "good", tables="tables")
    assert decision.passed and released(tmp_path) == ("HeterRec", "HeterRec")
    checks = {reason.check: (reason.level, reason.held) for reason in decision.reasons}
    assert checks["no worse than the neighbour tables"] == ("block", True)
    assert checks["better than neighbour tables"] == ("warn", False)


def test_tables_never_take_the_place_of_a_network_that_is_not_surely_worse(gate, tmp_path: Path) -> None:
    decision = gate("broken", "good", tables="tables")
    assert not decision.passed and released(tmp_path) == ("HeterRec", None)
    kept = next(reason for reason in decision.reasons if reason.check == "neighbour tables: better than champion")
    assert not kept.held and "not surely above that of champion" in kept.message


def test_tables_surely_above_the_network_that_serves_are_a_candidate(gate, tmp_path: Path) -> None:
    decision = gate("broken", "broken", tables="tables")
    assert decision.passed and released(tmp_path) == ("HeterRec", "neighbour tables")
    assert not report(tmp_path)["rises"], "a candidate has its A/B test before it"
    assert report(tmp_path)["blessings"].keys() == {"HeterRec"}, "the tables are no refresh of the network"


def test_tables_that_serve_are_refreshed_by_tables_and_nights_are_kept_of_both(
    gate, tmp_path: Path, models: dict[str, Path], sequences: Path
) -> None:
    decision = gate("good", "tables", tables="tables")
    found = report(tmp_path)
    assert decision.passed and released(tmp_path) == ("HeterRec", "neighbour tables")
    assert found["blessings"]["neighbour tables"]["verdict"] == "no worse"
    assert "neighbour tables: no worse than the reference" in {reason.check for reason in decision.reasons}
    assert [night["file"] for night in found["nights"]] == ["night.parquet", "tables_night.parquet"]
    tables = pq.read_table(tmp_path / "evaluation" / "tables_night.parquet")
    assert tables["ours"].to_pylist() == tables["theirs"].to_pylist()
    assert found["nights"][1]["recipe"] == recipe_of(models["tables"], sequences) != found["recipe"]


@pytest.mark.parametrize("model", ["good", "broken"])
def test_the_tables_are_those_of_their_own_recipe_to_the_byte(
    model: str, models: dict[str, Path], sequences: Path, tmp_path: Path
) -> None:
    """Whether the model was given them, or has none."""
    told = tables.run(sequences=sequences, model=models[model], tables=tmp_path / "tables")
    assert told["fitted"] == (model == "broken")
    made = {path.name: path.read_bytes() for path in (tmp_path / "tables").iterdir()}
    assert made == {path.name: path.read_bytes() for path in models["tables"].iterdir()}


def test_a_better_network_is_a_candidate_against_tables_that_serve(gate, tmp_path: Path) -> None:
    decision = gate("good", "poor tables")
    assert decision.passed and released(tmp_path) == ("HeterRec", "HeterRec")
    assert "no worse than the champion" in {reason.check for reason in decision.reasons}


def recipe_of(model: Path, sequences: Path) -> str:
    settings = json.loads((model / "recipe.json").read_text())
    return recipe_digest(settings, read_sequences(sequences).catalogue.features)


def test_the_tables_of_any_run_and_budget_are_one_recipe(models: dict[str, Path], sequences: Path) -> None:
    features = read_sequences(sequences).catalogue.features
    for name in ("neighbours", "neighbours_full"):
        asked = json.loads(recipes.warm(recipes.by_name(name, seed=3)).to_json())
        assert recipe_digest(asked, features) == recipe_of(models["tables"], sequences)
    assert recipe_of(models["poor tables"], sequences) != recipe_of(models["tables"], sequences)


def test_a_refresh_surely_below_the_reference_is_blocked(gate, tmp_path: Path) -> None:
    decision = gate("broken", "good")
    assert not decision.passed
    blocked = {reason.check: reason for reason in decision.blocking}
    assert set(blocked) >= {"better than popularity", "no worse than the reference"}
    assert "surely loses more than 4.5%" in blocked["no worse than the reference"].message
    assert report(tmp_path)["blessings"]["HeterRec"]["verdict"] == "surely below" and not report(tmp_path)["rises"]


def test_a_refresh_that_is_the_champion_once_more_is_blessed_and_is_no_better_reference(gate, tmp_path: Path) -> None:
    assert gate("good", "good").passed
    found = report(tmp_path)
    assert (found["blessings"]["HeterRec"]["verdict"], found["rises"], found["champion"]) == ("no worse", False, "7")
    night = pq.read_table(tmp_path / "evaluation" / "night.parquet")
    assert night["ours"].to_pylist() == night["theirs"].to_pylist() and night.num_rows == found["queries"]
    assert found["nights"][0]["reference"] == "6" and found["nights"][0]["dataset"] == "shop"


def test_a_refresh_surely_better_than_the_reference_becomes_it(gate, tmp_path: Path) -> None:
    decision = gate("good", "broken")
    assert decision.passed and report(tmp_path)["rises"]


def test_the_reference_decides_and_not_the_champion(gate, tmp_path: Path, models: dict[str, Path]) -> None:
    """What a ratchet needs: a champion that slid, and a refresh that is as good as it."""
    original = champion_of

    def slid(root: Path, sequences: Path, model: Path | None, **facts: Any) -> Path:
        made = original(root, sequences, model, **facts)
        shutil.copytree(models["good"], made / "reference")
        return made

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(globals(), "champion_of", slid)
        decision = gate("broken", "broken")
    held_back = next(reason for reason in decision.reasons if reason.check == "no worse than the reference")
    assert not held_back.held
    assert {"champion", "reference"} < set(report(tmp_path)["models"])


def test_a_candidate_of_another_recipe_is_only_held_not_to_be_surely_below_the_champion(gate, tmp_path: Path) -> None:
    decision = gate("broken", "good", recipe="another")
    checks = {reason.check: reason for reason in decision.reasons}
    assert not checks["no worse than the champion"].held and "below that of the champion (version 7)" in (
        checks["no worse than the champion"].message
    )
    assert "no worse than the reference" not in checks and report(tmp_path)["blessings"] == {}


@pytest.mark.parametrize(("low", "high", "held_"), [(-0.2, -0.01, False), (-0.2, 0.0, True), (0.1, 0.2, True)])
def test_not_below_means_that_the_interval_reaches_zero(low: float, high: float, held_: bool) -> None:
    reason = choice.not_below("champion", MeanDifference(mean=(low + high) / 2, low=low, high=high, queries=9))
    assert reason.held == held_ and reason.level == "block"


@pytest.mark.parametrize(("low", "held_"), [(-0.01, False), (0.0, False), (0.01, True)])
def test_above_means_that_the_interval_excludes_zero(low: float, held_: bool) -> None:
    reason = choice.above(
        "popularity", MeanDifference(mean=0.1, low=low, high=0.3, queries=9), level="block", longer=""
    )
    assert reason.held == held_ and ("above" in reason.message and "not " in reason.message) == (not held_)


def test_a_model_of_features_that_the_card_has_no_more_is_told_and_not_ranked(gate, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(held, "_missing", lambda path, data: ["colour"] if path.name == "model" else [])
        decision = gate("good", "good")
    told = next(reason for reason in decision.reasons if reason.check == "champion")
    assert decision.passed and told.level == "warn" and "needs colour" in told.message
    assert "champion" not in report(tmp_path)["models"]


@pytest.mark.parametrize(("serves", "ranked"), [("good", False), ("tables", True)])
def test_on_a_card_of_fewer_features_tables_are_ranked_and_a_network_is_not(
    serves: str, ranked: bool, tmp_path: Path, sequences: Path, models: dict[str, Path]
) -> None:
    """A champion that is not ranked is held against nobody; tables look at what words and values there are today."""
    fewer = shutil.copytree(sequences, tmp_path / "fewer", copy_function=shutil.copy)
    about = json.loads((fewer / "features.json").read_text())
    about["features"] = [each for each in about["features"] if each["name"] != "brand"]
    (fewer / "features.json").write_text(json.dumps(about))
    data, champion = read_sequences(fewer), champion_of(tmp_path / "champion", sequences, models[serves])
    found = held.HeldAgainst.read(champion, models["tables"], fewer, data, CARD)
    assert list(found.models) == (["champion"] if ranked else [])
    assert [reason.found for reason in found.incomparable] == ([] if ranked else ["needs brand"])
    for path in found.models.values():
        rank(judged(load_model(path), data, queries := data.queries("test")), data, queries)


def test_tables_as_the_baseline_are_not_ranked_in_the_place_of_those_that_may_be_released(
    models: dict[str, Path],
) -> None:
    named = {new: baseline_name(models["tables"], new) for new in ("HeterRec", NEIGHBOURS)}
    assert set(named.values()) == {f"{NEIGHBOURS} (baseline)"}
    assert baseline_name(models["baseline"], "HeterRec") == "item ID only"
    assert baseline_name(models["baseline"], "item ID only") == "item ID only (baseline)"


def test_every_name_comes_from_what_ran() -> None:
    names = {name: name_of(recipes.by_name(name)) for name in recipes.RECIPES}
    assert names == {
        "heterrec": "HeterRec",
        "sasrec": "item ID only",
        "sasrec_features": "features summed in",
        "hstu": "HSTU block, item ID only",
        "paper": "HeterRec, all parts of the paper",
        "neighbours": "neighbour tables",
    }
    assert len(set(names.values())) == len(recipes.RECIPES), "two recipes under one name"
    assert name_of(replace(recipes.sasrec(), memory=())) == "item ID only, no memory"
    assert name_of(replace(recipes.heterrec(), shuffle_targets=True)) == "HeterRec, targets shuffled"


def test_the_tables_are_a_contender_of_every_run_and_can_be_the_model(gate, tmp_path: Path) -> None:
    decision = gate("tables", tables="tables")
    found = report(tmp_path)
    assert decision.passed and released(tmp_path) == ("neighbour tables", "neighbour tables")
    assert found["new"] == "neighbour tables" and "neighbour tables" not in found["differences"]
    assert list(found["models"]) == ["neighbour tables", "item ID only", "popularity"]


def test_nobody_to_be_asked_is_a_decision(tmp_path: Path, sequences: Path, models: dict[str, Path]) -> None:
    empty = tmp_path / "empty"
    shutil.copytree(sequences, empty)
    events = pq.read_table(empty / "events.parquet")
    pq.write_table(events.filter(held.pa.compute.not_equal(events["split"], "test")), empty / "events.parquet")
    (tmp_path / "evaluation").mkdir()
    champion = champion_of(tmp_path / "champion", empty, models["good"])
    kept = step.run(
        card=CARD, sequences=empty, model=models["good"], baseline=models["baseline"], tables=models["tables"],
        champion=champion, evaluation=tmp_path / "evaluation",
    )  # fmt: skip
    assert not kept["passed"] and "nothing to judge the model by" in kept["blocked"][0]
