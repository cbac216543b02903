"""What DuckDB finds about the data as it stands, for the checks of `suite.py`; rows are read only where asked for."""

import json
from collections.abc import Callable, Sequence
from datetime import (
    UTC,
    date,
    datetime,
    timedelta,
)
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.shared.tables import differences
from components.validate.verdicts import EVIDENCE, Measurement
from feature_repo.card import DatasetCard
from runtime.sql import literal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Rows = list[dict[str, Any]]

_LATEST = """
    SELECT * FROM {table}
    QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY event_time DESC, created_time DESC) = 1
"""


def prepare(card: DatasetCard, db: "DuckDBPyConnection", events: Path) -> None:
    """On top of `open_events`: the tables `latest_items` and, where there are users' features, `latest_users` (a row an
    item, a user, as of `as_of`), and the table
    `items_set_aside` (item_id, why)."""
    # Every scan asks each day's file for its footer.
    db.execute("SET parquet_metadata_cache = true")
    db.execute(f"CREATE TEMP TABLE latest_items AS {_LATEST.format(table='items', key='item_id')}")
    if card.user_features:
        db.execute(f"CREATE TEMP TABLE latest_users AS {_LATEST.format(table='users', key='user_id')}")
    db.execute("CREATE TEMP TABLE items_set_aside (item_id VARCHAR, why VARCHAR)")
    if (rejected := events / "rejected.parquet").is_file():
        rows = db.read_parquet(str(rejected)).filter("\"table\" = 'items' AND item_id IS NOT NULL")
        why = "item_id, array_to_string(any_value(reasons), ', ')"
        rows.aggregate(why, "item_id").insert_into("items_set_aside")


def columns_measure(card: DatasetCard, events: Path) -> Measurement:
    """How many columns differ from the card."""
    found = differences(card, events)
    return Measurement(found=len(found), evidence=lambda: [dict(difference) for difference in found])


def run_measures(
    card: DatasetCard, db: "DuckDBPyConnection", as_of: datetime, report: dict[str, Any], days: dict[date, int]
) -> dict[str, Measurement]:
    """The measures of `run_checks`; `days` are events by local day."""
    moment = f"TIMESTAMPTZ '{as_of.isoformat()}'"
    known = "greatest(event_time, created_time)"
    later = f"SELECT event_id, user_id, item_id, event_time FROM interactions_all WHERE {known} > {moment}"
    long_baskets = """
        SELECT user_id, basket, min(event_time) AS first, max(event_time) AS last FROM interactions
        WHERE basket IS NOT NULL GROUP BY ALL HAVING max(event_time) - min(event_time) > INTERVAL 1 DAY
    """
    if card.ties != "basket":
        long_baskets = "SELECT 1 WHERE false"
    timeless = "SELECT event_id, user_id, item_id, position FROM interactions_all WHERE event_time IS NULL"
    events, newest = _one(db, "SELECT count(*), max(event_time)::VARCHAR FROM interactions")
    (newest_item,) = _one(db, "SELECT max(event_time)::VARCHAR FROM latest_items")
    if card.varying:
        (newest_change,) = _one(db, "SELECT max(event_time)::VARCHAR FROM varying")
        newest_item = max(filter(None, [newest_item, newest_change]), default=None)
    closed = [(day, n) for day, n in days.items() if n and not is_open(card, day)]
    missing = [day for day, n in days.items() if not n and is_open(card, day)]
    found = {
        "interactions": Measurement(found=events),
        "rejected_rate": _set_aside(report, "rejected", "rows", "reasons"),
        "item_rejected_rate": _set_aside(report, "item_rejected", "item_rows", "item_reasons"),
        "user_rejected_rate": _set_aside(report, "user_rejected", "user_rows", "user_reasons"),
        "age_days": Measurement(found=_age(as_of, newest)),
        "catalogue_age_days": Measurement(found=_age(as_of, newest_item)),
        "missing_days": Measurement(
            found=len(missing), evidence=lambda: [{"day": f"{d:%a %Y-%m-%d}"} for d in missing]
        ),
        "closed_days": Measurement(
            found=len(closed), evidence=lambda: [{"day": f"{d:%a %Y-%m-%d}", "events": n} for d, n in closed]
        ),
        "event_id unique": _repeats(db, "interactions", ["event_id"]),
    }
    counted = {"later_events": later, "long_baskets": long_baskets, "event_time missing": timeless}
    for name, query in counted.items():
        found[name] = Measurement(found=_count(db, query), evidence=rows_later(db, query))
    if card.varying:
        found["one change an instant"] = _repeats(db, "varying", ["item_id", "event_time", "created_time"])
    return found


def events_by_day(card: DatasetCard, db: "DuckDBPyConnection", as_of: datetime) -> dict[date, int]:
    """Events of each local day from the first to the day before `as_of`'s, and of that day where it has any."""
    query = f"SELECT {local('event_time', card)}::DATE AS day, count(*) FROM interactions GROUP BY day"
    counted = dict(db.execute(query).fetchall())
    if not counted:
        return {}
    first, last = min(counted), max(counted)
    if card.columns.event_time is not None:
        # The day of as_of is not over: that it has no events yet says nothing.
        last = max(last, local_day(as_of, card, db) - timedelta(days=1))
    return {day: counted.get(day, 0) for n in range((last - first).days + 1) if (day := first + timedelta(days=n))}


def is_open(card: DatasetCard, day: date) -> bool:
    weekday = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")[day.weekday()]
    return weekday not in card.calendar.closed_weekdays and day not in card.calendar.closed_days


def local(column: str, card: DatasetCard) -> str:
    """SQL: a moment on the shop's own clock."""
    return f"timezone({literal(card.source.timezone)}, {column})"


def local_day(moment: datetime, card: DatasetCard, db: "DuckDBPyConnection") -> date:
    at = f"TIMESTAMPTZ '{moment.isoformat()}'"
    (day,) = _one(db, f"SELECT {local(at, card)}::DATE")
    assert isinstance(day, date)
    return day


def rows_later(db: "DuckDBPyConnection", query: str) -> Callable[[], Rows]:
    """The first rows of `query`, read only when they are asked for."""

    def read() -> Rows:
        return list(db.execute(f"SELECT * FROM ({query}) LIMIT {EVIDENCE}").to_arrow_table().to_pylist())

    return read


def read_report(events: Path) -> dict[str, Any]:
    """Ingest's report.json."""
    return dict(json.loads((events / "report.json").read_text()))


def _set_aside(report: dict[str, Any], rejected: str, rows: str, reasons: str) -> Measurement:
    return Measurement(
        found=report.get(rejected, 0) / max(1, report.get(rows, 0)),
        evidence=lambda: [{"reason": reason, "rows": n} for reason, n in report.get(reasons, {}).items()],
    )


def _age(as_of: datetime, newest: str | None) -> float:
    """In days; of nothing it is the time since 1970."""
    moment = datetime.fromisoformat(newest) if newest else datetime.fromtimestamp(0, UTC)
    return (as_of - moment) / timedelta(days=1)


def _repeats(db: "DuckDBPyConnection", table: str, columns: Sequence[str]) -> Measurement:
    """Rows beyond the first of each that is there several times.

    Hashes find the few that can be meant, so that memory holds eight bytes a row and not the keys.
    """
    key, whole = ", ".join(columns), " AND ".join(f"{column} IS NOT NULL" for column in columns)
    suspects = (
        f"SELECT {key} FROM {table} WHERE {whole} AND hash({key}) IN "
        f"(SELECT h FROM (SELECT hash({key}) AS h FROM {table}) GROUP BY h HAVING count(*) > 1)"
    )
    repeated = f"SELECT {key}, count(*) AS times FROM ({suspects}) GROUP BY {key} HAVING count(*) > 1"
    (count,) = _one(db, f"SELECT coalesce(sum(times - 1), 0)::BIGINT FROM ({repeated})")
    return Measurement(found=count, evidence=rows_later(db, repeated))


def _count(db: "DuckDBPyConnection", query: str) -> int:
    return int(_one(db, f"SELECT count(*) FROM ({query})")[0])


def _one(db: "DuckDBPyConnection", query: str) -> tuple[Any, ...]:
    row = db.execute(query).fetchone()
    assert row is not None
    return tuple(row)
