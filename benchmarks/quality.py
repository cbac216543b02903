"""Which model ranks best on one data set, and what each part of HeterRec is worth.

All rows have the same data, split, similarity, temperature, loss at item level, optimiser and budget, and rank the
whole catalogue for every held-out user. A row that is done is kept, so the table may be made in parts.
`make bench-quality DATASET=amazon_beauty SEEDS=3 BUDGET=full ROWS=sasrec,heterrec`
"""

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.data import sequences_of
from components.code_digest import code_digest
from components.task import commit
from components.workspace import home
from heterrec.baselines import popularity
from heterrec.comparison import paired_bootstrap, slices
from heterrec.inference import Answers
from heterrec.metrics import Floats, Ranking, Scores, rank
from heterrec.recipes import TrainConfig, by_name
from heterrec.sequences import Sequences
from heterrec.training import Update, train

RESULTS = Path(__file__).parent / "results"
K = 10
Change = Callable[[TrainConfig], TrainConfig]


def _model(**fields: Any) -> Change:
    return lambda config: replace(config, model=replace(config.model, **fields))


def _loss(**fields: Any) -> Change:
    return lambda config: replace(config, loss=replace(config.loss, **fields))


def _same(config: TrainConfig) -> TrainConfig:
    return config


def _its_own(config: TrainConfig) -> TrainConfig:
    """What the search found best for item ID only on Beauty: slower, longer, without taste and windows."""
    changed = replace(config, learning_rate=config.learning_rate / 2, epochs=config.epochs * 3 // 2)
    return _loss(window=1)(_model(taste=False)(changed))


MAIN: dict[str, tuple[str, str, Change]] = {
    "sasrec": ("item ID only, same code", "sasrec", _same),
    "sasrec_plain": ("SASRec, item ID only, no taste", "sasrec", _model(taste=False)),
    "sasrec_own": ("SASRec, item ID only, tuned for itself", "sasrec", _its_own),
    "sasrec_features": ("SASRec, features summed in", "sasrec_features", _same),
    "hstu": ("HSTU block, item ID only", "hstu", _same),
    "heterrec": ("HeterRec", "heterrec", _same),
}
ABLATIONS: dict[str, tuple[str, str, Change]] = {
    "no_token_level": ("no token level", "heterrec", lambda c: _loss(token_weight=0.0)(_model(token_layers=0)(c))),
    "no_item_level": ("no item-level blocks", "heterrec", _model(item_layers=0)),
    "no_token_loss": ("no token-level LMP", "heterrec", _loss(token_weight=0.0)),
    "one_step": ("K = 1", "heterrec", _model(steps=1)),
    "no_taste": ("no taste", "heterrec", _model(taste=False)),
    "no_newborn": ("no days without an ID", "heterrec", _loss(newborn_share=0.0)),
    "block_causal": ("block-causal tokens", "heterrec", _model(token_causality="block")),
    **{f"depth_{n}": (f"{n} item-level blocks", "heterrec", _model(item_layers=n)) for n in (1, 4)},
    **{f"width_{n}": (f"width {n}", "heterrec", _model(width=n)) for n in (32, 128)},
}
ROWS = MAIN | ABLATIONS
PEERS = {"sasrec": "against ID only", "sasrec_own": "ID only, own tuning", "heterrec": "against HeterRec"}
"""What differences are taken against: item ID only with the same recipe and tuned for itself, and HeterRec."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="amazon_beauty")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--budget", choices=("fast", "full"), default="fast")
    parser.add_argument("--rows", default=",".join(MAIN), help=f"of {', '.join(ROWS)}; or all")
    parser.add_argument("--kept", action="store_true", help="train nothing: report the rows that are done")
    options = parser.parse_args()
    names = list(ROWS) if options.rows == "all" else options.rows.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"--rows: {unknown} are unknown, expected some of {', '.join(ROWS)}")
    console = Console() if sys.stdout.isatty() else Console(width=140)
    data = sequences_of(options.dataset)
    bench = Bench(data, Path(options.dataset).stem, options.budget, console)
    for seed in range(options.seeds):
        for name in names:
            if seed == 0 or name in MAIN:
                bench.row(name, seed, kept=options.kept)
    bench.report()


class Bench:
    """The rows of one data set and budget; each is kept in the workspace under its recipe, seed and data."""

    def __init__(self, data: Sequences, dataset: str, budget: str, console: Console) -> None:
        self.data, self.dataset, self.budget, self.console = data, dataset, budget, console
        self.queries = data.queries("test")
        content = hashlib.sha256()
        for array in (data.row, data.time, data.basket, data.split):
            content.update(array.tobytes())
        content.update(repr((data.catalogue, data.varying)).encode())
        self.folder = home() / "bench" / f"{dataset}-{content.hexdigest()[:12]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.made: dict[str, list[dict[str, Any]]] = {}
        found = self._measured(popularity(data))
        self.pairs: Ranking = found.pop("ranking")
        self.made["popularity"] = [{"seed": 0, "ranks": self.pairs.rank, **found}]

    def row(self, name: str, seed: int, *, kept: bool = False) -> None:
        """Train and rank, or take what was made before by the same recipe; with `kept` only that."""
        _, recipe, change = ROWS[name]
        config = change(by_name(recipe if self.budget == "fast" else f"{recipe}_full", seed=seed))
        key = hashlib.sha256((config.to_json() + code_digest("heterrec.training")).encode()).hexdigest()[:16]
        place = self.folder / f"{name}-{seed}-{key}"
        if not (place / "row.json").is_file():
            if kept:
                return
            place.mkdir(exist_ok=True)
            self._train(name, seed, config, place)
        found = json.loads((place / "row.json").read_text())
        self.made.setdefault(name, []).append({**found, "ranks": np.load(place / "ranks.npy")})
        self.console.print(
            f"{name} seed {seed}: HR@{K} {found['masked']['hr@10']:.4f}  NDCG@{K} {found['masked']['ndcg@10']:.4f}  "
            f"validation {found['validation']:.4f}  {found['cpu_seconds']:.0f} CPU s",
            highlight=False,
        )

    def _train(self, name: str, seed: int, config: TrainConfig, place: Path) -> None:
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
        scores = Answers(trained.loaded, self.data.catalogue).scores(self.data, self.queries)
        measured = self._measured(scores)
        np.save(place / "ranks.npy", measured.pop("ranking").rank)
        row = {
            "row": name,
            "seed": seed,
            **measured,
            "validation": max(epoch["validation_ndcg"] for epoch in trained.curve),
            "best_epoch": trained.best_epoch,
            "epochs": len(trained.curve),
            "parameters": sum(p.numel() for p in trained.model.parameters()) if trained.model else 0,
            "cpu_seconds": round(seconds, 1),
            "commit": commit(),
            "recipe": json.loads(config.to_json()),
        }
        partial = place / "row.json.partial"
        partial.write_text(json.dumps(row, indent=1))
        partial.replace(place / "row.json")

    def _measured(self, scores: Scores) -> dict[str, Any]:
        ranking = rank(scores, self.data, self.queries)
        everything = replace(self.data, repeats=True)
        unmasked = rank(scores, everything, everything.queries("test"))
        return {
            "masked": ranking.summary((5, K, 20)),
            "unmasked": unmasked.summary((K,)),
            "slices": {n: ranking.mean("ndcg", K, m) for n, m in slices(self.data, self.queries, ranking).items()},
            "ranking": ranking,
        }

    def report(self) -> None:
        """Print the table, and write it with its differences to `benchmarks/results`."""
        shown = Table(
            "model", f"HR@{K}", f"NDCG@{K}", "±", "parameters", "CPU minutes", "against ID only", "tuned for itself"
        )
        rows = [self._summary(name, made) for name, made in self.made.items()]
        for row in rows:
            shown.add_row(
                row["title"],
                f"{row['hr@10']:.4f}",
                f"{row['ndcg@10']:.4f}",
                f"{row['spread']:.4f}" if row["seeds"] > 1 else "",
                f"{row['parameters']:,}" if row["parameters"] else "",
                f"{row['cpu_seconds'] / 60:.1f}",
                *(_interval(row.get(f"against_{peer}")) for peer in PEERS),
            )
        self.console.print(shown)
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"quality_{self.dataset}_{self.budget}.json"
        machine = f"{platform.machine()}, {os.cpu_count()} cores"
        path.write_text(json.dumps({"commit": commit(), "machine": machine, "rows": rows}, indent=1) + "\n")
        self.console.print(f"written to {path}")

    def _summary(self, name: str, made: list[dict[str, Any]]) -> dict[str, Any]:
        title = ROWS[name][0] if name in ROWS else name
        ndcg = [one["masked"]["ndcg@10"] for one in made]
        row = {
            "row": name,
            "title": title,
            "seeds": len(made),
            "hr@10": float(np.mean([one["masked"]["hr@10"] for one in made])),
            "ndcg@10": float(np.mean(ndcg)),
            "spread": float(np.std(ndcg)),
            "unmasked_ndcg@10": float(np.mean([one["unmasked"]["ndcg@10"] for one in made])),
            "slices": {key: float(np.mean([one["slices"][key] for one in made])) for key in made[0]["slices"]},
            "parameters": made[0].get("parameters", 0),
            "cpu_seconds": float(np.mean([one.get("cpu_seconds", 0.0) for one in made])),
            "runs": [{key: value for key, value in one.items() if key not in ("ranks", "slices")} for one in made],
        }
        for against in PEERS:
            peer = self.made.get(against)
            if peer and name not in ("popularity", against):
                both = min(len(peer), len(made))
                values = [np.stack([self._per_query(one) for one in part[:both]]) for part in (made, peer)]
                row[f"against_{against}"] = asdict(paired_bootstrap(*values))
        return row

    def _per_query(self, one: dict[str, Any]) -> Floats:
        return replace(self.pairs, rank=one["ranks"]).per_query("ndcg", K)


def _interval(found: dict[str, float] | None) -> str:
    return f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]" if found else ""


if __name__ == "__main__":
    main()
