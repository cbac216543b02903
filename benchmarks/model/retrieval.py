"""The best 100 of 10,000 to 1,000,000 items, one request at a time: exactly, in half precision, through the index.

The item vectors are random unit vectors in clusters with a bias, as wide as HeterRec's; users are mixtures of two. A
whole request is the scorer's, with histories of 50: reading it, the model (whose cost does not grow), and finding.
Milliseconds of processor time on one core, medians over rounds that go round all. `make bench-retrieval`
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.serving.serving_shop import packaged, requests
from components.package.index import make_index
from feature_repo.card import Serving
from heterrec.inference.answers import Matrix
from serving.scoring.retrieval import Best, Exact, RetrievalRequest
from serving.scoring.scorer import Scorer

RESULTS = Path(__file__).parents[1] / "results" / "retrieval.json"
SEED = 0
WIDTH, K, HISTORY, USERS = 129, 100, 50, 128
PER_CLUSTER, SPREAD = 1000, 0.4
SIZES = (10_000, 100_000, 1_000_000)
ROUNDS = 5
BAR = 3.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="items, by commas (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        archive = packaged(Path(folder) / "shop", items=min(SIZES), seed=SEED)
        content = Path(folder) / "content"
        zipfile.ZipFile(archive / "bench.mar").extractall(content)
        shop = Scorer.load(content)
        asked = requests(json.loads((content / "items.json").read_text()), USERS, k=K)
        rows = [row for items in map(int, options.sizes.split(",")) for row in _measure(items, shop, asked)]
    table = Table("items", "how", "ms", "whole ms", "recall@100", "overlap@10", "error", "s to make")
    for row in rows:
        shares = (f"{row[name]:.4f}" for name in ("recall_at_100", "overlap_at_10"))
        times = ("" if row[name] is None else f"{row[name]:.2f}" for name in ("milliseconds", "whole_milliseconds"))
        error, made = f"{row['score_error']:.1e}", f"{row['seconds_to_make']:.0f}"
        table.add_row(f"{row['items']:,}", row["how"], *times, *shares, error, made)
    console.print(table)
    of = {(row["items"], row["how"]): row for row in rows}
    small, large = min(row["items"] for row in rows), max(row["items"] for row in rows)
    ratios = {
        f"{how}, {name}": of[large, how][name] / of[small, "exact"][name]
        for how in ("index", "exact")
        for name in ("whole_milliseconds", "milliseconds")
    }
    for name, value in ratios.items():
        console.print(f"{large:,} items against {small:,} exactly, {name}: {value:.1f} times", highlight=False)
    from runtime.task import commit

    RESULTS.parent.mkdir(exist_ok=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    found = {"commit": commit(), "seed": SEED, "machine": machine, "rows": rows, "ratios": ratios}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"written to {RESULTS}")


def _measure(count: int, shop: Scorer, requested: list[dict[str, Any]]) -> list[dict[str, Any]]:
    items, users = _vectors(count)
    matrix, asking = torch.from_numpy(items), torch.from_numpy(users)
    rng = np.random.default_rng(SEED)
    asked = [RetrievalRequest(K, rng.integers(0, count, HISTORY).tolist(), None) for _ in range(USERS)]
    exact, half = Exact(matrix), Exact(matrix, scan=torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        chosen, index = make_index(Path(folder), items, users, Serving(retrieval="approximate"))
        made = time.perf_counter() - started
    assert index is not None
    works: dict[str, Callable[[int], list[Best]]] = {
        "exact": lambda n: exact.best(asking[n : n + 1], asked[n : n + 1]),
        "exact, bf16 scan": lambda n: half.best(asking[n : n + 1], asked[n : n + 1]),
        "index": lambda n: index.best(asking[n : n + 1], asked[n : n + 1]),
    }
    taken: dict[str, list[float]] = {name: [] for name in works}
    whole: dict[str, list[float]] = {name: [] for name in works}
    scorers = {name: _scorer(shop, found, count) for name, found in zip(works, (exact, half, index), strict=True)}
    answers: dict[str, list[Best]] = {}
    for number in range(ROUNDS + 1):
        for name, work in works.items():
            started = time.thread_time()
            answers[name] = [work(n)[0] for n in range(USERS)]
            if number:
                taken[name].append(1e3 * (time.thread_time() - started) / USERS)
            started = time.thread_time()
            for request in requested:
                scorers[name].score([request])
            if number:
                whole[name].append(1e3 * (time.thread_time() - started) / len(requested))
    rows = [
        {"items": count, "how": name, "milliseconds": statistics.median(times),
         "whole_milliseconds": statistics.median(whole[name]), "seconds_to_make": 0.0,
         **_loss(answers[name], answers["exact"])}
        for name, times in taken.items()
    ]  # fmt: skip
    rows[-1] |= {"seconds_to_make": made, "probes": chosen["probes"], "cells": chosen["cells"]}
    for name, coarse in (("bf16 alone", matrix.bfloat16().float()), ("int8 alone", _int8(matrix))):
        # Not offered, as it costs what is shown here: the scores of a matrix that was rounded for good.
        rounded = Exact(coarse).best(asking, asked)
        rows.append({"items": count, "how": name, "milliseconds": None,
                     "whole_milliseconds": None, "seconds_to_make": 0.0,
                     **_loss(rounded, answers["exact"])})  # fmt: skip
    return rows


def _scorer(shop: Scorer, retrieval: Any, count: int) -> Scorer:
    """The model of `shop` in front of a catalogue of another size, whose first items are those of the shop."""
    ids = shop._ids + [f"other{number}" for number in range(count - len(shop._ids))]
    return Scorer(
        program=shop._program,
        encoder=shop._encoder,
        retrieval=retrieval,
        items={"item_id": ids, "events": np.zeros(count, np.int64), "features": {}},
        contract={**shop._contract, "filterable": {}},
        matrix=retrieval._matrix,
    )


def _vectors(count: int) -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(SEED)
    centres = rng.normal(size=(max(count // PER_CLUSTER, 8), WIDTH - 1)).astype(np.float32)
    items = np.empty((count, WIDTH), np.float32)
    for start in range(0, count, 50_000):
        part = centres[rng.integers(0, len(centres), min(50_000, count - start))]
        part = part + SPREAD * rng.normal(size=part.shape).astype(np.float32)
        items[start : start + len(part), :-1] = part / np.linalg.norm(part, axis=1, keepdims=True)
    items[:, -1] = 0.05 * rng.normal(size=count)
    users = items[rng.integers(0, count, 2 * USERS)].reshape(USERS, 2, WIDTH) @ np.eye(WIDTH, dtype=np.float32)
    mixed = users[:, 0] + 0.5 * users[:, 1]
    mixed[:, -1] = 1
    return items, 10 * mixed.astype(np.float32)


def _int8(matrix: torch.Tensor) -> torch.Tensor:
    scale = matrix.abs().amax(0) / 127
    return (matrix / scale).round() * scale


def _loss(found: list[Best], true: list[Best]) -> dict[str, float]:
    def shared(depth: int) -> float:
        return float(np.mean([len({r for r, _ in a[:depth]} & {r for r, _ in b[:depth]}) / depth
                              for a, b in zip(found, true, strict=True)]))  # fmt: skip

    errors = [abs(score - dict(b)[row]) for a, b in zip(found, true, strict=True) for row, score in a if row in dict(b)]
    return {"recall_at_100": shared(100), "overlap_at_10": shared(10), "score_error": max(errors)}


if __name__ == "__main__":
    main()
