"""However a run ends, its last lines say which check, the numbers, what would change it, and where to look."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.features.power import power
from components.report import step as report
from components.shared import announcement
from components.shared.ending import ending
from console import runs
from pipelines.local import RunOutcome
from pipelines.status import latest
from runtime.decision import Decision, Reason
from runtime.errors import InputError
from runtime.task import Task, TaskRecord, read_records
from runtime.workspace import ROOT

RUN = "shop-20260101T000000"
Ending = tuple[str, Callable[[], Any], list[str]]


def passed(name: str, *, report: dict[str, Any] | None = None, **notes: Any) -> None:
    """A task of the run that ended, with what its step reported."""
    task = Task(name, run_id=RUN, module="components.shared.ending")
    task.make_always(Path("out"), kind=name, make=lambda out, scratch: report or {})
    task.annotate(**notes)


def decided(gate: str, *, held: bool = True) -> None:
    """A gate's answer, with its page."""
    told = {"found": 0.25, "allowed": 0, "message": "found 25%, allowed 0%", "remedy": "change min"}
    decision = Decision(gate=gate, reasons=[Reason(check="price range", held=held, **told)])

    def make(out: Path, scratch: Path) -> dict[str, Any]:
        decision.write(out)
        (out / "page.html").write_text("the gate's page")
        return decision.summary()

    Task(gate, run_id=RUN, module="components.shared.ending").make_always(Path("out"), kind=gate, make=make)


def fails(name: str, error: Exception) -> None:
    def make(out: Path, scratch: Path) -> dict[str, Any]:
        raise error

    with pytest.raises((type(error), SystemExit)):
        Task(name, run_id=RUN, module="components.shared.ending").make_always(Path("out"), kind=name, make=make)


def killed(name: str) -> None:
    TaskRecord(task=name, status="running", started="2026-01-01T00:00:00").write(RUN)


def undecided() -> None:
    decided("validate")
    passed("features", goes_on=False, power=power(42).to_json())


ENDINGS: dict[str, Ending] = {
    "gate": (
        "not pushed: blocked by validate",
        lambda: decided("validate", held=False),
        ["validate: price range: found 25%, allowed 0%", "to change it: change min", "validate/shop-"],
    ),
    "not blessed": (
        "not pushed: blocked by evaluate",
        lambda: (decided("validate"), decided("evaluate", held=False)),
        ["evaluate: price range: found 25%", "to change it: change min", "evaluate/shop-"],
    ),
    "not servable": (
        "not pushed: blocked by infra_validate",
        lambda: decided("infra_validate", held=False),
        ["infra_validate: price range: found 25%", "to change it: change min"],
    ),
    "too few to judge": (
        "not trained: the held-out shoppers could decide nothing",
        undecided,
        ["features: power: 42 held-out shoppers", "to change it: about 196 would do: raise split", "power: say"],
    ),
    "push refused": (
        "failed in push",
        lambda: fails("push", InputError("archive: holds another archive than 7")),
        ["push: its input: archive: holds another archive than 7", "to change it: correct what the message names"],
    ),
    "recipe rests": (
        "not pushed: its recipe rests",
        lambda: passed("push", report={"status": "resting", "why": "2.0 is not tried: its recipe was sent back once"}),
        ["push: recipe: 2.0 is not tried: its recipe was sent back once", "another recipe; or, where the fault was"],
    ),
    "training failed": (
        "failed in train",
        lambda: fails("train", FloatingPointError("loss nan in epoch 3")),
        ["train: a fault: FloatingPointError: loss nan in epoch 3", "to change it: log.txt", "from its checkpoint"],
    ),
    "training killed": (
        "killed in train",
        lambda: killed("train"),
        ["train: killed: the task's process ended without a word", "to change it: free memory, and run"],
    ),
    "source stopped": (
        "failed in ingest",
        lambda: fails("ingest", InputError("source: the connection was closed after 3 rows")),
        ["ingest: its input: source: the connection was closed after 3 rows", "to change it: correct what"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ENDINGS)
def test_the_last_lines_say_the_check_the_numbers_what_would_change_it_and_the_page(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    sentence, happens, told = ENDINGS[kind]
    happens()
    page = tmp_path / "page.html"
    if kind != "not blessed":  # whose page needs the whole comparison: test_local_run.py looks at one
        page = report.run(run_id=RUN, state="SUCCEEDED")
        assert sentence in page.read_text()
        assert re.findall(r"<h2>(\w+)", page.read_text())[-1] == "Tasks", "why comes first, the tasks last"
    outcome = RunOutcome(run_id=RUN, records=read_records(RUN), page=page)
    lines = "\n".join(outcome.last_lines("my_shop.yaml"))
    announced = announcement.run(run_id=RUN, pipeline="nightly", state="SUCCEEDED")
    shown = runs.RunView(name=RUN, records=outcome.records).outcome[0]
    assert outcome.ending == shown == sentence and announced.startswith(f"# nightly: {sentence}\n")
    (status,) = latest(1)
    assert status.outcome == sentence and all(line in announced for line in _said(status.reasons))
    for each in told:
        assert each in lines, lines
    assert f"page: {page}" in lines and "card: my_shop.yaml" in lines
    for shown in re.findall(r"rows and pictures: (.*)", lines):
        assert Path(shown).read_text() == "the gate's page"
    assert ("log.txt" in lines) == ("failed" in sentence or "killed" in sentence)


def _said(reasons: list[str]) -> list[str]:
    """What a terminal's lines say behind the task and the check, which Markdown has as a heading."""
    return [line.split(": ", 2)[-1].removeprefix("    to change it: ") for line in reasons]


def test_a_task_that_never_ran_and_kubeflows_own_word_end_a_run_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    passed("push", report={"version": "7", "status": "champion"})
    end = ending(read_records(RUN), "SUCCEEDED", ["materialise"])
    assert end == ("failed: materialise never ran", "bad", True, False)
    assert end.sentence in report.page(run_id=RUN, state="RUNNING", beside=None, lost=["materialise"])
    end = ending(read_records(RUN), "FAILED")
    assert end.failed and end.sentence == "failed, by Kubeflow's word alone: pushed: version 7 (champion)"
    assert ending({}, "CANCELED") == ("canceled", "bad", True, False)
    assert ending({}, "RUNNING") == ("running", "quiet", False, False)


def test_a_refit_that_is_set_aside_blocks_no_release(tmp_path, monkeypatch):
    """What was blessed is released as it was, so `--blocked-fails` does not fail it."""
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    decided("refit", held=False)
    passed("push", report={"version": "7", "status": "champion"})
    records = read_records(RUN)
    assert records["refit"].report["blocked"] and not ending(records).blocked


def test_a_release_has_nothing_to_explain(tmp_path, monkeypatch):
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    passed("push", report={"version": "7", "status": "champion"})
    outcome = RunOutcome(run_id=RUN, records=read_records(RUN), page=tmp_path / "page.html")
    assert ending(outcome.records).sentence == "pushed: version 7 (champion)"
    assert outcome.last_lines("my_shop.yaml") == [f"page: {tmp_path / 'page.html'}"]


def test_a_source_without_a_usable_row_is_named_with_its_reasons(tmp_path):
    (tmp_path / "shop.csv").write_text("user_id,item_id,t\nu1,x,never\n")
    (tmp_path / "items.csv").write_text("item_id,title\nx,A mug\n")
    (tmp_path / "shop.yaml").write_text(
        "name: shop\ndescription: x\nsource: {adapter: files, interactions: shop.csv, items: items.csv}\n"
        "columns: {event_time: t}\nfeatures: [{name: title, kind: text}]\nsplit: {by: time}\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "pipelines", "run", "--dataset", str(tmp_path / "shop.yaml")],
        cwd=ROOT, env={**os.environ, "HETERREC_HOME": str(tmp_path / "home"), "COLUMNS": "200"}, capture_output=True,
        text=True, check=False, timeout=400,
    )  # fmt: skip
    assert result.returncode == 2 and "Traceback" not in result.stdout + result.stderr, result.stdout + result.stderr
    last = result.stdout[result.stdout.index("failed in resolve") :]
    assert (
        "resolve: its input: " in last
        and "shop.csv: it has no accepted interaction (1 of 1 rows were set aside" in last
    ), last
    assert "to change it: " in last and Path(re.findall(r"page: (.*)", last)[-1]).is_file()
