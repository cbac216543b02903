"""What merging a closed day of the event log brings: files, bytes and seconds to read, before and after.

A day is written as the consumer writes it, a file each 30 s and table, by the same code; then it is merged, and who
reads it (the canary's judge, ingest's digest and ingest's reading, lineage looking for one request) reads both.
Processor seconds, medians over rounds that go round both; files come from the cache of the operating system.
`make bench-log-days`
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import duckdb
from rich.console import Console
from rich.table import Table

from events import logged
from events.compaction import drop_superseded, merge
from events.consumer.delivery import NOTED
from events.consumer.erasure import Erasure
from events.consumer.state import State
from events.partitions import digest, files, write_days
from events.schema import TABLES
from experiments import log as rollout_log
from experiments.policy import Policy
from feature_repo.forgotten import Forgotten

RESULTS = Path(__file__).parents[1] / "results" / "log_days.json"
SEED = 0
FILES = 2_880
DAY = datetime(2026, 3, 1, tzinfo=UTC)
ROUNDS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exposures", type=int, default=10, help="in each file (default: %(default)s)")
    options = parser.parse_args()
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before", Path(folder) / "after"
        console.print(f"writing a day of {FILES:,} files a table")
        with patch("os.fsync"):  # how durably it is written is not what is measured
            _write(before, options.exposures)
        shutil.copytree(before, after)
        merging = {}
        for table in ("exposures", "outcomes", "interactions"):
            began = time.process_time()
            merge(_day(after, table))
            drop_superseded(_day(after, table), older_than=0)
            merging[table] = time.process_time() - began
        found: dict[str, Any] = {
            "tables": {
                table: {"merge_seconds": merging[table], "before": _size(before, table), "after": _size(after, table)}
                for table in merging
            },
            "readers": _readers(before, after),
        }
    sizes = Table("table", "files", "merged", "bytes", "merged", "CPU s to merge")
    for name, row in found["tables"].items():
        counts = [f"{row[when][what]:,}" for what in ("files", "bytes") for when in ("before", "after")]
        sizes.add_row(name, *counts, f"{row['merge_seconds']:.1f}")
    console.print(sizes)
    speeds = Table("reader", "CPU s", "merged", "times")
    for name, row in found["readers"].items():
        speeds.add_row(name, f"{row['before']:.2f}", f"{row['after']:.3f}", f"{row['times']:.0f}")
    console.print(speeds)
    from runtime.task import commit

    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    made = {"commit": commit(), "seed": SEED, "machine": machine, "exposures_a_file": options.exposures, **found}
    RESULTS.write_text(json.dumps(made, indent=1) + "\n")
    console.print(f"written to {RESULTS}")


def _write(log: Path, count: int) -> None:
    """A day of exposures with histories of ten, of which half are clicked and a tenth are bought."""
    rng = random.Random(SEED)
    for number in range(FILES):
        began = DAY + timedelta(days=1) * number / FILES
        rows: dict[str, list[dict[str, Any]]] = {"exposures": [], "outcomes": [], "interactions": []}
        for each in range(count):
            moment = began + timedelta(seconds=each)
            request, user, items = (
                f"{rng.getrandbits(128):032x}",
                f"u{rng.randrange(10**6)}",
                rng.sample(range(10**5), 10),
            )
            ids = [f"i{item}" for item in items]
            history = [{"item_id": item, "event_time": moment.isoformat(), "features": {"price": 9.5}} for item in ids]
            rows["exposures"].append(
                {
                    "schema": 2,
                    "request_id": request,
                    "user_id": user,
                    "variant": rng.choice(["champion", "challenger"]),
                    "model_version": "1.0",
                    "stage": 1,
                    "weight": 0.5,
                    "salt": "s",
                    "time": moment,
                    "latency_ms": rng.random(),
                    "status": "ok",
                    "n_items": 10,
                    "items": ids,
                    "scores": [rng.random() for _ in ids],
                    "request": json.dumps({"user_id": user, "k": 10, "history": history}),
                    "context": "{}",
                    "override": False,
                }
            )
            outcome = {"schema": 2, "request_id": request, "item_id": ids[0], "time": moment, "received": moment}
            if each % 2:
                rows["outcomes"].append({**outcome, "event_type": "click"})
            if each % 10 == 0:
                bought = {**outcome, "event_type": "purchase", "event_id": request, "user_id": user, "features": "{}"}
                rows["interactions"].append({**bought, "model_version": "1.0", "position": number * 10**6 + each})
        for table, found in rows.items():
            schema = {**TABLES, **NOTED}[table]
            write_days(log / table, f"{number:019d}-{SEED:08x}", schema, ((row["time"], row) for row in found))


def _readers(before: Path, after: Path) -> dict[str, dict[str, float]]:
    readers: dict[str, Callable[[Path], Any]] = {
        "the judge, exposures and outcomes": _judge,
        "ingest, has the day changed": lambda log: digest(files(_day(log, "interactions"))),
        "ingest, the rows": lambda log: duckdb.sql(
            "SELECT sum(hash(event_id, user_id, item_id, time)) FROM read_parquet("
            f"{[str(path) for path in files(_day(log, 'interactions'))]}, union_by_name = true)"
        ).fetchall(),
        "lineage of one request": lambda log: logged.exposure(log, "not in it"),
        "a deletion of somebody who is not in it": _forget,
    }
    found = {}
    for name, read in readers.items():
        seconds: dict[Path, list[float]] = {before: [], after: []}
        for _ in range(ROUNDS):
            for log in (before, after):
                began = time.process_time()
                read(log)
                seconds[log].append(time.process_time() - began)
        low, high = (statistics.median(seconds[log]) for log in (after, before))
        found[name] = {"before": high, "after": low, "times": high / low}
    return found


def _judge(log: Path) -> None:
    policy = Policy(novelty_hours=0)
    with rollout_log.ExposureLog(log, salt="s", opened=DAY, now=DAY + timedelta(days=2), policy=policy) as judged:
        judged.successes()


def _forget(log: Path) -> None:
    forgotten, state = Forgotten(log / "forgotten.txt"), State(log / "consumer.db")
    forgotten.add(["nobody"], datetime.now(UTC))
    Erasure(log, log / "served", state, forgotten).carry_out()
    state.close()


def _day(log: Path, table: str) -> Path:
    return log / table / f"day={DAY:%Y-%m-%d}"


def _size(log: Path, table: str) -> dict[str, int]:
    present = [path for path in _day(log, table).iterdir()]
    return {"files": len(present), "bytes": sum(path.stat().st_size for path in present)}


if __name__ == "__main__":
    main()
