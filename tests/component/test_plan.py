"""What is said of a training before and at its start is what it then takes."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from components.train.plan import Learned, duration_text, plan
from components.train.progress import EventProgress
from heterrec.data.sequences import read_sequences
from heterrec.recipes import TrainConfig, by_name
from heterrec.training.loop import Training
from runtime.log import parse
from tests.unit.heterrec.shop import write_shop


@pytest.fixture(scope="module")
def sequences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shop(tmp_path_factory.mktemp("plan") / "sequences", users=250)


def test_what_is_learned_from_is_what_training_reads(sequences: Path):
    learned, data = Learned.of(sequences), read_sequences(sequences)
    assert (learned.events, learned.sold) == (data.training_counts.sum(), (data.training_counts > 0).sum())
    assert (learned.catalogue, learned.features) == (len(data.catalogue), len(data.catalogue.features))


@pytest.mark.parametrize("recipe", ["heterrec", "sasrec"])
def test_a_small_run_takes_the_steps_and_the_time_that_were_said(recipe, sequences, capsys):
    """On a clock that goes on by as much at each step, so that no other work of the machine is in it."""
    config = replace(by_name(recipe), epochs=16, patience=16)
    ahead = plan(config, Learned.of(sequences))
    training = Training(read_sequences(sequences), config)
    steps = sum(len(training.batches.epoch(epoch)) for epoch in range(training.epochs))
    assert ahead.cost.steps == pytest.approx(steps, rel=0.15)
    assert (ahead.batch, ahead.candidates) == (training.config.batch_events, training.config.loss.candidates)
    each, taken = 0.125, []
    progress = EventProgress("train", clock=lambda: each * len(taken))

    def follow(update):
        taken.append(update.step)
        progress(update)

    started = time.process_time()
    training.run(None, follow, 1e9)
    whole = time.process_time() - started
    (pace,) = [
        event for line in capsys.readouterr().out.splitlines() if (event := parse(line) or {}).get("event") == "pace"
    ]
    said_at = pace["measured"] + 1
    assert said_at < 15 and pace["each"] == each
    assert pace["seconds_left"] == pytest.approx(each * (len(taken) - said_at), rel=0.15)
    # The constants are of another machine, and processor time too is longer where others have its caches.
    assert whole / 20 < ahead.cost.cpu_seconds < whole * 10, (whole, ahead.cost)


def test_the_whole_catalogue_gives_way_by_cost_and_alike_for_a_model_and_its_baseline():
    for catalogue in (1000, 28_003, 10**6):
        learned = Learned(events=1_267_759, sold=min(catalogue, 27_955), catalogue=catalogue, features=10)
        model, baseline = (plan(by_name(name), learned) for name in ("heterrec", "sasrec"))
        assert model.candidates == baseline.candidates
        assert model.cost.cpu_seconds < 1800, "a default run is a matter of minutes, whatever the catalogue"
    assert (duration_text(40), duration_text(420), duration_text(9000)) == ("40 seconds", "7 minutes", "2.5 hours")
    assert plan(TrainConfig(network=False), learned).sentence.startswith("nothing is trained")
