"""What serves is the blessed model gone on over all events, if it still is that model; else the blessed one, told."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.evaluate import tables
from components.refit import step
from components.shared.recipe_digest import recipe_digest
from components.train import step as training
from heterrec import recipes
from heterrec.data.sequences import read_sequences
from heterrec.inference.answers import Answers
from heterrec.memory.neighbours import Memory
from heterrec.recipes import TrainConfig
from heterrec.training import refit
from heterrec.training.export import load_model
from heterrec.training.trained import Update
from pipelines.forget import PERSONAL
from runtime.decision import Decision
from runtime.workspace import ROOT
from tests.unit.heterrec.shop import write_shop

WEIGHTS = "weights.pt"
CONFIG = recipes.heterrec()
CONFIG = replace(
    CONFIG,
    model=replace(CONFIG.model, width=16, item_layers=1, max_history=10),
    epochs=8,
    least_steps=0,
    batch_events=512,
)


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("refit") / "sequences", users=100, items=60)


def blessed_of(config: TrainConfig, sequences: Path, root: Path) -> Path:
    (root / "model").mkdir(parents=True)
    training.run(config=config, sequences=sequences, model=root / "model", scratch=root / "scratch")
    return root / "model"


@pytest.fixture(scope="module")
def model(sequences: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blessed_of(CONFIG, sequences, tmp_path_factory.mktemp("refit"))


def refitted(sequences: Path, model: Path, root: Path, **more: Any) -> tuple[Path, dict[str, Any]]:
    served = root / "served"
    served.mkdir(parents=True)
    return served, step.run(sequences=sequences, model=model, served=served, scratch=root / "scratch", **more)


@pytest.fixture(scope="module")
def good(sequences: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return refitted(sequences, model, tmp_path_factory.mktemp("good"))


def test_what_serves_has_seen_the_last_days_and_is_of_the_blessed_recipe(sequences, model, good) -> None:
    served, report = good
    assert report["refitted"] and not report["warned"], report["warned"]
    data, before, after = read_sequences(sequences), load_model(model), load_model(served)
    bought = np.bincount(data.row, minlength=len(data.catalogue))
    known = [item for item, n in zip(data.catalogue.item_ids, bought, strict=True) if n >= CONFIG.model.min_events]
    assert list(after.encoder.ids) == known and set(before.encoder.ids) < set(known), (
        "items of the last days have an ID"
    )
    assert after.config == before.config
    digests = [recipe_digest(json.loads((each / "recipe.json").read_text()), []) for each in (model, served)]
    assert digests[0] == digests[1]
    assert report["judged"] == step.weights(model) != report["serves"] == step.weights(served)
    assert after.memory.about() == before.memory.about(), "the gates were fitted on days that nobody had seen"
    np.testing.assert_array_equal(after.memory.count_V, bought)


def test_the_same_refit_gives_the_same_bytes_also_after_a_kill(sequences, model, good, tmp_path) -> None:
    class Killed(Exception):
        pass

    def kills(update: Update) -> None:
        if update.epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        refitted(sequences, model, tmp_path, progress=kills)
    seen: list[int] = []
    shutil.rmtree(tmp_path / "served")
    served, _ = refitted(sequences, model, tmp_path, progress=lambda update: seen.append(update.epoch))
    assert seen[0] == 2, "went on from the checkpoint"
    assert (served / WEIGHTS).read_bytes() == (good[0] / WEIGHTS).read_bytes()


def test_no_table_of_what_users_bought_together_is_kept_beside_the_archive(sequences, model, good, tmp_path) -> None:
    served = good[0]
    assert len(Memory.load(model / "memory.npz").tables[0].item_N)
    memory = Memory.load(served / "memory.npz")
    assert not len(memory.tables[0].item_N) and len(memory.tables[1].item_N)
    data, whole = read_sequences(sequences), load_model(served)._replace(memory=Memory.load(model / "memory.npz"))
    whole = whole._replace(item_ids=json.loads((model / "memory_items.json").read_text()))
    packaged, same = (Answers.to_serve(each, data) for each in (load_model(served), whole))
    np.testing.assert_array_equal(packaged.items, same.items)
    for one, other in zip(packaged.memory.tables, same.memory.tables, strict=True):
        np.testing.assert_array_equal(one.item_N, other.item_N)


def damaged(good: Path, root: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    folder = shutil.copytree(good, root)
    state = torch.load(folder / WEIGHTS, weights_only=True)
    change(state)
    torch.save(state, folder / WEIGHTS)
    return folder


def zeroed(part: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(state: dict[str, torch.Tensor]) -> None:
        names = [name for name in state if name.startswith(part)]
        assert names
        for name in names:
            state[name].zero_()

    return change


def shifted(state: dict[str, torch.Tensor]) -> None:
    state["htfl.ids.weight"][1:] = state["htfl.ids.weight"][1:].roll(1, 0)


def swapped(state: dict[str, torch.Tensor]) -> None:
    state["htfl.ids.weight"][[1, 2]] = state["htfl.ids.weight"][[2, 1]]


def not_a_number(state: dict[str, torch.Tensor]) -> None:
    state["htfl.ids.weight"][3, 0] = torch.nan


ANSWERS = {"loss on the blessed windows", "the same best items", "the same order of items"}
MOVED, ROW = "the same weights, moved a little", "the same item behind each ID"


@pytest.mark.parametrize(
    ("change", "caught"),
    [
        (zeroed("heads."), MOVED),
        (zeroed("item_side."), MOVED),
        (zeroed("item_blocks."), MOVED),
        (zeroed("htfl.values."), MOVED),
        (shifted, ROW),
        (shifted, "the same best items"),
        (swapped, ROW),
        (not_a_number, "it answers with numbers"),
    ],
    ids=["user tower", "item tower", "item level", "values", "IDs", "IDs: answers", "two items", "NaN"],
)
def test_damaged_weights_are_not_what_was_blessed(sequences, model, good, tmp_path, change, caught) -> None:
    folder = damaged(good[0], tmp_path / "damaged", change)
    found = step.check.reasons(model, folder, read_sequences(sequences))
    assert caught in {reason.check for reason in found if not reason.held}, found


def stale(folder: Path, model: Path) -> None:
    for name in ("memory.npz", "memory_items.json"):
        shutil.copyfile(model / name, folder / name)


def other_gate(folder: Path, model: Path) -> None:
    memory = Memory.load(folder / "memory.npz")
    memory.beside = replace(memory.beside, trust=memory.beside.trust * 2)
    memory.save(folder / "memory.npz")


def no_memory(folder: Path, model: Path) -> None:
    (folder / "memory.npz").unlink()


def other_recipe(folder: Path, model: Path) -> None:
    recipe = json.loads((folder / "recipe.json").read_text())
    (folder / "recipe.json").write_text(json.dumps({**recipe, "learning_rate": 0.5}))


def cut(folder: Path, model: Path) -> None:
    (folder / WEIGHTS).unlink()


@pytest.mark.parametrize(
    ("change", "caught"),
    [
        (stale, "the same memory, of all events"),
        (other_gate, "the same memory, of all events"),
        (no_memory, "the same memory, of all events"),
        (other_recipe, "the same recipe"),
        (cut, "it can be read"),
    ],
)
def test_a_folder_that_is_not_of_the_blessed_model_is_told_apart(sequences, model, good, tmp_path, change, caught):
    folder = shutil.copytree(good[0], tmp_path / "damaged")
    change(folder, model)
    found = step.check.reasons(model, folder, read_sequences(sequences))
    assert {reason.check for reason in found if not reason.held} == {caught}


@pytest.mark.parametrize(
    ("changes", "caught"),
    [
        # As many steps as a real shop has: a few hardly move the model, and then hardly matter (benchmarks/NOTES.md).
        ({"shuffle_targets": True, "epochs": 12, "patience": 12}, {*ANSWERS, MOVED, ROW}),
        ({"learning_rate": 1.0}, {*ANSWERS, MOVED, ROW}),
        ({"learning_rate": 1e38}, {"it converged"}),
    ],
    ids=["shuffled targets", "a rate too high", "diverged"],
)
def test_a_refit_that_went_wrong_is_set_aside_and_told_and_the_blessed_weights_serve(
    sequences, model, tmp_path, monkeypatch, changes, caught
) -> None:
    right = refit.budget
    monkeypatch.setattr(refit, "budget", lambda config: replace(right(config), **changes))
    served, report = refitted(sequences, model, tmp_path)
    assert not report["refitted"] and report["passed"], "it blocks nothing"
    assert (served / WEIGHTS).read_bytes() == (model / WEIGHTS).read_bytes()
    decision = Decision.read(served)
    failed = [reason for reason in decision.reasons if not reason.held]
    assert failed and {reason.check for reason in failed} <= caught and {reason.level for reason in failed} == {"warn"}
    assert report["warned"] == [reason.message for reason in failed]
    assert "serve as they are; the refit is set aside" in report["sentence"]
    assert failed[0].message in report["sentence"]


@pytest.mark.parametrize(
    ("config", "why"),
    [(replace(CONFIG, epochs=1, refit=False), "refit: false"), (recipes.neighbours(), "counted anew")],
)
def test_without_a_refit_the_judged_model_serves_and_the_reason_is_told(sequences, tmp_path, config, why) -> None:
    judged = blessed_of(config, sequences, tmp_path)
    served, report = refitted(sequences, judged, tmp_path)
    assert not report["refitted"] and why in report["sentence"] and not report["warned"]
    assert report["judged"] == report["serves"]
    same = {path.name for path in judged.iterdir()} - {"memory.npz"}
    assert all((served / name).read_bytes() == (judged / name).read_bytes() for name in same)


def test_the_tables_that_evaluate_releases_are_packaged_as_they_are(sequences, model, tmp_path) -> None:
    """Their folder is of no training: it has no report of one."""
    released = tmp_path / "released"
    released.mkdir()
    tables.run(sequences=sequences, model=model, tables=released)
    served, report = refitted(sequences, released, tmp_path)
    assert not report["refitted"] and report["passed"] and report["share_of_training"] is None
    assert report["judged"] == report["serves"] and load_model(served).model is None
    packaged, same = (Answers.to_serve(load_model(each), read_sequences(sequences)) for each in (served, released))
    np.testing.assert_array_equal(packaged.items, same.items)


IMPERSONAL = {
    "facts": "digests and days",
    "release": "a version and why",
    "released": "the seal of a release, of which forget names the version",
    "rollout": "a look at a canary: sums over shoppers",
}
"""Kinds of artifacts that a deletion leaves, and what is in them."""


def test_a_deletion_knows_every_kind_of_artifact() -> None:
    """A new kind is personal, or says here why it is not."""
    sources = [*ROOT.glob("components/*/*.py"), *ROOT.glob("pipelines/*.py")]
    kinds = {kind for path in sources for kind in re.findall(r'\bkind="(\w+)"', path.read_text())}
    kinds.remove("stable")  # a way to sort
    assert kinds - set(PERSONAL) == set(IMPERSONAL)
