"""One page about a run, from the records of its tasks: it works for failed and interrupted runs too."""

import os
from pathlib import Path
from typing import Any

from components import workspace
from components.decision import Decision
from components.evaluate.choice import told
from components.evaluate.names import baseline_name, model_name
from components.evaluate.page import body as comparison_body
from components.evaluate.page import read_json
from components.evaluate.pictures import training_curves
from components.page import render
from components.store import present
from components.task import Record, commit, read_records

TEMPLATE = Path(__file__).parent / "template.html"


def run(*, run_id: str, state: str) -> Path:
    """Write `runs/<run>/page.html` and return its path; `state` is Kubeflow's word for how the run ended."""
    records = read_records(run_id)
    ending, ending_class = _ending(records, state)
    facts = _artifact(records, "resolve")
    evaluated = _artifact(records, "evaluate")
    html = render(
        TEMPLATE.read_text(),
        title=f"{run_id}: {ending}",
        dataset=run_id.rpartition("-")[0] or run_id,
        run_id=run_id,
        commit=commit(),
        as_of=read_json(facts / "facts.json")["as_of"] if facts else None,
        ending=ending,
        ending_class=ending_class,
        why=_why(records),
        records=list(records.values()),
        ingest=records["ingest"].report if _artifact(records, "ingest") else None,
        validation=_decision(records, "validate"),
        curves=_curves(records),
        evaluation=_decision(records, "evaluate"),
        comparison=comparison_body(evaluated) if evaluated else None,
        instead=_instead(records),
        serving=_decision(records, "infra_validate"),
    )
    page = workspace.runs() / run_id / "page.html"
    partial = page.with_suffix(".partial")
    partial.write_text(html)
    os.replace(partial, page)
    return page


def ending(run_id: str, state: str) -> str:
    """How the run ended, as its page says."""
    return _ending(read_records(run_id), state)[0]


def _ending(records: dict[str, Record], state: str) -> tuple[str, str]:
    for record in records.values():
        if record.status in ("failed", "running"):
            return f"failed in {record.task}", "bad"
    for gate in ("validate", "evaluate", "infra_validate"):
        if gate in records and not records[gate].report["passed"]:
            return f"not pushed: blocked by {gate}", "warn"
    if "features" in records and records["features"].notes.get("goes_on") is False:
        return "not trained: the held-out shoppers could decide nothing", "warn"
    if "push" in records:
        report = records["push"].report
        return f"pushed as version {report['version']} ({report['status']}){_of(records)}", "good"
    if "package" in records and (version := records["package"].notes.get("released_as")):
        return f"already released as version {version}{_of(records)}", "good"
    return state.lower(), "quiet"


def _why(records: dict[str, Record]) -> list[str]:
    faults = [record.error for record in records.values() if record.status == "failed"]
    blocked = [message for record in records.values() for message in record.report.get("blocked", [])]
    power = records["features"].notes.get("power") if "features" in records else None
    if _instead(records):
        blocked.append(records["evaluate"].report["release"]["why"])
    return faults + blocked + ([power["sentence"]] if power and not power["enough"] else [])


def _instead(records: dict[str, Record]) -> str:
    """What is released in place of the model that was judged, or nothing."""
    return told(records["evaluate"].report.get("release")) if "evaluate" in records else ""


def _of(records: dict[str, Record]) -> str:
    return f": {found}" if (found := _instead(records)) else ""


def _artifact(records: dict[str, Record], task: str) -> Path | None:
    record = records.get(task)
    return present(Path(record.artifact)) if record and record.status in ("done", "reused") else None


def _decision(records: dict[str, Record], task: str) -> Decision | None:
    root = _artifact(records, task)
    return Decision.read(root) if root else None


def _curves(records: dict[str, Record]) -> Any:
    models = [root for task in ("train", "train-baseline") if (root := _artifact(records, task))]
    labels = (
        [model_name(models[0]), *(baseline_name(root, model_name(models[0])) for root in models[1:])] if models else []
    )
    read = {name: read_json(root / "curve.json") for name, root in zip(labels, models, strict=True)}
    curves = {name: curve for name, curve in read.items() if curve}
    return training_curves(curves) if curves else None
