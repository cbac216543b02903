"""What the feature store costs: ingest, validate, the point-in-time join against a bare ASOF join, materialise, reads.

`make bench-features SIZES=100000,1000000` (`--retail`: Online Retail too); every figure of one run comes from the same
data. The shop is drawn here, by arrays: marketplace's own simulation makes some 10^5 events a second at most, too slow
for 5·10^7. Each stage is a process of its own, whose peak memory is its own.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.drawn_shop import SEED, draw

RESULTS = Path(__file__).parent / "results" / "features.json"

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
    parser.add_argument("--stage", choices=(*STAGES, "draw", "feasts_own"), help=argparse.SUPPRESS)
    parser.add_argument("--card", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        _stage(options.stage, options.folder, options.card, options.size)
        return
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)
    sizes = [int(float(size)) for size in options.events.split(",") if size]
    stages = [stage for stage in STAGES if stage in options.stages.split(",")]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for size in sizes:
            root = Path(folder) / str(size)
            root.mkdir()
            _run("draw", root, None, size)
            rows.append(measure(f"drawn shop, {size:,} events", root, root / "shop.yaml", size, stages, console))
            _tell(rows, console)
        if options.retail:
            root = Path(folder) / "retail"
            root.mkdir()
            card = Path(__file__).parents[1] / "feature_repo" / "datasets" / "online_retail.yaml"
            rows.append(measure("Online Retail", root, card, 0, stages, console))
            _tell(rows, console)


def measure(name: str, root: Path, card: Path, size: int, stages: list[str], console: Console) -> dict[str, Any]:
    """Each of `stages` once on one data set, in order."""
    found: dict[str, Any] = {"data": name}
    if stages == list(STAGES) and size <= FEAST_JOIN_UP_TO:
        stages = list(STAGES)
        stages.insert(stages.index("features") + 1, "feasts_own")
    for stage in stages:
        found[stage] = _run(stage, root, card, size)
        console.print(f"{name}: {stage} {json.dumps(found[stage])}")
    if "features" in found and "bare" in found:
        found["features_against_bare"] = {
            unit: found["features"][unit] / found["bare"][unit] for unit in ("seconds", "cpu_seconds")
        }
    return found


def _run(stage: str, root: Path, card: Path | None, size: int) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.features",
        "--stage",
        stage,
        "--folder",
        str(root),
        "--size",
        str(size),
    ]
    command += ["--card", str(card)] if card else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"stage {stage} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _stage(stage: str, root: Path, card: Path | None, size: int) -> None:
    """Runs in a process of its own, whose last line is the answer."""
    if stage == "draw":
        draw(root, size)
        answer: dict[str, Any] = {}
    else:
        from feature_repo.card import load_card

        answer = _MEASURES[stage](load_card(str(card)), root)
    answer["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(json.dumps(answer))


class _Clock:
    """Seconds on the wall, and of processors: the second hardly minds what else runs on the machine."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self._wall, "cpu_seconds": time.process_time() - self._cpu}


def _ingest(card: Any, root: Path) -> dict[str, Any]:
    from components.ingest import step as ingest
    from components.manifest import Manifest
    from components.resolve import step as resolve

    for name in ("events", "facts"):
        (root / name).mkdir()
    clock = _Clock()
    report = ingest.run(card=card, events=root / "events")
    spent = clock.read()
    Manifest.seal(root / "events", kind="events")
    resolve.run(card=card, events=root / "events", as_of=None, facts=root / "facts")
    return {**spent, "rows": report["rows"], "accepted": report["accepted"]}


def _validate(card: Any, root: Path) -> dict[str, Any]:
    import great_expectations  # noqa: F401  (seconds of import that belong to no row)

    from components.validate import step as validate

    clock = _Clock()
    decision = validate.run(
        card=card, events=root / "events", facts=root / "facts", reference=None, validation=root / "validation"
    )
    return {**clock.read(), "passed": decision.passed}


def _bare(card: Any, root: Path) -> dict[str, Any]:
    """One query of DuckDB: the same files, the same columns, the same order, written the same way."""
    from components.features.splits import ORDER, ordered_events
    from components.features.tables import open_events, read_as_of

    as_of = read_as_of(root / "facts")
    with open_events(card, root / "events", as_of) as db:
        clock = _Clock()
        joins, columns = "", ""
        for table, features in (("varying", card.varying), ("derived", card.derived)):
            if features:
                joins += (
                    f" ASOF LEFT JOIN {table} ON e.item_id = {table}.item_id AND e.event_time >= {table}.event_time"
                )
                columns += "".join(f', {table}."{feature.name}"' for feature in features)
        path = root / "bare.parquet"
        db.execute(
            f"COPY (SELECT e.event_id, e.user_id, e.item_id, e.event_time, e.position, e.basket, e.split {columns} "
            f"FROM ({ordered_events(card, as_of)}) e {joins} ORDER BY e.user_id, {_of('e', ORDER)}) "
            f"TO '{path}' (FORMAT parquet, COMPRESSION zstd)"
        )
        return {**clock.read(), "rows": pq.read_metadata(path).num_rows}


def _features(card: Any, root: Path) -> dict[str, Any]:
    import feature_repo.feast_import
    import feature_repo.store  # noqa: F401
    from components.features import step as features

    clock = _Clock()
    inputs = {"card": card, "events": root / "events", "facts": root / "facts", "feast_root": root / "feast"}
    report = features.run(**inputs, sequences=root / "sequences")
    spent = clock.read()
    columns = pq.read_schema(root / "sequences" / "events.parquet").names
    if (root / "bare.parquet").exists():
        wrong = _differences(root, columns)
        assert not wrong, f"the features step and the bare join differ in {wrong} rows"
    return {**spent, "rows": report["events"], "parts": report["seconds"]}


def _feasts_own(card: Any, root: Path) -> dict[str, Any]:
    """The join alone: Feast's DuckDB store against ours, asked for the same rows through the same call."""
    from components.features.join import historical
    from components.features.tables import open_events, read_as_of
    from feature_repo.store import connect

    with open_events(card, root / "events", read_as_of(root / "facts")) as db:
        asked = db.execute("SELECT item_id, event_time, event_id FROM interactions").to_arrow_table()
    over = root / "feasts_own.yaml"
    over.write_text("offline_store: {type: duckdb}\n")
    spent: dict[str, dict[str, float]] = {}
    for name, overlays in (("ours", []), ("feasts_own", [over])):
        store = connect(card.name, root / "feast", overlays)
        clock = _Clock()
        found = historical(store, asked, card.over_time)
        spent[name] = clock.read()
        assert found.num_rows == asked.num_rows
    return {**spent["feasts_own"], "ours": spent["ours"], "rows": asked.num_rows}


def _materialise(card: Any, root: Path) -> dict[str, Any]:
    import serving.consumer.histories  # noqa: F401
    from components.materialise import step as materialise

    clock = _Clock()
    inputs = {"card": card, "events": root / "events", "facts": root / "facts", "sequences": root / "sequences"}
    report = materialise.run(**inputs, feast_root=root / "feast", materialised=root / "materialised")
    events = pq.read_metadata(root / "sequences" / "events.parquet").num_rows
    return {
        **clock.read(),
        "users": report["users"],
        "items": report["items"],
        "events": events,
    }


def _reads(card: Any, root: Path) -> dict[str, Any]:
    """One request: the user's history and all features of 50 items; milliseconds, on SQLite and a Redis of its own."""
    answer: dict[str, Any] = {"sqlite": _read_times(card, root, root / "feast")}
    from tests.redis_server import PROGRAM, RedisServer

    if PROGRAM is None:
        return answer
    from components.materialise import step as materialise

    server = RedisServer(root).start()
    try:
        os.environ |= {"HETERREC_FEATURE_STORE": "redis", "REDIS_ADDRESS": server.address}
        inputs = {"card": card, "events": root / "events", "facts": root / "facts", "sequences": root / "sequences"}
        clock = _Clock()
        materialise.run(**inputs, feast_root=root / "redis", materialised=root / "on_redis")
        answer["redis_materialise"] = clock.read()
        answer["redis"] = _read_times(card, root, root / "redis")
    finally:
        server.stop()
    return answer


def _read_times(card: Any, root: Path, feast_root: Path, requests: int = 300) -> dict[str, float]:
    from feature_repo.definitions import references
    from feature_repo.online import online, user_history
    from feature_repo.store import connect

    rng = np.random.default_rng(SEED)
    items = pq.read_table(root / "sequences" / "catalogue.parquet", columns=["item_id"])["item_id"].to_pylist()
    users = pq.read_table(feast_root / "user_history.parquet", columns=["user_id"])["user_id"].to_pylist()
    store, asked = connect(card.name, feast_root), references(card.features)
    times = []
    for number in range(requests + 20):
        user = users[int(rng.integers(len(users)))]
        shown = [{"item_id": items[row]} for row in rng.integers(0, len(items), 50)]
        clock = _Clock()
        user_history(store, user)
        online(store, asked, shown)
        if number >= 20:
            times.append(clock.read())
    cut = {unit: statistics.quantiles((each[unit] * 1e3 for each in times), n=100) for unit in times[0]}
    return {"p50_ms": cut["seconds"][49], "p99_ms": cut["seconds"][98], "p50_cpu_ms": cut["cpu_seconds"][49]}


_MEASURES = {
    "ingest": _ingest, "validate": _validate, "bare": _bare, "features": _features, "feasts_own": _feasts_own,
    "materialise": _materialise, "reads": _reads,
}  # fmt: skip


def _differences(root: Path, columns: list[str]) -> int:
    import duckdb

    ours, bare = (str(root / path) for path in ("sequences/events.parquet", "bare.parquet"))
    names = ", ".join(f'"{name}"' for name in columns)
    query = f"SELECT count(*) FROM (SELECT {names} FROM '{ours}' EXCEPT ALL SELECT {names} FROM '{bare}')"
    row = duckdb.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def _seconds(found: dict[str, Any] | None) -> str:
    return f"{found['seconds']:.2f} s ({found['cpu_seconds']:.2f})" if found else "–"  # noqa: RUF001


def _of(table: str, order: str) -> str:
    return ", ".join(f"{table}.{name.strip()}" for name in order.split(","))


def _tell(rows: list[dict[str, Any]], console: Console) -> None:
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
    from components.task import commit

    load = "/".join(f"{load:.1f}" for load in os.getloadavg())
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load average {load} at the end"
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps({"commit": commit(), "seed": SEED, "machine": machine, "rows": rows}, indent=1) + "\n"
    )
    console.print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
