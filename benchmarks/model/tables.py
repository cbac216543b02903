"""What the neighbour tables cost to fit as a shop grows: processor seconds and memory. `make bench-tables`

Each table of each size is fitted in a process of its own, so that its peak of memory is its own. The shop is drawn:
Zipf-popular items with a title of four Zipf-drawn words and a category, ten events a shopper in baskets of two,
nothing to learn.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.model.data import synthetic
from heterrec.data.sequences import Sequences
from heterrec.memory import neighbour_tables
from runtime.task import commit

RESULTS = Path(__file__).parents[1] / "results" / "tables.json"
SIZES = "10000/100000,100000/1000000,1000000/10000000"
"""Items and events."""
HISTORY, WORDS, SEED = 10, 50_000, 0
FITTED = {
    "together": lambda data: neighbour_tables.soonest_after(data),
    "in_baskets": lambda data: neighbour_tables.in_baskets(data),
    "alike": lambda data: neighbour_tables.alike(data.catalogue),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=SIZES, help="items/events, as 1000/10000,…")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, items, events = options.one.split("/")
        print(json.dumps(measure(name, int(items), int(events))))
        return
    console = Console() if sys.stdout.isatty() else Console(width=120)
    rows = []
    for size in options.sizes.split(","):
        for name in FITTED:
            command = [sys.executable, "-m", "benchmarks.model.tables", "--one", f"{name}/{size}"]
            rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))
            console.print(f"{name}, {size}: {rows[-1]['cpu_seconds']:.0f} s, {rows[-1]['memory_mib']:,.0f} MiB")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    RESULTS.write_text(
        json.dumps({"commit": commit(), "seed": SEED, "machine": machine, "rows": rows}, indent=1) + "\n"
    )
    console.print(shown(rows))
    console.print(f"written to {RESULTS}")


def measure(name: str, items: int, events: int) -> dict[str, Any]:
    """Processor seconds, and MiB at the peak beyond what the data itself takes."""
    data = _with_titles(synthetic(items=items, history=HISTORY, features=1, events=events))
    held = _peak()
    started = time.process_time()
    table = FITTED[name](data)
    return {
        "table": name,
        "items": items,
        "events": events,
        "cpu_seconds": time.process_time() - started,
        "memory_mib": _peak() - held,
        "data_mib": held,
        "pairs_kept": len(table.item_N),
    }


def _with_titles(data: Sequences) -> Sequences:
    rng = np.random.default_rng(SEED)
    words = np.minimum(rng.pareto(1.0, (len(data.catalogue), 4)) * WORDS / 100, WORDS - 1).astype(np.int64)
    titles = [" ".join(f"w{word}" for word in each) for each in words.tolist()]
    feature = {"name": "title", "kind": "text", "varies_in_time": False, "dimension": None}
    catalogue = data.catalogue
    return replace(
        data,
        basket=data.basket // 2,
        catalogue=replace(
            catalogue, fixed={**catalogue.fixed, "title": titles}, features=[*catalogue.features, feature]
        ),
    )


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def shown(rows: list[dict[str, Any]]) -> Table:
    table = Table("table", "items", "events", "CPU s", "MiB beyond the data", "data MiB", "pairs kept")
    for row in rows:
        table.add_row(
            row["table"], f"{row['items']:,}", f"{row['events']:,}", f"{row['cpu_seconds']:.1f}",
            f"{row['memory_mib']:,.0f}", f"{row['data_mib']:,.0f}", f"{row['pairs_kept']:,}",
        )  # fmt: skip
    return table


if __name__ == "__main__":
    main()
