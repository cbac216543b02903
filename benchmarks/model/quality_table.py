"""The results file of `bench-quality`: rows that add up over calls, and what their differences are.

A row is the runs of one recipe and code, one for each seed, or one without where chance has no part. It stays in the
file until its own runs are made anew. Letters: S seeds, Q queries.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from heterrec.evaluation.comparison import paired_bootstrap
from heterrec.evaluation.metrics import Floats, Ranking

K = 10
SLICES = ("rare_items", "new_items")
"""Those that are shown with intervals, beside all queries."""
Run = dict[str, Any]
Interval = dict[str, float]
Masks = dict[str, npt.NDArray[np.bool_]]
"""(P,) of the pairs of a ranking, by slice."""


class QualityTable:
    """Rows by name, in the order in which they came."""

    def __init__(self, path: Path, data: str, *, anew: bool = False) -> None:
        """Read what `path` has; `data` is the digest of the sequences that all rows rank."""
        kept = {"rows": []} if anew or not path.is_file() else json.loads(path.read_text())
        if kept.get("data", data) != data:
            raise ValueError(
                f"{path}: its rows rank other data ({kept['data']}) than is here ({data}), so they are no table with "
                "new ones; begin it anew with --anew, or move it away"
            )
        self.path, self.data = path, data
        self.rows: dict[str, dict[str, Any]] = {row["row"]: row for row in kept["rows"]}
        self.changed: set[str] = set()

    def add(self, title: str, run: Run) -> None:
        """A run takes the place of the one of its seed; runs of another recipe or code leave its row."""
        before = self.rows.get(run["row"], {"runs": []})
        if run in before["runs"]:
            return
        others = [one for one in before["runs"] if one.get("key") == run["key"] and one["seed"] != run["seed"]]
        runs = sorted([*others, run], key=lambda one: -1 if one["seed"] is None else one["seed"])
        self.rows[run["row"]] = _summary(title, runs)
        self.changed.add(run["row"])

    def compare(self, peers: list[str], rankings: Callable[[Run], Ranking | None], masks: Masks) -> None:
        """Intervals of all rows and differences from `peers`, where one of both has changed.

        `rankings` gives what a run ranked, or None where that is on another machine: what the file says of two rows
        that have not changed stays, of others it goes.
        """
        found: dict[str, dict[int | None, Ranking]] = {}
        for name, row in self.rows.items():
            ranked = ((run["seed"], rankings(run)) for run in row["runs"])
            found[name] = {seed: ranking for seed, ranking in ranked if ranking is not None}
        for name, row in self.rows.items():
            if name in self.changed:
                row["intervals"] = _by_slice(found[name], None, masks)
            against = dict(row.get("against", {}))
            for peer in peers:
                if peer != name and peer in self.rows and ({peer, name} & self.changed or peer not in against):
                    difference = _by_slice(found[name], found[peer], masks)
                    against.pop(peer, None)
                    if difference is not None:
                        against[peer] = difference
            row["against"] = {peer: against[peer] for peer in peers if peer in against}

    def write(self, **about: str) -> None:
        """All rows, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps({**about, "data": self.data, "rows": list(self.rows.values())}, indent=1) + "\n")
        partial.replace(self.path)


def difference(
    ours: Mapping[int | None, Floats], theirs: Mapping[int | None, Floats] | None
) -> dict[str, float] | None:
    """Mean and interval of `ours - theirs`, values (Q,) by seed, over the seeds that both have.

    What has no seed stands beside every seed of the other. Without `theirs`, of `ours` itself. None where no seed is
    common to both.
    """
    theirs = {None: np.zeros(1)} if theirs is None else theirs
    if None in ours or None in theirs:
        pairs = [(a, b) for a in ours.values() for b in theirs.values()]
    else:
        pairs = [(ours[seed], theirs[seed]) for seed in sorted(set(ours) & set(theirs), key=str)]
    if not pairs:
        return None
    values = np.stack([a - b for a, b in pairs])
    return {**asdict(paired_bootstrap(values, np.zeros_like(values))), "seeds": len(pairs)}


def _by_slice(
    ours: dict[int | None, Ranking], theirs: dict[int | None, Ranking] | None, masks: Masks
) -> dict[str, Interval] | None:
    found = {}
    for name in ("all", *SLICES):
        values = [
            {seed: ranking.per_query("ndcg", K, masks.get(name)) for seed, ranking in part.items()}
            for part in (ours, theirs)
            if part is not None
        ]
        one = difference(values[0], values[1] if theirs is not None else None)
        if one is None:
            return None
        found[name] = one
    return found


def _summary(title: str, runs: list[Run]) -> dict[str, Any]:
    ndcg = [one["masked"]["ndcg@10"] for one in runs]
    return {
        "row": runs[0]["row"],
        "title": title,
        "seeds": len(runs),
        "hr@10": float(np.mean([one["masked"]["hr@10"] for one in runs])),
        "ndcg@10": float(np.mean(ndcg)),
        "spread": float(np.std(ndcg)),
        "unmasked_ndcg@10": float(np.mean([one["unmasked"]["ndcg@10"] for one in runs])),
        "slices": {name: float(np.mean([one["slices"][name] for one in runs])) for name in runs[0]["slices"]},
        "parameters": runs[0].get("parameters", 0),
        "cpu_seconds": float(np.mean([one["cpu_seconds"] for one in runs])),
        "runs": runs,
    }
