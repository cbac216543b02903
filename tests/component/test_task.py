"""Reuse by content, and what is left of a task that dies."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from feature_repo.card import CardError
from runtime import code_digest, reference, workspace
from runtime.code_digest import package_versions
from runtime.errors import InputError
from runtime.manifest import Manifest
from runtime.task import Task, lineage, read_records

MODULE = "runtime.errors"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def unread():
    """Sources are read once a process: a test that edits them leaves nothing behind."""
    yield
    forget()


def forget() -> None:
    code_digest.tree.cache_clear()
    code_digest._imports.cache_clear()


def make(tmp_path: Path, *, run_id: str = "r1", config: object = 1, text: str = "content", inputs=None) -> tuple:
    calls = []

    def work(out: Path, scratch: Path) -> dict:
        calls.append(scratch)
        (out / "file.txt").write_text(text)
        return {"length": len(text)}

    task = Task("step", run_id=run_id, module=MODULE, inputs=inputs)
    output = tmp_path / f"out-{run_id}"
    report = task.reuse_or_make(output, kind="thing", config=lambda: {"c": config}, make=work)
    return task.artifact, report, len(calls)


def test_same_config_code_and_inputs_are_reused(tmp_path):
    _, report, made = make(tmp_path)
    again, report_again, made_again = make(tmp_path, run_id="r2")
    assert (made, made_again) == (1, 0)
    assert report == report_again == {"length": 7}
    assert (again / "file.txt").read_text() == "content"
    assert read_records("r2")["step"].status == "reused"
    assert {reference.follow(tmp_path / f"out-{run}") for run in ("r1", "r2")} == {again}


def test_what_another_run_is_making_is_waited_for_and_reused(tmp_path, home, capfd):
    making, go_on = threading.Event(), threading.Event()

    def slowly(out: Path, scratch: Path) -> dict:
        making.set()
        assert go_on.wait(30)
        (out / "file.txt").write_text("content")
        return {"length": 7}

    def first() -> None:
        task = Task("step", run_id="r1", module=MODULE)
        task.reuse_or_make(tmp_path / "first", kind="thing", config=lambda: {"c": 1}, make=slowly)

    with ThreadPoolExecutor(2) as runs:
        done = runs.submit(first)
        assert making.wait(30)
        second = runs.submit(make, tmp_path, run_id="r2")
        while not (home / "runs" / "r2" / "step.json").exists():
            time.sleep(0.01)
        time.sleep(0.2)
        go_on.set()
        done.result(30)
        output, _, made = second.result(30)
    assert (made, (output / "file.txt").read_text()) == (0, "content")
    assert [read_records(run)["step"].status for run in ("r1", "r2")] == ["done", "reused"]
    assert "another run makes the same artifact" in capfd.readouterr().out and not list((home / "locks").iterdir())


def test_another_config_is_made_anew(tmp_path):
    make(tmp_path)
    assert make(tmp_path, run_id="r2", config=2)[2] == 1


def test_changed_input_content_is_made_anew(tmp_path):
    upstream = tmp_path / "upstream"
    upstream.mkdir()
    (upstream / "x").write_text("1")
    Manifest.seal(upstream, kind="input")
    make(tmp_path, inputs={"upstream": upstream})
    (upstream / "x").write_text("2")
    Manifest.seal(upstream, kind="input")
    assert make(tmp_path, run_id="r2", inputs={"upstream": upstream})[2] == 1


def test_an_edited_step_is_made_anew(tmp_path, monkeypatch):
    make(tmp_path)
    edited = tmp_path / "source.py"
    edited.write_text(code_digest.source(MODULE).read_text() + "EDITED = 1\n")
    monkeypatch.setattr(code_digest, "source", lambda module: edited)
    forget()
    assert make(tmp_path, run_id="r2")[2] == 1
    edited.write_text(edited.read_text() + "# only told differently\n")
    forget()
    assert make(tmp_path, run_id="r3")[2] == 0


def test_an_upgraded_package_is_made_anew(tmp_path, monkeypatch):
    """Every package that a step's modules import, not a list of some."""
    installed = package_versions("components.train.step")
    assert {"torch", "numpy", "pyarrow"} <= set(installed)
    assert {"duckdb", "feast"} <= set(package_versions("components.features.step"))
    keys = set()
    for package in (None, *installed):
        versions = {**installed, **({package: "99"} if package else {})}
        monkeypatch.setattr("runtime.task.package_versions", lambda module, found=versions: found)
        keys.add(make(tmp_path, run_id=f"r-{package}")[2])
    assert keys == {1} and len(list((tmp_path / "home" / "artifacts" / "thing").iterdir())) == 1 + len(installed)


def test_damaged_artifact_is_made_anew(tmp_path, home):
    output, _, _ = make(tmp_path)
    stored = next((home / "artifacts" / "thing").glob("*/file.txt"))
    stored.unlink()
    stored.write_text("damaged")
    output, _, made = make(tmp_path, run_id="r2")
    assert made == 1
    assert (output / "file.txt").read_text() == "content"


def test_input_without_manifest_is_refused(tmp_path):
    half = tmp_path / "half"
    half.mkdir()
    with pytest.raises(SystemExit) as ended:
        make(tmp_path, inputs={"upstream": half})
    assert ended.value.code == 2
    record = read_records("r1")["step"]
    assert record.status == "failed"
    assert record.input_fault
    assert "manifest.json is missing" in record.error


def test_fault_of_the_input_is_recorded_and_ends_with_status_2(tmp_path):
    def work(out: Path, scratch: Path) -> dict:
        raise InputError("clicks.csv: column 'when' is missing")

    with pytest.raises(SystemExit) as ended:
        Task("step", run_id="r1", module=MODULE).make_always(tmp_path / "o", kind="thing", make=work)
    assert ended.value.code == 2
    assert read_records("r1")["step"].error == "clicks.csv: column 'when' is missing"


def act(tmp_path: Path, text: str, run_id: str = "r1") -> Path:
    """A step that acts on the world."""
    task = Task("act", run_id=run_id, module=MODULE)
    task.make_always(tmp_path / "act", kind="deed", make=lambda out, _: {"n": (out / "x").write_text(text)})
    return task.artifact


def test_what_acts_on_the_world_acts_again_in_every_run_and_attempt(tmp_path):
    first = act(tmp_path, "1")
    again = act(tmp_path, "2")
    assert first == again and (again / "x").read_text() == "2", "an attempt repeated takes the place of the one before"
    other = act(tmp_path, "2", run_id="r2")
    assert other != again and read_records("r2")["act"].status == "done"
    assert reference.follow(tmp_path / "act") == other


def test_a_fault_of_ours_is_raised_and_recorded_as_one(tmp_path):
    def work(out: Path, scratch: Path) -> dict:
        raise ZeroDivisionError("by nought")

    with pytest.raises(ZeroDivisionError):
        Task("step", run_id="r1", module=MODULE).make_always(tmp_path / "o", kind="thing", make=work)
    record = read_records("r1")["step"]
    assert (record.status, record.input_fault, record.error) == ("failed", False, "ZeroDivisionError: by nought")
    assert record.seconds > 0, "what was spent in vain was spent"


def test_a_card_that_is_wrong_is_a_fault_of_the_input(tmp_path):
    def work(out: Path, scratch: Path) -> dict:
        raise CardError("shop.yaml: split is missing")

    with pytest.raises(SystemExit):
        Task("step", run_id="r1", module=MODULE).make_always(tmp_path / "o", kind="thing", make=work)
    assert read_records("r1")["step"].input_fault


def test_a_run_knows_its_tasks_in_order_what_they_took_and_where_their_results_came_from(tmp_path, monkeypatch):
    monkeypatch.setenv("HETERREC_COMMIT", "abc")
    (upstream := tmp_path / "upstream").mkdir()
    Manifest.seal(upstream, kind="input")

    def burn(out: Path, scratch: Path) -> dict:
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
        return {"n": 1}

    began = time.process_time()
    later = Task("b", run_id="r1", module=MODULE, inputs={"up": upstream})
    later.make_always(tmp_path / "b", kind="thing", make=burn)
    Task("a", run_id="r1", module=MODULE).make_always(tmp_path / "a", kind="thing", make=lambda out, _: {})
    Task("c", run_id="r1", module=MODULE).annotate(why="told")
    records = read_records("r1")
    assert list(records) == ["b", "a", "c"]
    assert 0.05 <= records["b"].cpu_seconds <= time.process_time() - began + 0.01 and records["b"].seconds >= 0.05
    assert 1 < records["b"].peak_mib < 10**6 and (records["c"].status, records["c"].notes) == (
        "running",
        {"why": "told"},
    )
    digest = Manifest.read(upstream).digest
    told = lineage("r1")
    assert (told["run_id"], told["commit"], list(told["tasks"])) == ("r1", "abc", ["b", "a"])
    assert told["tasks"]["b"] == {
        "digest": Manifest.read(later.artifact).digest, "parents": {"up": digest}, "artifact": str(later.artifact),
    }  # fmt: skip


def test_an_input_is_handed_on_as_it_is(tmp_path):
    upstream = act(tmp_path, "1")
    Task("step", run_id="r2", module=MODULE, inputs={"up": upstream}).hand_on(tmp_path / "out", "up")
    assert reference.follow(tmp_path / "out") == upstream


def test_killed_task_leaves_no_artifact_and_finds_its_scratch_again(tmp_path, home):
    script = textwrap.dedent(
        f"""
        import os, signal, sys
        from pathlib import Path
        from runtime.task import Task

        def work(out, scratch):
            mark = scratch / "checkpoint"
            if not mark.exists():
                (out / "half.txt").write_text("half")
                mark.write_text("epoch 3")
                os.kill(os.getpid(), signal.SIGKILL)
            (out / "whole.txt").write_text("resumed from " + mark.read_text())
            return {{}}

        Task("step", run_id=sys.argv[1], module={MODULE!r}).reuse_or_make(
            {str(tmp_path / "out")!r}, kind="thing", config=dict, make=work)
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(workspace.ROOT)}
    command = [sys.executable, "-c", script]
    killed = subprocess.run([*command, "r1"], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert read_records("r1")["step"].status == "running"
    assert not [path for path in (home / "artifacts" / "thing").iterdir() if not path.name.startswith(".")]
    subprocess.run([*command, "r2"], env=environment, check=True, stdout=subprocess.DEVNULL)
    made = reference.follow(tmp_path / "out")
    assert (made / "whole.txt").read_text() == "resumed from epoch 3"
    assert not (made / "half.txt").exists()
    assert not list((home / "scratch" / "thing").iterdir())


def test_manifest_names_the_file_that_changed(tmp_path):
    (tmp_path / "a").write_text("1")
    Manifest.seal(tmp_path, kind="thing", facts={"rows": 1})
    assert Manifest.verify(tmp_path, kind="thing").facts == {"rows": 1}
    with pytest.raises(InputError, match="is a 'thing' artifact, expected 'other'"):
        Manifest.read(tmp_path, kind="other")
    (tmp_path / "a").write_text("2")
    with pytest.raises(InputError, match=r"a: content differs"):
        Manifest.verify(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(InputError, match="schema 99, expected 1"):
        Manifest.read(tmp_path)
