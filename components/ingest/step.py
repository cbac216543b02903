"""Ingest: the source becomes day partitions; what cannot be used is set aside with every reason that holds."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb

from components.errors import InputError
from components.ingest import tables
from components.ingest.judge import counts_of, judge, keep, reasons_of, rejected_sql, require
from components.ingest.parse import columns_of_interactions, columns_of_items, literal
from components.ingest.source import Raw, Source
from components.ingest.sources import amazon_beauty, files, marketplace, online_retail
from components.ingest.write import write_days, write_file
from components.manifest import digest_json
from feature_repo.card import DatasetCard

SOURCES: dict[str, Source] = {
    "marketplace": marketplace,
    "online_retail": online_retail,
    "amazon_beauty": amazon_beauty,
    "files": files,
}
MEMORY = "2GB"


def run(
    *,
    card: DatasetCard,
    events: Path,
    as_of: datetime | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write the `events` artifact of docs/contracts.md, all but its manifest, and return its report.

    A time later than now is bad (later than `as_of`, where that is later still); what lies between `as_of` and now
    is good data, which the steps after this one leave out. `progress` is told what is being done, in words.
    Raises `InputError` where the source is missing or contradicts the card.
    """
    tell = progress or (lambda what: None)
    latest = max(datetime.now(UTC), as_of or datetime.min.replace(tzinfo=UTC))
    with TemporaryDirectory(prefix="duckdb-") as spill, duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'; SET temp_directory = {literal(spill)}")
        _set_zone(connection, card)
        tell(f"reading {card.name}")
        raw = SOURCES[card.source.adapter].load(card, connection)
        types = _judge_all(connection, card, raw, f"TIMESTAMPTZ '{latest.isoformat()}'")
        # Times leave DuckDB in its session's zone.
        connection.execute("SET TimeZone = 'UTC'")
        tell("writing day partitions")
        _write(connection, card, raw, types, events)
        report = _report(connection, card, raw)
    (events / "report.json").write_text(json.dumps(report, indent=1))
    return report


def fingerprint(card: DatasetCard) -> str:
    """Digest of what the source holds: changes whenever the raw tables would."""
    return digest_json({"adapter": card.source.adapter, "content": SOURCES[card.source.adapter].content(card)})


def _set_zone(connection: duckdb.DuckDBPyConnection, card: DatasetCard) -> None:
    try:
        connection.execute(f"SET TimeZone = {literal(card.source.timezone)}")
    except duckdb.Error as error:
        raise InputError(
            f"card {card.name!r}: source.timezone {card.source.timezone!r} is no time zone; "
            "expected a name such as Europe/London or UTC."
        ) from error


def _judge_all(
    connection: duckdb.DuckDBPyConnection, card: DatasetCard, raw: Raw, latest: str
) -> dict[str, dict[str, str]]:
    """Make `judged_interactions` and, where the source has one, `judged_items`; returns the raw columns' types."""
    names, where = card.columns, f"interactions of card {card.name!r}"
    types = {"interactions": keep(connection, "interactions", raw.interactions)}
    features = [(f"feature {spec.name}", spec.source_column, spec.table) for spec in card.features]
    optional = ("event_time", "position", "basket", "quantity")
    needed = [("columns.user_id", names.user_id), ("columns.item_id", names.item_id)]
    needed += [(f"columns.{name}", column) for name in optional if (column := getattr(names, name)) is not None]
    needed += [(name, column) for name, column, table in features if raw.items is None or table == "interactions"]
    require(types["interactions"], needed, where=where)
    judge(
        connection,
        "interactions",
        types["interactions"],
        columns_of_interactions(card, types["interactions"], latest=latest, all_features=raw.items is None),
        extra=raw.reject,
        event=("user_id", "item_id", "event_time"),
        duplicate="duplicate_event",
        where=where,
    )
    if raw.items is not None:
        where = f"items of card {card.name!r}"
        types["items"] = keep(connection, "items", raw.items)
        needed = [("columns.item_key", names.item_key)]
        needed += [("columns.item_available_at", names.item_available_at)] if names.item_available_at else []
        needed += [(name, column) for name, column, table in features if table == "items"]
        require(types["items"], needed, where=where)
        judge(
            connection,
            "items",
            types["items"],
            columns_of_items(card, types["items"], latest=latest),
            extra={},
            event=("item_id", "event_time") if names.item_available_at else ("item_id",),
            duplicate="duplicate_item",
            where=where,
        )
    return types


def _write(
    connection: duckdb.DuckDBPyConnection, card: DatasetCard, raw: Raw, types: dict[str, dict[str, str]], events: Path
) -> None:
    has_items = raw.items is not None
    tables.accept(connection, card, has_items=has_items)
    interactions = tables.interactions_sql(card), tables.schema_of_interactions(card)
    write_days(connection, *interactions, events / "interactions")
    static = tables.changes_sql("known_items", card.static), tables.schema_of_items(card.static)
    write_file(connection, *static, events / "items" / "static.parquet")
    if card.varying:
        tables.merge_varying(connection, card, has_items=has_items)
        varying = tables.changes_sql("known_values", card.varying), tables.schema_of_items(card.varying)
        write_days(connection, *varying, events / "items" / "varying")
    rejected = " UNION ALL ".join(rejected_sql(table, types[table]) for table in types)
    write_file(connection, f"{rejected} ORDER BY 1, 2", tables.REJECTED, events / "rejected.parquet")


def _report(connection: duckdb.DuckDBPyConnection, card: DatasetCard, raw: Raw) -> dict[str, Any]:
    rows, rejected = counts_of(connection, "interactions")
    users, items, first, last = connection.execute(
        "SELECT count(DISTINCT user_id), count(DISTINCT item_id), min(event_time)::VARCHAR, max(event_time)::VARCHAR "
        "FROM accepted"
    ).fetchall()[0]
    synthesised = card.columns.event_time is None
    report = {
        "rows": rows,
        "accepted": rows - rejected,
        "rejected": rejected,
        "reasons": reasons_of(connection, "interactions"),
        "users": users,
        "items": items,
        "first_event": _iso(first),
        "last_event": _iso(last),
        "event_time_synthesised": synthesised,
        "notes": list(raw.notes),
    }
    if raw.items is not None:
        report["item_rows"], report["item_rejected"] = counts_of(connection, "items")
        report["item_reasons"] = reasons_of(connection, "items")
    notes: list[str] = report["notes"]
    if synthesised:
        notes.append("The source knows only the order: event times are 2000-01-01 plus one day per position.")
    if card.source.timezone != "UTC":
        notes.append(
            f"Times without a zone are those of {card.source.timezone}; one that the clocks skipped is set aside, "
            "of one that came twice the later is taken."
        )
    if rows == rejected:
        notes.append("No usable interaction: " + ("every row was set aside." if rows else "the source is empty."))
    return report


def _iso(moment: str | None) -> str | None:
    return None if moment is None else datetime.fromisoformat(moment).astimezone(UTC).isoformat()
