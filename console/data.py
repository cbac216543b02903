"""What came in: days, rows set aside, checks against their bounds run by run, and how each feature is distributed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from markupsafe import Markup

from components.validate.pictures import days, feature
from console import runs
from console.runs import RunView
from runtime.charts import figure, spark
from runtime.decision import Decision, Reason

RUNS = 60
"""Latest runs whose checks are drawn."""
_EXAMPLES, _READ = 2, 20_000


@dataclass(frozen=True, kw_only=True)
class Aside:
    """Why rows were set aside, how many, and some of them."""

    reason: str
    rows: int
    examples: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class CheckHistory:
    """One check of the latest run, and what it found in the runs before."""

    reason: Reason
    found: str
    allowed: str
    over_time: Markup | None


@dataclass(frozen=True, kw_only=True)
class Data:
    run: RunView
    report: Mapping[str, Any]
    decision: Decision
    accepted: str
    """As of when the run was that it is held against; empty where there is none."""
    days: Markup | None
    aside: Sequence[Aside]
    open: Sequence[CheckHistory]
    moving: Sequence[CheckHistory]
    """Those that held and did not find the same in every run."""
    still: Sequence[CheckHistory]
    drift: Sequence[CheckHistory]
    features: Sequence[tuple[str, str, Markup | None]]
    """Name, sentence, picture."""


def read(dataset: str) -> Data | None:
    """What the latest run of `dataset` that came through the data gate found; None where there is none."""
    run = runs.latest_with("validate", dataset)
    if run is None:
        return None
    folder = run.artifact("validate")
    assert folder is not None
    decision, reference = Decision.read(folder), run.artifact("reference")
    profile, before = (_profile(each / "profile.json") if each else {} for each in (folder, reference))
    checks = list(_checks(decision, dataset))
    held = [each for each in checks if each.reason.held and not each.reason.check.endswith(" drift")]
    return Data(
        run=run,
        report=run.report("ingest"),
        decision=decision,
        accepted=before.get("as_of", ""),
        days=days(profile["days"]) if profile.get("days") else None,
        aside=_aside(run),
        open=[each for each in checks if not each.reason.held],
        moving=[each for each in held if each.over_time is not None],
        still=[each for each in held if each.over_time is None],
        drift=[each for each in checks if each.reason.check.endswith(" drift")],
        features=[
            (name, *feature(name, found, before.get("features", {}).get(name)))
            for name, found in profile.get("features", {}).items()
        ],
    )


def _checks(decision: Decision, dataset: str) -> Iterator[CheckHistory]:
    earlier = [runs.only(name, "validate").report("validate") for name in islice(runs.names(dataset), RUNS)]
    series = [report["found"] for report in reversed(earlier) if report]
    for reason in decision.reasons:
        if reason.level == "info":
            continue
        values = [found[reason.check] for found in series if _number(found.get(reason.check))]
        moves = len(values) > 1 and len(set(values)) > 1
        told = (
            f"{reason.check} over {len(values)} runs: {_value_text(values[0])} to {_value_text(values[-1])}"
            if values
            else ""
        )
        yield CheckHistory(
            reason=reason,
            found=_value_text(reason.found),
            allowed=_value_text(reason.allowed),
            over_time=spark(values, _bounds(reason.allowed), told) if moves else None,
        )


def _bounds(allowed: Any) -> list[float]:
    """The numbers of a bound, as checks tell it: one, or "low to high"."""
    if _number(allowed):
        return [float(allowed)]
    try:
        return [float(part) for part in str(allowed).split(" to ")] if " to " in str(allowed) else []
    except ValueError:
        return []


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _value_text(value: Any) -> str:
    return figure(value) if _number(value) else str(value)


def _aside(run: RunView) -> list[Aside]:
    counted = run.report("ingest").get("reasons", {})
    folder = run.artifact("ingest")
    examples: dict[str, list[str]] = {reason: [] for reason in counted}
    if folder and (folder / "rejected.parquet").is_file():
        with pq.ParquetFile(folder / "rejected.parquet") as file:
            rows = next(file.iter_batches(_READ, columns=["reasons", "record"]), None)
        for row in rows.to_pylist() if rows is not None else []:
            for reason in row["reasons"]:
                if len(shown := examples.setdefault(reason, [])) < _EXAMPLES:
                    shown.append(str(row["record"])[:300])
    ordered = sorted(counted.items(), key=lambda entry: -entry[1])
    return [Aside(reason=reason, rows=n, examples=examples[reason]) for reason, n in ordered]


def _profile(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found
