"""The frames that Great Expectations looks at: DuckDB does the reading, joining and counting."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.features.tables import differences
from feature_repo.card import DatasetCard, Feature

if TYPE_CHECKING:
    import pandas as pd
    from duckdb import DuckDBPyConnection

EVIDENCE = 20
"""Offending rows shown for a check."""


@dataclass(frozen=True, kw_only=True)
class Frames:
    """`tables` by name (`interactions`, `items`, `varying`: a row a row; `run`: one row of figures about the whole)
    and `evidence` for figures, by the figure's name."""

    tables: "dict[str, pd.DataFrame]"
    evidence: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    days: dict[date, int] = field(default_factory=dict)
    """Events of each day from the first to the last, in the card's time zone."""


def columns_frame(card: DatasetCard, events: Path) -> Frames:
    """One figure: how many columns differ from the card."""
    found = differences(card, events)
    return _figures({"columns": len(found)}, {"columns": found[:EVIDENCE]})


def read_frames(card: DatasetCard, db: "DuckDBPyConnection", as_of: datetime, report: dict[str, Any]) -> Frames:
    """Everything the suites of `card` need, from the views of `open_events`; `report` is ingest's.

    Leaves the view `latest_items` (one row an item, as of `as_of`) in `db`.
    """
    db.execute(f"CREATE VIEW latest_items AS {_LATEST_ITEMS}")
    days = _events_by_day(card, db)
    figures, evidence = _about_the_run(card, db, as_of, report, days)
    run = _figures(figures, evidence)
    tables = {
        **run.tables,
        "interactions": _frame(db, _INTERACTIONS),
        "items": _frame(db, f"SELECT item_id {_readable(card.static)} FROM latest_items"),
    }
    if card.varying:
        tables["varying"] = _frame(
            db, f"SELECT item_id, event_time, created_time {_readable(card.varying)} FROM varying"
        )
    if card.derived:
        tables["derived"] = _frame(
            db, f"SELECT item_id, event_time, created_time {_readable(card.derived)} FROM derived"
        )
    return Frames(tables=tables, evidence=evidence, days=days)


_INTERACTIONS = """
    SELECT event_id, user_id, item_id, event_time, since IS NOT NULL AS item_known,
           coalesce(since <= event_time, true) AS item_known_by_then
    FROM interactions_all LEFT JOIN (SELECT item_id, min(event_time) AS since FROM items_all GROUP BY item_id) known
    USING (item_id)
"""
_LATEST_ITEMS = """
    SELECT * FROM items
    QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY event_time DESC, created_time DESC) = 1
"""


def _readable(features: Sequence[Feature]) -> str:
    """Columns that pandas and people can read: lists as text, vectors as their length and soundness."""
    columns = []
    for feature in features:
        name = f'"{feature.name}"'
        if feature.kind == "numeric":
            columns += [
                f"CASE WHEN NOT isnan({name}) THEN {name} END AS {name}",
                f'isfinite({name}) AS "{name[1:-1]}.finite"',
            ]
        elif feature.kind == "multi_categorical":
            columns.append(f"nullif(array_to_string({name}, ' | '), '') AS {name}")
        elif feature.kind == "embedding":
            columns.append(f"CASE WHEN len({name}) > 0 THEN array_to_string({name}[:4], ' ') || ' …' END AS {name}")
            columns.append(f'nullif(len({name}), 0) AS "{name[1:-1]}.dimension"')
            sound = f"list_bool_and(list_transform({name}, x -> x IS NOT NULL AND isfinite(x)))"
            columns.append(f'{sound} AS "{name[1:-1]}.finite"')
        else:
            columns.append(f"nullif({name}, '') AS {name}")
    return "".join(f", {column}" for column in columns)


def _about_the_run(
    card: DatasetCard, db: "DuckDBPyConnection", as_of: datetime, report: dict[str, Any], days: dict[date, int]
) -> tuple[dict[str, float], dict[str, list[dict[str, Any]]]]:
    moment = f"TIMESTAMPTZ '{as_of.isoformat()}'"
    later = f"SELECT event_id, user_id, item_id, event_time FROM interactions_all WHERE event_time > {moment}"
    long_baskets = """
        SELECT user_id, basket, min(event_time) AS first, max(event_time) AS last FROM interactions
        WHERE basket IS NOT NULL GROUP BY ALL HAVING max(event_time) - min(event_time) > INTERVAL 1 DAY
    """
    newest = db.execute("SELECT max(event_time) FROM interactions").to_arrow_table()[0][0].as_py()
    closed = {day: n for day, n in days.items() if n and not _is_open(card, day)}
    missing = [day for day, n in days.items() if not n and _is_open(card, day)]
    figures: dict[str, float] = {
        "interactions": _count(db, "SELECT 1 FROM interactions"),
        "rejected_rate": report["rejected"] / report["rows"] if report["rows"] else 0.0,
        "age_days": (as_of - newest) / timedelta(days=1) if newest else math.inf,
        "later_events": _count(db, later),
        "missing_days": len(missing),
        "closed_days": len(closed),
        "long_baskets": _count(db, long_baskets) if card.ties == "basket" else 0,
    }
    evidence = {
        "rejected_rate": [{"reason": reason, "rows": rows} for reason, rows in report["reasons"].items()],
        "later_events": rows_of(db, f"{later} ORDER BY event_time"),
        "missing_days": [{"day": f"{day:%a %Y-%m-%d}"} for day in missing[:EVIDENCE]],
        "closed_days": [{"day": f"{day:%a %Y-%m-%d}", "events": n} for day, n in [*closed.items()][:EVIDENCE]],
        "long_baskets": rows_of(db, long_baskets) if figures["long_baskets"] else [],
    }
    return figures, evidence


def _events_by_day(card: DatasetCard, db: "DuckDBPyConnection") -> dict[date, int]:
    zone = card.source.timezone.replace("'", "''")
    query = f"SELECT timezone('{zone}', event_time)::DATE AS day, count(*) FROM interactions GROUP BY day"
    counted = dict(db.execute(query).fetchall())
    if not counted:
        return {}
    first, last = min(counted), max(counted)
    return {day: counted.get(day, 0) for n in range((last - first).days + 1) if (day := first + timedelta(days=n))}


def _is_open(card: DatasetCard, day: date) -> bool:
    weekday = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")[day.weekday()]
    return weekday not in card.calendar.closed_weekdays and day not in card.calendar.closed_days


def rows_of(db: "DuckDBPyConnection", query: str) -> list[dict[str, Any]]:
    """The first rows of `query`, as evidence."""
    return list(db.execute(f"SELECT * FROM ({query}) LIMIT {EVIDENCE}").to_arrow_table().to_pylist())


def read_report(events: Path) -> dict[str, Any]:
    """Ingest's report.json."""
    return dict(json.loads((events / "report.json").read_text()))


def _count(db: "DuckDBPyConnection", query: str) -> int:
    row = db.execute(f"SELECT count(*) FROM ({query})").fetchone()
    assert row is not None
    return int(row[0])


def _frame(db: "DuckDBPyConnection", query: str) -> "pd.DataFrame":
    return db.execute(query).to_arrow_table().to_pandas()


def _figures(figures: dict[str, float], evidence: dict[str, list[dict[str, Any]]]) -> Frames:
    import pandas as pd

    return Frames(tables={"run": pd.DataFrame([figures])}, evidence=evidence)
