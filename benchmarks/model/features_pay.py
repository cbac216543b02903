"""Do features pay where they matter by construction, and stay silent where they say nothing?

HeterRec against item-ID-only SASRec with the same loss, on the marketplace and on its placebo (the same purchases, the
features shown are another item's), over several seeds; paired bootstrap over seeds and users.
`make bench-features-pay SEEDS=3`
"""

import argparse
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.model.data import sequences_of
from heterrec.evaluation.comparison import MeanDifference, paired_bootstrap
from heterrec.evaluation.metrics import Ranking, rank
from heterrec.inference.answers import judged
from heterrec.recipes import by_name
from heterrec.training.loop import train
from runtime.task import commit

RESULTS = Path(__file__).parents[1] / "results" / "features_pay.json"
CARDS = ("marketplace", "marketplace_placebo")
K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shop", default="seed=2", help="changes to the card's shop, as seed=3,days=40")
    options = parser.parse_args()
    console = Console()
    rows = [compare(card, options.seeds, options.shop, console) for card in CARDS]
    table = Table("data", "HeterRec", "item ID only", "difference in NDCG@10", "95 % interval", "new items", "seconds")
    for row in rows:
        difference, new = row["difference"], row["new_items"]
        table.add_row(
            row["dataset"],
            f"{row['heterrec']:.4f}",
            f"{row['sasrec']:.4f}",
            f"{difference['mean']:+.4f}",
            f"[{difference['low']:+.4f}, {difference['high']:+.4f}]",
            f"{new['mean']:+.4f} [{new['low']:+.4f}, {new['high']:+.4f}]",
            f"{row['seconds']:.0f}",
        )
    console.print(table)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    shops = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    seeds = list(range(options.seeds))
    shops[options.shop] = {"commit": commit(), "machine": machine, "seeds": seeds, "rows": rows}
    RESULTS.write_text(json.dumps(shops, indent=1) + "\n")
    console.print(f"written to {RESULTS}")


def compare(name: str, seeds: int, size: str, console: Console) -> dict[str, Any]:
    """Train both models with each seed on one data set, and compare them on the same held-out shoppers."""
    started = time.monotonic()
    data = sequences_of(name, size)
    rankings: dict[str, list[Ranking]] = {"heterrec": [], "sasrec": []}
    for seed in range(seeds):
        for recipe, found in rankings.items():
            trained = train(data, by_name(recipe, seed=seed))
            queries = data.queries("test")
            found.append(rank(judged(trained.loaded, data, queries), data, queries))
            ndcg = found[-1].mean("ndcg", K)
            console.print(f"{name} {recipe} seed {seed}: NDCG@{K} {ndcg:.4f} after {time.monotonic() - started:.0f} s")
    new = data.training_counts[rankings["sasrec"][0].target] == 0
    return {
        "dataset": name,
        **{recipe: float(np.mean([r.mean("ndcg", K) for r in found])) for recipe, found in rankings.items()},
        "difference": asdict(difference(rankings)),
        "new_items": asdict(difference(rankings, new)),
        "seconds": time.monotonic() - started,
    }


def difference(rankings: dict[str, list[Ranking]], where: Any = None) -> MeanDifference:
    """Over seeds and users, of the pairs that `where` marks."""
    ours, theirs = (
        np.stack([r.per_query("ndcg", K, where) for r in rankings[name]]) for name in ("heterrec", "sasrec")
    )
    return paired_bootstrap(ours, theirs)


if __name__ == "__main__":
    main()
