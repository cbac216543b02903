import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from heterrec.data.sequences import Sequences, read_sequences
from heterrec.recipes import (
    LossConfig,
    TrainConfig,
    by_name,
    sized,
)
from heterrec.training import checkpoint
from heterrec.training.checkpoint import NAME
from heterrec.training.loop import Training, train
from heterrec.training.trained import Trained, Update
from tests.unit.heterrec.shop import write
from tests.unit.heterrec.small import SMALL, changed

CONFIG = TrainConfig(
    model=replace(SMALL, max_history=8), loss=LossConfig(token_candidates=10), epochs=3, batch_events=64, patience=3
)
GOLDEN = [3.040391, 2.424220, 2.051412]
KILLED = """
import sys, time
from pathlib import Path
import torch
from heterrec.recipes import TrainConfig
from heterrec.data.sequences import read_sequences
from heterrec.training.loop import train
torch.set_num_threads(1)
train(read_sequences(Path(sys.argv[1])), TrainConfig.from_json(sys.argv[2]), scratch=Path(sys.argv[3]),
      checkpoint_seconds=float(sys.argv[4]), progress=lambda update: time.sleep(0.05))
"""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def outcome(trained: Trained) -> tuple[list[tuple], dict[str, torch.Tensor]]:
    return [(p["epoch"], p["loss"], p["validation_ndcg"]) for p in trained.curve], trained.model.state_dict()


def assert_same(first: Trained, second: Trained) -> None:
    (curve, weights), (other_curve, other_weights) = outcome(first), outcome(second)
    assert curve == other_curve
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


@pytest.fixture(scope="module")
def uninterrupted(shop: Sequences) -> Trained:
    torch.set_num_threads(1)
    return train(shop, CONFIG)


def test_the_same_seed_gives_the_same_model(shop: Sequences, uninterrupted: Trained):
    assert_same(train(shop, CONFIG), uninterrupted)
    other = train(shop, replace(CONFIG, seed=1))
    assert outcome(other)[0] != outcome(uninterrupted)[0]


def test_the_loss_curve_is_the_one_written_down(uninterrupted: Trained):
    """Golden: who changes what is trained sees it here, and writes the new curve down with the reason."""
    assert [point["loss"] for point in uninterrupted.curve] == pytest.approx(GOLDEN, abs=2e-3)


def test_a_checkpoint_is_on_the_disk_before_it_takes_the_place_of_the_last(tmp_path: Path, monkeypatch):
    did: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(checkpoint.os, name, lambda *given, name=name, real=real: (did.append(name), real(*given)))
    nothing = SimpleNamespace(state_dict=dict)
    checkpoint.save(tmp_path, "run", torch.nn.Linear(2, 2), nothing, nothing, checkpoint.Progressed())
    assert did == ["fsync", "replace"] and [path.name for path in tmp_path.iterdir()] == [NAME]


@pytest.mark.parametrize("checkpoint_seconds", [0, 1000])
def test_a_run_killed_in_the_middle_of_an_epoch_ends_the_same(
    checkpoint_seconds: int, shop_root: Path, shop: Sequences, uninterrupted: Trained, tmp_path: Path
):
    """A real SIGKILL of a real process, some steps after its first checkpoint."""
    command = [sys.executable, "-c", KILLED, str(shop_root), CONFIG.to_json(), str(tmp_path), str(checkpoint_seconds)]
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": root})
    while not (tmp_path / NAME).exists():
        assert process.poll() is None, "ended before its first checkpoint"
        time.sleep(0.005)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    steps: list[tuple[int, int]] = []
    resumed = train(shop, CONFIG, scratch=tmp_path, progress=lambda update: steps.append((update.epoch, update.step)))
    epoch, step = steps[0]
    assert step > 1 if checkpoint_seconds == 0 else (epoch, step) == (2, 1), "went on from the checkpoint"
    assert_same(resumed, uninterrupted)


def test_a_finished_run_is_not_trained_again(shop: Sequences, uninterrupted: Trained, tmp_path: Path):
    train(shop, CONFIG, scratch=tmp_path)
    updates: list[Update] = []
    assert_same(train(shop, CONFIG, scratch=tmp_path, progress=updates.append), uninterrupted)
    assert not updates


def test_a_checkpoint_of_another_recipe_is_refused(shop: Sequences, tmp_path: Path):
    train(shop, replace(CONFIG, epochs=1), scratch=tmp_path)
    with pytest.raises(ValueError, match="another recipe or other data"):
        train(shop, replace(CONFIG, seed=9), scratch=tmp_path)


def test_training_learns_what_is_there(shop: Sequences):
    trained = train(shop, replace(CONFIG, epochs=6))
    assert trained.curve[-1]["loss"] < trained.curve[0]["loss"] - 0.1


def test_stops_when_validation_gets_no_better_and_keeps_the_best(shop: Sequences):
    trained = train(shop, replace(CONFIG, epochs=40, patience=1, learning_rate=1e-6, warmup=0.0))
    scores = [point["validation_ndcg"] for point in trained.curve]
    assert len(scores) < 40
    assert trained.best_epoch == 1 + int(np.argmax(scores)) == len(scores) - 1


def one(user: int, item: int, day: int, split: str = "train") -> dict:
    return {"user": user, "item": item, "day": day, "basket": day, "split": split, "price": None, "stock": None}


def written(root: Path, items: int, events: list[dict]) -> Sequences:
    return read_sequences(write(root, columns={"price": [None] * items}, arrives=np.zeros(items), events=events))


def test_one_user_and_one_item_train(tmp_path: Path):
    trained = train(written(tmp_path, 1, [one(0, 0, day) for day in range(3)]), replace(CONFIG, epochs=1))
    assert trained.curve[0]["validation_ndcg"] is None and np.isfinite(trained.curve[0]["loss"])


def test_nothing_to_learn_from_is_said(tmp_path: Path):
    with pytest.raises(ValueError, match="no events in the training split"):
        train(written(tmp_path / "none", 2, []), CONFIG)
    with pytest.raises(ValueError, match="no user bought on two occasions"):
        train(written(tmp_path / "single", 2, [one(0, 0, 0), one(1, 1, 0)]), CONFIG)


def test_recipes_round_trip_and_refuse_what_is_wrong():
    for name in ("heterrec", "sasrec", "sasrec_features", "heterrec_full"):
        assert TrainConfig.from_json(by_name(name, seed=4).to_json()) == by_name(name, seed=4)
    with pytest.raises(ValueError, match=r"bert4rec.*unknown"):
        by_name("bert4rec")
    with pytest.raises(ValueError, match="learning_rat"):
        TrainConfig.from_json('{"learning_rat": 1}')
    with pytest.raises(ValueError, match="width=10 must be divisible by heads=4"):
        TrainConfig.from_json('{"model": {"width": 10, "heads": 4}}')
    for name in ("block", "tokens", "token_causality"):
        with pytest.raises(ValueError, match=rf"{name}='mamba' is unknown, expected one of \('"):
            TrainConfig.from_json(f'{{"model": {{"{name}": "mamba"}}}}')


@pytest.mark.parametrize(
    ("items", "events", "dropout", "temperature", "batch", "candidates"),
    [
        (12_101, 153_776, 0.48, 0.1, 1024, None),  # Amazon Beauty
        (3_706, 1_000_000, 0.10, 0.05, 512, None),  # dense
        (100, 120, 0.5, 0.1, 256, None),
        (18_357, 207_000, 0.5, 0.1, 1024, None),  # Amazon Sports: not so large that few steps are left
        (27_955, 1_267_759, 0.25, 0.053, 1024, 4096),  # a grocery: what was measured is in heterrec/cost.py
        (100_000, 1_000_000, 0.5, 0.1, 1024, 4096),
        (1_000_000, 10**8, 0.17, 0.05, 1024, 4096),
    ],
)
def test_sizes_come_from_the_data_and_for_all_models_alike(items, events, dropout, temperature, batch, candidates):
    for name in ("heterrec", "sasrec"):
        found = sized(by_name(name), items=items, events=events)
        assert (found.model.dropout, found.model.temperature) == (dropout, temperature)
        assert (found.batch_events, found.loss.candidates) == (batch, candidates)
    fixed = replace(by_name("heterrec"), sized=False, batch_events=77)
    assert sized(fixed, items=items, events=events) is fixed


def test_items_that_were_never_sold_change_no_size(shop: Sequences):
    """Sizes follow what can be learned from; only the number of candidates knows the whole catalogue."""
    config = replace(CONFIG, sized=True)
    catalogue = shop.catalogue
    unsold = changed(
        catalogue,
        lambda values: [*values, *([None] * 3000)],
        item_ids=[*catalogue.item_ids, *(f"unsold{n:04d}" for n in range(3000))],
        available_at=np.append(catalogue.available_at, np.zeros(3000, dtype=np.int64)),
    )
    assert Training(replace(shop, catalogue=unsold), config).config == Training(shop, config).config
    assert sized(config, items=30, events=400, catalogue=10**9).loss.candidates == 4096


def test_sasrec_has_the_same_loss_and_training_as_heterrec():
    ours, theirs = by_name("heterrec"), by_name("sasrec")
    assert replace(theirs, model=ours.model, loss=ours.loss) == ours
    assert replace(theirs.loss, token_weight=ours.loss.token_weight) == ours.loss
