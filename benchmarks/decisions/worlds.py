"""Canaries without a difference, in worlds that mislead whoever looks: is the judge right there? Part of bench-rollout.

Seasons of the week under a ramp, bots and users with 10,000 exposures a day in one arm, shoppers that an experiment
before has changed, the novelty of what is new, purchases of very different worth. Beside each the world without the
rule that shields the judge from it.
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
from rich.console import Console
from scipy.stats import beta

from benchmarks.decisions.traffic import SimulatedCanary
from benchmarks.decisions.watch import watch
from runtime.task import commit

RESULTS = Path(__file__).parents[1] / "results" / "canary_worlds.json"
RAMP = (0.05, 0.05, 0.25, 0.25, *(0.5,) * 8)
PLAIN = SimulatedCanary(users=800, weights=RAMP, exposures=2.0, taste=0.8, first_rate=0.3, last_rate=0.1, batches=2)
RARE = replace(PLAIN, first_rate=0.01, last_rate=0.01, exposures=5.0)
SETTINGS = {"alpha": 0.05, "planned": 2000.0, "users": 40, "ratio_alpha": 0.001}
WORLDS = {
    "nothing but the ramp": PLAIN,
    "rates of the weekdays 50 % up and down": replace(PLAIN, week=0.5),
    "five bots of 10,000 exposures a day": replace(PLAIN, bots=5),
    "the same, all of their exposures counted": replace(PLAIN, bots=5, most=10**9),
    "five shoppers of 10,000 exposures a day": replace(PLAIN, eager=5),
    "shoppers changed by the experiment before": replace(PLAIN, carried=0.5),
    "the same, drawn by its salt": replace(PLAIN, carried=0.5, fresh_salt=False),
    "novelty of 30 %, half of it gone in 6 hours": replace(PLAIN, novelty=0.3),
    "the same, in a day": replace(PLAIN, novelty=0.3, novelty_days=1.0),
    "the same, in 2 days": replace(PLAIN, novelty=0.3, novelty_days=2.0),
    "the same, in 4 days": replace(PLAIN, novelty=0.3, novelty_days=4.0),
    "revenue, purchases 1 %, worth log-normal of sigma 1.5": replace(RARE, value=1.5),
    "the same, sigma 2.5": replace(RARE, value=2.5),
    "the same, counted up to 5 times the mean": replace(RARE, value=2.5, cap=5.0),
}


def decided(world: SimulatedCanary, canaries: int, seed: int) -> dict[str, float]:
    """Shares of the canaries that were ever decided: for the challenger, for the champion."""
    with np.errstate(invalid="ignore"):  # of a canary without a success yet
        sign = watch(world, canaries, seed, **SETTINGS).sign["sequential"]
    wrong = int((sign != 0).sum())
    return {
        "wrong": wrong / canaries,
        "low": float(beta.ppf(0.025, wrong, canaries - wrong + 1)) if wrong else 0.0,
        "high": float(beta.ppf(0.975, wrong + 1, canaries - wrong)) if wrong < canaries else 1.0,
        "promoted": float((sign > 0).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--canaries", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    console, started = Console(width=160), time.monotonic()
    result: dict[str, Any] = {"commit": commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                              **vars(options), **SETTINGS, "worlds": {}}  # fmt: skip
    for name, world in WORLDS.items():
        found = decided(world, options.canaries, options.seed)
        result["worlds"][name] = {**found, "world": {k: v for k, v in asdict(world).items() if v != float("inf")}}
        console.print(
            f"{name}: decided wrongly {found['wrong']:.1%} [{found['low']:.1%}, {found['high']:.1%}], "
            f"of them promoted {found['promoted']:.1%} ({time.monotonic() - started:.0f} s)"
        )
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
