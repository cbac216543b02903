"""The training frames of past moments are held against what a run on a cluster is held against."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.shared.expected_tasks import ALWAYS, of_frame
from feature_repo.card import DatasetCard, load_card
from pipelines import local
from pipelines.frames import backfill
from runtime import reference, workspace
from runtime.errors import InputError
from runtime.task import TaskRecord, read_records
from tests.pipeline.training_frame import training_frame

CARD = """
name: tiny
description: A shop of five brands
source: {adapter: files, interactions: clicks.csv, items: items.csv}
columns: {user_id: user, item_id: item, item_key: item, event_time: at}
features: [{name: brand, kind: categorical}]
title: brand
split: {by: time, validation_days: 2, test_days: 2}
repeats: true
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "home"))
    (tmp_path / "tiny.yaml").write_text(CARD)
    rng = np.random.default_rng(0)
    rows = [
        f"u{rng.integers(80)},i{rng.integers(40)},2025-01-{1 + day:02}T{rng.integers(24):02}:{rng.integers(60):02}:00Z"
        for day in range(20) for _ in range(60)
    ]  # fmt: skip
    (tmp_path / "clicks.csv").write_text("user,item,at\n" + "\n".join(rows) + "\n")
    brands(tmp_path, "brand")
    return tmp_path


def brands(shop: Path, called: str) -> None:
    (shop / "items.csv").write_text("item,brand\n" + "".join(f"i{n},{called}{n % 5}\n" for n in range(40)))


def test_a_shop_whose_every_brand_was_renamed_is_blocked_here_as_on_a_cluster(shop: Path) -> None:
    card = load_card(str(shop / "tiny.yaml"))
    training_frame(card, as_of="2025-01-19T23:59:59+00:00", run_id="first")
    brands(shop, "renamed")
    (day,) = backfill(card, date(2025, 1, 20), date(2025, 1, 20), run_id="second")
    after = day.frame
    assert not after.decision.passed and after.sequences is None and day.digest is None
    assert "brand" in " ".join(reason.message for reason in after.decision.blocking)
    assert set(read_records("second-2025-01-20")) == {"ingest", "resolve", "champion", "reference", "validate"}
    assert "task_started" in (workspace.runs() / "second" / "log.txt").read_text(), "in the log of the backfill"


@pytest.mark.parametrize(
    ("found", "expected", "said"),
    [
        ({"status": "failed", "error": "no such file", "input_fault": True}, InputError, "no such file"),
        ({"status": "failed", "error": "OSError: disk"}, RuntimeError, "OSError: disk"),
        ({"status": "running"}, RuntimeError, "validate: the task's process ended without a word"),
        (None, RuntimeError, r"missing \['validate'\]"),
    ],
)
def test_a_run_that_did_not_come_to_its_end_is_told_by_what_ended_it(
    found: dict[str, Any] | None, expected: type[Exception], said: str
) -> None:
    records = {name: TaskRecord(task=name, status="done", started="") for name in ALWAYS}
    if found is None:
        del records["validate"]
    else:
        records["validate"] = TaskRecord(task="validate", started="", **found)
    with pytest.raises(expected, match=said):
        local.require_ended(records, of_frame(records))


class Shown:
    """An output as Kubeflow's executor gives it: a path, and numbers."""

    def __init__(self, path: Path) -> None:
        self.path, self.numbers = str(path), {}

    def log_metric(self, name: str, value: float) -> None:
        self.numbers[name] = value


def prepared(folder: Path, card: DatasetCard, as_of: str, run_id: str) -> tuple[bool, dict[str, Shown]]:
    """The task of a refresh of the catalogue, as its pod calls it."""
    from components.prepare.component import prepare

    folder.mkdir()
    outputs = {name: Shown(folder / name) for name in ("sequences", "page", "summary", "metrics")}
    return prepare.python_func(run_id=run_id, card=card.model_dump_json(), as_of=as_of, **outputs), outputs


def test_the_one_task_of_a_refresh_does_what_five_do_and_is_blocked_as_they_are(shop: Path) -> None:
    card, moment = load_card(str(shop / "tiny.yaml")), "2025-01-19T23:59:59+00:00"
    apart = training_frame(card, as_of=moment, run_id="apart")
    accepted, shown = prepared(shop / "one", card, moment, "one")
    assert accepted
    assert reference.follow(Path(shown["sequences"].path)) == apart, "made once, found again"
    records = read_records("one")
    assert list(records) == ["ingest", "resolve", "champion", "reference", "validate", "features", "materialise"]
    numbers = shown["metrics"].numbers
    assert numbers["ingest_rows"] == 1200 and numbers["validate_blocked"] == 0
    assert {name.partition("_")[0] for name in numbers} == {"ingest", "validate", "features", "materialise"}
    assert "| champion | none yet |" in Path(shown["summary"].path).read_text()

    brands(shop, "renamed")
    accepted, shown = prepared(shop / "two", card, "2025-01-20T23:59:59+00:00", "two")
    assert not accepted and shown["metrics"].numbers["validate_blocked"] > 0
    page = Path(shown["page"].path).read_text()
    assert "blocks" in page and "brand" in page, "the page says why"
    assert list(Path(shown["sequences"].path).iterdir()) == [], "and no training frame is handed on"
    assert not {"features", "materialise"} & read_records("two").keys()
