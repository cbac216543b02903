"""What it costs to serve a model that has never seen the last days, and what the refit gives, by the shop's own law.

A model is trained on the marketplace's days before the held-out windows, and refitted over all of them. Both answer
those who buy on the two days after the run, with the memory that packaging gives both; the law says how likely each
item was. `make bench-staleness SHOP=users=1200,days=40,items=600,new_items_per_day=5,seed=2`
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.model.data import DAY, card_of, sequences_of
from benchmarks.model.law import law_scores
from components.ingest.sources.marketplace import config_of
from heterrec.data.sequences import Queries, Sequences
from heterrec.evaluation.comparison import paired_bootstrap
from heterrec.evaluation.metrics import Scores, rank
from heterrec.inference.answers import Loaded, judged
from heterrec.memory.gates import over, renewed
from heterrec.recipes import by_name
from heterrec.training.likeness import likeness
from heterrec.training.loop import train
from heterrec.training.refit import refit
from runtime.task import commit

RESULTS = Path(__file__).parents[1] / "results" / "staleness.json"
CARD, AFTER, LOOKED_AT, K = "marketplace", 7, 2, 10
"""Days that follow the run, and of them those whose buyers are asked."""


class Found(NamedTuple):
    """Of each buyer NDCG@10 of the next purchase and the probability that the ten best held; shares of new items."""

    ndcg: np.ndarray
    mass: np.ndarray
    ndcg_of_new: float
    answers_new: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shop", default="users=1200,days=40,items=600,new_items_per_day=5,seed=2")
    parser.add_argument("--recipe", default="heterrec")
    options = parser.parse_args()
    result = measure(options.shop, options.recipe)
    table = Table("serves", f"NDCG@{K}", "regret", "new items: NDCG", "share of answers")
    for name in ("blessed", "refitted"):
        row = result[name]
        numbers = (row["ndcg"], row["regret"], row["ndcg_of_new"], row["answers_new"])
        table.add_row(name, *(f"{number:.4f}" for number in numbers))
    console, gain = Console(), result["gain"]
    console.print(table)
    console.print(f"NDCG@{K} {gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]; the refit took")
    console.print(f"{result['share_of_training']:.0%} of the time of training; {result['likeness']}")
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


def measure(shop: str, recipe: str) -> dict[str, Any]:
    """Train, refit and ask both."""
    days = config_of(card_of(CARD, shop)).days
    longer = f"{shop},days={days + AFTER}"
    run, later = sequences_of(CARD, shop), sequences_of(CARD, longer)
    queries = later.queries("test")
    queries = queries.take(np.flatnonzero(later.time[queries.stop] < run.time.max() + LOOKED_AT * DAY))
    law = _candidates(law_scores(config_of(card_of(CARD, longer)), later, queries), later, queries)
    best = np.sort(np.maximum(law, 0), axis=1)[:, -K:].sum(1)

    started = time.monotonic()
    trained = train(run, by_name(recipe))
    seconds = time.monotonic() - started
    started = time.monotonic()
    again = refit(trained.loaded, trained.recipe, run)
    share = (time.monotonic() - started) / seconds
    own = set(trained.encoder.ids)
    found = {name: _asked(each.loaded, run, later, queries, law, own) for name, each in
             (("blessed", trained), ("refitted", again))}  # fmt: skip
    rows = {
        name: {"ndcg": float(each.ndcg.mean()), "regret": 1 - float(each.mass.mean() / best.mean()),
               "ndcg_of_new": each.ndcg_of_new, "answers_new": each.answers_new}
        for name, each in found.items()
    }  # fmt: skip
    return {
        "commit": commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores", "shop": shop, "recipe": recipe,
        "buyers": len(queries), **rows,
        "gain": asdict(paired_bootstrap(found["refitted"].ndcg, found["blessed"].ndcg)),
        "share_of_training": share, "likeness": asdict(likeness(trained.loaded, again.loaded, run)),
    }  # fmt: skip


def _asked(
    loaded: Loaded, run: Sequences, later: Sequences, queries: Queries, law: np.ndarray, own: Collection[str]
) -> Found:
    """What `loaded`, packaged at the end of `run`, answers to `queries` of `later`; new is what is not in `own`."""
    if loaded.memory is not None:
        memory = renewed(over(loaded.memory, loaded.item_ids, run.catalogue), run)
        loaded = loaded._replace(memory=memory, item_ids=run.catalogue.item_ids)
    scores = judged(loaded, later, queries)
    ranking = rank(scores, later, queries)
    top = np.argsort(-_candidates(scores, later, queries), axis=1)[:, :K]
    new_V = np.array([item not in own for item in later.catalogue.item_ids])
    mass = np.maximum(np.take_along_axis(law, top, axis=1), 0).sum(1)
    of_new = ranking.per_pair("ndcg", K)[new_V[ranking.target]]
    return Found(ranking.per_query("ndcg", K), mass, float(of_new.mean()), float(new_V[top].mean()))


def _candidates(scores: Scores, data: Sequences, queries: Queries) -> np.ndarray:
    """(Q, V) scores, -inf for what is not to be had yet or was bought before."""
    found = np.array(scores(np.arange(len(queries))))
    for number in range(len(queries)):
        found[number, data.catalogue.available_at > data.time[queries.stop[number]]] = -np.inf
        found[number, data.seen(queries, number)] = -np.inf
    return found


if __name__ == "__main__":
    main()
