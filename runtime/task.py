"""What every Kubeflow wrapper does around its step: reuse by content, seal, record, and tell a fault once.

A step writes into a partial folder that becomes an artifact only when it is complete, so that a killed step
leaves nothing a reader could take for whole.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from runtime import object_store, reference, workspace
from runtime.code_digest import code_digest, package_versions
from runtime.errors import InputError
from runtime.files import replace_text
from runtime.locks import alone
from runtime.log import emit
from runtime.manifest import Manifest, digest_json

Report = dict[str, Any]
Status = Literal["running", "done", "reused", "failed"]


@dataclass(kw_only=True)
class TaskRecord:
    """What a run remembers of one task; `runs/<run>/<task>.json`."""

    task: str
    status: Status
    started: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    """Of the task's process and of those it waited for, between start and end."""
    peak_mib: int = 0
    """The most memory that one process of the task held; of tasks that share one (components/prepare), that it held
    until then."""
    key: str = ""
    artifact: str = ""
    digest: str = ""
    parents: dict[str, str] = field(default_factory=dict)
    report: Report = field(default_factory=dict)
    notes: Report = field(default_factory=dict)
    error: str = ""
    input_fault: bool = False

    def write(self, run_id: str) -> None:
        path = workspace.runs() / run_id / f"{self.task}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(asdict(self), indent=1, default=str))
        if shared := object_store.shared():
            shared.keep_file(path)


def read_records(run_id: str) -> dict[str, TaskRecord]:
    """The records of a run by task, in the order in which the tasks started."""
    if shared := object_store.shared():
        shared.bring_files(workspace.runs() / run_id, "*.json")
    paths = (workspace.runs() / run_id).glob("*.json")
    records = [TaskRecord(**json.loads(path.read_text())) for path in paths]
    return {record.task: record for record in sorted(records, key=lambda record: record.started)}


def lineage(run_id: str) -> Report:
    """Where a run's results came from: every task's artifact digest with its parents, and the code's commit."""
    run_id = workspace.run(run_id)
    tasks = {
        name: {"digest": record.digest, "parents": record.parents, "artifact": record.artifact}
        for name, record in read_records(run_id).items()
        if record.digest
    }
    return {"run_id": run_id, "commit": commit(), "tasks": tasks}


def commit() -> str:
    """The code's commit: `$HETERREC_COMMIT` in an image, git's answer in a checkout, else "unknown"."""
    if named := os.environ.get("HETERREC_COMMIT"):
        return named
    command = ["git", "-C", str(workspace.ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class Task:
    """One execution of a step in a run.

    `module` is the step's dotted name, whose code becomes part of the key; `inputs` are artifacts, or references to
    them: followed and verified first.
    """

    def __init__(self, name: str, *, run_id: str, module: str, inputs: Mapping[str, str | Path] | None = None) -> None:
        self.name, self.run_id, self.module = name, workspace.run(run_id), module
        self.inputs = {key: Path(path) for key, path in (inputs or {}).items()}
        self._store = object_store.shared()
        self._record = TaskRecord(task=name, status="running", started=datetime.now(UTC).isoformat())
        self._clock, self._cpu = time.monotonic(), _cpu_seconds()

    def reuse_or_make(
        self, output: str | Path, *, kind: str, config: Callable[[], Report], make: Callable[[Path, Path], Report]
    ) -> Report:
        """Let `output` refer to the artifact of this very code, packages, config and inputs: the stored one, or made by
        `make`.

        `make(out, scratch)` writes the content into `out` and returns the report; what it leaves in `scratch` is
        there again when a killed attempt is repeated.
        """
        with self._recorded():
            key = self._key(config())
            stored = workspace.artifacts() / kind / key
            status: Status = "reused"
            manifest = _verified(stored, kind)
            if manifest is None:
                with self._alone(f"{kind}-{key}"):
                    # Another run may have fetched or made it while this one waited for its turn.
                    manifest = self._stored(stored, kind)
                    if manifest is None:
                        manifest = self._make(stored, kind=kind, make=make)
                        status = "done"
            if self._store is not None:
                # Also what is reused: it may be of a time before the store, or of an attempt killed before its upload.
                self._store.keep(stored)
            reference.write(Path(output), stored, manifest)
            return self._finish(status, stored, manifest, key)

    def make_always(self, output: str | Path, *, kind: str, make: Callable[[Path, Path], Report]) -> Report:
        """Like `reuse_or_make` for steps that act on the world, and so are never reused."""
        with self._recorded():
            self._verify_inputs()
            key = f"{self.run_id}-{self.name}"
            stored = workspace.artifacts() / kind / key
            shutil.rmtree(stored, ignore_errors=True)
            manifest = self._make(stored, kind=kind, make=make)
            if self._store is not None:
                self._store.keep(stored)
            reference.write(Path(output), stored, manifest)
            return self._finish("done", stored, manifest, key)

    def hand_on(self, output: str | Path, name: str) -> None:
        """Let `output` refer to the input `name`, once the inputs were verified."""
        reference.write(Path(output), self.inputs[name], Manifest.read(self.inputs[name]))

    @property
    def artifact(self) -> Path:
        """Where the artifact is stored, once it was made or found."""
        return Path(self._record.artifact)

    def annotate(self, **facts: Any) -> None:
        """Add facts about this run, not about the artifact, to the record."""
        self._record.notes.update(facts)
        self._record.write(self.run_id)

    def _verify_inputs(self) -> None:
        self.inputs = {name: reference.follow(path) for name, path in self.inputs.items()}
        self._record.parents = {name: Manifest.verify(path).digest for name, path in self.inputs.items()}

    def _key(self, config: Report) -> str:
        self._verify_inputs()
        # An upgrade of torch, numpy or DuckDB can change the numbers as our own code can.
        made_by = {"code": code_digest(self.module), "packages": package_versions(self.module)}
        parts = {**made_by, "config": config, "inputs": self._record.parents}
        return digest_json(parts)[:20]

    def _stored(self, stored: Path, kind: str) -> Manifest | None:
        """The stored artifact's, fetched where another machine has made it; None where there is none that is whole."""
        manifest = _verified(stored, kind)
        if manifest is None and self._store is not None and self._store.fetch(stored):
            manifest = _verified(stored, kind)
        return manifest

    @contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """Until no other run of this workspace makes the same: both would write into one folder."""
        path = workspace.locks() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        told = {"task": self.name, "reason": "another run makes the same artifact"}
        with alone(path, lambda: emit("task_waits", **told)):
            try:
                yield
            finally:
                path.unlink()

    def _make(self, stored: Path, *, kind: str, make: Callable[[Path, Path], Report]) -> Manifest:
        partial = stored.with_name(f".{stored.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        scratch = workspace.scratch() / kind / stored.name
        scratch.mkdir(parents=True, exist_ok=True)
        with self._store.keeping(scratch) if self._store is not None else nullcontext():
            report = make(partial, scratch)
        manifest = Manifest.seal(
            partial, kind=kind, parents=self._record.parents, facts={"report": report, "run": self.run_id}
        )
        os.replace(partial, stored)
        shutil.rmtree(scratch)
        return manifest

    def _finish(self, status: Status, stored: Path, manifest: Manifest, key: str) -> Report:
        record = self._record
        record.status, record.key, record.artifact, record.digest = status, key, str(stored), manifest.digest
        record.report = manifest.facts["report"]
        return record.report

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        """Record the start, the end or the fault; a fault of the input ends the process with status 2."""
        self._record.write(self.run_id)
        emit("task_started", task=self.name)
        try:
            yield
        except BaseException as error:
            record = self._record
            record.status = "failed"
            self._measure()
            record.input_fault = isinstance(error, InputError)
            record.error = str(error) if record.input_fault else f"{type(error).__name__}: {error}"
            record.write(self.run_id)
            emit("task_failed", task=self.name, error=record.error, input_fault=record.input_fault)
            if record.input_fault:
                traceback.print_exc()
                sys.exit(2)
            raise
        self._measure()
        self._record.write(self.run_id)
        emit("task_ended", task=self.name, status=self._record.status, seconds=round(self._record.seconds, 2))

    def _measure(self) -> None:
        """What the task took until now, into its record."""
        record = self._record
        record.seconds, record.cpu_seconds = time.monotonic() - self._clock, round(_cpu_seconds() - self._cpu, 2)
        record.peak_mib = max(usage.ru_maxrss for usage in _usages()) // 1024


def _usages() -> list[resource.struct_rusage]:
    return [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def _cpu_seconds() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in _usages())


def _verified(stored: Path, kind: str) -> Manifest | None:
    if not stored.is_dir():
        return None
    try:
        return Manifest.verify(stored, kind=kind)
    except InputError as error:
        # A damaged artifact costs its making, never a wrong answer.
        emit("artifact_damaged", artifact=str(stored), error=str(error))
        shutil.rmtree(stored)
        return None
