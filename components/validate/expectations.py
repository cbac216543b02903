"""Great Expectations holds what was measured against the card: one suite, one row of measures, quiet."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.validate.data_docs import make_offline
from components.validate.suite import Check, told
from runtime.decision import Level, Reason

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult
    from great_expectations.data_context import EphemeralDataContext

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

EVIDENCE = 20
"""Offending rows shown for a check."""
LEVELS: tuple[Level, ...] = ("block", "warn")


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What was found, of how many rows where it is a share, and where to get the rows that show it."""

    found: float
    rows: int | None = None
    evidence: Callable[[], list[dict[str, Any]]] = field(default=list)


def verdicts(
    checks: Sequence[Check], measures: Mapping[str, Measure], *, name: str, as_of: datetime, data_docs: Path | None
) -> list[Reason]:
    """A Reason for each of `checks`, in their order; Data Docs go to the folder `data_docs` where one is given.

    Raises `RuntimeError` where an expectation could not be evaluated.
    """
    context = _context(data_docs)
    outcome = _evaluate(context, checks, measures, name, as_of)
    held: dict[tuple[str, Level], bool] = {}
    for result in outcome.results:
        assert result.expectation_config is not None
        meta = result.expectation_config.meta
        if result.exception_info and result.exception_info.get("raised_exception"):
            told = result.exception_info["exception_message"]
            raise RuntimeError(f"expectation {meta['check']!r} could not run: {told}")
        held[meta["check"], meta["level"]] = bool(result.success)
    if data_docs is not None:
        context.build_data_docs()
        make_offline(data_docs, name=name)
    return [_reason(check, measures[check.name], held) for check in checks]


def _evaluate(
    context: "EphemeralDataContext",
    checks: Sequence[Check],
    measures: Mapping[str, Measure],
    name: str,
    as_of: datetime,
) -> "ExpectationSuiteValidationResult":
    import pandas as pd
    from great_expectations import ExpectationSuite, RunIdentifier, ValidationDefinition
    from great_expectations.expectations import ExpectColumnMaxToBeBetween

    suite = ExpectationSuite(name=name)
    for check in checks:
        # Great Expectations passes over what is not there; a measure that is not a number must not pass.
        assert measures[check.name].found == measures[check.name].found, check.name
        for level, bounds in check.bounds.items():
            # The frame is one row: its greatest value is the measure, and costs an eighth of a check row by row.
            suite.add_expectation(
                ExpectColumnMaxToBeBetween(
                    column=check.name,
                    min_value=bounds.low,
                    max_value=bounds.high,
                    severity="critical" if level == "block" else "warning",
                    meta={"check": check.name, "level": level},
                    notes=check.message,
                )
            )
    frame = pd.DataFrame([{check.name: float(measures[check.name].found) for check in checks}])
    asset = context.data_sources.add_pandas(name).add_dataframe_asset("measures")
    definition = ValidationDefinition(
        name=name, data=asset.add_batch_definition_whole_dataframe("all"), suite=context.suites.add(suite)
    )
    return context.validation_definitions.add(definition).run(
        batch_parameters={"dataframe": frame},
        result_format="SUMMARY",
        run_id=RunIdentifier(run_name=name, run_time=as_of),
    )


def _context(data_docs: Path | None) -> "EphemeralDataContext":
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    for name in context.get_site_names():
        context.delete_data_docs_site(name)
    if data_docs is not None:
        store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(data_docs.resolve())}
        site: Any = {
            "class_name": "SiteBuilder",
            "store_backend": store,
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        }
        context.add_data_docs_site("data_docs", site)
    return context


def _reason(check: Check, measure: Measure, held: Mapping[tuple[str, Level], bool]) -> Reason:
    failed: Level | None = next((level for level in LEVELS if not held.get((check.name, level), True)), None)
    weight: Level = failed or ("block" if "block" in check.bounds else "warn")
    # Of what holds the closer bound is told.
    allowed = check.bounds[failed or ("warn" if "warn" in check.bounds else "block")].told()
    found = _plain(measure.found)
    evidence = measure.evidence()[:EVIDENCE] if failed else []
    return Reason(
        check=check.name,
        held=failed is None,
        found=found,
        allowed=allowed,
        message=_complaint(check, measure, allowed, evidence) if failed else check.message,
        remedy=check.remedy,
        level=weight,
        evidence=evidence,
    )


def _complaint(check: Check, measure: Measure, allowed: float | str, evidence: list[dict[str, Any]]) -> str:
    """What did not hold, with its numbers, for a line on the terminal."""
    complaint = f"found {told(_plain(measure.found), check.unit)}, allowed {told(allowed, check.unit)}"
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


def _plain(value: float) -> int | float:
    """A JSON number with no more digits than matter."""
    value = value.item() if hasattr(value, "item") else value
    return round(value, 6) if isinstance(value, float) else value
