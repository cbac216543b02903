"""How alike do the models of two nights answer? Fits the noise of `benchmarks.decisions.years` to the nights of real
runs.

`python -m benchmarks.decisions.pair_noise HOME`, a workspace (HETERREC_HOME) in which one data set was run on several
nights: each run but the first leaves a `night.parquet`, what its model and the reference found for every held-out
shopper.
"""

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from scipy.optimize import brentq
from scipy.special import ndtr

RESULTS = Path(__file__).parents[1] / "results" / "pair_noise.json"
STEPS = 40
_DRAWS = 200_000


def fit(nights: list[Any]) -> dict[str, Any]:
    """`found`: for how many shoppers something is found; `values`: the NDCG of those, best first, in equal parts;
    `correlation` of two models' NDCG, and `alike`, that of the normal variables behind it which gives it."""
    ours, theirs = (np.concatenate([night[name].to_numpy() for night in nights]) for name in ("ours", "theirs"))
    both = np.concatenate([ours, theirs])
    values = np.quantile(both[both > 0], 1 - (np.arange(STEPS) + 0.5) / STEPS)
    found, correlation = float((both > 0).mean()), float(np.corrcoef(ours, theirs)[0, 1])
    shared, *own = np.random.default_rng(0).standard_normal((3, _DRAWS))

    def excess(alike: float) -> float:
        one, other = (ndtr(np.sqrt(alike) * shared + np.sqrt(1 - alike) * each) for each in own)
        return float(np.corrcoef(*(ndcg(each, found, values) for each in (one, other)))[0, 1]) - correlation

    alike = float(brentq(excess, 0.01, 0.999))
    return {"found": found, "alike": alike, "correlation": correlation, "values": values.round(4).tolist(),
            "shoppers": len(ours), "nights": len(nights)}  # fmt: skip


def ndcg(uniform: Any, found: float, values: Any) -> Any:
    """NDCG by rank among the shoppers (uniform in 0 to 1): the best `found` of them find something, the first most."""
    ladder = np.asarray(values)
    place = (np.minimum(uniform / found, 1) * len(ladder)).astype(int)
    return np.where(uniform < found, ladder[np.minimum(place, len(ladder) - 1)], 0.0)


def between(nights: list[Any]) -> float:
    """Correlation of two nights' differences from one reference, over the shoppers of both: of models that are no
    more alike than each is to the reference, one half."""
    found = []
    for one, other in pairwise(nights):
        place = {user: number for number, user in enumerate(one["user_id"].to_pylist())}
        pairs = [(place[user], n) for n, user in enumerate(other["user_id"].to_pylist()) if user in place]
        first, second = (night["ours"].to_numpy() - night["theirs"].to_numpy() for night in (one, other))
        rows = np.array(pairs)
        found.append(float(np.corrcoef(first[rows[:, 0]], second[rows[:, 1]])[0, 1]))
    return float(np.mean(found)) if found else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    files = sorted(
        parser.parse_args().home.glob("artifacts/evaluation/*/night.parquet"), key=lambda f: f.stat().st_mtime
    )
    nights = [pq.read_table(file) for file in files]
    made = {**fit(nights), "between_nights": between(nights)}
    RESULTS.write_text(json.dumps(made, indent=1) + "\n")
    Console().print(made)


if __name__ == "__main__":
    main()
