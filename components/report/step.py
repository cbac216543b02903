"""One page about a run, from the records of its tasks: it works for failed and interrupted runs too."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.shared.comparison_page import body as comparison_body
from components.shared.comparison_page import read_json
from components.shared.ending import ending, instead, why
from components.shared.model_names import baseline_name, model_name
from components.shared.pictures import training_curves
from components.shared.training_page import render as train_page
from runtime import workspace
from runtime.decision import Decision
from runtime.files import replace_text
from runtime.object_store import present
from runtime.page import render
from runtime.task import TaskRecord, commit, read_records

PLAINEST = "popularity"
"""The peer that everybody knows."""
TEMPLATE = Path(__file__).parent / "template.html"
TRAININGS = ("train", "train-baseline")
PAGES = {
    "validate": {"page.html": "rows and pictures", "data_docs/index.html": "Data Docs"},
    "evaluate": {"page.html": "the comparison alone"},
}
"""Of each step's artifact, the pages for people."""


def run(*, run_id: str, state: str, lost: Sequence[str] = ()) -> Path:
    """Write `runs/<run>/page.html` and beside it a page for each model trained; returns the path of the first.

    `state` is Kubeflow's word for how the run ended, `lost` the tasks that had to run and did not.
    """
    records = read_records(run_id)
    folder = workspace.runs() / run_id
    for task in TRAININGS:
        if model := _artifact(records, task):
            replace_text(folder / f"{task}.html", train_page(task, model, records[task].report))
    replace_text(folder / "page.html", page(run_id=run_id, state=state, beside=folder, lost=lost))
    return folder / "page.html"


def page(*, run_id: str, state: str, beside: Path | None, lost: Sequence[str] = ()) -> str:
    """The run's page; with links to the pages of its steps where it lies in the folder `beside`, as nothing that is
    shown elsewhere could follow them."""
    records = read_records(run_id)
    end = ending(records, state, lost)
    facts = _artifact(records, "resolve")
    evaluated = _artifact(records, "evaluate")
    return render(
        TEMPLATE.read_text(),
        title=f"{run_id}: {end.sentence}",
        dataset=run_id.rpartition("-")[0] or run_id,
        run_id=run_id,
        commit=commit(),
        as_of=read_json(facts / "facts.json")["as_of"] if facts else None,
        ending=end.sentence,
        ending_class=end.style,
        headline=_headline(records),
        why=why(records),
        records=list(records.values()),
        power=records["features"].notes.get("power") if "features" in records else None,
        ingest=records["ingest"].report if _artifact(records, "ingest") else None,
        validation=_decision(records, "validate"),
        curves=_curves(records),
        evaluation=_decision(records, "evaluate"),
        comparison=comparison_body(evaluated) if evaluated else None,
        instead=instead(records),
        refit=_decision(records, "refit"),
        what_serves=records["refit"].report["sentence"] if _artifact(records, "refit") else None,
        serving=_decision(records, "infra_validate"),
        links=_links(records, beside) if beside else {},
    )


def _headline(records: dict[str, TaskRecord]) -> str:
    """What was judged, by which recipe, and the number that people ask for first; nothing before a comparison."""
    report = records["evaluate"].report if _artifact(records, "evaluate") else {}
    judged = (report.get("release") or {}).get("judged", "")
    number = report.get("metrics", {}).get(f"{judged} ndcg@10")
    if number is None:
        return ""
    low = report["metrics"].get(f"ndcg@10 against {PLAINEST}, low")
    high = report["metrics"].get(f"ndcg@10 against {PLAINEST}, high")
    against = f", {low:+.4f} to {high:+.4f} against {PLAINEST}" if low is not None and high is not None else ""
    return f"{judged}: NDCG@10 {number:.4f}{against}"


def _links(records: dict[str, TaskRecord], beside: Path) -> dict[str, list[tuple[str, str]]]:
    """By task the pages about it, as (address relative to the folder `beside`, what it is)."""
    found: dict[str, list[tuple[str, str]]] = {}
    for task, pages in PAGES.items():
        root = _artifact(records, task)
        for name, what in pages.items() if root else ():
            assert root is not None
            if (root / name).is_file():
                found.setdefault(task, []).append((os.path.relpath(root / name, beside), what))
    for task in TRAININGS:
        if (beside / f"{task}.html").is_file():
            found[task] = [(f"{task}.html", "its curve, numbers and recipe")]
    return found


def _artifact(records: dict[str, TaskRecord], task: str) -> Path | None:
    record = records.get(task)
    return present(Path(record.artifact)) if record and record.status in ("done", "reused") else None


def _decision(records: dict[str, TaskRecord], task: str) -> Decision | None:
    root = _artifact(records, task)
    return Decision.read(root) if root else None


def _curves(records: dict[str, TaskRecord]) -> Any:
    models = [root for task in TRAININGS if (root := _artifact(records, task))]
    labels = (
        [model_name(models[0]), *(baseline_name(root, model_name(models[0])) for root in models[1:])] if models else []
    )
    read = {name: read_json(root / "curve.json") for name, root in zip(labels, models, strict=True)}
    curves = {name: curve for name, curve in read.items() if curve}
    return training_curves(curves) if curves else None
