"""A tiny shop in the format of the `sequences` artifact: choices follow brand, category and price, or nothing does."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 40
SLICES = (0, 8, 16, 24, DAYS - 10, DAYS - 5)
"""Days on which a slice of a changing shop begins: four of the training split, and where validation and test open."""
KINDS = {
    "brand": "categorical",
    "tags": "multi_categorical",
    "price": "numeric",
    "stock": "categorical",
    "title": "text",
    "image": "embedding",
}
VARYING = ("price", "stock")
TIME = pa.timestamp("us", "UTC")
TYPES = {
    "categorical": pa.string(),
    "multi_categorical": pa.list_(pa.string()),
    "numeric": pa.float64(),
    "text": pa.string(),
    "embedding": pa.list_(pa.float32()),
}


def write_shop(
    root: Path,
    *,
    users: int = 40,
    items: int = 30,
    seed: int = 0,
    basket: int = 1,
    features: bool = True,
    changing: bool = False,
) -> Path:
    """Write events.parquet, catalogue.parquet, slices.parquet and features.json to `root`.

    With `changing`, prices and stock are others as of each of `SLICES`; else as they always were.

    Shoppers keep to a brand and a style of picture; about a fifth of the items arrives during the last days.
    """
    rng = np.random.default_rng(seed)
    brand = rng.integers(0, 5, items)
    image = rng.normal(size=(items, 6))
    price = rng.lognormal(2, 1, items)
    arrives = np.where(rng.random(items) < 0.2, rng.uniform(0, DAYS, items), 0)
    columns = {
        "brand": [f"brand{value}" if rng.random() > 0.1 else None for value in brand],
        "tags": [[f"tag{value}", f"tag{(value * 7) % 4}"] for value in brand],
        "price": price.tolist(),
        "stock": ["high" if value > 10 else "low" for value in price],
        "title": [f"{['blue', 'red', 'green'][n % 3]} thing of brand{brand[n]}" for n in range(items)],
        "image": image.astype(np.float32).tolist(),
    }
    events = [event for user in range(users) for event in _visits(user, rng, brand, image, price, arrives, basket)]
    names = [*KINDS] if features else []
    slices = {day: _moved(columns, rng) for day in SLICES} if changing else None
    columns = _moved(columns, rng) if changing else columns
    chosen = {name: columns[name] for name in names}
    return write(root, columns=chosen, arrives=arrives, events=events, slices=slices)


def _moved(columns: dict, rng: np.random.Generator) -> dict:
    prices = [None if rng.random() < 0.1 else float(price * rng.lognormal(0, 0.5)) for price in columns["price"]]
    stock = [None if price is None else "high" if price > 10 else "low" for price in prices]
    return {**columns, "price": prices, "stock": stock}


def write(
    root: Path,
    *,
    columns: dict,
    arrives: np.ndarray,
    events: list[dict],
    repeats: bool = True,
    slices: dict[float, dict] | None = None,
) -> Path:
    """Write an artifact of these events (dicts with user, item, day, basket, split, price, stock).

    `slices` are the varying columns by the day on which they begin to hold; by default `columns`, from the start on.
    """
    root.mkdir(parents=True, exist_ok=True)
    names = list(columns)
    varying = [name for name in names if name in VARYING]
    catalogue = {
        "item_id": pa.array([f"i{n:03d}" for n in range(len(arrives))]),
        "available_at": pa.array([START + timedelta(days=float(day)) for day in arrives], TIME),
    } | {name: pa.array(columns[name], TYPES[KINDS[name]]) for name in names}
    pq.write_table(pa.table(catalogue), root / "catalogue.parquet")
    if varying:
        parts = [
            pa.table(
                {"__since": pa.array([START + timedelta(days=float(day))] * len(arrives), TIME)}
                | {"item_id": catalogue["item_id"]}
                | {name: pa.array(values[name], TYPES[KINDS[name]]) for name in varying}
            )
            for day, values in (slices or {0: columns}).items()
        ]
        pq.write_table(pa.concat_tables(parts), root / "slices.parquet")
    table = {
        "user_id": pa.array([f"u{event['user']:04d}" for event in events], pa.string()),
        "item_id": pa.array([f"i{event['item']:03d}" for event in events], pa.string()),
        "event_time": pa.array([START + timedelta(days=float(event["day"])) for event in events], TIME),
        "position": pa.array(range(len(events)), pa.int64()),
        "basket": pa.array([event["basket"] for event in events], pa.int64()),
        "split": pa.array([event["split"] for event in events], pa.string()),
    } | {name: pa.array([event[name] for event in events], TYPES[KINDS[name]]) for name in varying}
    pq.write_table(pa.table(table), root / "events.parquet")
    described = [
        {
            "name": name,
            "kind": KINDS[name],
            "varies_in_time": name in VARYING,
            "dimension": len(columns[name][0]) if KINDS[name] == "embedding" else None,
        }
        for name in names
    ]
    as_of = (START + timedelta(days=DAYS)).isoformat()
    about = {"features": described, "repeats": repeats, "title": None, "as_of": as_of, "dataset": "shop"}
    (root / "features.json").write_text(json.dumps(about))
    return root


def _visits(user, rng, brand, image, price, arrives, basket) -> list[dict]:
    taste, style, out = rng.integers(0, 5), rng.normal(size=image.shape[1]), []
    for number, day in enumerate(np.sort(rng.uniform(0, DAYS, rng.integers(4, 16)))):
        score = np.where(arrives <= day, 2.0 * (brand == taste) + image @ style + rng.gumbel(size=len(brand)), -np.inf)
        for item in np.argsort(-score)[: rng.integers(1, basket + 1)]:
            then = None if rng.random() < 0.1 else float(price[item] * rng.uniform(0.8, 1.2))
            split = "train" if day < DAYS - 10 else "validation" if day < DAYS - 5 else "test"
            known = {"price": then, "stock": None if then is None else "high" if then > 10 else "low"}
            out.append({"user": user, "item": item, "day": day, "basket": number, "split": split, **known})
    return out
