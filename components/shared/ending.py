"""How a run ended, in one sentence, and why: each check with its numbers, what would change it, and its own page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from components.shared.choice import TRAIN, describe_choice
from runtime.task import TaskRecord

GATES = ("validate", "evaluate", "infra_validate")
AGAIN = "run the same command again: what was finished is reused, and a training goes on from its checkpoint"
KILLED = "the task's process ended without a word, which mostly is the system taking its memory back"
FAILED = ("FAILED", "CANCELED", "CANCELLED")
"""Of Kubeflow's words for a run."""
Style = Literal["good", "warn", "bad", "quiet"]
Records = Mapping[str, TaskRecord]


@dataclass(frozen=True, kw_only=True)
class Why:
    """One thing that ended the run before its release."""

    task: str
    check: str
    message: str
    """What was found, with its numbers."""
    remedy: str
    page: Path | None = None
    """The gate's own, with the rows and pictures."""

    @property
    def lines(self) -> list[str]:
        """As a terminal shows it."""
        return [f"{self.task}: {self.check}: {self.message}", f"    to change it: {self.remedy}"]


def broken(records: Records) -> TaskRecord | None:
    """The task that failed, or was killed."""
    return next((record for record in records.values() if record.status in ("failed", "running")), None)


class RunEnd(NamedTuple):
    """How a run ended, in the same words on its page, in a terminal, in MLflow, in the console and in a message."""

    sentence: str
    """What became of the model."""
    style: Style
    failed: bool = False
    blocked: bool = False
    """A gate, or too little power, kept every model from a release."""


def ending(records: Records, state: str = "", lost: Sequence[str] = ()) -> RunEnd:
    """The end of the run that left `records`. `state` is Kubeflow's word, for a run that says nothing itself; `lost`
    are tasks that had to end and did not (`expected_tasks.missing`): where none failed, they never ran."""
    if record := broken(records):
        return RunEnd(f"{'failed' if record.status == 'failed' else 'killed'} in {record.task}", "bad", failed=True)
    if lost:
        return RunEnd(f"failed: {', '.join(lost)} never ran", "bad", failed=True)
    found = _outcome(records)
    if state.upper() in FAILED:
        word = state.lower()
        return RunEnd(f"{word}, by Kubeflow's word alone: {found.sentence}" if found else word, "bad", failed=True)
    return found or RunEnd(state.lower() or "ended", "quiet")


def _outcome(records: Records) -> RunEnd | None:
    """What became of the model where every task ended that had to; None where the records say nothing of it."""
    for gate in GATES:
        if gate in records and records[gate].report.get("passed") is False:
            return RunEnd(f"not pushed: blocked by {gate}", "warn", blocked=True)
    if "features" in records and records["features"].notes.get("goes_on") is False:
        return RunEnd("not trained: the held-out shoppers could decide nothing", "warn", blocked=True)
    if "push" in records:
        report = records["push"].report
        if report.get("status") == "resting":
            return RunEnd("not pushed: its recipe rests", "warn")
        return RunEnd(f"pushed: version {report.get('version')} ({report.get('status')}){_of(records)}", "good")
    if "package" in records and (version := records["package"].notes.get("released_as")):
        return RunEnd(f"already released as version {version}{_of(records)}: nothing to push", "good")
    return None


def why(records: Records) -> list[Why]:
    """Everything that kept the judged model from a release, in the order of the run's tasks; nothing of one that came
    to it."""
    return [*_faults(records), *_blocked(records), *_tables_instead(records), *_undecided(records), *_resting(records)]


def instead(records: Records) -> str:
    """What is released in place of the model that was judged, or nothing."""
    return describe_choice(records["evaluate"].report.get("release")) if "evaluate" in records else ""


def _of(records: Records) -> str:
    return f", {found}" if (found := instead(records)) else ""


def _tables_instead(records: Records) -> Iterator[Why]:
    if instead(records):
        release = records["evaluate"].report["release"]
        yield Why(task="evaluate", check=f"{release['judged']} is not released", message=release["why"], remedy=TRAIN)


def _resting(records: Records) -> Iterator[Why]:
    if "push" in records and records["push"].report.get("status") == "resting":
        remedy = "another recipe; or, where the fault was elsewhere, `python -m serving rollout readmit`"
        yield Why(task="push", check="recipe", message=records["push"].report["why"], remedy=remedy)


def _faults(records: Records) -> Iterator[Why]:
    for record in records.values():
        if record.status == "running":
            needs = f" (it was said to need {plan['memory_mib']:,} MiB)" if (plan := record.notes.get("plan")) else ""
            yield Why(task=record.task, check="killed", message=KILLED + needs, remedy=f"free memory, and {AGAIN}")
        elif record.status == "failed" and record.input_fault:
            remedy = f"correct what the message names, and {AGAIN}"
            yield Why(task=record.task, check="its input", message=record.error, remedy=remedy)
        elif record.status == "failed":
            remedy = f"log.txt beside the run's page has the whole of it; {AGAIN}"
            yield Why(task=record.task, check="a fault", message=record.error, remedy=remedy)


def _blocked(records: Records) -> Iterator[Why]:
    for record in records.values():
        if not record.report.get("blocked"):
            continue
        page = Path(record.artifact) / "page.html"
        told = (record.report[name] for name in ("blocking", "blocked", "remedies"))
        for check, message, remedy in zip(*told, strict=True):
            shown = page if page.is_file() else None
            yield Why(task=record.task, check=check, message=message, remedy=remedy, page=shown)


def _undecided(records: Records) -> Iterator[Why]:
    if "features" not in records:
        return
    notes = records["features"].notes
    if notes.get("goes_on") is False:
        power = notes["power"]
        yield Why(task="features", check="power", message=power["found"], remedy=power["advice"])
