"""Features: the point-in-time join, the baskets and the splits; writes the `sequences` artifact."""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.features.join import (
    catalogue,
    joined_events,
    slices,
    users,
)
from components.features.splits import ORDER, ordered_events, slice_starts
from components.shared.tables import (
    TIME,
    USERS,
    arrow_type,
    open_events,
    read_as_of,
)
from feature_repo.card import DatasetCard
from feature_repo.event_types import described
from heterrec.data.encoder import EVENT_TYPE
from runtime.errors import InputError
from runtime.sql import literals

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from feast import FeatureStore


def run(*, card: DatasetCard, events: Path, facts: Path, feast_root: Path, sequences: Path) -> dict[str, Any]:
    """Join the features of `card` to `events` as of their times and write `sequences` (docs/contracts.md).

    Events after the facts' `as_of` are left out. The Feast registry of the dataset is kept in `feast_root`.
    Returns the counts of report.json and `seconds` a part; those stay out of the artifact, whose digest
    depends on its content alone. Raises `InputError` where no event is left or columns are missing.
    """
    from feature_repo.store import open_store

    as_of = read_as_of(facts)
    sequences.mkdir(parents=True, exist_ok=True)
    clock = _Stopwatch()
    with open_events(card, events, as_of) as db:
        db.execute(f"CREATE TABLE events AS {ordered_events(card, as_of)} ORDER BY user_id, {ORDER}")
        if _one(db, "SELECT count(*) FROM events") == 0:
            raise InputError(f"{events}: no interaction at or before {as_of.isoformat()}; ask for a later as-of time.")
        clock.lap("splits")
        store = open_store(card, events, feast_root)
        clock.lap("feast apply")
        _write_events(card, store, db, sequences / "events.parquet")
        clock.lap("point-in-time join")
        items = catalogue(card, store, db, as_of)
        clock.lap("catalogue")
        pq.write_table(items, sequences / "catalogue.parquet", compression="zstd")
        if card.user_features:
            pq.write_table(users(card, store, db, as_of), sequences / USERS, compression="zstd")
            clock.lap("users")
        if any(feature.token for feature in card.over_time):
            db.register("catalogue", items)
            _write_slices(card, store, db, as_of, sequences / "slices.parquet")
            clock.lap("slices")
        report = _report(db, items.num_rows, card)
        clock.lap("writing")
    (sequences / "features.json").write_text(json.dumps(_description(card, as_of.isoformat()), indent=1))
    (sequences / "report.json").write_text(json.dumps(report, indent=1))
    return {**report, "seconds": clock.seconds}


def _write_events(card: DatasetCard, store: "FeatureStore", db: "DuckDBPyConnection", path: Path) -> None:
    joined = pa.schema(
        [
            ("event_id", pa.string()),
            ("user_id", pa.string()),
            ("item_id", pa.string()),
            ("event_time", TIME),
            ("position", pa.int64()),
            ("basket", pa.int64()),
            ("split", pa.string()),
            *([(EVENT_TYPE, pa.string())] if card.typed else []),
            *((feature.name, arrow_type(feature)) for feature in (*card.over_time, *card.asking)),
        ]
    )
    clocks = {each.name: each.clock for each in card.time_context}
    schema = pa.schema([*joined, *((name, pa.string()) for name in clocks)])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in joined_events(card, store, db, joined):
            time_E = batch["event_time"].cast(pa.int64()).to_numpy()
            said = [pa.array(clock.at_each(time_E), pa.string()) for clock in clocks.values()]
            writer.write_batch(pa.record_batch([*batch.columns, *said], schema=schema))


def _write_slices(
    card: DatasetCard, store: "FeatureStore", db: "DuckDBPyConnection", as_of: datetime, path: Path
) -> None:
    writer = None
    for part in slices(card, store, db, slice_starts(card, db, as_of)):
        writer = writer or pq.ParquetWriter(path, part.schema, compression="zstd")
        writer.write_table(part)
    assert writer is not None, "events name items, and slices have starts"
    writer.close()


def _description(card: DatasetCard, as_of: str) -> dict[str, Any]:
    """`features` are the model's tokens; what is stored and served beside them is `others`."""
    features, others = (
        [
            {
                "name": f.name,
                "kind": f.kind,
                "varies_in_time": f.varies_in_time,
                "dimension": f.dimension,
                **({"date": card.source.timezone} if f.date else {}),
            }
            for f in card.features
            if f.token == token
        ]
        for token in (True, False)
    )
    facts = {"repeats": card.repeats, "title": card.title, "as_of": as_of, "dataset": card.name}
    # Where the history is of one kind there is nothing to tell apart.
    types = {"event_types": described(card.events)} if card.typed else {}
    asking = [{"name": f.name, "kind": f.kind, "of": f.of} for f in card.asking]
    asking += [each.described for each in card.time_context]
    return {"features": features, "others": others, **facts, **types, **({"asking": asking} if asking else {})}


def _report(db: "DuckDBPyConnection", items: int, card: DatasetCard) -> dict[str, Any]:
    """Counts; a query is a user with something predicted in the split, left out where nothing came before it."""
    asked = f" FILTER (event_type IN ({literals(card.predicted_types or ())}))" if card.typed else ""
    counted = db.execute(f"""
        SELECT split, sum(events)::BIGINT, count(*) FILTER (first_basket > 0), count(*) FILTER (first_basket = 0)
        FROM (SELECT user_id, split, count(*) AS events, min(basket){asked} AS first_basket FROM events GROUP BY ALL)
        GROUP BY split
    """).fetchall()
    found = {split: counts for split, *counts in counted}
    splits = {split: found.get(split, [0, 0, 0]) for split in ("train", "validation", "test")}
    return {
        "users": _one(db, "SELECT count(DISTINCT user_id) FROM events"),
        "items": items,
        "events": sum(counts[0] for counts in splits.values()),
        "split_events": {split: counts[0] for split, counts in splits.items()},
        "queries": {split: splits[split][1] for split in ("validation", "test")},
        "users_without_history": {split: splits[split][2] for split in ("validation", "test")},
    }


def _one(db: "DuckDBPyConnection", query: str) -> int:
    row = db.execute(query).fetchone()
    assert row is not None
    return int(row[0])


class _Stopwatch:
    """Seconds since the last lap, by part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] = round(now - self._since, 2)
        self._since = now
