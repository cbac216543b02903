"""Does the canary's judge keep its word? How often is it wrong where nothing differs, and how soon is it right?

Simulated canaries with a ramp of weights, growing traffic, a falling base rate and heavy shoppers, looked at after
every batch: A/A, a known lift, a planted sample-ratio mismatch, and a guardrail at and above its margin. Beside the
judge: a fixed-horizon test, the naive test, and the judge with one thing left out. `make bench-rollout CANARIES=2000`
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import beta

from benchmarks.decisions.traffic import SimulatedCanary
from benchmarks.decisions.watch import WAYS, WatchFindings, watch
from experiments.guardrails import SHARES
from experiments.policy import Policy
from runtime.task import commit

RESULTS = Path(__file__).parents[1] / "results" / "rollout.json"
CHUNK = 100
"""Canaries simulated at once: what keeps the arrays in the cache of one core."""
LIFTS = (0.1, 0.2, 0.3)
POLICY = Policy()
DECISION = {
    "alpha": POLICY.alpha,
    "planned": POLICY.planned_exposures,
    "users": POLICY.decision_users,
    "ratio_alpha": POLICY.ratio_alpha,
}
ERRORS = {"at the margin": 0.005 + POLICY.errors_margin, "3 % of errors": 0.03, "20 % of errors": 0.2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--canaries", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    console, started = Console(), time.monotonic()
    same = run(SimulatedCanary(), options.canaries, options.seed)
    lifted = {lift: run(SimulatedCanary(lift=lift), options.canaries // 4, options.seed + 1) for lift in LIFTS}
    result: dict[str, Any] = {
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "seed": options.seed,
        "canaries": options.canaries,
        "aa": {way: false_decisions(same, way) for way in WAYS.values()},
        "lift": {str(lift): {way: power(found, way) for way in WAYS.values()} for lift, found in lifted.items()},
        "ratio": ratio(same, options),
        "guardrail": guardrail(options),
    }
    result["seconds"] = time.monotonic() - started
    show(result, console)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    console.print(f"written to {RESULTS} after {result['seconds']:.0f} s")


def run(world: SimulatedCanary, canaries: int, seed: int, **options: Any) -> list[WatchFindings]:
    """Watch that many canaries, a chunk at a time, each chunk with a seed of its own."""
    settings = {**DECISION, **options}
    return [watch(world, CHUNK, 1000 * seed + chunk, **settings) for chunk in range(max(1, canaries // CHUNK))]


def joined(found: list[WatchFindings], way: str) -> tuple[Any, Any]:
    """Days until the decision (inf for none) and its sign, over all chunks."""
    first = np.concatenate([chunk.first[way] for chunk in found])
    return (first + 1) / SimulatedCanary().batches, np.concatenate([chunk.sign[way] for chunk in found])


def false_decisions(found: list[WatchFindings], way: str) -> dict[str, float]:
    """Share of the canaries without a difference that were decided all the same, with its 95 % interval."""
    days, sign = joined(found, way)
    return {**share_with_interval(np.isfinite(days)), "promoted": float((sign > 0).mean())}


def power(found: list[WatchFindings], way: str) -> dict[str, float | None]:
    """Share decided rightly and wrongly, and the median day of a right decision."""
    days, sign = joined(found, way)
    right = days[sign > 0]
    return {
        "right": float((sign > 0).mean()),
        "wrong": float((sign < 0).mean()),
        "median_days": float(np.median(right)) if len(right) else None,
    }


def ratio(same: list[WatchFindings], options: argparse.Namespace) -> dict[str, Any]:
    """False alarms where the log is whole; alarms, and decisions made before them, where part of an arm is lost."""
    result: dict[str, Any] = {
        "false": share_with_interval(np.isfinite(np.concatenate([chunk.mismatch for chunk in same])))
    }
    for lost in (0.1, 0.2):
        found = run(SimulatedCanary(lost=lost), options.canaries // 4, options.seed + 2)
        spoke = np.concatenate([chunk.mismatch for chunk in found])
        decided = np.concatenate([chunk.first["sequential"] for chunk in found])
        result[str(lost)] = {
            "found": float(np.isfinite(spoke).mean()),
            "median_days": float((np.median(spoke) + 1) / SimulatedCanary().batches),
            "decided_before": float((decided < spoke).mean()),
            "decided_after": float(((decided >= spoke) & np.isfinite(decided)).mean()),
        }
    return result


def guardrail(options: argparse.Namespace) -> dict[str, Any]:
    """Errors of half a percent for the champion: the challenger exactly at its margin, then above it."""
    base = 0.005
    settings = {
        "alpha": POLICY.guardrail_alpha / SHARES,
        "planned": POLICY.guardrail_exposures,
        "users": POLICY.guardrail_users,
        "margin": POLICY.errors_margin,
    }
    result: dict[str, Any] = {"budget": settings["alpha"]}
    for name, rate in ERRORS.items():
        world = SimulatedCanary(first_rate=base, last_rate=base, lift=rate / base - 1)
        canaries = options.canaries if name == "at the margin" else options.canaries // 4
        days, sign = joined(run(world, canaries, options.seed + 3, **settings), "sequential")
        alarmed = np.where(sign > 0, days, np.inf)
        result[name] = {**share_with_interval(np.isfinite(alarmed)), "median_days": float(np.median(alarmed))}
    return result


def share_with_interval(hits: Any) -> dict[str, float]:
    """A share with its exact 95 % interval (Clopper and Pearson)."""
    k, n = int(hits.sum()), len(hits)
    low = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
    high = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
    return {"share": k / n, "low": low, "high": high}


def show(result: dict[str, Any], console: Console) -> None:
    columns = [f"lift {float(lift):.0%}: right (wrong), median days" for lift in result["lift"]]
    table = Table("comparison", "A/A: false decisions [95 %]", *columns)
    for title, way in WAYS.items():
        false = result["aa"][way]
        cells = [result["lift"][lift][way] for lift in result["lift"]]
        table.add_row(
            title,
            f"{false['share']:.1%} [{false['low']:.1%}, {false['high']:.1%}]",
            *(f"{cell['right']:.0%} ({cell['wrong']:.0%}), {cell['median_days'] or 0:.1f}" for cell in cells),
        )
    console.print(table)
    checks = result["ratio"]
    console.print(
        f"sample-ratio check, whole log: {checks['false']['share']:.2%} false alarms (nominal {POLICY.ratio_alpha:.1%})"
    )
    for lost in (key for key in checks if key != "false"):
        row = checks[lost]
        console.print(
            f"  {float(lost):.0%} of the challenger's shoppers lost: found {row['found']:.1%}, median day "
            f"{row['median_days']:.1f}; decided before it was found {row['decided_before']:.1%}, "
            f"withheld after {row['decided_after']:.1%}"
        )
    for name in (key for key in result["guardrail"] if key != "budget"):
        row = result["guardrail"][name]
        console.print(
            f"guardrail of errors, {name}: alarms {row['share']:.2%} [{row['low']:.2%}, {row['high']:.2%}], "
            f"median day {row['median_days']:.1f} (budget {result['guardrail']['budget']:.2%})"
        )


if __name__ == "__main__":
    main()
