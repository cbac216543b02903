"""One item: what it is and was, how it sold, how often it was shown and clicked, and what is near it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import (
    UTC,
    date,
    datetime,
    time,
    timedelta,
)
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from markupsafe import Markup

from console import runs
from console.archives import Answer, Opened
from console.standing import standing
from runtime import workspace
from runtime.charts import Plot, Scale, times
from runtime.sql import session

K = 10
LATEST = timedelta(days=90)
"""Days of the event log that are read."""
_MOST_CHANGES = 2000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Days = dict[date, float]


@dataclass(frozen=True, kw_only=True)
class Course:
    """How the item fared over time."""

    pictures: Sequence[tuple[str, Markup]]
    sold: int
    shown: int
    clicked: int
    source: str


def as_date(days: float, zone: str) -> str:
    """A number of days since 1970 as the day that it is in `zone`, with the time where it is not midnight there."""
    try:
        moment = (_EPOCH + timedelta(days=days)).astimezone(ZoneInfo(zone))
    except OverflowError:  # beyond the year 9999
        return f"{days:,.0f} days since 1970"
    moment = (moment + timedelta(microseconds=500_000)).replace(microsecond=0)  # a float of days is no whole second
    return f"{moment:%Y-%m-%d}" if moment.time() == time.min else f"{moment:%Y-%m-%d %H:%M}"


def readable_features(opened: Opened, item: str) -> dict[str, Any]:
    """Its features as people say them: dates as dates."""
    zones: Mapping[str, str] = opened.contract.get("dates", {})
    return {
        name: as_date(value, zones[name]) if name in zones and value is not None else value
        for name, value in opened.features(item).items()
    }


def standing_of(opened: Opened, model: str, item: str) -> dict[str, str]:
    """By feature its place among the rows that the gate saw last."""
    return standing(model, opened.features(item), opened.contract.get("dates", ()))


def near(opened: Opened, item: str) -> Answer:
    """The items whose vectors point most nearly the same way; empty where there are none."""
    vectors, row = opened.vectors, opened.row.get(item)
    if vectors is None or row is None:
        return []
    likeness = vectors @ vectors[row]
    likeness[row] = -np.inf
    k = min(K, len(likeness) - 1)
    best = np.argpartition(-likeness, k - 1)[:k] if k else np.zeros(0, np.int64)
    best = best[np.argsort(-likeness[best])]
    return [{"item_id": opened.ids[r], "title": opened.titles[r], "score": float(likeness[r])} for r in best.tolist()]


def after(opened: Opened, item: str) -> Answer:
    """What the model recommends to a shopper who has bought this item alone, just now."""
    if item not in opened.row:
        return []
    event = {"item_id": item, "event_time": datetime.now(UTC).isoformat(), "features": {}}
    return opened.answer({"user_id": "console", "history": [event], "k": K})


def course(model: str, item: str) -> Course:
    """Read the events of the latest run of the data set, and the log of the last days."""
    run = runs.latest_with("ingest", model)
    folder = run.artifact("ingest") if run else None
    pictures: list[tuple[str, Markup]] = []
    with session() as db:
        sold = _by_day(db, folder / "interactions", item) if folder else {}
        changes = _changes(db, folder, item) if folder else {}
        log = workspace.event_log(model)
        shown = _log(db, log / "exposures", "list_contains(items, $item)", item)
        clicked = _log(db, log / "outcomes", "item_id = $item", item)
    if sold:
        pictures.append(("events a day", _bars(sold, "events a day")))
    if shown:
        pictures.append(("shown a day", _bars(shown, "shown a day")))
    if clicked:
        pictures.append(("clicked and bought a day", _bars(clicked, "outcomes a day")))
    pictures += [(name, _steps(name, points)) for name, points in changes.items() if len(points) > 1]
    return Course(
        pictures=pictures,
        sold=int(sum(sold.values())),
        shown=int(sum(shown.values())),
        clicked=int(sum(clicked.values())),
        source=run.name if run else "",
    )


def _by_day(db: Any, folder: Path, item: str) -> Days:
    if not any(folder.glob("day=*/*.parquet")):
        return {}
    source = "read_parquet($files, hive_partitioning = false)"
    query = f"SELECT event_time::DATE, count(*) FROM {source} WHERE item_id = $item GROUP BY 1"
    return dict(db.execute(query, {"files": str(folder / "day=*" / "*.parquet"), "item": item}).fetchall())


def _changes(db: Any, folder: Path, item: str) -> dict[str, list[tuple[datetime, float]]]:
    """Each varying number of the item, change by change."""
    found: dict[str, list[tuple[datetime, float]]] = {}
    for kind in ("varying", "derived"):
        files = folder / "items" / kind
        if not any(files.glob("day=*/*.parquet")):
            continue
        query = (
            "SELECT * FROM read_parquet($files, hive_partitioning = false, union_by_name = true) WHERE item_id = $item "
            f"ORDER BY event_time DESC LIMIT {_MOST_CHANGES}"
        )
        answer = db.execute(query, {"files": str(files / "day=*" / "*.parquet"), "item": item})
        names = [column[0] for column in answer.description]
        for row in reversed(answer.fetchall()):
            values = dict(zip(names, row, strict=True))
            for name in names[2:]:
                if name != "created_time" and isinstance(values[name], int | float):
                    found.setdefault(name, []).append((values["event_time"], float(values[name])))
    return found


def _log(db: Any, folder: Path, where: str, item: str) -> Days:
    """Rows of the latest days of the event log, by day."""
    first = f"day={datetime.now(UTC) - LATEST:%Y-%m-%d}"
    days = [day for day in sorted(folder.glob("day=*")) if day.name >= first]
    files = [str(file) for day in days for file in day.glob("*.parquet")]
    if not files:
        return {}
    source = "read_parquet($files, union_by_name = true, hive_partitioning = false)"
    columns = {row[0] for row in db.execute(f"DESCRIBE SELECT * FROM {source}", {"files": files}).fetchall()}
    if "item_id" in where and "item_id" not in columns:
        return {}  # a log of before outcomes told of which item
    query = f"SELECT time::DATE, count(DISTINCT request_id) FROM {source} WHERE {where} GROUP BY 1"
    return dict(db.execute(query, {"files": files, "item": item}).fetchall())


def _bars(counted: Mapping[date, float], name: str) -> Markup:
    moments = {datetime.combine(day, datetime.min.time(), UTC): n for day, n in sorted(counted.items())}
    ends = list(moments)
    plot = Plot(name, times([ends[0], ends[-1] + timedelta(days=1)]), Scale(0, 1.1 * max(moments.values())))
    plot.axes(below=None).clock()
    for day, n in moments.items():
        plot.bar(day.timestamp(), (day + timedelta(days=1)).timestamp(), n, "f0", f"{day:%Y-%m-%d}: {n:,.0f}")
    return plot.svg()


def _steps(name: str, points: Sequence[tuple[datetime, float]]) -> Markup:
    values = [value for _, value in points]
    low, high = min(values), max(values)
    room = 0.1 * (high - low) or 0.1 * abs(high) or 1
    plot = Plot(name, times([points[0][0], points[-1][0]]), Scale(low - room, high + room)).axes(below=None).clock()
    path: list[tuple[float, float]] = []
    for moment, value in points:
        path += [(moment.timestamp(), path[-1][1] if path else value), (moment.timestamp(), value)]
    return plot.line(path, "l0").svg()
