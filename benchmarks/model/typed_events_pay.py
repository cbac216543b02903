"""Do views, carts and dismissals pay for predicting purchases, where shoppers by construction look before they buy?

The same shop twice: its events of all kinds, and its purchases alone. The same purchases of the same shoppers are asked
for; paired bootstrap over shoppers (and seeds). `make bench-typed-events SEEDS=1`
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping
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

RESULTS = Path(__file__).parents[1] / "results" / "typed_events_pay.json"
RECIPES = ("heterrec", "sasrec", "neighbours")
K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--recipes", default="heterrec,neighbours", help=f"some of {', '.join(RECIPES)}")
    parser.add_argument(
        "--shop", default="users=600,items=400,days=30", help="changes to the card's shop, as seed=3,days=40"
    )
    options = parser.parse_args()
    console, began = Console(), time.process_time()
    typed = sequences_of("marketplace_events", options.shop)
    worlds = {"all kinds": typed, "purchases alone": predicted_alone(typed)}
    rows = [compare(recipe, worlds, options.seeds, console) for recipe in options.recipes.split(",")]
    table = Table("model", "purchases", *worlds, "difference in NDCG@10", "95 % interval", "shoppers")
    for row in rows:
        for what, part in (("all", row), ("of items never looked at", row["never looked at"])):
            told = part["difference"]
            interval = f"[{told['low']:+.4f}, {told['high']:+.4f}]"
            means = [f"{part['ndcg'][name]:.4f}" for name in worlds]
            table.add_row(row["recipe"], what, *means, f"{told['mean']:+.4f}", interval, str(part["shoppers"]))
    console.print(table)
    result = {
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "seeds": list(range(options.seeds)),
        "shop": options.shop,
        "cpu_seconds": time.process_time() - began,
        "rows": rows,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"written to {RESULTS} after {result['cpu_seconds']:.0f} CPU seconds")


def predicted_alone(data: Sequences) -> Sequences:
    """The same shop as if only what is predicted had ever been told."""
    kept = np.flatnonzero(data.predicted)
    user = np.searchsorted(data.offsets, kept, side="right") - 1
    there = np.unique(user)
    names = [feature["name"] for feature in data.catalogue.features if feature["varies_in_time"]]
    return replace(
        data,
        user_ids=[data.user_ids[number] for number in there],
        offsets=np.append(0, np.cumsum(np.bincount(user)[there])),
        row=data.row[kept],
        time=data.time[kept],
        basket=data.basket[kept],
        split=data.split[kept],
        varying={name: [data.varying[name][number] for number in kept] for name in names},
        catalogue=replace(data.catalogue, event_types=()),
    )


def compare(recipe: str, worlds: Mapping[str, Sequences], seeds: int, console: Console) -> dict[str, Any]:
    """One model in both worlds, over the shoppers that both can ask about."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in worlds}
    told: dict[str, bool] = {}
    for seed in range(seeds):
        for name, data in worlds.items():
            began = time.process_time()
            config = by_name(recipe, seed=seed)
            trained = train(data, config)
            queries = data.queries("test")
            ranking = rank(judged(trained.loaded, data, queries), data, queries)
            values = ranking.per_query("ndcg", K)
            users = [data.user_ids[number] for number in queries.user]
            found[name].append(dict(zip(users, values.tolist(), strict=True)))
            if name == "all kinds":
                told = {users[number]: bool(met) for number, met in enumerate(_met(data, queries))}
            spent = time.process_time() - began
            console.print(f"{recipe}, {name}, seed {seed}: NDCG@{K} {np.mean(values):.4f}, {spent:.0f} CPU seconds")
    users = sorted(set.intersection(*(set(each) for runs in found.values() for each in runs)))
    ours, theirs = (np.array([[run[user] for user in users] for run in found[name]]) for name in worlds)
    new = np.array([not told[user] for user in users])
    return {
        "recipe": recipe,
        "shoppers": len(users),
        "ndcg": {"all kinds": float(ours.mean()), "purchases alone": float(theirs.mean())},
        "difference": asdict(paired_bootstrap(ours, theirs)),
        "never looked at": {
            "shoppers": int(new.sum()),
            "ndcg": {"all kinds": float(ours[:, new].mean()), "purchases alone": float(theirs[:, new].mean())},
            "difference": asdict(paired_bootstrap(ours[:, new], theirs[:, new])),
        },
    }


def _met(data: Sequences, queries: Queries) -> npt.NDArray[np.bool_]:
    """Of each query whether the history has anything that it asks for: looked at, or in the cart."""
    pairs = zip(queries.start, queries.stop, strict=True)
    histories = [data.row[start:stop] for start, stop in pairs]
    return np.array([np.isin(data.targets(queries, n), each).any() for n, each in enumerate(histories)])


if __name__ == "__main__":
    main()
