"""What was found, held against what is allowed: a Reason for each check."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.validate.suite import Bounds, Check, DataCheck, figure_text
from runtime.decision import Level, Reason

EVIDENCE = 20
"""Offending rows shown for a check."""
LEVELS: tuple[Level, ...] = ("block", "warn")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was found, of how many rows where it is a share, and where to get the rows that show it."""

    found: Any
    rows: int | None = None
    evidence: Callable[[], list[dict[str, Any]]] = field(default=list)
    held: bool | None = None
    """What Great Expectations says; None where the number is held against the bounds."""


def verdicts(checks: Sequence[Check], measures: Mapping[str, Measurement]) -> list[Reason]:
    """A Reason for each of `checks`, in their order."""
    return [_reason(check, measures[check.name]) for check in checks]


def _reason(check: Check, measure: Measurement) -> Reason:
    failed = _failed(check, measure)
    weight: Level = failed or ("block" if "block" in check.bounds else "warn")
    # Of what holds the closer bound is told.
    bounds = check.bounds[failed or ("warn" if "warn" in check.bounds else "block")]
    allowed = check.allowed if isinstance(check, DataCheck) else bounds.text()
    evidence = measure.evidence()[:EVIDENCE] if failed else []
    return Reason(
        check=check.name,
        held=failed is None,
        found=_plain(measure.found),
        allowed=allowed,
        message=_complaint(check, measure, allowed, evidence) if failed else check.message,
        remedy=check.remedy,
        level=weight,
        evidence=evidence,
    )


def _failed(check: Check, measure: Measurement) -> Level | None:
    """The heavier level at which it does not hold."""
    if isinstance(check, DataCheck):
        return None if measure.held else check.level
    # No comparison is true of what is not a number: it must not pass.
    assert measure.found == measure.found, check.name
    return next((level for level in LEVELS if level in check.bounds and not _in(measure, check.bounds[level])), None)


def _in(measure: Measurement, bounds: Bounds) -> bool:
    high_enough = bounds.low is None or measure.found >= bounds.low
    return high_enough and (bounds.high is None or measure.found <= bounds.high)


def _complaint(check: Check, measure: Measurement, allowed: float | str, evidence: list[dict[str, Any]]) -> str:
    """What did not hold, with its numbers, for a line on the terminal."""
    complaint = f"found {figure_text(_plain(measure.found), check.unit)}, allowed {figure_text(allowed, check.unit)}"
    if measure.rows is not None:
        complaint = f"not so in {measure.found:.2%} of {measure.rows:,} rows, allowed {allowed:.2%}"
    if check.name == "columns":
        lines = [f"{e['table']}.{e['column']} is {e['found']}, expected {e['expected']}" for e in evidence]
        complaint = "; ".join(lines)
    if why := sorted({e["item_set_aside"] for e in evidence if e.get("item_set_aside")}):
        complaint += f": the items table has such items, but their own rows were set aside ({', '.join(why)})"
    if reasons := [f"{e['reason']} {e['rows']:,}" for e in evidence if "reason" in e]:
        complaint += f": {', '.join(reasons)}"
    return f"{check.message}: {complaint}."


def _plain(value: Any) -> Any:
    """A JSON number with no more digits than matter."""
    value = value.item() if hasattr(value, "item") else value
    return round(value, 6) if isinstance(value, float) else value
