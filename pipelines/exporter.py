"""`python -m pipelines exporter`: tells Prometheus what the latest runs, gates and looks at a rollout came to.

A run is over before anything could scrape it, so this reads what runs leave behind: their records in the workspace, and
the rollout table. Nothing is kept here; each scrape reads anew. Metrics: docs/contracts.md.
"""

import argparse
import json
import logging
import signal
import threading
import time
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from components.shared.announcement import ENDING
from experiments.document import Rollout
from experiments.table import RolloutTable
from runtime import workspace
from runtime.errors import InputError
from runtime.task import TaskRecord, read_records

_logger = logging.getLogger(__name__)
_FOLDERS, _RUNS = 1000, 50
"""Latest runs that are looked at, and how many of each pipeline are read: among them are the last ones that came as
far as each gate. An hourly pipeline must not push the nightly one out."""
_GATES = ("validate", "evaluate", "refit", "infra_validate")
_TRAINED = ("loss", "validation_ndcg", "epochs", "training_seconds", "sequences_per_second", "parameters")
_INGESTED = ("rows", "accepted", "rejected", "users", "items")
UNKNOWN = "unknown"
_OF_TASK = {"train": "heterrec-training", "refresh-champion": "heterrec-catalogue"}
"""By these tasks a run that has not ended is known."""


class ExportedRun(NamedTuple):
    """The records of one run, and what is known of it."""

    pipeline: str
    failed: bool
    """Whether a task failed, or never ran."""
    records: dict[str, TaskRecord]

    @property
    def dataset(self) -> str:
        validated = self.records.get("validate")
        return str(validated.report.get("dataset", UNKNOWN)) if validated else UNKNOWN

    @property
    def started(self) -> float:
        return min(datetime.fromisoformat(record.started).timestamp() for record in self.records.values())

    @property
    def good(self) -> bool:
        """Whether it ended, without a fault."""
        return not self.failed and all(record.status in ("done", "reused") for record in self.records.values())


class Runs(Collector):
    """The records of the latest runs of each data set."""

    def describe(self) -> Iterable[Metric]:
        return list(_of_runs({}).values())

    def collect(self) -> Iterable[Metric]:
        found = _of_runs(by_dataset(latest_runs()))
        return found.values()


class Rollouts(Collector):
    """The rows of the rollout table and the last look at each; `open_table` opens the table."""

    def __init__(self, open_table: Callable[[], RolloutTable]) -> None:
        self._open = open_table

    def describe(self) -> Iterable[Metric]:
        return [_readable(False), *_of_rollouts([]).values()]

    def collect(self) -> Iterator[Metric]:
        try:
            with self._open() as table:
                rows = [(row, _last_look(table, row)) for row in map(table.read, table.models())]
        except Exception as error:  # any database has its own; the gauge tells, and runs are told of all the same
            _logger.warning("the rollout table cannot be read: %s", type(error).__name__)
            yield _readable(False)
            return
        yield _readable(True)
        yield from _of_rollouts(rows).values()


def registry() -> CollectorRegistry:
    """Everything that this exports."""
    made = CollectorRegistry()
    made.register(Runs())
    made.register(Rollouts(lambda: RolloutTable(workspace.rollout_url())))
    return made


def latest_runs() -> list[ExportedRun]:
    """The latest runs of each pipeline; one whose records are being written is left for the next scrape."""
    folders = sorted(workspace.runs().glob("*/"), key=lambda path: path.stat().st_mtime, reverse=True)
    found: dict[str, list[ExportedRun]] = {}
    for folder in folders[:_FOLDERS]:
        ending = _ending(folder.name)
        if len(found.get(str(ending.get("pipeline")), [])) < _RUNS and (records := _read(folder.name)):
            known = next((name for task, name in _OF_TASK.items() if task in records), UNKNOWN)
            failed = bool(ending.get("failed")) or any(record.status == "failed" for record in records.values())
            run = ExportedRun(str(ending.get("pipeline", known)), failed, records)
            found.setdefault(run.pipeline, []).append(run)
    return [run for runs in found.values() for run in runs]


def by_dataset(runs: Sequence[ExportedRun]) -> dict[tuple[str, str], list[ExportedRun]]:
    """Runs of each data set and pipeline, newest first. One that failed before its data was known counts for
    `unknown`, and so does the pipeline of one that was killed before it could be told."""
    found: dict[tuple[str, str], list[ExportedRun]] = {}
    for run in sorted(runs, key=lambda run: run.started, reverse=True):
        found.setdefault((run.dataset, run.pipeline), []).append(run)
    return found


def _of_runs(datasets: dict[tuple[str, str], list[ExportedRun]]) -> dict[str, GaugeMetricFamily]:
    made = _families(
        ("pipeline_last_run_timestamp_seconds", "When the latest run began", "dataset", "pipeline"),
        ("pipeline_last_success_timestamp_seconds", "When the latest run without a fault began", "dataset", "pipeline"),
        ("pipeline_last_run_failed", "1 where a task of the latest run failed", "dataset", "pipeline"),
        ("pipeline_task_seconds", "Seconds of each task, where it last ended", "dataset", "pipeline", "task"),
        (
            "pipeline_gate_passed",
            "1 where the gate let the latest run pass that came to it",
            "dataset",
            "pipeline",
            "gate",
        ),
        ("pipeline_gate_reasons", "Checks that did not hold there", "dataset", "pipeline", "gate", "level"),
        ("pipeline_ingest_rows", "What the latest ingest counted", "dataset", "pipeline", "what"),
        ("pipeline_training", "What the latest training reports", "dataset", "pipeline", "task", "what"),
        ("pipeline_quality", "The numbers of the latest evaluation", "dataset", "pipeline", "what"),
    )
    for of, runs in datasets.items():
        good = [run.started for run in runs if run.good]
        made["pipeline_last_run_timestamp_seconds"].add_metric(of, runs[0].started)
        made["pipeline_last_run_failed"].add_metric(of, runs[0].failed)
        if good or of[1] != UNKNOWN:
            # None at all is long ago, and not nothing: no alert would see what is missing.
            made["pipeline_last_success_timestamp_seconds"].add_metric(of, max(good, default=0.0))
        for task, record in _last_ended(runs).items():
            _add_task(made, of, task, record)
    return made


def _add_task(made: dict[str, GaugeMetricFamily], of: tuple[str, str], task: str, record: TaskRecord) -> None:
    report = record.report
    if record.status == "done":  # a reused one took no time that says anything
        made["pipeline_task_seconds"].add_metric([*of, task], record.seconds)
    if task in _GATES:
        made["pipeline_gate_passed"].add_metric([*of, task], bool(report["passed"]))
        for level in ("blocked", "warned"):
            made["pipeline_gate_reasons"].add_metric([*of, task, level], len(report.get(level, [])))
    if task == "ingest":
        for what in _INGESTED:
            if what in report:
                made["pipeline_ingest_rows"].add_metric([*of, what], report[what])
    if task.startswith("train"):
        for what in _TRAINED:
            if isinstance(report.get(what), int | float):
                made["pipeline_training"].add_metric([*of, task, what], report[what])
    if task == "evaluate":
        for what, value in report["metrics"].items():
            made["pipeline_quality"].add_metric([*of, what], value)


def _of_rollouts(rows: Sequence[tuple[Rollout, Any]]) -> dict[str, GaugeMetricFamily]:
    made = _families(
        ("rollout_row_version", "Changes of the row so far", "model"),
        ("rollout_since_timestamp_seconds", "When the stage, or the watch after a promotion, began", "model"),
        ("rollout_weight", "Share of shoppers that meet the challenger", "model"),
        ("rollout_paused", "1 while a person holds the experiment", "model"),
        ("rollout_waiting", "Candidates that wait", "model"),
        ("rollout_serves", "1 for each version that is loaded", "model", "role", "version"),
        ("rollout_last_look_timestamp_seconds", "When the experiment was last looked at", "model"),
        ("rollout_last_look", "1 for what that look did", "model", "action"),
        ("rollout_outcome", "Challenger less champion, with its bounds, at that look", "model", "what"),
        ("rollout_sample_ratio_log_e", "Evidence at that look that shoppers are missing from the log", "model"),
    )
    for row, look in rows:
        name = row.model
        made["rollout_row_version"].add_metric([name], row.version)
        made["rollout_weight"].add_metric([name], row.weight)
        made["rollout_paused"].add_metric([name], row.paused)
        made["rollout_waiting"].add_metric([name], len(row.queue))
        if row.since is not None:
            made["rollout_since_timestamp_seconds"].add_metric([name], row.since.timestamp())
        for role, arm in row.roles.items():
            made["rollout_serves"].add_metric([name, role, arm.version], 1)
        if look is not None:
            made["rollout_last_look_timestamp_seconds"].add_metric([name], look.at.timestamp())
            made["rollout_last_look"].add_metric([name, look.action], 1)
            _add_evidence(made, name, look.evidence)
    return made


def _add_evidence(made: dict[str, GaugeMetricFamily], name: str, evidence: dict[str, Any]) -> None:
    for what in ("estimate", "low", "high"):
        if (value := evidence.get("outcome", {}).get(what)) is not None:
            made["rollout_outcome"].add_metric([name, what], value)
    if evidence.get("ratio") is not None:
        made["rollout_sample_ratio_log_e"].add_metric([name], evidence["ratio"])


def _families(*described: tuple[str, ...]) -> dict[str, GaugeMetricFamily]:
    return {name: GaugeMetricFamily(name, what, labels=labels) for name, what, *labels in described}


def _readable(readable: bool) -> GaugeMetricFamily:
    return GaugeMetricFamily("rollout_table_readable", "0 where the rollout table cannot be read", value=readable)


def _last_look(table: RolloutTable, row: Rollout) -> Any:
    looks = table.decisions(row.model, row.salt) if row.salt else []
    return looks[-1] if looks else None


def _last_ended(runs: Sequence[ExportedRun]) -> dict[str, TaskRecord]:
    """Each task's record in the newest run where it ended."""
    found: dict[str, TaskRecord] = {}
    for run in runs:
        for task, record in run.records.items():
            if record.status in ("done", "reused"):
                found.setdefault(task, record)
    return found


def _read(run_id: str) -> dict[str, TaskRecord]:
    try:
        return read_records(run_id)
    except (OSError, ValueError, TypeError) as error:
        _logger.warning("%s: its records cannot be read: %s", workspace.runs() / run_id, error)
        return {}


def _ending(run_id: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((workspace.runs() / run_id / ENDING).read_text())
        return found
    except (OSError, ValueError):
        return {}  # it runs, or it was killed; or it is of a time before endings were kept


@contextmanager
def serve(host: str, port: int) -> Iterator[int]:
    """Answer `/metrics` at `host:port` (0: a free one) meanwhile; gives the port."""
    try:
        server, thread = start_http_server(port, addr=host, registry=registry())
    except OSError as error:
        raise InputError(f"{host}:{port}: cannot be listened to ({error.strerror}). Choose another --port.") from error
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def run(options: argparse.Namespace) -> int:
    """Export until Ctrl-C or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with serve(options.host, options.port) as port:
        print(f"metrics of {workspace.home()} at http://{options.host}:{port}/metrics (Ctrl-C ends it)", flush=True)
        while not stop.is_set():
            time.sleep(0.2)
    return 0
