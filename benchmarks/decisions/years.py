"""Years of nights with the real functions that decide (blessing, release, canary, judge, moves) and a known truth.

Each night a model of a model is "trained": its quality is drawn, and what it finds for every held-out shopper, in
windows of seven days of which the next night's shares six. Two peers stand beside ours on the same nights: "always
release the newest", and "release if tonight's estimate is higher than the champion's". `make bench-decisions YEARS=100`
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.decisions.shop import NOISE, SimulatedShop, SimulatedWorld
from benchmarks.decisions.ways import (
    RULE,
    WAYS,
    YearEvents,
    check,
)
from runtime.task import commit

RESULTS = Path(__file__).parents[1] / "results" / "decisions.json"
MONTH = 30
COLUMNS = (
    "promise held", "worst, median [5th]", "wrong releases a year", "releases", "oldest, days",
    "last release after, days", "new recipe after days (ends with it), rolled back wrongly",
)  # fmt: skip
SMALL = {"shoppers": 40, "exposures": 400}
MIDDLE = {"shoppers": 150, "exposures": 1200}
WORLDS = {
    "equal refreshes": SimulatedWorld(),
    "equal refreshes, middle": SimulatedWorld(**MIDDLE),
    "equal refreshes, small": SimulatedWorld(**SMALL),
    "nights that differ by 1 %": SimulatedWorld(spread=0.01),
    "decay of .5 % a night": SimulatedWorld(drift=-0.005),
    "decay of .5 %, middle": SimulatedWorld(drift=-0.005, **MIDDLE),
    "decay of .5 %, small": SimulatedWorld(drift=-0.005, **SMALL),
    "decay of .5 % from night 100 on": SimulatedWorld(drift=-0.005, onset=100),
    "decay of .5 % from night 100 on, middle": SimulatedWorld(drift=-0.005, onset=100, **MIDDLE),
    "decay of .5 % from night 100 on, small": SimulatedWorld(drift=-0.005, onset=100, **SMALL),
    "decay of 5 % a night": SimulatedWorld(drift=-0.05),
    "a broken night, -30 %": SimulatedWorld(broken=(40, -0.3)),
    "a seasonal shop, models age by .3 % a day": SimulatedWorld(season=0.3, ageing=0.003),
    "the same, small": SimulatedWorld(season=0.3, ageing=0.003, **SMALL),
    "docstring edits every night": SimulatedWorld(rewords=True),
    "catalogue runs between": SimulatedWorld(catalogue=True),
    "a recipe of +10 %": SimulatedWorld(candidate=(10, 0.1)),
    "a recipe of +2 %": SimulatedWorld(candidate=(10, 0.02)),
    "a recipe of -10 %": SimulatedWorld(candidate=(10, -0.1)),
    "another recipe without effect": SimulatedWorld(candidate=(10, 0.0)),
    "the same, purchases at .1 %": SimulatedWorld(candidate=(10, 0.0), rate=0.001, exposures=40_000),
    "a recipe of +10 %, five days without a log": SimulatedWorld(candidate=(10, 0.1), outage=(13, 5)),
    "the same, two days of half a log": SimulatedWorld(candidate=(10, 0.1), half_outage=(13, 2)),
}  # fmt: skip


def year_totals(shop: SimulatedShop, served: list[int], happened: YearEvents) -> dict[str, float]:
    """What a year came to."""
    nights = range(len(served))
    now = np.array([shop.serves(served[night], night) for night in nights])
    ever, best = np.empty(len(now)), np.empty(len(now))
    for night in nights:
        first = max(0, night - MONTH + 1)
        ever[night] = max(shop.serves(model, night) for model in set(served[first : night + 1]))
        best[night] = max(shop.serves(model, night) for model in range(first, night + 1))
    releases = [night for night in nights if night and served[night] != served[night - 1]]
    start = shop.world.candidate[0] if shop.world.candidate else 0
    new = [night for night in nights if shop.world.candidate and served[night] >= start]
    return {
        "worst": float((now / ever).min() - 1),
        "worst_of_available": float((now / best).min() - 1),
        "wrong_releases": float(sum(now[night] < (1 - RULE.margin) * ever[night] for night in releases)),
        "wrong_rollbacks": float(sum(shop.quality[b] >= shop.quality[a] for a, b in happened.rollbacks)),
        "canaries": float(happened.canaries),
        "releases": float(len(releases)),
        "oldest_days": float(max(night - model for night, model in enumerate(served))),
        "last_release_after": float(max([night - shop.world.onset for night in releases], default=0)),
        "new_recipe_days": float(new[0] - start) if new else float("inf"),
        "ends_with_new_recipe": float(bool(new) and served[-1] >= start),
    }


def years(world: SimulatedWorld, way: str, options: argparse.Namespace) -> Iterator[dict[str, float]]:
    """Of the peers a quarter of them: what they miss, they miss by far."""
    count = options.years if way == "ours" else -(-options.years // 4)
    for year in range(count):
        shop, happened = SimulatedShop(world, options.nights, options.seed + year), YearEvents()
        yield year_totals(shop, list(WAYS[way](shop, options.nights, happened)), happened)


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Over the years: medians, but for the promise (a share of the years) and wrong decisions (a mean a year)."""
    medians = ("worst_of_available", "canaries", "releases", "oldest_days", "last_release_after", "new_recipe_days")
    made: dict[str, Any] = {name: float(np.median(found[name])) for name in medians}
    days = made["new_recipe_days"]
    return made | {
        "worst": [float(np.quantile(found["worst"], q)) for q in (0.05, 0.5)],
        "within_margin": float((found["worst"] >= -RULE.margin).mean()),
        "wrong_releases_a_year": float(found["wrong_releases"].mean()),
        "years_with_wrong_rollback": float((found["wrong_rollbacks"] > 0).mean()),
        "new_recipe_days": days if np.isfinite(days) else None,  # never, or there was none
        "ends_with_new_recipe": float(found["ends_with_new_recipe"].mean()),
    }


def cells(world: SimulatedWorld, row: dict[str, Any]) -> list[str]:
    recipe, stopped = "", ""
    if world.candidate:
        days = "never" if row["new_recipe_days"] is None else f"{row['new_recipe_days']:.0f}"
        recipe = f"{days} ({row['ends_with_new_recipe']:.0%}), {row['years_with_wrong_rollback']:.0%}"
    if world.drift:
        stopped = f"{row['last_release_after']:.0f}"
    return [
        f"{row['within_margin']:.0%}", f"{row['worst'][1]:+.1%} [{row['worst'][0]:+.1%}]",
        f"{row['wrong_releases_a_year']:.2f}", f"{row['releases']:.0f}", f"{row['oldest_days']:.0f}", stopped, recipe,
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--years", type=int, default=100)
    parser.add_argument("--nights", type=int, default=365)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="worlds whose name holds this; nothing is written")
    parser.add_argument(
        "--begin", type=int, default=0, help="number of the world to begin with; earlier ones stay as they are"
    )
    parser.add_argument("--ways", default=",".join(WAYS), help="some of them; nothing is written")
    options = parser.parse_args()
    check()
    console, started = Console(width=200), time.monotonic()
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    result: dict[str, Any] = {"commit": commit(), "machine": machine, "years": options.years, "nights": options.nights,
                              "seed": options.seed, "rule": asdict(RULE), "noise": NOISE, "worlds": {}}  # fmt: skip
    table = Table("world", "way", *COLUMNS)
    if options.begin:
        result["worlds"] = json.loads(RESULTS.read_text())["worlds"]
    whole = not options.only and options.ways == ",".join(WAYS)
    for name, world in WORLDS.items():
        if options.only not in name or list(WORLDS).index(name) < options.begin:
            continue
        of_world = result["worlds"][name] = {}
        for way in options.ways.split(","):
            each = list(years(world, way, options))
            row = summary({key: np.array([year[key] for year in each]) for key in each[0]})
            of_world[way] = {"years": len(each), **row}
            table.add_row(name, way, *cells(world, row))
            console.print(f"{name}, {way}: {' | '.join(cells(world, row))} ({time.monotonic() - started:.0f} s)")
        result["seconds"] = time.monotonic() - started
        if whole:
            RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    console.print(table)


if __name__ == "__main__":
    main()
