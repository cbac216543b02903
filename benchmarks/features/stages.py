"""What one stage of the feature store costs on one data set: seconds and peak memory of this process.

`python -m benchmarks.features.stages STAGE FOLDER CARD`, as `benchmarks.features.store` runs it; its last line is the
answer.
"""

import json
import os
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.model.drawn_shop import SEED


def main(stage: str, folder: str, card: str) -> None:
    from feature_repo.card import load_card

    answer = _MEASURES[stage](load_card(card), Path(folder))
    print(json.dumps({"peak_mib": _peak_mib(), **answer}))


def _peak_mib() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


class _Clock:
    """Seconds on the wall, and of processors: the second hardly minds what else runs on the machine."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"seconds": time.perf_counter() - self._wall, "cpu_seconds": time.process_time() - self._cpu}


def _ingest(card: Any, root: Path) -> dict[str, Any]:
    from components.ingest import step as ingest
    from components.resolve import step as resolve
    from runtime.manifest import Manifest

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
    from components.shared.tables import open_events, read_as_of

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
    spent = {**clock.read(), "peak_mib": _peak_mib()}  # what follows checks the answer, and takes what it likes
    columns = pq.read_schema(root / "sequences" / "events.parquet").names
    if (root / "bare.parquet").exists():
        wrong = _differences(root, columns)
        assert not wrong, f"the features step and the bare join differ in {wrong} rows"
    return {**spent, "rows": report["events"], "parts": report["seconds"]}


def _feasts_own(card: Any, root: Path) -> dict[str, Any]:
    """The join alone: Feast's DuckDB store against ours, asked for the same rows through the same call."""
    from components.features.join import historical
    from components.shared.tables import open_events, read_as_of
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
    import events.consumer.histories
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


def _differences(root: Path, columns: list[str]) -> int:
    import duckdb

    ours, bare = (str(root / path) for path in ("sequences/events.parquet", "bare.parquet"))
    names = ", ".join(f'"{name}"' for name in columns)
    query = f"SELECT count(*) FROM (SELECT {names} FROM '{ours}' EXCEPT ALL SELECT {names} FROM '{bare}')"
    row = duckdb.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def _of(table: str, order: str) -> str:
    return ", ".join(f"{table}.{name.strip()}" for name in order.split(","))


_MEASURES = {
    "ingest": _ingest, "validate": _validate, "bare": _bare, "features": _features, "feasts_own": _feasts_own,
    "materialise": _materialise, "reads": _reads,
}  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
