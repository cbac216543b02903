"""Writes `Sequences` as the artifact that the features step writes and `read_sequences` reads (docs/contracts.md)."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from heterrec.data.encoder import (
    KINDS,
    LIST,
    NUMBER,
    VECTOR,
    TokenKind,
)
from heterrec.data.sequences import (
    EVER,
    NOW,
    SINCE,
    SPLITS,
    Sequences,
)

_TIME = pa.timestamp("us", "UTC")


def arrow_type(kind: TokenKind) -> pa.DataType:
    """Column type of a kind of feature."""
    if kind.form == NUMBER:
        return pa.float64()
    if kind.form == VECTOR:
        return pa.list_(pa.float32())
    return pa.list_(pa.string()) if kind.cell == LIST else pa.string()


def write_sequences(sequences: Sequences, root: Path, *, name: str) -> None:
    """Write events.parquet, catalogue.parquet, slices.parquet where a feature varies, and features.json to `root`.

    `name` is the data set's. What is read again are the same sequences, but for users without an event.
    """
    root.mkdir(parents=True, exist_ok=True)
    catalogue = sequences.catalogue
    kinds = {feature["name"]: arrow_type(KINDS[feature["kind"]]) for feature in catalogue.features}
    owner = np.repeat(np.arange(len(sequences.user_ids)), np.diff(sequences.offsets))
    events = {
        "user_id": pa.array(sequences.user_ids, pa.string()).take(pa.array(owner)),
        "item_id": pa.array(catalogue.item_ids, pa.string()).take(pa.array(sequences.row)),
        "event_time": pa.array(sequences.time, pa.int64()).cast(_TIME),
        "position": pa.array(np.arange(len(owner))),
        "basket": pa.array(sequences.basket),
        "split": pa.array(SPLITS, pa.string()).take(pa.array(sequences.split)),
        **{feature: pa.array(column, kinds[feature]) for feature, column in sequences.varying.items()},
    }
    items = {
        "item_id": pa.array(catalogue.item_ids, pa.string()),
        "available_at": pa.array(catalogue.available_at, pa.int64()).cast(_TIME),
        **{feature: pa.array(column, kinds[feature]) for feature, column in catalogue.columns(NOW).items()},
    }
    pq.write_table(pa.table(events), root / "events.parquet", compression="zstd")
    pq.write_table(pa.table(items), root / "catalogue.parquet", compression="zstd")
    if any(feature["varies_in_time"] for feature in catalogue.features):
        _write_slices(sequences, root / "slices.parquet", kinds)
    since = catalogue.slices[NOW].since
    as_of = int(sequences.time.max()) if since == EVER else since
    about = {
        "features": catalogue.features,
        "others": [],
        "repeats": sequences.repeats,
        "title": catalogue.title,
        "as_of": datetime.fromtimestamp(as_of / 1e6, UTC).isoformat(),
        "dataset": name,
    }
    (root / "features.json").write_text(json.dumps(about, indent=1))


def _write_slices(sequences: Sequences, path: Path, kinds: dict[str, pa.DataType]) -> None:
    """Of all slices but the one that serves, which is the catalogue."""
    catalogue = sequences.catalogue
    parts = [
        pa.table(
            {
                SINCE: pa.array([each.since] * len(catalogue), pa.int64()).cast(_TIME),
                "item_id": pa.array(catalogue.item_ids, pa.string()),
                **{name: pa.array(column, kinds[name]) for name, column in each.columns.items()},
            }
        )
        for each in catalogue.slices[:NOW]
    ]
    pq.write_table(pa.concat_tables(parts), path, compression="zstd")
