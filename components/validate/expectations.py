"""Running checks through Great Expectations: one ephemeral context, one suite a table, quiet."""

import json
import logging
import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.decision import Reason
from components.validate.frames import EVIDENCE, Frames
from components.validate.suite import Check

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.data_context import EphemeralDataContext

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

_RESULT = {"result_format": "SUMMARY", "partial_unexpected_count": EVIDENCE}


def verdicts(
    checks: list[Check], frames: Frames, *, name: str, as_of: datetime, data_docs: Path | None = None
) -> list[Reason]:
    """A Reason for each of `checks`, in their order; Data Docs go to the folder `data_docs` where one is given."""
    from great_expectations import ExpectationSuite, RunIdentifier, ValidationDefinition

    context = _context(data_docs)
    source = context.data_sources.add_pandas(name)
    reasons: dict[str, Reason] = {}
    for table, frame in frames.tables.items():
        asked = {check.name: check for check in checks if check.table == table}
        suite = ExpectationSuite(name=f"{name}.{table}")
        for check in asked.values():
            check.expectation.meta = {"check": check.name}
            check.expectation.notes = check.message
            suite.add_expectation(check.expectation)
        suite = context.suites.add(suite)
        batch = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
        definition = context.validation_definitions.add(
            ValidationDefinition(name=f"{name}.{table}", data=batch, suite=suite)
        )
        outcome = definition.run(
            batch_parameters={"dataframe": frame},
            result_format=_RESULT,
            run_id=RunIdentifier(run_name=name, run_time=as_of),
        )
        for result in outcome.results:
            assert result.expectation_config is not None
            check = asked[result.expectation_config.meta["check"]]
            reasons[check.name] = _reason(check, result, frame, frames)
    if data_docs is not None:
        context.build_data_docs()
    return [reasons[check.name] for check in checks]


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


def _reason(check: Check, result: Any, frame: "pd.DataFrame", frames: Frames) -> Reason:
    if result.exception_info and result.exception_info.get("raised_exception"):
        raise RuntimeError(f"expectation {check.name!r} could not run: {result.exception_info['exception_message']}")
    details = result.result
    if check.figure is not None:
        found, rows = _plain(details["observed_value"]), 1
        evidence = [] if result.success else frames.evidence.get(check.figure, [])
    else:
        rows = details.get("element_count", 0)
        found = _plain(details.get("unexpected_count", 0) / rows if rows else 0.0)
        offending = [] if result.success else details.get("partial_unexpected_index_list") or []
        evidence = json.loads(
            frame.loc[offending[:EVIDENCE]].to_json(orient="records", date_format="iso", date_unit="us")
        )
    return Reason(
        check=check.name,
        held=bool(result.success),
        found=found,
        allowed=check.allowed,
        message=check.message if result.success else _complaint(check, found, rows, evidence),
        level=check.level,
        evidence=evidence,
    )


def _complaint(check: Check, found: Any, rows: int, evidence: list[dict[str, Any]]) -> str:
    """What did not hold, with its numbers, for a line on the terminal."""
    if check.figure is None:
        told = f"not so in {found:.2%} of {rows:,} rows of {check.table}, allowed {check.allowed:.2%}"
    else:
        told = f"found {found:g}, allowed {check.allowed:g}"
    if check.figure == "columns":
        lines = [f"{e['table']}.{e['column']} is {e['found']}, expected {e['expected']}" for e in evidence]
        told = f"{'; '.join(lines)}. Correct the card or ingest again"
    return f"{check.message}: {told}."


def _plain(value: Any) -> Any:
    """A JSON number with no more digits than matter."""
    value = value.item() if hasattr(value, "item") else value
    return round(value, 6) if isinstance(value, float) else value
