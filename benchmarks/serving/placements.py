"""What each placement costs the scorer beside a recommendation: `make bench-placements`

12,000 items, a network of default shape as `serving_shop` packages it (no memory), histories of 50, ten items each; one
request at a time, in-process, one thread. Processor time, medians over rounds that go round all of them, so that other
work on the machine does not count.
"""

import json
import os
import platform
import statistics
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.serving.serving_shop import packaged, requests
from runtime.task import commit
from serving.scoring.scorer import Scorer

RESULTS = Path(__file__).parents[1] / "results" / "placements.json"
ITEMS, K, GIVEN, ROUNDS, SHOPPERS = 12_000, 10, 200, 40, 20
FOR_YOU = "for you"


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        archive = packaged(Path(folder) / "shop", items=ITEMS)
        content = Path(folder) / "content"
        zipfile.ZipFile(archive / "bench.mar").extractall(content)
        scorer = Scorer.load(content)
        ids = json.loads((content / "items.json").read_text())["item_id"]
        placements = json.loads((content / "serving.json").read_text())["placements"]
        asked = of_each(ids, requests({"item_id": ids}, SHOPPERS, k=K), placements)
    milliseconds = measured(scorer, asked)
    table = Table("placement", "ms at p50", "of a recommendation")
    rows = {name: {"ms": ms, "of a recommendation": ms / milliseconds[FOR_YOU]} for name, ms in milliseconds.items()}
    for name, row in rows.items():
        table.add_row(name, f"{row['ms']:.2f}", f"{row['of a recommendation']:.2f}")
    Console().print(table)
    told = {"commit": commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores", "items": ITEMS, "k": K}
    RESULTS.write_text(json.dumps({**told, "rounds": ROUNDS, "placements": rows}, indent=1) + "\n")


def of_each(ids: list[str], shoppers: list[dict[str, Any]], placements: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Requests of each kind, those of `SHOPPERS` each."""
    found: dict[str, list[dict[str, Any]]] = {FOR_YOU: shoppers}
    for name, fields, personal in (
        (f"ranking of {GIVEN}", {"placement": "ranking"}, True),
        ("similar items, in the shopper's order", {"placement": "similar"}, True),
        ("similar items", {"placement": "similar"}, False),
        ("bought together", {"placement": "together"}, False),
        ("popular", {"placement": "popular"}, False),
        ("for you, explained", {"explain": True}, True),
    ):
        if fields.get("placement", "for_you") not in placements:
            continue
        found[name] = [
            {
                **request,
                **fields,
                "history": request["history"] if personal else [],
                **({"items": ids[n : n + (GIVEN if "ranking" in name else 1)]} if "placement" in fields else {}),
            }
            for n, request in enumerate(shoppers)
        ]
    return found


def measured(scorer: Scorer, asked: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Milliseconds of processor time of one request of each kind."""
    taken: dict[str, list[float]] = {name: [] for name in asked}
    for number in range(ROUNDS):
        for name, all_of_them in asked.items():
            request = all_of_them[number % len(all_of_them)]
            began = time.process_time()
            (answer,) = scorer.score([request])
            taken[name].append(1000 * (time.process_time() - began))
            assert answer["items"], f"{name}: {answer}"
    return {name: statistics.median(values[2:]) for name, values in taken.items()}


if __name__ == "__main__":
    main()
