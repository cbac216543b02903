"""Great Expectations asks the data: a suite a table, run by its own SQL engine in DuckDB, with Data Docs, quiet."""

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.validate.checked import ITEMS_OF_EVENTS, CheckedTable, checked_tables, make_views
from components.validate.data_docs import make_offline
from components.validate.duckdb_dialect import URL, creator
from components.validate.figures import Rows, rows_later
from components.validate.suite import DataCheck, data_checks
from components.validate.verdicts import EVIDENCE, Measurement
from feature_repo.card import DatasetCard
from runtime.errors import InputError
from runtime.service_log import quieten

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from great_expectations.core.batch_definition import BatchDefinition
    from great_expectations.data_context import EphemeralDataContext
    from great_expectations.datasource.fluent import SQLDatasource
    from great_expectations.expectations.expectation import Expectation

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")

Results = dict[str, Any]
"""By check, Great Expectations' result of it."""
MOST_TOLD = 200
"""Characters of an observed value that are told."""


def require_expectations(card: DatasetCard) -> None:
    """Raise `InputError` where Great Expectations refuses what the card asks of it, before any data is read."""
    if card.expectations:
        _built(card, data_checks(card))


def ask(
    card: DatasetCard,
    db: "DuckDBPyConnection",
    checks: Sequence[DataCheck],
    as_of: datetime,
    data_docs: Path | None,
) -> dict[str, Measurement]:
    """What Great Expectations finds of each of `checks`; Data Docs go to the folder `data_docs` where one is given.

    What of the card's own expectations cannot be evaluated (a regular expression that DuckDB cannot read, the sum of a
    text) does not hold. Raises `InputError` for kwargs that Great Expectations refuses, `RuntimeError` where one of
    ours cannot be evaluated.
    """
    built = _built(card, checks)
    context = _context(data_docs)
    tables = checked_tables(card)
    asked = [tables[name] for name in dict.fromkeys(check.table for check in checks)]
    make_views(db, asked)
    source = _source(context, card, db)
    found: dict[str, Measurement] = {}
    for table in asked:
        asset = source.add_table_asset(table.name, table_name=table.view)
        batch = asset.add_batch_definition_whole_table("all")
        of_table = [check for check in checks if check.table == table.name]
        results = _run(context, batch, table, {check.name: built[check.name] for check in of_table}, as_of)
        found |= {check.name: _measure(db, table, check, results[check.name]) for check in of_table}
    if data_docs is not None:
        context.build_data_docs()
        make_offline(data_docs, name=card.name)
    return found


def _source(context: "EphemeralDataContext", card: DatasetCard, db: "DuckDBPyConnection") -> "SQLDatasource":
    from great_expectations.datasource.fluent.interfaces import GxDatasourceWarning

    with warnings.catch_warnings():
        # It takes the dialect at its word, and would rather have its own kind of source for PostgreSQL.
        warnings.simplefilter("ignore", GxDatasourceWarning)
        return context.data_sources.add_sql(card.name, connection_string=URL, kwargs={"creator": creator(db)})


def _built(card: DatasetCard, checks: Sequence[DataCheck]) -> dict[str, "Expectation"]:
    from great_expectations.expectations.registry import get_expectation_impl
    from pydantic.v1 import ValidationError

    found = {}
    for check in checks:
        try:
            found[check.name] = get_expectation_impl(check.type)(
                **check.kwargs,
                severity="critical" if check.level == "block" else "warning",
                meta={"check": check.name},
                notes=check.message,
            )
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            raise InputError(
                f"card {card.name!r}: {check.field}: Great Expectations refuses the kwargs of {check.type}: {faults}. "
                "Correct them in the card."
            ) from error
    return found


def _run(
    context: "EphemeralDataContext",
    batch: "BatchDefinition[Any]",
    table: CheckedTable,
    expectations: Mapping[str, "Expectation"],
    as_of: datetime,
) -> Results:
    """What was found of each; rows that were not expected are read where there are any, as that is a scan each.

    Everything is asked of a table in one query, so that one that fails takes all others with it: then each is asked by
    itself, and those that can be evaluated once more together.
    """
    results = _validate(context, batch, table, expectations, as_of, rows=0)
    broken: Results = {}
    if any(map(_fault, results.values())):
        alone = [_validate(context, batch, table, {name: each}, as_of, rows=0) for name, each in expectations.items()]
        broken = {name: result for found in alone for name, result in found.items() if _fault(result)}
    sound = {name: each for name, each in expectations.items() if name not in broken}
    if broken or not all(result.success for result in results.values()):
        results = _validate(context, batch, table, sound, as_of, rows=EVIDENCE)
    return results | broken


def _validate(
    context: "EphemeralDataContext",
    batch: "BatchDefinition[Any]",
    table: CheckedTable,
    expectations: Mapping[str, "Expectation"],
    as_of: datetime,
    *,
    rows: int,
) -> Results:
    """Of each expectation that does not hold so many `rows` are told."""
    from great_expectations import ExpectationSuite, RunIdentifier, ValidationDefinition

    # A suite gives its expectations an id, and takes none that has one.
    fresh = [each.copy(update={"id": None}) for each in expectations.values()]
    suite = context.suites.add_or_update(ExpectationSuite(name=table.name, expectations=fresh))
    definition = ValidationDefinition(name=table.name, data=batch, suite=suite)
    outcome = context.validation_definitions.add_or_update(definition).run(
        result_format={
            "result_format": "SUMMARY",
            "partial_unexpected_count": rows,
            "unexpected_index_column_names": table.shown,
            # Its text of the query is not one that a database reads, where a value has a quote or is a time.
            "return_unexpected_index_query": False,
        },
        run_id=RunIdentifier(run_name=table.name, run_time=as_of),
    )
    return {result.expectation_config.meta["check"]: result for result in outcome.results}


def _measure(db: "DuckDBPyConnection", table: CheckedTable, check: DataCheck, result: Any) -> Measurement:
    if fault := _fault(result):
        if not check.field.startswith("expectations."):
            raise RuntimeError(f"expectation {check.name!r} could not run: {fault}")
        return Measurement(found=f"no answer ({fault.splitlines()[0]})", held=False)
    found, evidence = result.result, _evidence(db, table, check, result.result)
    if not check.asks_rows:
        observed = found.get("observed_value")
        observed = found.get("unexpected_count") if observed is None else observed
        return Measurement(found=_plain_value(observed), evidence=evidence, held=result.success)
    rows = found["element_count"] - found.get("missing_count", 0)
    share = found["unexpected_count"] / rows if rows else 0.0
    return Measurement(found=share, rows=rows, evidence=evidence, held=result.success)


def _evidence(
    db: "DuckDBPyConnection", table: CheckedTable, check: DataCheck, found: Mapping[str, Any]
) -> Callable[[], Rows]:
    """The rows that Great Expectations did not expect; where it has none, the values."""

    def read() -> Rows:
        if query := check.kwargs.get("unexpected_rows_query"):
            # Of these it has no row but where it has them all.
            return rows_later(db, str(query).format(batch=table.view))()
        values = found.get("partial_unexpected_list") or []
        rows = found.get("partial_unexpected_index_list") or [
            value if isinstance(value, dict) else {"value": value} for value in values
        ]
        rows = [{name: _utc(value) for name, value in row.items()} for row in rows]
        if check.table == ITEMS_OF_EVENTS:
            why = dict(db.execute("SELECT item_id, why FROM items_set_aside").fetchall())
            rows = [{**row, "item_set_aside": why.get(row["item_id"])} for row in rows]
        return rows

    return read


def _utc(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value


def _plain_value(observed: Any) -> Any:
    """A number as it is, anything else in words."""
    if observed is None or isinstance(observed, int | float):
        return observed
    text = str(observed)
    return text if len(text) <= MOST_TOLD else f"{text[: MOST_TOLD - 1]}…"


def _fault(result: Any) -> str:
    """Why it could not be evaluated; empty where it could. Great Expectations has one such, or one a metric."""
    info = result.exception_info or {}
    return "; ".join(dict.fromkeys(_messages([info] if "raised_exception" in info else info.values())))


def _messages(infos: Any) -> Iterator[str]:
    yield from (info["exception_message"] for info in infos if info["raised_exception"])


def _context(data_docs: Path | None) -> "EphemeralDataContext":
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    quieten("great_expectations")
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
