"""Which model ranks best on one data set, and what each part of HeterRec is worth.

All rows have the same data, split, similarity, temperature, loss at item level, optimiser and budget, and rank the
whole catalogue for every held-out user. A row that is done is kept, and stays in the results file until it is made
anew, so the table may be made in parts. Baselines are made at each call.
`make bench-quality DATASET=amazon_beauty SEEDS=3 BUDGET=full ROWS=sasrec,heterrec`
`make bench-quality ROWS=heterrec,sasrec GRID=window,steps=1/2` crosses settings: each row with each of them.
"""

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as Shown

from benchmarks.model.data import card_of, sequences_of
from benchmarks.model.law import laws
from benchmarks.model.quality_rows import (
    BASELINES,
    MAIN,
    ROWS,
    Baseline,
    Model,
    crossed,
    named,
    of_plugins,
)
from benchmarks.model.quality_table import (
    SLICES,
    K,
    QualityTable,
    Run,
)
from heterrec.data.sequences import Sequences
from heterrec.evaluation.comparison import slices
from heterrec.evaluation.metrics import Ranking, Scores, rank
from heterrec.inference.answers import judged
from heterrec.plugins import load_plugins
from heterrec.recipes import TrainConfig
from heterrec.training.loop import train
from heterrec.training.trained import Update
from runtime.code_digest import code_digest
from runtime.task import commit
from runtime.workspace import home

RESULTS = Path(__file__).parents[1] / "results"
PEERS = [*BASELINES, "law", "sasrec", "sasrec_own", "heterrec"]
"""What differences are taken against: the baselines, the marketplace's own law, item ID only with the same recipe and
tuned for itself, and HeterRec; of these, the ones that the table has."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="amazon_beauty")
    parser.add_argument("--shop", default="", help="of a drawn shop, other options, as users=12000; a table of its own")
    parser.add_argument("--seeds", type=int, default=1, help="of each row, from 0 on")
    parser.add_argument("--budget", choices=("fast", "full"), default="fast")
    parser.add_argument("--rows", default=",".join(MAIN), help=f"of {', '.join(ROWS)}; all; or none")
    parser.add_argument("--grid", help="axes to cross the rows with, as taste,tokens,lambda=0/.1/1")
    parser.add_argument("--plugins", type=Path, help="a Python file with BASELINES, RECIPES or both, as rows by name")
    parser.add_argument("--kept", action="store_true", help="train nothing: report the rows that are done")
    parser.add_argument("--anew", action="store_true", help="leave out the rows of earlier calls")
    options = parser.parse_args()
    names = {"all": list(ROWS), "none": []}.get(options.rows, options.rows.split(","))
    try:
        plugins = load_plugins(options.plugins)
        own_baselines, own_models = of_plugins(plugins)
        names = crossed(names, options.grid) if options.grid else names
        models = {name: named(name, own_models) for name in names}
    except ValueError as error:
        parser.error(str(error))
    console = Console() if sys.stdout.isatty() else Console(width=140)
    own = "".join(f"_{part.replace('=', '')}" for part in options.shop.split(",") if part)
    path = RESULTS / f"quality_{Path(options.dataset).stem}{own}_{options.budget}.json"
    baselines = BASELINES | laws(card_of(options.dataset, options.shop))
    bench = Bench(sequences_of(options.dataset, options.shop), Path(options.dataset).stem, options.budget, console)
    QualityTable(path, bench.digest, anew=options.anew)  # rows of other data are told before hours are spent
    for name, baseline in baselines.items():
        bench.baseline(name, baseline, kept=options.kept)
    for name, baseline in own_baselines.items():
        bench.baseline(name, baseline, kept=options.kept, code=plugins.digest)
    for seed in range(options.seeds):
        for name, model in models.items():
            bench.model(name, model, seed, kept=options.kept)
    bench.report(path, anew=options.anew)


class Bench:
    """The runs of one data set and budget; each is kept in the workspace under its recipe, code, seed and data."""

    def __init__(self, data: Sequences, dataset: str, budget: str, console: Console) -> None:
        self.data, self.dataset, self.budget, self.console = data, dataset, budget, console
        self.queries = data.queries("test")
        content = hashlib.sha256()
        for array in (data.offsets, data.row, data.time, data.basket, data.split):
            content.update(array.tobytes())
        content.update(repr((data.catalogue, data.varying, data.repeats)).encode())
        self.digest = content.hexdigest()[:12]
        self.folder = home() / "bench" / f"{dataset}-{self.digest}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.made: list[tuple[str, Run]] = []

    def baseline(self, name: str, baseline: Baseline, *, kept: bool = False, code: str = "") -> None:
        """Fit and rank, or take what was made before by the same code; with `kept` only that. `code` is the digest of a
        baseline's code beyond its module."""
        title, fit, module = baseline
        key = _key(name + code, module)

        def make(place: Path) -> Run:
            started = time.process_time()
            scores = fit(self.data, self.queries)
            return {"cpu_seconds": round(time.process_time() - started, 1), **self._measured(scores, place)}

        self._run(name, title, None, key, make, kept=kept)

    def model(self, name: str, model: Model, seed: int, *, kept: bool = False) -> None:
        """Train and rank, or take what was made before by the same recipe and code; with `kept` only that."""
        key = _key(model.config(self.budget, 0).to_json(), "heterrec.training.loop")
        config = model.config(self.budget, seed)
        self._run(name, model.title, seed, key, lambda place: self._trained(name, seed, config, place), kept=kept)

    def _run(
        self, name: str, title: str, seed: int | None, key: str, make: Callable[[Path], Run], *, kept: bool
    ) -> None:
        place = self._place(key, seed)
        path = place / "row.json"
        if not path.is_file():
            if kept:
                return
            place.mkdir(exist_ok=True)
            partial = place / "row.json.partial"
            partial.write_text(json.dumps({**make(place), "commit": commit()}, indent=1))
            partial.replace(path)
        run = {"row": name, "seed": seed, "key": key, **json.loads(path.read_text())}
        self.made.append((title, run))
        validation = f"validation {run['validation']:.4f}  " if run.get("validation") is not None else ""
        self.console.print(
            f"{name}{'' if seed is None else f' seed {seed}'}: HR@{K} {run['masked']['hr@10']:.4f}  "
            f"NDCG@{K} {run['masked']['ndcg@10']:.4f}  {validation}{run['cpu_seconds']:.0f} CPU s",
            highlight=False,
        )

    def _trained(self, name: str, seed: int, config: TrainConfig, place: Path) -> Run:
        started, shown = time.process_time(), [time.monotonic()]

        def progress(update: Update) -> None:
            if time.monotonic() - shown[0] > 30:
                shown[0] = time.monotonic()
                self.console.print(
                    f"  {name} seed {seed} epoch {update.epoch}/{update.epochs}  loss {update.loss:.3f}  "
                    f"{update.sequences_per_second:,.0f} sequences/s  {update.seconds_left / 60:.1f} min left at most",
                    highlight=False,
                )

        trained = train(self.data, config, scratch=place, progress=progress)
        # Of the processor: rows may be made beside other work, and side by side.
        seconds = time.process_time() - started
        scores = judged(trained.loaded, self.data, self.queries)
        return {
            **self._measured(scores, place),
            "validation": trained.validation_ndcg,
            "best_epoch": trained.best_epoch,
            "epochs": len(trained.curve),
            "parameters": sum(p.numel() for p in trained.model.parameters()) if trained.model else 0,
            "cpu_seconds": round(seconds, 1),
            "recipe": json.loads(config.to_json()),
        }

    def _measured(self, scores: Scores, place: Path) -> dict[str, Any]:
        """Figures on test; what each user was ranked goes to `place`."""
        ranking = rank(scores, self.data, self.queries)
        np.savez_compressed(place / "ranks.npz", query=ranking.query, target=ranking.target, rank=ranking.rank)
        # The same users, whose scores these are, with nothing masked.
        unmasked = rank(scores, replace(self.data, repeats=True), self.queries)
        return {
            "masked": ranking.summary((5, K, 20)),
            "unmasked": unmasked.summary((K,)),
            "slices": {n: ranking.mean("ndcg", K, m) for n, m in slices(self.data, self.queries, ranking).items()},
        }

    def _place(self, key: str, seed: int | None) -> Path:
        return self.folder / (key if seed is None else f"{key}-{seed}")

    def _ranking(self, run: Run) -> Ranking | None:
        path = self._place(run.get("key", ""), run["seed"]) / "ranks.npz"
        if not path.is_file():
            return None
        with np.load(path) as kept:
            return Ranking(queries=len(self.queries), **kept)

    def report(self, path: Path, *, anew: bool = False) -> QualityTable:
        """Add what was made to the table at `path`, and print it with its differences."""
        # Read now and not at the start: another process may have added to it meanwhile.
        table = QualityTable(path, self.digest, anew=anew)
        for title, run in self.made:
            table.add(title, run)
        ranking = self._any_ranking(table)
        masks = {} if ranking is None else slices(self.data, self.queries, ranking)
        table.compare(PEERS, self._ranking, masks)
        table.write(commit=commit(), machine=f"{platform.machine()}, {os.cpu_count()} cores")
        show(table, self.console)
        self.console.print(f"written to {path}")
        return table

    def _any_ranking(self, table: QualityTable) -> Ranking | None:
        """All rank the same pairs."""
        found = (self._ranking(run) for row in table.rows.values() for run in row["runs"])
        return next((ranking for ranking in found if ranking is not None), None)


def show(table: QualityTable, console: Console) -> None:
    """The rows, then their differences from each peer that the table has."""
    rows = table.rows.values()
    shown = Shown("model", "seeds", f"HR@{K}", f"NDCG@{K}", "±", "all", *SLICES, "parameters", "CPU minutes")
    for row in rows:
        chance = row["runs"][0]["seed"] is not None
        shown.add_row(
            row["title"],
            str(row["seeds"]) if chance else "",
            f"{row['hr@10']:.4f}",
            f"{row['ndcg@10']:.4f}",
            f"{row['spread']:.4f}" if row["seeds"] > 1 else "",
            *(_interval(row.get("intervals"), name, "") for name in ("all", *SLICES)),
            f"{row['parameters']:,}" if row["parameters"] else "",
            f"{row['cpu_seconds'] / 60:.1f}",
        )
    console.print(shown)
    for peer in PEERS:
        if not any(peer in row["against"] for row in rows):
            continue
        shown = Shown("model", "seeds", "all", *SLICES, title=f"NDCG@{K} against {table.rows[peer]['title']}")
        for row in rows:
            if found := row["against"].get(peer):
                seeds = str(found["all"].get("seeds", ""))
                shown.add_row(row["title"], seeds, *(_interval(found, name, "+") for name in ("all", *SLICES)))
        console.print(shown)


def _key(what: str, module: str) -> str:
    """Of a recipe, the code that makes it, and the code that says what its figures are."""
    code = code_digest(module) + code_digest("heterrec.evaluation.comparison")
    return hashlib.sha256((what + code).encode()).hexdigest()[:16]


def _interval(found: dict[str, dict[str, float]] | None, name: str, sign: str) -> str:
    """Mean and interval, and below 1,000 on how many users they rest."""
    if not found or name not in found or not found[name]["queries"]:
        return ""
    one = found[name]
    few = f" ({one['queries']} users)" if one["queries"] < 1000 else ""
    return f"{one['mean']:{sign}.4f} [{one['low']:{sign}.4f}, {one['high']:{sign}.4f}]{few}"


if __name__ == "__main__":
    main()
