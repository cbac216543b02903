"""The runs of the workspace as their folders tell them: a page of them at a time, never all files of all runs."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from markupsafe import Markup

from components.shared.announcement import ENDING
from components.shared.ending import GATES, ending, why
from runtime import workspace
from runtime.charts import (
    Plot,
    Scale,
    signed_figure,
    times,
)
from runtime.object_store import present
from runtime.page import signed
from runtime.task import TaskRecord

A_PAGE = 25
OVER_TIME = 60
"""Latest runs of a data set whose evaluations are drawn."""
_READ: dict[Path, tuple[int, Any]] = {}
_MOST_READ = 20_000


class UnknownName(LookupError):
    """There is no such run, item or shopper; the message says where it was looked for."""


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run; `records` are those of its tasks, in the order in which they started."""

    name: str
    records: dict[str, TaskRecord] = field(default_factory=dict)
    going_on: bool = False
    fault: str = ""
    """Why its records cannot be read."""

    @property
    def dataset(self) -> str:
        return dataset_of(self.name)

    @property
    def started(self) -> datetime | None:
        return datetime.fromisoformat(next(iter(self.records.values())).started) if self.records else None

    @property
    def seconds(self) -> float:
        """Of all tasks that ended."""
        return sum(record.seconds for record in self.records.values())

    @property
    def outcome(self) -> tuple[str, str]:
        """One sentence, and its style."""
        if self.fault:
            return "its records cannot be read", "bad"
        if not self.records:
            return "nothing recorded yet", "none"
        if self.going_on:
            return f"running: {list(self.records)[-1]}", "warn"
        end = ending(self.records)
        return end.sentence, "none" if end.style == "quiet" else end.style

    @property
    def stopped(self) -> list[Any]:
        return [] if self.going_on else why(self.records)

    def report(self, task: str) -> dict[str, Any]:
        """What the task reports; empty where it has not ended."""
        record = self.records.get(task)
        return record.report if record is not None and record.status in ("done", "reused") else {}

    def artifact(self, task: str) -> Path | None:
        """The folder of the task's artifact, where it is on this machine."""
        record = self.records.get(task)
        if record is None or record.status not in ("done", "reused"):
            return None
        found = present(Path(record.artifact))
        return found if found.is_dir() else None

    @property
    def recipe(self) -> str:
        """What was judged, by name."""
        return str((self.report("evaluate").get("release") or {}).get("judged", ""))

    @property
    def quality(self) -> dict[str, float]:
        """NDCG@10 by model, best known name first (what was judged)."""
        found = self.report("evaluate").get("metrics", {})
        ends = " ndcg@10"
        return {name.removesuffix(ends): value for name, value in found.items() if name.endswith(ends)}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """By peer, the ends of the 95 % interval of what was judged less the peer, in NDCG@10."""
        found = self.report("evaluate").get("metrics", {})
        begins, low = "ndcg@10 against ", ", low"
        peers = [name[len(begins) : -len(low)] for name in found if name.startswith(begins) and name.endswith(low)]
        return {peer: (found[f"{begins}{peer}, low"], found[f"{begins}{peer}, high"]) for peer in peers}

    @property
    def headline(self) -> str:
        """The number that people ask for first."""
        if (quality := self.quality.get(self.recipe)) is None:
            return ""
        return f"NDCG@10 {quality:.4f}"

    @property
    def gates(self) -> list[tuple[str, bool]]:
        return [(gate, bool(self.report(gate)["passed"])) for gate in GATES if self.report(gate)]


def names(dataset: str = "") -> list[str]:
    """Names of the runs of `dataset` (of all), the latest first."""
    try:
        with os.scandir(workspace.runs()) as folders:
            found = [(folder.stat().st_mtime, folder.name) for folder in folders if folder.is_dir()]
    except FileNotFoundError:
        return []
    return [name for _, name in sorted(found, reverse=True) if not dataset or dataset_of(name) == dataset]


def dataset_of(name: str) -> str:
    return name.rpartition("-")[0] or name


def page(found: Sequence[str], number: int) -> list[RunView]:
    """The runs of page `number`, from 1."""
    return [read(name) for name in found[(number - 1) * A_PAGE : number * A_PAGE]]


def one(name: str) -> RunView:
    """The run of that name. Raises `UnknownName`."""
    if not name or name in (".", "..") or "/" in name or not (workspace.runs() / name).is_dir():
        raise UnknownName(f"run {name!r}: not in {workspace.runs()}")
    return read(name)


def read(name: str) -> RunView:
    """The run from its records, each file read once for as long as it stays the same."""
    folder = workspace.runs() / name
    try:
        records = [TaskRecord(**_json(path)) for path in sorted(folder.glob("*.json"))]
        ordered = {record.task: record for record in sorted(records, key=lambda record: record.started)}
    except (OSError, ValueError, TypeError, KeyError) as error:
        return RunView(name=name, fault=f"{folder}: {type(error).__name__}: {error}")
    return RunView(name=name, records=ordered, going_on=_going_on(name, ordered))


def latest(dataset: str = "") -> RunView | None:
    return next((read(name) for name in names(dataset)), None)


def latest_with(task: str, dataset: str = "", most: int = 200) -> RunView | None:
    """The latest run in which `task` ended and whose artifact is there, among the latest `most`."""
    found = map(read, islice(names(dataset), most))
    return next((run for run in found if run.artifact(task) is not None), None)


def evaluated(dataset: str, most: int = OVER_TIME) -> list[RunView]:
    """The latest runs of `dataset` that came to a comparison, oldest first."""
    found = [run for name in islice(names(dataset), 2 * most) if (run := only(name, "evaluate")).quality]
    return sorted(found[:most], key=lambda run: run.started or datetime.min.replace(tzinfo=UTC))


def only(name: str, task: str) -> RunView:
    """The run with the record of one task alone."""
    path = workspace.runs() / name / f"{task}.json"
    try:
        return RunView(name=name, records={task: TaskRecord(**_json(path))})
    except FileNotFoundError:
        return RunView(name=name)
    except (OSError, ValueError, TypeError) as error:
        return RunView(name=name, fault=f"{path}: {error}")


def over_time(found: Sequence[RunView]) -> tuple[Markup, list[str]]:
    """NDCG@10 of each model, run by run, and the names of its lines by their colour."""
    models = list(dict.fromkeys(name for run in found for name in run.quality))[:8]
    moments = [run.started for run in found if run.started]
    values = [value for run in found for value in run.quality.values()]
    plot = Plot("NDCG@10 over the runs", times(moments), Scale(0, 1.1 * max(values))).axes(below=None).clock()
    for number, model in enumerate(models):
        here = [(run, run.quality[model]) for run in found if model in run.quality and run.started]
        points = [(run.started.timestamp(), value) for run, value in here if run.started]
        titles = [f"{model} {value:.4f}, {run.name}" for run, value in here]
        plot.line(points, f"l{number}").dots(points, f"f{number}", titles, 4 if number == 0 else 3)
    return plot.svg(), models


def differences(found: Sequence[RunView]) -> list[tuple[str, Markup]]:
    """A picture for each peer: what was judged less the peer with its interval, run by run, against zero."""
    made = []
    for peer in list(dict.fromkeys(name for run in found for name in run.intervals))[:6]:
        here = [(run, *run.intervals[peer]) for run in found if peer in run.intervals]
        moments = [run.started for run, _, _ in here if run.started]
        ends = [end for _, low, high in here for end in (low, high)]
        room = 0.1 * (max([0, *ends]) - min([0, *ends]))
        scale = Scale(min([0, *ends]) - room, max([0, *ends]) + room)
        plot = Plot(f"difference to {peer}", times(moments), scale).axes(signed_figure, below=None).clock()
        plot.across(0, "zero")
        for run, low, high in here:
            assert run.started is not None
            style = "lgood" if low > 0 else "lbad" if high < 0 else "lnone"
            told = f"{run.recipe} against {peer}: {signed(low)} to {signed(high)}, {run.name}"
            plot.interval(run.started.timestamp(), low, high, style, told)
        made.append((peer, plot.svg()))
    return made


def _going_on(name: str, records: dict[str, TaskRecord]) -> bool:
    """Whether the run is at work now. On one machine the workspace's lock names it and its process lives; where there
    is no lock, on a cluster, a run that was not told of as ended is at work."""
    if (workspace.runs() / name / ENDING).exists():
        return False
    try:
        holder = (workspace.home() / "run.lock").read_text()
    except FileNotFoundError:
        return any(record.status == "running" for record in records.values())
    if not holder.startswith(f"run {name} ("):
        return False
    process = holder.rpartition("process ")[2].rstrip(")")
    return process.isdecimal() and Path(f"/proc/{process}").exists()


def _json(path: Path) -> Any:
    """The file's content, parsed once for each of its versions."""
    moment = path.stat().st_mtime_ns
    known = _READ.get(path)
    if known is None or known[0] != moment:
        if len(_READ) >= _MOST_READ:
            _READ.clear()
        known = moment, json.loads(path.read_text())
        _READ[path] = known
    return known[1]
