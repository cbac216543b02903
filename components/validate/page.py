"""The gate's page for people: the verdict, what does not hold and the rows that show it, then everything else."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from components.validate.pictures import days, feature
from components.validate.suite import Unit, figure_text
from components.validate.verdicts import EVIDENCE
from feature_repo.card import DatasetCard
from runtime.charts import key
from runtime.decision import Decision, Reason
from runtime.page import render as render_page

MOST_NAMED = 5
TEMPLATE = Path(__file__).parent / "template.html"

_CAME_IN = {
    "rows": "Rows in the source",
    "accepted": "accepted",
    "rejected": "set aside",
    "users": "Users",
    "items": "Items",
    "first_event": "First event",
    "last_event": "Last event",
}


def render(
    decision: Decision,
    report: Mapping[str, Any],
    profile: Mapping[str, Any],
    distributions: Mapping[str, tuple[Any, Any]],
    reference: Mapping[str, Any],
    *,
    units: Mapping[str, Unit],
    card: DatasetCard,
    as_of: datetime,
    data_docs: bool,
) -> str:
    """The whole page, self-contained; all data is escaped.

    `report` is ingest's, `profile` may be empty; `distributions` has by feature the accepted one and that of now;
    `units` are those of the checks, by name; `data_docs` says whether there are such beside it.
    """
    now = profile.get("features", {})
    features = {name: feature(name, found, distributions.get(name, (None,))[0]) for name, found in now.items()}
    pictures = {name: {"name": name, "told": told, "picture": made} for name, (told, made) in features.items()}
    return render_page(
        TEMPLATE.read_text(),
        title=f"Validation of {card.name}",
        dataset=card.name,
        as_of=_moment(as_of.isoformat()),
        against=_moment(reference["accepted"]) if reference["accepted"] else None,
        verdict=_verdict(decision),
        count=decision.count,
        open=[_check(reason, units, pictures) for reason in decision.open],
        held=[_check(reason, units, {}) for reason in decision.held],
        most_rows=EVIDENCE,
        data_docs=data_docs,
        came_in=[(name, _came_in(report[key])) for key, name in _CAME_IN.items()],
        set_aside=sorted(report["reasons"].items(), key=lambda entry: -entry[1]),
        notes=[*report["notes"], *reference["notes"], reference["served"]],
        days=days(profile["days"]) if profile.get("days") else None,
        pictures=list(pictures.values()),
        key=key([("f0", "now"), *([("f1", "last accepted run")] if distributions else [])]),
    )


def _verdict(decision: Decision) -> dict[str, str]:
    blocking = [reason.check for reason in decision.blocking]
    warned = sum(reason.level == "warn" and not reason.held for reason in decision.reasons)
    warnings = f"{warned} warning{'s' if warned != 1 else ''}"
    if blocking:
        named = ", ".join(blocking[:MOST_NAMED]) + (" and others" if len(blocking) > MOST_NAMED else "")
        besides = f"; {warnings} besides" if warned else ""
        return {
            "headline": "Blocked: this data is not trained on",
            "consequence": "Nothing was trained or released: the model that serves goes on serving. "
            f"Stopped by {named}{besides}.",
            "style": "bad",
        }
    if warned:
        told = "Training went on. Look when there is time: nothing is broken yet."
        return {"headline": f"Accepted, with {warnings}", "consequence": told, "style": "warn"}
    return {"headline": "Accepted", "consequence": "Nothing to do.", "style": "good"}


def _check(reason: Reason, units: Mapping[str, Unit], pictures: Mapping[str, Any]) -> dict[str, Any]:
    blocks = reason.level == "block"
    names = list(reason.evidence[0]) if reason.evidence else []
    drifted = reason.check.removesuffix(" drift") if reason.check.endswith(" drift") else ""
    return {
        "reason": reason,
        "outcome": "blocks" if blocks else "warns",
        "style": "bad" if blocks else "warn",
        "found": figure_text(reason.found, units.get(reason.check, "count")),
        "allowed": figure_text(reason.allowed, units.get(reason.check, "count")),
        "names": names,
        "rows": [[_cell(row.get(name)) for name in names] for row in reason.evidence],
        "picture": pictures.get(drifted),
    }


def _cell(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _came_in(value: Any) -> str:
    return f"{_moment(value)} UTC" if isinstance(value, str) else figure_text(value, "count")


def _moment(iso: str) -> str:
    return iso[:16].replace("T", " ")
