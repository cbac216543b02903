"""Ingest: the source becomes day partitions; what cannot be used is set aside with every reason that holds."""

import json
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq

from components.ingest import tables
from components.ingest.derive import derived_sql
from components.ingest.erase import erase, list_gone
from components.ingest.increment import (
    IngestPlan,
    counts_by_part,
    late_sql,
    open_previous,
    open_stored,
    rejected_before,
    rewritten,
    take_over_days,
)
from components.ingest.parse import (
    Column,
    Given,
    columns_of_interactions,
    columns_of_items,
    value_of,
)
from components.ingest.report import report_of
from components.ingest.row_validation import (
    judge,
    keep,
    number_each_part,
    rejected_sql,
    require,
    set_aside_known,
)
from components.ingest.source import Raw, SourceAdapter, SourceTable
from components.ingest.sources import (
    amazon_beauty,
    complete_journey,
    files,
    marketplace,
    online_retail,
    sql,
)
from components.ingest.sources.event_log import WithEventLog
from components.ingest.users import judge_users, leave_forgotten, write_users
from components.ingest.write import write_days, write_file
from feature_repo.card import DatasetCard
from feature_repo.forgotten import Forgotten
from runtime.errors import InputError
from runtime.manifest import digest_json
from runtime.sql import literal, session

SOURCES: dict[str, SourceAdapter] = {
    "marketplace": marketplace,
    "online_retail": online_retail,
    "amazon_beauty": amazon_beauty,
    "complete_journey": complete_journey,
    "files": files,
    "sql": sql,
}
MOST_DAYS = 20_000
"""From the first event to the last, where features are derived day by day: 54 years."""


def run(
    *,
    card: DatasetCard,
    events: Path,
    as_of: datetime | None = None,
    previous: Path | None = None,
    forgotten: Forgotten | None = None,
    log: Path | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write the `events` artifact of docs/contracts.md, all but its manifest, and return its report.

    A time later than now is bad (later than `as_of`, where that is later still); what lies between `as_of` and now
    is good data, which the steps after this one leave out. From `previous`, an events artifact of the same card, what
    is unchanged is taken over. Users in `forgotten` and events beyond the card's retention leave no trace. `log` is
    the event log, whose interactions count too where the card trains on them. `progress` is told what is being done,
    in words. Raises `InputError` where the source is missing or contradicts the card.
    """
    tell = progress or (lambda what: None)
    source = source_of(card, log)
    latest = max(datetime.now(UTC), as_of or datetime.min.replace(tzinfo=UTC))
    parts = {name: digest_json(content) for name, content in source.content(card).items()}
    plan = IngestPlan.make(card, source.identity(card), parts, previous, as_of)
    with session() as connection:
        connection.execute("SET asof_loop_join_threshold = 0")  # row counts are guesses here, see asof_store
        set_zone(connection, card)
        tell(f"reading {card.name}")
        raw = source.load(card, connection, plan.read)
        given = _judge_all(connection, card, raw, f"TIMESTAMPTZ '{latest.isoformat()}'")
        # Times leave DuckDB in its session's zone.
        connection.execute("SET TimeZone = 'UTC'")
        if plan.before is not None:
            open_stored(connection, plan)
        list_gone(connection, card, forgotten, stored=plan.before is not None)
        if plan.before is not None:
            open_previous(connection, plan)
            set_aside_known(connection, event_of(card))
        gone = erase(connection, card)
        if raw.users is not None:
            leave_forgotten(connection, card)
        tell("writing day partitions")
        _write(connection, card, raw, given, plan, events)
        counts = counts_by_part(connection, plan)
        report = {**report_of(connection, card, raw, counts), **gone}
    plan.increment(report["last_event"], counts).write(events)
    (events / "report.json").write_text(json.dumps(report, indent=1))
    return report


def source_of(card: DatasetCard, log: Path | None) -> SourceAdapter:
    """The card's source, with the interactions of the event log where the card trains on them."""
    source = SOURCES[card.source.adapter]
    return WithEventLog(source, log) if log is not None and card.event_log.trains else source


def event_of(card: DatasetCard) -> tuple[str, ...]:
    """What makes two rows of the interactions one event: a view and a purchase at one moment are two."""
    return ("user_id", "item_id", "event_time", *(["event_type"] if card.columns.event_type else []))


def fingerprint(card: DatasetCard, log: Path | None = None) -> str:
    """Digest of what the source holds: changes whenever the raw tables would."""
    return digest_json({"adapter": card.source.adapter, "content": source_of(card, log).content(card)})


def set_zone(connection: duckdb.DuckDBPyConnection, card: DatasetCard) -> None:
    try:
        connection.execute(f"SET TimeZone = {literal(card.source.timezone)}")
    except duckdb.Error as error:
        raise InputError(
            f"card {card.name!r}: source.timezone {card.source.timezone!r} is no time zone; "
            "expected a name such as Europe/London or UTC."
        ) from error


def _judge_all(
    connection: duckdb.DuckDBPyConnection, card: DatasetCard, raw: Raw, latest: str
) -> dict[str, dict[str, Given]]:
    """Make `judged_interactions` and, where there are such tables, `judged_items` and `judged_users`; returns the
    source's columns."""
    given = {"interactions": keep(connection, "interactions", raw.interactions)}
    require_interactions(card, given["interactions"], has_items=raw.items is not None)
    columns = columns_of_interactions(card, given["interactions"], latest=latest, all_features=raw.items is None)
    where = f"interactions of card {card.name!r}"
    judge_interactions(connection, card, given["interactions"], columns, reject=raw.reject, where=where)
    if raw.items is not None:
        given["items"] = judge_items(connection, card, raw.items, latest)
    if raw.users is not None:
        given["users"] = judge_users(connection, card, raw.users, latest)
    for table in given:
        number_each_part(connection, table)
    return given


def require_interactions(card: DatasetCard, given: Collection[str], *, has_items: bool) -> None:
    """Raise `InputError` where the interactions lack a column that the card names."""
    names = card.columns
    optional = ("event_time", "created_time", "event_type", "position", "basket", "quantity")
    needed = [("columns.user_id", names.user_id), ("columns.item_id", names.item_id)]
    needed += [(f"columns.{name}", column) for name in optional if (column := getattr(names, name)) is not None]
    for spec in card.read_off_interactions(has_items=has_items):
        what = "context" if spec.stored_in == "interactions" else "feature"
        needed.append((f"{what} {spec.name}", spec.source_column))
    require(given, needed, where=f"interactions of card {card.name!r}")


def judge_interactions(
    connection: duckdb.DuckDBPyConnection,
    card: DatasetCard,
    given: dict[str, Given],
    columns: Sequence[Column],
    *,
    reject: dict[str, str],
    where: str = "",
) -> None:
    """Make `judged_interactions` of `raw_interactions`; without `where` the rows are those of some users only."""
    judge(
        connection,
        "interactions",
        given.values(),
        columns,
        extra=reject,
        event=[value_of(name) for name in event_of(card)],
        duplicate="duplicate_event",
        where=where,
    )


def judge_items(
    connection: duckdb.DuckDBPyConnection, card: DatasetCard, items: SourceTable, latest: str
) -> dict[str, Given]:
    """Make `judged_items`; returns the columns of the table of items."""
    names, where = card.columns, f"items of card {card.name!r}"
    given = keep(connection, "items", items)
    needed = [("columns.item_key", names.item_key)]
    needed += [("columns.item_available_at", names.item_available_at)] if names.item_available_at else []
    needed += [(f"feature {spec.name}", spec.source_column) for spec in card.sourced if spec.table == "items"]
    require(given, needed, where=where)
    judge(
        connection,
        "items",
        given.values(),
        columns_of_items(card, given, latest=latest),
        extra={},
        event=[value_of(name) for name in ("item_id", *(["event_time"] if names.item_available_at else []))],
        duplicate="duplicate_item",
        where=where,
    )
    return given


def _write(
    connection: duckdb.DuckDBPyConnection,
    card: DatasetCard,
    raw: Raw,
    given: dict[str, dict[str, Given]],
    plan: IngestPlan,
    events: Path,
) -> None:
    has_items = raw.items is not None
    assert has_items or not plan.kept, "a source of several parts has an items table"
    previous = None if rewritten(connection, plan, event_of(card)) else plan.previous
    late = late_sql(connection, plan) if previous else ""
    static_before = str(previous / "items" / "static.parquet") if previous else ""
    tables.accept(connection, card, has_items=has_items, late=late, kept=bool(plan.kept), before=static_before)
    only = take_over_days(connection, plan, events)
    interactions = tables.interactions_sql(only=only, card=card), tables.schema_of_interactions(card)
    write_days(connection, *interactions, events / "interactions")
    write_items(connection, card, events, has_items=has_items, late=late, previous=previous)
    if raw.users is not None:
        write_users(connection, card, events, late=late, previous=previous)
    # Once users were deleted nothing is kept that cannot be told to be another's.
    keep_lines = not connection.execute("FROM forgotten LIMIT 1").fetchall()
    rejected = " UNION ALL ".join(
        rejected_sql(table, columns.values(), keep_lines=keep_lines) for table, columns in given.items()
    )
    if plan.kept:
        rejected += f" UNION ALL {rejected_before(plan, keep_lines=keep_lines)}"
    write_file(connection, f"FROM ({rejected}) ORDER BY 1, 2, 3", tables.REJECTED, events / "rejected.parquet")


def write_items(
    connection: duckdb.DuckDBPyConnection,
    card: DatasetCard,
    events: Path,
    *,
    has_items: bool,
    late: str = "",
    previous: Path | None = None,
) -> None:
    """Write items/: what is known of them (view `known_items`), what varies, and what is derived of the interactions
    that were written."""
    before = {"late": late, "before": str(previous / "items" / "static.parquet") if previous else ""}
    static = tables.changes_sql("known_items", card.static, **before), tables.schema_of_items(card.static)
    write_file(connection, *static, events / "items" / "static.parquet")
    if card.varying:
        tables.merge_varying(connection, card, has_items=has_items)
        before["before"] = str(previous / "items" / "varying" / "*" / "*.parquet") if previous else ""
        varying = tables.changes_sql("known_values", card.varying, **before), tables.schema_of_items(card.varying)
        write_days(connection, *varying, events / "items" / "varying")
    if card.derived:
        _require_plausible_span(connection, card)
        _write_derived(connection, card, events)


def _require_plausible_span(connection: duckdb.DuckDBPyConnection, card: DatasetCard) -> None:
    """Derived features have a row an item and day: one date of a wrong century would make them fill the disk."""
    (first, last, days), *_ = connection.execute(
        "SELECT min(event_time)::DATE::VARCHAR, max(event_time)::DATE::VARCHAR, "
        "date_diff('day', min(event_time), max(event_time)) FROM accepted"
    ).fetchall()
    if days is not None and days > MOST_DAYS:
        raise InputError(
            f"interactions of card {card.name!r}: event_time runs from {first} to {last}, {days:,} days; "
            f"expected at most {MOST_DAYS:,}. Correct the times, or leave the derived features out of the card."
        )


def _write_derived(connection: duckdb.DuckDBPyConnection, card: DatasetCard, events: Path) -> None:
    root, schema = events / "items" / "derived", tables.schema_of_items(card.derived)
    days = 0
    if any(events.glob("interactions/*/*.parquet")):
        _open_written(connection, card, events)
        days = write_days(connection, derived_sql(card), schema, root)
    if not days:
        # No midnight has passed yet, or nothing was accepted; readers find the columns all the same.
        nothing = root / "day=1970-01-01" / "part-0.parquet"
        nothing.parent.mkdir(parents=True)
        pq.write_table(schema.empty_table(), nothing)


def _open_written(connection: duckdb.DuckDBPyConnection, card: DatasetCard, events: Path) -> None:
    """Views of what was written just now, under the names that `derived_sql` reads."""
    for name, pattern in (
        ("interactions", "interactions/*/*.parquet"),
        ("items", "items/static.parquet"),
        ("varying", "items/varying/*/*.parquet"),
    ):
        if any(events.glob(pattern)):
            path = literal(str(events / pattern))
            connection.execute(f"CREATE TEMP VIEW {name} AS FROM read_parquet({path}, hive_partitioning = false)")
