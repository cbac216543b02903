"""Does what is known of who asks pay where it says something by construction, and cost nothing where it does not?

`--of user`: shoppers of groups with tastes, which a table of users tells. `--of context`: visits by devices, by which
other things are bought. Each shop twice: with what it tells, and without. The same purchases of the same shoppers are
asked for; paired bootstrap over shoppers (and seeds). `make bench-user-features SEEDS=1`, `make bench-context SEEDS=1`
"""

import argparse
import json
import os
import platform
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from benchmarks.model.data import sequences_of
from heterrec.data.sequences import Queries, Sequences
from heterrec.evaluation.comparison import paired_bootstrap
from heterrec.evaluation.metrics import rank
from heterrec.inference.answers import judged
from heterrec.recipes import by_name
from heterrec.training.loop import train
from runtime.task import commit

RESULTS = Path(__file__).parents[1] / "results"
OF = {
    "user": ("user_features_pay.json", ("marketplace_groups", "marketplace_strangers")),
    "context": ("context_pay.json", ("marketplace_devices", "marketplace_strange_devices")),
}
"""The file of the result, and the cards: one where it says something, and its placebo."""
SHORT, K = 5, 10
"""Events of a history that is short; length of a list."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--of", choices=OF, default="user")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--recipe", default="heterrec")
    parser.add_argument(
        "--shop", default="users=600,items=400,days=30", help="changes to both cards' shop, as seed=3,days=40"
    )
    options = parser.parse_args()
    console, began = Console(), time.process_time()
    file, shops = OF[options.of]
    rows = [compare(name, options.recipe, options.shop, options.seeds, console) for name in shops]
    table = Table("shop", "shoppers", "with", "without", "difference in NDCG@10", "95 % interval", "shoppers asked")
    for row in rows:
        for what in ("all", "short histories"):
            part = row[what]
            told = part["difference"]
            interval = f"[{told['low']:+.4f}, {told['high']:+.4f}]"
            means = [f"{part['ndcg'][name]:.4f}" for name in ("with", "without")]
            table.add_row(row["shop"], what, *means, f"{told['mean']:+.4f}", interval, str(part["shoppers"]))
    console.print(table)
    result = {
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "recipe": options.recipe,
        "seeds": list(range(options.seeds)),
        "changes": options.shop,
        "cpu_seconds": time.process_time() - began,
        "rows": rows,
    }
    (RESULTS / file).write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"written to {RESULTS / file} after {result['cpu_seconds']:.0f} CPU seconds")


def unasked(data: Sequences) -> Sequences:
    """The same shop as if nothing were known of who asks."""
    return replace(data, asked={}, catalogue=replace(data.catalogue, asking=()))


def compare(name: str, recipe: str, changes: str, seeds: int, console: Console) -> dict[str, Any]:
    """One shop with and without what is known of who asks."""
    data = sequences_of(name, changes)
    queries = data.queries("test")
    found: dict[str, list[npt.NDArray[np.float64]]] = {"with": [], "without": []}
    for seed in range(seeds):
        for world, own in (("with", data), ("without", unasked(data))):
            began = time.process_time()
            trained = train(own, by_name(recipe, seed=seed))
            ranking = rank(judged(trained.loaded, own, queries), own, queries)
            found[world].append(ranking.per_query("ndcg", K))
            spent, mean = time.process_time() - began, np.mean(found[world][-1])
            console.print(f"{name}, {world}, seed {seed}: NDCG@{K} {mean:.4f}, {spent:.0f} CPU seconds")
    ours, theirs = (np.array(found[world]) for world in ("with", "without"))
    return {"shop": name, "all": _part(ours, theirs), "short histories": _of(short(queries), ours, theirs)}


def short(queries: Queries) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_] = queries.stop - queries.start <= SHORT
    return found


def _of(
    chosen: npt.NDArray[np.bool_], ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]
) -> dict[str, Any]:
    return _part(ours[:, chosen], theirs[:, chosen])


def _part(ours: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64]) -> dict[str, Any]:
    return {
        "shoppers": int(ours.shape[1]),
        "ndcg": {"with": float(ours.mean()), "without": float(theirs.mean())},
        "difference": asdict(paired_bootstrap(ours, theirs)),
    }


if __name__ == "__main__":
    main()
