"""What the data gate costs: seconds, processor seconds and peak memory, on Online Retail and on many made-up events.

Each step runs in a process of its own, imports included, as in a run. `make bench-gate-speed EVENTS=50`
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from feature_repo.card import DatasetCard, load_card
from runtime.errors import InputError
from runtime.task import commit

RESULTS = Path(__file__).parents[1] / "results" / "gate_speed.json"
DAYS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5, help="millions of made-up events")
    parser.add_argument("--items", type=int, help="of the made-up events (default: a 500th as many)")
    parser.add_argument("--step", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        _step(options.step[0], Path(options.step[1]))
        return
    rows = []
    with TemporaryDirectory(prefix="gate-") as folder:
        rows += online_retail(Path(folder) / "online_retail")
    with TemporaryDirectory(prefix="gate-") as folder:
        rows += made_up(Path(folder) / "made_up", options.events * 1_000_000, options.items)
    table = Table("data", "step", "seconds", "processor seconds", "peak memory, MB")
    for row in rows:
        table.add_row(
            row["data"], row["step"], f"{row['seconds']:.1f}", f"{row['processor']:.1f}", f"{row['peak_mb']:.0f}"
        )
    Console().print(table)
    load = os.getloadavg()[0]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f}"
    RESULTS.write_text(json.dumps({"commit": commit(), "machine": machine, "seed": 0, "rows": rows}, indent=1) + "\n")


def online_retail(root: Path) -> list[dict[str, Any]]:
    """Ingest, then the gate without and with a reference."""
    root.mkdir()
    card = load_card("online_retail")
    (root / "card.json").write_text(card.model_dump_json())
    name = "Online Retail, 1.03 M rows"
    try:
        found = [measure(name, "ingest", root)]
    except InputError as error:
        Console().print(f"left out: {error}")
        return []
    return [*found, measure(name, "validate", root), measure(name, "validate again", root)]


def made_up(root: Path, events: int, items: int | None = None) -> list[dict[str, Any]]:
    """The gate alone, on an events artifact written here: a tenth as many changes of price, a 500th as many items."""
    import duckdb

    root.mkdir()
    card = load_card("marketplace")
    card = card.model_copy(update={"features": [feature for feature in card.features if feature.derive is None]})
    (root / "card.json").write_text(card.model_dump_json())
    items, users = items or max(1000, events // 500), max(1000, events // 25)
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'; SET memory_limit = '2GB'")
        for day in range(DAYS):
            start = f"TIMESTAMPTZ '2025-01-06 00:00:00+00' + INTERVAL {day} DAY"
            moment = f"{start} + to_microseconds((hash(n, {day}, 'time') % 86400000000)::BIGINT)"
            folder = root / "events" / "interactions" / f"day={day:03d}"
            folder.mkdir(parents=True)
            db.execute(f"""COPY (
                SELECT md5(concat({day}, '-', n)) AS event_id, 'u' || hash(n, {day}, 'user') % {users} AS user_id,
                       'i' || hash(n, {day}, 'item') % {items} AS item_id, {moment} AS event_time,
                       event_time AS created_time, n AS position, NULL::VARCHAR AS basket,
                       NULL::VARCHAR AS event_type
                FROM range({events // DAYS}) numbers(n)) TO '{folder}/part-0.parquet' (FORMAT parquet)""")
            folder = root / "events" / "items" / "varying" / f"day={day:03d}"
            folder.mkdir(parents=True)
            db.execute(f"""COPY (
                SELECT 'i' || n % {items} AS item_id, {start} AS event_time, event_time AS created_time,
                       (1 + hash(n % {items}, 'price') % 100)::DOUBLE AS price
                FROM range(least({items}, {events // DAYS // 10})) numbers(n)) TO '{folder}/part-0.parquet'
                (FORMAT parquet)""")
        db.execute(f"""COPY (
            SELECT 'i' || n AS item_id, TIMESTAMPTZ '2025-01-06 00:00:00+00' AS event_time, event_time AS created_time,
                   'item number ' || n AS title, 'brand ' || n % 40 AS brand, 'category ' || n % 24 AS category,
                   list_transform(range(16), k -> (sin(n + k))::FLOAT) AS style
            FROM range({items}) numbers(n)) TO '{root}/events/items/static.parquet' (FORMAT parquet)""")
    report = {"rows": events, "accepted": events, "rejected": 0, "reasons": {}, "users": users, "items": items,
              "first_event": "2025-01-06T00:00:00+00:00", "last_event": "2025-03-06T23:59:59+00:00",
              "notes": []}  # fmt: skip
    (root / "events" / "report.json").write_text(json.dumps(report))
    (root / "facts").mkdir()
    (root / "facts" / "facts.json").write_text(json.dumps({"as_of": "2025-03-07T00:00:00+00:00"}))
    name = f"made up, {events / 1e6:.0f} M events"
    return [measure(name, "validate", root), measure(name, "validate again", root)]


def measure(data: str, step: str, root: Path) -> dict[str, Any]:
    started = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gate.speed", "--step", step, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise (InputError if "InputError" in done.stderr else RuntimeError)(done.stderr.splitlines()[-1])
    return {"data": data, "step": step, "seconds": round(time.monotonic() - started, 2), **json.loads(done.stdout)}


def _step(step: str, root: Path) -> None:
    card = DatasetCard.model_validate_json((root / "card.json").read_text())
    if step == "ingest":
        from components.ingest import step as ingest
        from components.resolve import step as resolve
        from runtime.manifest import Manifest

        (root / "events").mkdir()
        ingest.run(card=card, events=root / "events")
        Manifest.seal(root / "events", kind="events")
        resolve.run(card=card, events=root / "events", as_of=None, facts=root / "facts")
    else:
        from components.validate import step as validate

        again = step == "validate again"
        decision = validate.run(
            card=card,
            events=root / "events",
            facts=root / "facts",
            reference=root / "validate" if again else None,
            validation=root / step,
        )
        assert decision.passed, decision.blocking
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"processor": round(usage.ru_utime + usage.ru_stime, 2), "peak_mb": round(usage.ru_maxrss / 1e3)}))


if __name__ == "__main__":
    main()
