"""What the feature store costs: ingest, validate, the point-in-time join against a bare ASOF join, materialise, reads.

`make bench-features SIZES=100000,1000000` (`--retail`: Online Retail too); every figure of one run comes from the same
data. The shop is drawn here, by arrays: marketplace's own simulation makes some 10^5 events a second at most, too slow
for 5·10^7. Each stage is a process of its own, whose peak memory is its own.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.model.drawn_shop import SEED, draw

RESULTS = Path(__file__).parents[1] / "results" / "features.json"

FEAST_JOIN_UP_TO = 1_000_000
"""Feast's own join is timed up to here; beyond it takes minutes and all memory."""
STAGES = ("ingest", "validate", "bare", "features", "materialise", "reads")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", default="100000,1000000", help="sizes of the drawn shop, by commas")
    parser.add_argument("--retail", action="store_true", help="Online Retail too")
    parser.add_argument(
        "--stages", default=",".join(STAGES), help="what is measured (default: all, and Feast's own join)"
    )
    parser.add_argument(
        "--folder", type=Path, help="where the data lies while it is measured (default: a temporary one)"
    )
    options = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
    sizes = [int(float(size)) for size in options.events.split(",") if size]
    stages = [stage for stage in STAGES if stage in options.stages.split(",")]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for size in sizes:
            root = Path(folder) / str(size)
            root.mkdir()
            draw(root, size)
            rows.append(measure(f"drawn shop, {size:,} events", root, root / "shop.yaml", size, stages, console))
            _print_table(rows, console)
        if options.retail:
            root = Path(folder) / "retail"
            root.mkdir()
            card = Path(__file__).parents[2] / "feature_repo" / "datasets" / "online_retail.yaml"
            rows.append(measure("Online Retail", root, card, 0, stages, console))
            _print_table(rows, console)


def measure(name: str, root: Path, card: Path, size: int, stages: list[str], console: Console) -> dict[str, Any]:
    """Each of `stages` once on one data set, in order."""
    found: dict[str, Any] = {"data": name}
    if stages == list(STAGES) and size <= FEAST_JOIN_UP_TO:
        stages = list(STAGES)
        stages.insert(stages.index("features") + 1, "feasts_own")
    for stage in stages:
        found[stage] = _run(stage, root, card)
        console.print(f"{name}: {stage} {json.dumps(found[stage])}")
    if "features" in found and "bare" in found:
        found["features_against_bare"] = {
            unit: found["features"][unit] / found["bare"][unit] for unit in ("seconds", "cpu_seconds")
        }
    return found


def _run(stage: str, root: Path, card: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.features.stages", stage, str(root), str(card)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"stage {stage} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _seconds(found: dict[str, Any] | None) -> str:
    return f"{found['seconds']:.2f} s ({found['cpu_seconds']:.2f})" if found else "–"  # noqa: RUF001


def _keep(rows: list[dict[str, Any]]) -> None:
    """Beside the kept results of other data: the largest takes half an hour, and need not be measured each time."""
    from runtime.task import commit

    load = "/".join(f"{load:.1f}" for load in os.getloadavg())
    about = {"commit": commit(), "machine": f"{platform.machine()}, {os.cpu_count()} cores, load average {load}"}
    kept = {row["data"]: row for row in (json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else [])}
    kept |= {row["data"]: {**about, **row} for row in rows}
    RESULTS.write_text(json.dumps({"seed": SEED, "rows": list(kept.values())}, indent=1) + "\n")


def _print_table(rows: list[dict[str, Any]], console: Console) -> None:
    # In brackets: seconds of processors, which hardly mind what else runs on the machine.
    shown = Table("data", "ingest", "validate", "features", "bare ASOF", "ratio", "(processor)", "Feast's join", "ours",
                  "materialise", "read SQLite", "read Redis", "peak, MiB")  # fmt: skip
    for row in rows:
        own, reads, ratio = row.get("feasts_own"), row.get("reads", {}), row.get("features_against_bare", {})
        shown.add_row(
            row["data"],
            *(_seconds(row.get(stage)) for stage in ("ingest", "validate", "features", "bare")),
            *(f"{ratio[unit]:.2f}" if unit in ratio else "–" for unit in ("seconds", "cpu_seconds")),  # noqa: RUF001
            *(map(_seconds, (own, own["ours"])) if own else ("–", "–")),  # noqa: RUF001
            _seconds(row.get("materialise")),
            *(f"{reads[store]['p50_ms']:.2f} ms" if store in reads else "–" for store in ("sqlite", "redis")),  # noqa: RUF001
            f"{max(row[stage]['peak_mib'] for stage in STAGES if stage in row):,}",
        )
    console.print(shown)
    _keep(rows)
    console.print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
