"""The workspace in an object store, on a real server of its protocol: two machines are two folders and one bucket."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from components.resolve import champion
from components.shared.release_store import store_release
from experiments.document import DocumentChange, ModelVersion
from experiments.table import RolloutTable
from runtime import object_store, reference, workspace
from runtime.errors import InputError
from runtime.manifest import Manifest
from runtime.task import Task, TaskRecord, read_records
from serving.torchserve import archive as archives
from tests.s3_server import s3_bucket


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3_bucket("models") as environment:
        yield environment


@pytest.fixture
def machine(server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes this process one of several machines, each with a folder of its own."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HETERREC_STORE", f"s3://models/{tmp_path.name}")

    def become(name: str) -> Path:
        monkeypatch.setenv("HETERREC_HOME", str(tmp_path / name))
        return workspace.home()

    become("first")
    return become


def artifact(text: str = "content", *, name: str = "key") -> Path:
    path = workspace.artifacts() / "thing" / name
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "a.txt").write_text(text)
    (path / "b.bin").write_bytes(bytes(range(256)) * 100)
    Manifest.seal(path, kind="thing", facts={"report": {"text": text}, "run": "r"})
    return path


def test_records_of_runs_on_other_machines_are_found(machine) -> None:
    """By these a run knows what it is held against: one level below, and of no other name."""
    for name in ("validate", "evaluate"):
        TaskRecord(task=name, status="done", started="2026-01-05").write("nightly-1")
    machine("second")
    assert object_store.shared() is not None
    object_store.shared().bring_files(workspace.runs(), "*/validate.json")
    assert [str(path.relative_to(workspace.runs())) for path in workspace.runs().rglob("*.json")] == [
        "nightly-1/validate.json"
    ]
    assert list(read_records("nightly-1")) == ["evaluate", "validate"]


def test_a_listing_that_names_the_folder_itself_has_no_file(machine, monkeypatch):
    """The driver answers so where the folder's first file appears between two of its questions."""
    shop, folder = object_store.shared(), workspace.scratch() / "model" / "key"
    own = f"models/{os.environ['HETERREC_STORE'].rsplit('/', 1)[1]}/scratch/model/key"
    for answer in ([own], [f"{own}/"], [own, f"{own}/checkpoint.pt"]):
        monkeypatch.setattr(shop._files, "find", lambda root, answer=answer: answer)
        assert shop.names(folder, below=True) == [folder / "checkpoint.pt"] * (len(answer) - 1)


def objects() -> list[str]:
    files = object_store.shared()._files
    return sorted(name.partition("/thing/")[2] for name in files.find(object_store.shared()._root) if "/thing/" in name)


def make(count: list[int]):
    def make(out: Path, scratch: Path) -> dict:
        count.append(1)
        (out / "a.txt").write_text("made")
        return {"made": len(count)}

    return make


def test_an_artifact_comes_to_another_machine_whole_and_verified(machine):
    sealed = artifact()
    object_store.shared().keep(sealed)
    machine("second")
    there = workspace.artifacts() / "thing" / "key"
    assert object_store.shared().fetch(there)
    assert (there / "deep" / "a.txt").read_text() == "content"
    assert Manifest.verify(there, kind="thing").digest == Manifest.verify(sealed).digest
    assert not object_store.shared().fetch(there.with_name("other"))
    assert object_store.present(sealed.parents[5] / "gone" / "artifacts" / "thing" / "key") == there


def test_the_manifest_is_uploaded_last_and_a_half_uploaded_artifact_is_never_read(machine, monkeypatch):
    sealed = artifact()
    uploaded: list[str] = []
    put = object_store.Store._put

    def dies(self, path: Path) -> None:
        if len(uploaded) == 2:
            raise KeyboardInterrupt
        uploaded.append(path.name)
        put(self, path)

    monkeypatch.setattr(object_store.Store, "_put", dies)
    with pytest.raises(KeyboardInterrupt):
        object_store.shared().keep(sealed)
    assert "manifest.json" not in uploaded
    assert objects() == ["key/b.bin", "key/deep/a.txt"]
    monkeypatch.setattr(object_store.Store, "_put", put)
    machine("second")
    assert not object_store.shared().fetch(workspace.artifacts() / "thing" / "key")
    assert not (workspace.artifacts() / "thing").exists()


def test_what_was_changed_in_the_store_is_refused_and_made_again(machine, capsys):
    made: list[int] = []
    work = {"kind": "thing", "config": dict, "make": make(made)}
    Task("step", run_id="r1", module="runtime.errors").reuse_or_make(workspace.home() / "out", **work)
    (key,) = {name.split("/")[0] for name in objects()}
    files = object_store.shared()._files
    files.pipe_file(f"{object_store.shared()._root}/artifacts/thing/{key}/a.txt", b"evil")
    machine("second")
    assert not object_store.shared().fetch(workspace.artifacts() / "thing" / key)
    assert not list((workspace.artifacts() / "thing").iterdir())
    Task("step", run_id="r2", module="runtime.errors").reuse_or_make(workspace.home() / "out", **work)
    assert len(made) == 2
    assert '"artifact_damaged"' in capsys.readouterr().out
    machine("third")
    Task("step", run_id="r3", module="runtime.errors").reuse_or_make(workspace.home() / "out", **work)
    assert len(made) == 2
    assert (reference.follow(workspace.home() / "out") / "a.txt").read_text() == "made"


def test_an_output_of_one_machine_leads_another_to_the_artifact(machine, tmp_path):
    """All that Kubeflow carries between two pods that share no disk."""
    work = {"kind": "thing", "config": dict, "make": make([])}
    Task("step", run_id="r1", module="runtime.errors").reuse_or_make(tmp_path / "carried", **work)
    assert json.loads((tmp_path / "carried" / reference.NAME).read_text())["address"].startswith("s3://models/")
    home = machine("second")
    found = reference.follow(tmp_path / "carried")
    assert found.is_relative_to(home) and (found / "a.txt").read_text() == "made"
    object_store.shared().drop(found)
    machine("third")
    with pytest.raises(InputError, match="nor in s3://models"):
        reference.follow(tmp_path / "carried")


def test_a_name_that_leads_outside_the_artifact_is_refused(machine, tmp_path):
    sealed = artifact()
    object_store.shared().keep(sealed)
    raw = json.loads((sealed / "manifest.json").read_text())
    raw["content"]["../../../outside.txt"] = "0" * 64
    shared = object_store.shared()
    shared._files.pipe_file(shared._at(sealed / "manifest.json"), json.dumps(raw).encode())
    machine("second")
    assert not object_store.shared().fetch(workspace.artifacts() / "thing" / "key")
    assert not list(tmp_path.rglob("outside.txt"))


def test_what_a_machine_made_before_it_had_a_store_is_shared_when_reused(machine, monkeypatch):
    made: list[int] = []
    work = {"kind": "thing", "config": dict, "make": make(made)}
    with monkeypatch.context() as patch:
        patch.delenv("HETERREC_STORE")
        Task("step", run_id="r1", module="runtime.errors").reuse_or_make(workspace.home() / "out", **work)
    Task("step", run_id="r2", module="runtime.errors").reuse_or_make(workspace.home() / "out", **work)
    machine("second")
    Task("step", run_id="r3", module="runtime.errors").reuse_or_make(workspace.home() / "out", **work)
    assert len(made) == 1
    assert {name: record.status for name, record in read_records("r3").items()} == {"step": "reused"}


def test_records_of_a_run_are_seen_by_every_machine_as_they_are_now(machine):
    record = TaskRecord(task="train", status="running", started="1")
    record.write("r1")
    machine("second")
    assert read_records("r1")["train"].status == "running"
    TaskRecord(task="ingest", status="done", started="0").write("r1")
    machine("first")
    record.status = "done"
    record.write("r1")
    assert list(read_records("r1")) == ["ingest", "train"]
    machine("second")
    assert read_records("r1")["train"].status == "done"


def test_the_checkpoint_of_a_killed_attempt_is_there_for_the_next_on_another_machine(machine, server, tmp_path):
    scratch = workspace.scratch() / "model" / "key"
    scratch.mkdir(parents=True)
    code = """
import os, sys, time
from pathlib import Path
from runtime import object_store
scratch = Path(sys.argv[1])
with object_store.shared().keeping(scratch, every=0.1):
    for epoch in range(3):
        partial = scratch / "checkpoint.pt.partial"
        partial.write_text(f"epoch {epoch}")
        os.replace(partial, scratch / "checkpoint.pt")
        time.sleep(0.5)
    time.sleep(3600)
"""
    running = subprocess.Popen(
        [sys.executable, "-c", code, str(scratch)], cwd=workspace.ROOT, stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            machine("second")
            other = workspace.scratch() / "model" / "key"
            object_store.shared().bring_files(other, object_store.CHECKPOINTS)
            if (other / "checkpoint.pt").is_file() and (other / "checkpoint.pt").read_text() == "epoch 2":
                break
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        running.kill()
        running.wait()
    machine("third")
    third = workspace.scratch() / "model" / "key"
    with object_store.shared().keeping(third, every=0.1):
        assert (third / "checkpoint.pt").read_text() == "epoch 2"
    assert object_store.shared().names(third) == [], "what is left of a killed attempt goes with its success"


def test_a_failed_attempt_leaves_its_last_checkpoint(machine):
    scratch = workspace.scratch() / "model" / "key"
    scratch.mkdir(parents=True)
    with pytest.raises(ZeroDivisionError), object_store.shared().keeping(scratch, every=3600):
        (scratch / "checkpoint.pt").write_text("epoch 7")
        raise ZeroDivisionError
    machine("second")
    with object_store.shared().keeping(workspace.scratch() / "model" / "key"):
        assert (workspace.scratch() / "model" / "key" / "checkpoint.pt").read_text() == "epoch 7"
    assert threading.active_count() >= 1
    assert not [thread for thread in threading.enumerate() if thread.name == "checkpoints"]


def test_a_store_that_is_away_is_told_in_one_message_and_nothing_is_lost(machine, monkeypatch):
    sealed = artifact()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(object_store.StoreFault, match=r"s3://models/.*: the object store is away or refuses"):
        object_store.shared().keep(sealed)
    assert Manifest.verify(sealed)
    monkeypatch.setenv("HETERREC_STORE", "ess-three://models")
    with pytest.raises(InputError, match="Expected an address such as s3://bucket/prefix"):
        object_store.shared()


def test_our_store_is_where_our_own_variables_say_whatever_kubeflow_s_client_is_told(machine, monkeypatch):
    """In a pod of Kubeflow the driver's own variables may be somebody else's."""
    sealed = artifact()
    for ours, drivers in {
        object_store.ENDPOINT: "AWS_ENDPOINT_URL",
        object_store.KEY: "AWS_ACCESS_KEY_ID",
        object_store.SECRET: "AWS_SECRET_ACCESS_KEY",
        object_store.REGION: "AWS_DEFAULT_REGION",
    }.items():
        monkeypatch.setenv(ours, os.environ[drivers])
        monkeypatch.setenv(drivers, "http://127.0.0.1:9" if drivers.endswith("URL") else "elsewhere")
    object_store.shared().keep(sealed)
    machine("second")
    assert object_store.shared().fetch(workspace.artifacts() / sealed.parent.name / sealed.name)


def test_a_missing_bucket_is_told(machine, monkeypatch):
    sealed = artifact()
    monkeypatch.setenv("HETERREC_STORE", "s3://no-such-bucket/x")
    with pytest.raises(object_store.StoreFault, match="no-such-bucket"):
        object_store.shared().keep(sealed)


def test_the_champions_model_comes_to_a_machine_that_did_not_release_it(machine, tmp_path):
    made = tmp_path / "made"
    (made / "content").mkdir(parents=True)
    (made / "content" / "goldens.jsonl").write_text("{}")
    (made / "model").mkdir()
    (made / "model" / "weights.pt").write_text("weights")
    digest = archives.build(made / "content", made / "shop.mar", name="shop", version="1.0")
    target = workspace.releases() / "shop" / "1.0"
    stored = store_release(made / "shop.mar", {"model": made / "model"}, target, digest=digest)
    model = ModelVersion(
        version="1.0", archive=str(stored), archive_digest=digest, recipe_digest="r", registered=datetime.now(UTC)
    )
    url = f"sqlite:///{tmp_path}/rollout.db"
    with RolloutTable(url) as table:
        row = table.read("shop")
        table.propose(DocumentChange(replace(row, champion=model), "push", "first"), row.version)
    workspace.home().rename(tmp_path / "out-of-reach")
    home = machine("second")
    (tmp_path / "champion").mkdir()
    assert champion.run(name="shop", rollout_url=url, champion=tmp_path / "champion")["version"] == "1.0"
    assert (tmp_path / "champion" / "model" / "weights.pt").read_text() == "weights"
    assert (home / "releases" / "shop" / "1.0" / "shop.mar").is_file()
