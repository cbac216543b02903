"""A shop drawn by arrays, for sizes at which a simulation of shoppers would take too long."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2025, 1, 1, tzinfo=UTC)
DAYS, DAY = 60, 86_400_000_000
SEED = 0


def draw(root: Path, events: int) -> None:
    """A shop of Zipf-popular items with prices that move, and its card; a Parquet file a day."""
    rng = np.random.default_rng(SEED)
    users, items = max(100, events // 50), int(min(50_000, max(500, events // 100)))
    (root / "clicks").mkdir()
    item_ids, user_ids = (
        pa.array([f"{letter}{n:07d}" for n in range(count)]) for letter, count in (("i", items), ("u", users))
    )
    rank = rng.permutation(items)
    for day in range(DAYS):
        n = events // DAYS + (day < events % DAYS)
        item = rank[np.minimum((rng.pareto(1.0, n) * items / 50).astype(np.int64), items - 1)]
        moment = int(START.timestamp()) * 1_000_000 + day * DAY + np.sort(rng.integers(0, DAY, n))
        rows = {
            "user_id": user_ids.take(pa.array(rng.integers(0, users, n))),
            "item_id": item_ids.take(pa.array(item)),
            "event_time": pa.array(moment).cast(pa.timestamp("us", "UTC")),
        }
        pq.write_table(pa.table(rows), root / "clicks" / f"{START + timedelta(days=day):%Y-%m-%d}.parquet")
    base = np.exp(rng.normal(3, 1, items))
    changed = [(np.arange(items), np.zeros(items, np.int64), base)]
    for day in range(1, DAYS):
        moved = np.flatnonzero(rng.random(items) < 0.15)
        changed.append((moved, np.full(len(moved), day * DAY), base[moved] * np.exp(rng.normal(0, 0.1, len(moved)))))
    row, offset, price = (np.concatenate(parts) for parts in zip(*changed, strict=True))
    table = {
        "item_id": item_ids.take(pa.array(row)),
        "since": pa.array(int(START.timestamp()) * 1_000_000 + offset).cast(pa.timestamp("us", "UTC")),
        "brand": pa.array([f"b{n % 400}" for n in row.tolist()]),
        "price": np.round(price, 2),
    }
    pq.write_table(pa.table(table), root / "items.parquet")
    features = [
        {"name": "brand", "kind": "categorical"},
        {"name": "price", "kind": "numeric", "varies_in_time": True},
        *({"name": f"sold_{days}d", "kind": "numeric", "derive": {"by": "count", "days": days}, "token": False}
          for days in (1, 7, 28)),
    ]  # fmt: skip
    card = {
        "name": "drawn", "description": "A shop drawn by arrays.",
        "source": {"adapter": "files", "interactions": "clicks", "items": "items.parquet"},
        "columns": {"event_time": "event_time", "item_available_at": "since"},
        "features": features, "split": {"by": "time"},
    }  # fmt: skip
    (root / "shop.yaml").write_text(json.dumps(card))
