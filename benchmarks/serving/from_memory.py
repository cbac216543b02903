"""What an answer costs that no model gives: the neighbour tables', and that of the most popular items.

In one process, without HTTP, store and log. Tables are full and of chance: speed does not ask what was learned.
"""

import inspect
import json
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from heterrec.memory import neighbours
from heterrec.memory.neighbours import (
    BUCKETS,
    CHANNELS,
    Gate,
    Memory,
    NeighbourTable,
)
from serving.gateway.archive import read_contents
from serving.gateway.counted import popular
from serving.gateway.tables import NeighbourAnswers
from serving.gateway.wish import Wish
from serving.torchserve.archive import digest

ITEMS, HISTORY, K, SHOPPERS, TIMES, SEED = 10_000, 50, 10, 200, 2_000, 0
TOGETHER, ALIKE = 200, 100
"""Neighbours of an item that are kept of each channel."""
FILTERS = {"price": {"min": 5.0}, "category": [f"category{n}" for n in range(20)]}


def measured(home: Path) -> dict[str, Any]:
    """Milliseconds at p10, p50 and p99 of an answer; MiB of the tables, and while they are read."""
    rng = np.random.default_rng(SEED)
    mar = _archive(home, rng)
    contents = read_contents(mar, digest(mar))
    tracemalloc.start()
    tables = NeighbourAnswers.read(mar)
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert tables is not None
    start = datetime(2026, 1, 1, tzinfo=UTC)
    times = [(start + timedelta(hours=hour)).isoformat() for hour in range(HISTORY)]
    asked = [
        {
            "history": [
                {"item_id": f"i{row:07d}", "event_time": time, "features": {"price": 9.5}}
                for row, time in zip(rng.integers(0, ITEMS, HISTORY).tolist(), times, strict=True)
            ],
            "k": K,
            "filters": FILTERS,
        }
        for _ in range(SHOPPERS)
    ]
    wish = Wish(user_id="u", k=K, filters=FILTERS)
    return {
        "items": ITEMS,
        "history": HISTORY,
        "k": K,
        "filters": len(FILTERS),
        "tables_ms": _milliseconds(lambda n: tables.answer(asked[n])),
        "popular_ms": _milliseconds(lambda n: popular(contents, asked[n]["history"], wish)),
        "tables_mib": round(kept / 2**20, 1),
        "reading_mib": round(most / 2**20, 1),
    }


def _archive(home: Path, rng: np.random.Generator) -> Path:
    """What a gateway reads of one."""
    counts = rng.integers(0, 500, ITEMS)
    levels = np.linspace(0, 1, BUCKETS).tolist()
    gate = Gate(trust=0.0, bias_K=levels, gain_K=[0.7] * BUCKETS, weight_CK=[[1.0] * BUCKETS] * len(CHANNELS))
    tables = tuple(
        NeighbourTable(
            first_V=np.arange(ITEMS + 1) * each,
            item_N=rng.integers(0, ITEMS, ITEMS * each).astype(np.int32),
            weight_N=rng.random(ITEMS * each, dtype=np.float32),
        )
        for each in (TOGETHER, ALIKE)
    )
    memory = Memory(tables=tables, decay_C=(0.8, 0.7, 0.9), count_V=counts, beside=gate, alone=gate)
    memory.save(home / "memory.npz")
    features = {
        "price": rng.uniform(1, 50, ITEMS).tolist(),
        "category": [f"category{n}" for n in rng.integers(0, 40, ITEMS)],
    }
    ids, filterable = [f"i{row:07d}" for row in range(ITEMS)], {"price": "numeric", "category": "categorical"}
    items = {
        "item_id": ids, "title": ids, "segment": features["category"], "events": counts.tolist(), "features": features,
    }  # fmt: skip
    best = [
        {"item_id": ids[row], "events": 1, "features": {name: features[name][row] for name in features}}
        for row in np.argsort(-counts)[:100]
    ]
    contract = {"filterable": filterable, "exclude_seen": True, "default_k": K, "max_k": 100, "max_history": HISTORY}
    golden = {"request": {"history": [{}]}, "answer": {"unknown_items": 0, "items": []}}
    content = {
        "serving.json": contract,
        "items.json": items,
        "popular.json": {"segment": "category", "overall": best, "by_segment": {"category1": best}},
        "goldens.jsonl": golden,
    }
    with zipfile.ZipFile(home / "bench.mar", "w") as packed:
        for name, plain in content.items():
            packed.writestr(name, json.dumps(plain))
        packed.write(home / "memory.npz", "memory.npz")
        packed.write(inspect.getfile(neighbours), "neighbours.py")
    return home / "bench.mar"


def _milliseconds(answer: Callable[[int], Any]) -> dict[str, float]:
    taken = []
    for number in range(TIMES):
        began = time.perf_counter()
        answer(number % SHOPPERS)
        taken.append(1000 * (time.perf_counter() - began))
    return {f"p{q}": round(float(np.percentile(taken, q)), 3) for q in (10, 50, 99)}
