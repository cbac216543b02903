"""What the exporter tells is what runs, gates and looks came to."""

import urllib.request
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families

from components.refit import check
from components.shared.announcement import keep_ending
from experiments.document import (
    DocumentChange,
    ModelVersion,
    Rollout,
    release,
)
from experiments.table import InterimAnalysis, RolloutTable
from pipelines import exporter
from runtime.decision import Decision
from runtime.errors import InputError
from runtime.task import TaskRecord

TRAINING, CATALOGUE = "heterrec-training", "heterrec-catalogue"
NOW = datetime(2026, 1, 5, 3, tzinfo=UTC)
GATE = {"passed": True, "blocked": [], "warned": ["late"], "dataset": "shop"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    monkeypatch.delenv("HETERREC_ROLLOUT_URL", raising=False)
    return tmp_path


def record(run: str, task: str, *, hours: float = 0, status: str = "done", **report: object) -> None:
    started = (NOW + timedelta(hours=hours)).isoformat()
    TaskRecord(task=task, status=status, started=started, seconds=2.5, report=report).write(run)  # type: ignore[arg-type]


def ended(run: str, *, failed: bool = False, pipeline: str = TRAINING) -> None:
    keep_ending(run, pipeline=pipeline, failed=failed)


def scraped() -> dict[tuple[str, ...], float]:
    """Over HTTP: name and label values of each sample, and its value."""
    with exporter.serve("127.0.0.1", 0) as port:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    families = text_string_to_metric_families(text)
    return {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}


def test_an_empty_workspace_has_nothing_to_tell():
    assert scraped() == {("rollout_table_readable",): 1.0}


def test_the_latest_run_and_the_latest_good_one_are_told_apart():
    record("r1", "ingest", rows=100, accepted=98, rejected=2)
    record("r1", "validate", **GATE)
    record("r2", "ingest", hours=24, rows=110, accepted=110, rejected=0)
    record("r2", "validate", hours=24.1, **{**GATE, "passed": False, "blocked": ["prices in pence", "no shards"]})
    record("r3", "ingest", hours=48, status="reused", rows=120, accepted=119, rejected=1)
    record("r3", "validate", hours=48, **GATE)
    record("r3", "features", hours=48.1, status="failed")
    for run in ("r1", "r2", "r3"):
        ended(run, failed=run == "r3")
    found = scraped()
    assert found["pipeline_last_run_failed", "shop", TRAINING] == 1
    assert found["pipeline_last_run_timestamp_seconds", "shop", TRAINING] == (NOW + timedelta(hours=48)).timestamp()
    # A blocked gate is an answer, not a fault.
    assert found["pipeline_last_success_timestamp_seconds", "shop", TRAINING] == (NOW + timedelta(hours=24)).timestamp()
    assert found["pipeline_gate_passed", "shop", "validate", TRAINING] == 1
    assert found["pipeline_gate_reasons", "shop", "validate", "warned", TRAINING] == 1
    assert found["pipeline_ingest_rows", "shop", TRAINING, "rejected"] == 1
    assert ("pipeline_task_seconds", "shop", TRAINING, "ingest") not in found, (
        "a reused task took no time that says anything"
    )


def test_hours_of_a_catalogue_that_goes_well_hide_no_night_of_failed_training(home):
    """Five nights of failed training, and 24 good catalogue runs between any two of them."""
    record("good", "validate", hours=-24, **GATE)
    record("good", "train", hours=-24)
    ended("good")
    for night in range(5):
        record(f"t{night}", "validate", hours=24 * night, **GATE)
        record(f"t{night}", "train", hours=24 * night, status="failed")
        ended(f"t{night}", failed=True)
        for hour in range(24):
            record(f"c{night}-{hour}", "validate", hours=24 * night + hour + 0.5, **GATE)
            record(f"c{night}-{hour}", "refresh-champion", hours=24 * night + hour + 0.5)
            ended(f"c{night}-{hour}", pipeline=CATALOGUE)
    found = scraped()
    assert found["pipeline_last_run_failed", "shop", TRAINING] == 1
    assert found["pipeline_last_run_failed", "shop", CATALOGUE] == 0
    last = found["pipeline_last_success_timestamp_seconds", "shop", TRAINING]
    assert last == (NOW - timedelta(hours=24)).timestamp()
    assert found["pipeline_last_success_timestamp_seconds", "shop", CATALOGUE] > NOW.timestamp() + 119 * 3600


def test_a_training_that_never_went_well_is_late_and_a_task_that_never_ran_is_a_failure():
    record("t1", "validate", **GATE)
    ended("t1", failed=True)
    record("now", "ingest", status="running")
    found = scraped()
    assert found["pipeline_last_run_failed", "shop", TRAINING] == 1
    assert found["pipeline_last_success_timestamp_seconds", "shop", TRAINING] == 0, "long ago, not nothing"
    running = ("pipeline_last_success_timestamp_seconds", "unknown", "unknown")
    assert running not in found, "one that has just begun is not late"


def test_a_blocked_gate_is_told():
    record("r1", "validate", **{**GATE, "passed": False, "blocked": ["prices in pence", "no shards"]})
    ended("r1")
    found = scraped()
    assert found["pipeline_gate_passed", "shop", "validate", TRAINING] == 0
    assert found["pipeline_gate_reasons", "shop", "validate", "blocked", TRAINING] == 2
    assert found["pipeline_last_run_failed", "shop", TRAINING] == 0


@pytest.mark.parametrize("held", [True, False])
def test_a_refit_that_was_set_aside_counts_though_it_blocks_nothing(held):
    """By the reasons that the check itself makes: of those that the alert reads."""
    asked = Decision(
        gate="refit",
        reasons=[check._reason("the same recipe", held, "r1", "r1", "The refitted model is of recipe r1.")],
    )
    record("r1", "validate", **GATE)
    record("r1", "refit", hours=0.1, **asked.summary())
    ended("r1")
    found = scraped()
    assert found["pipeline_gate_passed", "shop", "refit", TRAINING] == 1
    counted = [found["pipeline_gate_reasons", "shop", "refit", level, TRAINING] for level in ("blocked", "warned")]
    assert counted == [0, 0 if held else 1]


def test_training_and_evaluation_show_their_numbers():
    record("r1", "validate", **GATE)
    record("r1", "train", loss=3.5, validation_ndcg=0.12, epochs=9, device="cpu", seed=0)
    record("r1", "evaluate", **GATE, metrics={"heterrec ndcg@10": 0.14, "ndcg@10 against baseline, low": 0.01})
    found = scraped()
    assert found["pipeline_training", "shop", TRAINING, "train", "validation_ndcg"] == 0.12
    assert ("pipeline_training", "shop", TRAINING, "train", "seed") not in found
    assert found["pipeline_quality", "shop", TRAINING, "heterrec ndcg@10"] == 0.14
    assert found["pipeline_task_seconds", "shop", TRAINING, "train"] == 2.5


def test_a_run_that_failed_before_its_data_was_known_is_told_too(home):
    record("r1", "ingest", status="failed")
    (home / "runs" / "r2").mkdir()
    (home / "runs" / "r2" / "ingest.json").write_text("{half")
    assert scraped()["pipeline_last_run_failed", "unknown", "unknown"] == 1


def test_a_canary_is_told_with_its_last_look(home):
    row = Rollout(model="shop")
    with RolloutTable(f"sqlite:///{home}/rollout.db") as table:
        for number in ("1.0", "2.0"):
            arm = ModelVersion(
                version=number, archive="x.mar", archive_digest=number, recipe_digest=number, registered=NOW
            )
            outcome = release(row, arm, now=NOW, salt=lambda: "salt")
            row = table.propose(DocumentChange(outcome.rollout, "push", outcome.why), row.version)
        evidence = {"outcome": {"estimate": 0.02, "low": None, "high": 0.05}, "ratio": -1.5, "guardrails": []}
        table.record("shop", InterimAnalysis(at=NOW, salt="salt", action="hold", why="early", evidence=evidence))
        late = NOW + timedelta(minutes=10)
        table.record("shop", InterimAnalysis(at=late, salt="salt", action="raise", why="good", evidence=evidence))
    found = scraped()
    assert found["rollout_weight", "shop"] == 0.01
    assert found["rollout_serves", "shop", "challenger", "2.0"] == 1
    assert found["rollout_last_look", "raise", "shop"] == 1 and ("rollout_last_look", "hold", "shop") not in found
    assert found["rollout_last_look_timestamp_seconds", "shop"] == late.timestamp()
    assert found["rollout_outcome", "shop", "high"] == 0.05 and ("rollout_outcome", "shop", "low") not in found
    assert found["rollout_sample_ratio_log_e", "shop"] == -1.5


def test_a_table_that_is_away_leaves_the_runs_told(monkeypatch):
    monkeypatch.setenv("HETERREC_ROLLOUT_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
    record("r1", "validate", **GATE)
    ended("r1")
    found = scraped()
    assert found["rollout_table_readable",] == 0 and found["pipeline_gate_passed", "shop", "validate", TRAINING] == 1


def test_a_port_that_is_taken_is_told_in_one_line():
    with (
        exporter.serve("127.0.0.1", 0) as port,
        pytest.raises(InputError, match="--port"),
        exporter.serve("127.0.0.1", port),
    ):
        pass
