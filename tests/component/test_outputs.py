"""What a task leaves in Kubeflow's own store: a reference to its artifact, which leads the next task there."""

import json
from pathlib import Path

import pytest

from runtime import reference, workspace
from runtime.errors import InputError
from runtime.manifest import Manifest
from runtime.task import Task, read_records

MODULE = "runtime.errors"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(params=["reuse_or_make", "make_always"])
def output(request, tmp_path: Path) -> Path:
    """What a task of this run made, however it is kept."""

    def work(out: Path, scratch: Path) -> dict:
        (out / "users.txt").write_text("ann\n" * 10**6)
        return {"users": 10**6}

    path = tmp_path / "kubeflow" / "events"
    named = {"config": dict} if request.param == "reuse_or_make" else {}
    getattr(Task("ingest", run_id="r1", module=MODULE), request.param)(path, kind="events", make=work, **named)
    return path


def read(path: Path, tmp_path: Path) -> dict:
    def work(out: Path, scratch: Path) -> dict:
        return {"read": (task.inputs["events"] / "users.txt").read_text()[:3]}

    task = Task("validate", run_id="r1", module=MODULE, inputs={"events": path})
    return task.make_always(tmp_path / "kubeflow" / "validation", kind="validation", make=work)


def test_an_output_holds_no_byte_of_its_artifact(output):
    (file,) = (path for path in output.rglob("*") if path.is_file())
    assert file.name == reference.NAME and file.stat().st_size < 400
    assert "ann" not in file.read_text()
    told = json.loads(file.read_text())
    assert Manifest.verify(workspace.home() / told["artifact"], kind="events").digest == told["digest"]


def test_the_next_task_reads_the_artifact_that_an_output_refers_to(output, tmp_path):
    assert read(output, tmp_path) == {"read": "ann"}
    assert read_records("r1")["validate"].parents == {"events": read_records("r1")["ingest"].digest}


def test_an_artifact_itself_may_be_given_too(output, tmp_path):
    assert read(reference.follow(output), tmp_path) == {"read": "ann"}


def _gone(output: Path) -> None:
    artifact = reference.follow(output)
    (artifact / "manifest.json").unlink()


def _another(output: Path) -> None:
    artifact = reference.follow(output)
    (artifact / "users.txt").write_text("bob")
    Manifest.seal(artifact, kind="events")


def _changed(output: Path) -> None:
    (reference.follow(output) / "users.txt").write_text("bob")


def _outside(output: Path) -> None:
    told = json.loads((output / reference.NAME).read_text())
    (output / reference.NAME).write_text(json.dumps({**told, "artifact": "artifacts/../../elsewhere"}))


def _half(output: Path) -> None:
    (output / reference.NAME).write_text('{"kind": "ev')


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (_gone, "which is not in"),
        (_another, "or is another one by now"),
        (_changed, "content differs from its manifest"),
        (_outside, "expected a place below artifacts/"),
        (_half, "is no reference to an artifact"),
    ],
)
def test_a_reference_that_leads_astray_is_a_fault_of_the_input(output, tmp_path, damage, told):
    damage(output)
    with pytest.raises(SystemExit):
        read(output, tmp_path)
    record = read_records("r1")["validate"]
    assert record.input_fault and told in record.error


def test_an_output_of_before_is_replaced(output, tmp_path):
    (output / "left.txt").write_text("by an attempt of before")
    again = tmp_path / "again"
    again.write_text("a file, as Kubeflow's runner may leave one")
    for path in (output, again):
        reference.write(path, workspace.artifacts() / "events" / "k", Manifest(kind="events", content={}))
        assert [each.name for each in path.iterdir()] == [reference.NAME]


def test_a_reference_without_its_artifact_says_where_was_looked(tmp_path):
    path = tmp_path / "x"
    reference.write(path, workspace.artifacts() / "events" / "k", Manifest(kind="events", content={}))
    with pytest.raises(InputError, match=r"artifacts/events/k .* which is not in .*/home"):
        reference.follow(path)
