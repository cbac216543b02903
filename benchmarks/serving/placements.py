"""What each placement, and what was put since the catalogue, costs the scorer beside a recommendation:
`make bench-placements`

12,000 items, a network of default shape as `serving_shop` packages it (no memory), histories of 50, ten items each; one
request at a time, in-process, from its bytes to those of the answer, one thread. Processor time, medians over rounds
that go round all of them, so that other work on the machine does not count.
"""

import json
import os
import platform
import random
import statistics
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import orjson
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.serving.serving_shop import packaged, requests
from runtime.task import commit
from serving.scoring.scorer import Scorer
from serving.scoring.wire import replies

RESULTS = Path(__file__).parents[1] / "results" / "placements.json"
ITEMS, K, GIVEN, ROUNDS, SHOPPERS = 12_000, 10, 200, 40, 20
FOR_YOU = "for you"
PUT = (64, 256)
"""Items that a request brings along."""


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        archive = packaged(Path(folder) / "shop", items=ITEMS)
        content = Path(folder) / "content"
        zipfile.ZipFile(archive / "bench.mar").extractall(content)
        scorer = Scorer.load(content)
        ids = json.loads((content / "items.json").read_text())["item_id"]
        placements = json.loads((content / "serving.json").read_text())["placements"]
        shoppers = requests({"item_id": ids}, SHOPPERS, k=K)
        asked = of_each(ids, shoppers, placements) | with_items_put(shoppers)
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


def with_items_put(shoppers: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Requests for you that bring new items along, which a worker has met before; and of which it has met none."""
    draw = random.Random(0)

    def item(number: int) -> dict[str, Any]:
        features = {
            "title": " ".join(f"w{draw.randrange(400)}" for _ in range(8)), "brand": f"brand{draw.randrange(50)}",
            "category": f"category{draw.randrange(20)}", "style": [draw.gauss(0, 1) for _ in range(16)],
            "price": draw.uniform(1, 100), "stock": 5.0,
        }  # fmt: skip
        return {"item_id": f"put{number}", "features": features, "since": 20_500.0}

    lists = {count: [item(number) for number in range(count)] for count in PUT}
    found = {
        f"{FOR_YOU}, {count} items put": [{**request, "upserts": lists[count]} for request in shoppers] for count in PUT
    }
    for count in PUT:
        found[f"{FOR_YOU}, {count} items just put"] = [
            {**shoppers[n % len(shoppers)], "upserts": [item(1000 * n + number) for number in range(count)]}
            for n in range(ROUNDS)
        ]
    return found


def measured(scorer: Scorer, asked: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Milliseconds of processor time of one request of each kind."""
    taken: dict[str, list[float]] = {name: [] for name in asked}
    bodies = {name: [orjson.dumps(request) for request in all_of_them] for name, all_of_them in asked.items()}
    for number in range(ROUNDS):
        for name, all_of_them in bodies.items():
            body = all_of_them[number % len(all_of_them)]
            began = time.process_time()
            (reply,) = replies(scorer, [body])
            taken[name].append(1000 * (time.process_time() - began))
            assert reply.status == 200 and orjson.loads(reply.body)["items"], f"{name}: {reply.body!r}"
    return {name: statistics.median(values[2:]) for name, values in taken.items()}


if __name__ == "__main__":
    main()
