"""A tiny events artifact as ingest writes it (docs/contracts.md), and the card it belongs to."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.shared.tables import tables
from feature_repo.card import DatasetCard
from runtime.manifest import Manifest

Row = Mapping[str, Any]

START = datetime(2026, 1, 1, tzinfo=UTC)

CARD = {
    "name": "tiny",
    "description": "A shop of a few items",
    "source": {"adapter": "files", "interactions": "interactions.csv", "items": "items.csv"},
    "features": [
        {"name": "brand", "kind": "categorical"},
        {"name": "tags", "kind": "multi_categorical"},
        {"name": "title", "kind": "text"},
        {"name": "weight", "kind": "numeric", "min": 0},
        {"name": "image", "kind": "embedding", "dimension": 3},
        {"name": "price", "kind": "numeric", "varies_in_time": True, "min": 0},
        {"name": "label", "kind": "categorical", "varies_in_time": True},
    ],
    "title": "title",
    "split": {"by": "time", "validation_days": 2, "test_days": 2},
}


def make_card(**changes: Any) -> DatasetCard:
    return DatasetCard.model_validate({**CARD, **changes})


def at(days: float = 0, *, us: int = 0) -> datetime:
    """`days` and `us` microseconds after the fixture's start."""
    return START + timedelta(days=days, microseconds=us)


def event(user: str, item: str, time: datetime, **more: Any) -> dict[str, Any]:
    return {"user_id": user, "item_id": item, "event_time": time, **more}


def item(item_id: str, **features: Any) -> dict[str, Any]:
    """A complete static row: every feature has a value unless told otherwise."""
    usual = {"brand": "acme", "tags": ["new"], "title": f"Item {item_id}", "weight": 1.0, "image": [0.1, 0.2, 0.3]}
    return {"item_id": item_id, "event_time": at(-10), **usual, **features}


def change(item_id: str, time: datetime, price: float | None, label: str | None = "plain") -> dict[str, Any]:
    return {"item_id": item_id, "event_time": time, "price": price, "label": label}


def write_events(
    root: Path,
    card: DatasetCard,
    interactions: Sequence[Row],
    items: Sequence[Row],
    varying: Sequence[Row] = (),
    report: Row | None = None,
    derived: Sequence[Row] = (),
    users: Sequence[Row] = (),
) -> Path:
    """Write and seal the artifact; event ids and positions follow the order of `interactions`."""
    numbered = [{"event_id": f"e{n:04d}", "position": n, **row} for n, row in enumerate(interactions)]
    rows = {"interactions": numbered, "items": list(items), "varying": list(varying), "derived": list(derived)}
    rows["users"] = list(users)
    for table in tables(card):
        if table.name in ("items", "users"):
            _write(root / table.files, rows[table.name], table.columns)
            continue
        folder = root / "interactions" if table.name == "interactions" else root / "items" / table.name
        by_day = sorted(rows[table.name], key=lambda row: row["event_time"])
        for day, of_day in groupby(by_day, key=lambda row: row["event_time"].date()):
            _write(folder / f"day={day}" / "part-0.parquet", list(of_day), table.columns)
    (root / "report.json").write_text(json.dumps({**_report(numbered, items), **(report or {})}))
    Manifest.seal(root, kind="events")
    return root


def write_facts(root: Path, as_of: datetime) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "facts.json").write_text(json.dumps({"as_of": as_of.isoformat()}))
    return root


def _write(path: Path, rows: Sequence[Row], columns: Mapping[str, pa.DataType]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    complete = [{"created_time": row["event_time"], **row} for row in rows]
    schema = pa.schema([(name, kind) for name, kind in columns.items()])
    pq.write_table(pa.Table.from_pylist([{n: row.get(n) for n in schema.names} for row in complete], schema), path)


def _report(interactions: Sequence[Row], items: Sequence[Row]) -> dict[str, Any]:
    times = sorted(row["event_time"] for row in interactions)
    return {
        "rows": len(interactions),
        "accepted": len(interactions),
        "rejected": 0,
        "reasons": {},
        "users": len({row["user_id"] for row in interactions}),
        "items": len({row["item_id"] for row in items}),
        "first_event": times[0].isoformat() if times else None,
        "last_event": times[-1].isoformat() if times else None,
        "event_time_synthesised": False,
        "notes": [],
    }
