"""One run in full, and two side by side: the result first, then why, what it was made of, and the tasks last."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from components.report.step import PAGES, TRAININGS
from console.runs import RunView
from runtime import workspace
from runtime.charts import Plot, Scale

_LEFT_OUT = ("partitions", "found", "metrics", "remedies", "blocked", "blocking", "warned", "nights")
"""Of a task's report: what has a place of its own on the page, or is long."""


class ComparedFact(NamedTuple):
    """One fact of two runs."""

    name: str
    left: str
    right: str

    @property
    def differs(self) -> bool:
        return self.left != self.right


def evaluation(run: RunView) -> dict[str, Any] | None:
    """The comparison's report, where the artifact is there."""
    found = run.artifact("evaluate")
    return _json(found / "report.json") if found else None


def standing(report: Mapping[str, Any]) -> Markup:
    """NDCG@10 of each model as a bar, what was judged first."""
    models = {name: row.get("ndcg@10") or 0.0 for name, row in report["models"].items()}
    plot = Plot("NDCG@10 by model", Scale(0, len(models)), Scale(0, 1.15 * max([0.001, *models.values()])))
    plot.axes(below=None)
    for place, (name, value) in enumerate(models.items()):
        plot.bar(place + 0.15, place + 0.85, value, f"f{min(place, 1) * 7}", f"{name}: {value:.4f}")
        plot.name(place + 0.5, _cut(name, 14 if len(models) < 5 else 9), title=name)
    return plot.svg()


def other_metrics(report: Mapping[str, Any]) -> list[str]:
    """Names of all metrics that the report has beside the usual, such as coverage and novelty."""
    found = dict.fromkeys(name for row in report["models"].values() for name in row)
    return [name for name in found if not name.startswith(("hr@", "ndcg@", "mrr"))]


def pages(run: RunView) -> list[tuple[str, str]]:
    """The pages that the run and its gates wrote, as (address here, what it is)."""
    folder = workspace.runs() / run.name
    named = {"page.html": "the run's page", **{f"{task}.html": f"{task}: its curve and recipe" for task in TRAININGS}}
    found = [(folder / name, what) for name, what in named.items() if (folder / name).is_file()]
    for task, of_task in PAGES.items():
        artifact = run.artifact(task)
        found += [(artifact / name, f"{task}: {what}") for name, what in of_task.items() if artifact]
    home = workspace.home()
    return [
        (f"/files/{path.relative_to(home).as_posix()}", what)
        for path, what in found
        if path.is_file() and path.is_relative_to(home)
    ]


def facts(run: RunView) -> dict[str, dict[str, str]]:
    """What a run is made of, by part: data, recipe, numbers."""
    ingested = {key: _value_text(value) for key, value in run.report("ingest").items() if _plain(key, value)}
    aside = {f"set aside: {key}": _value_text(n) for key, n in run.report("ingest").get("reasons", {}).items()}
    resolved = {"as of": _value_text(run.report("resolve").get("as_of", ""))} if run.report("resolve") else {}
    model = run.artifact("train")
    recipe = dict(_flat(_json(model / "config.json"))) if model and (model / "config.json").is_file() else {}
    report = evaluation(run)
    numbers = dict(_numbers(report)) if report else {}
    training = {key: _value_text(value) for key, value in run.report("train").items() if key not in _LEFT_OUT}
    return {
        "Data": {**resolved, **ingested, **aside},
        "Recipe": recipe,
        "Training": training,
        "Numbers": numbers,
        "Outcome": {"outcome": run.outcome[0], **{gate: "passed" if ok else "blocked" for gate, ok in run.gates}},
    }


def compared(left: RunView, right: RunView) -> dict[str, list[ComparedFact]]:
    """The facts of both, part by part; what only one has stands beside nothing."""
    mine, other = facts(left), facts(right)
    return {
        part: [
            ComparedFact(name, mine[part].get(name, ""), other[part].get(name, ""))
            for name in {**mine[part], **other[part]}
        ]
        for part in mine
    }


def file(address: str) -> Path | None:
    """The page of the workspace at `address` (a path below it); None where there is none that may be shown."""
    home = workspace.home()
    path = Path(os.path.realpath(home / address))
    parts = path.relative_to(home).parts if path.is_relative_to(home) else ()
    shown = path.suffix == ".html" and parts[:1] in (("runs",), ("artifacts",), ("rollout",))
    return path if shown and path.is_file() else None


def _numbers(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for model, row in report["models"].items():
        for metric in ("ndcg@10", "hr@10", "mrr", *other_metrics(report)):
            if row.get(metric) is not None:
                yield f"{model}: {metric}", f"{row[metric]:.4f}"
    for name, part in report["slices"].items():
        value = part["models"].get(report.get("new", ""))
        yield f"{name}: ndcg@10", "" if value is None else f"{value:.4f}"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else key)
    else:
        yield name, _value_text(value)


def _plain(key: str, value: Any) -> bool:
    return key != "notes" and not isinstance(value, dict)


def _value_text(value: Any) -> str:
    if isinstance(value, bool | str):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, default=lambda each: asdict(each), ensure_ascii=False)


def _cut(name: str, most: int) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _json(path: Path) -> Any:
    return json.loads(path.read_text())
