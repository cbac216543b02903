"""The users' histories that the online store holds, from the events of a `sequences` artifact."""

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.card import DatasetCard
from feature_repo.history import EVENT_TYPE, LATEST, HistoryRecord


def histories(
    card: DatasetCard, sequences: Path, users: Collection[str] | None = None, latest: int = LATEST
) -> Iterator[tuple[str, list[HistoryRecord]]]:
    """Each user (or those of `users`) with the last `latest` events, oldest first, varying values as they were."""
    names = [*(feature.name for feature in card.over_time), *([EVENT_TYPE] if card.typed else [])]
    columns = ["user_id", "event_id", "item_id", "event_time", "position", *names]
    chosen = None if users is None else pc.field("user_id").isin(list(users))
    rows = _latest(pq.read_table(sequences / "events.parquet", columns=columns, filters=chosen), latest)
    times = rows["event_time"].cast(pa.int64()).to_pylist()
    values = [rows[name].to_pylist() for name in names]
    records = [
        HistoryRecord(event_id, item_id, time, dict(zip(names, varying, strict=True)), position)
        for event_id, item_id, time, position, *varying in zip(
            *(rows[name].to_pylist() for name in ("event_id", "item_id")),
            times,
            rows["position"].to_pylist(),
            *values,
            strict=True,
        )
    ]
    start = 0
    for user, end in _runs(rows):
        yield user, records[start:end]
        start = end


def _latest(rows: pa.Table, latest: int) -> pa.Table:
    ends = np.array([end for _, end in _runs(rows)], dtype=np.int64)
    lengths = np.diff(ends, prepend=0)
    from_the_end = np.repeat(ends, lengths) - np.arange(rows.num_rows)
    return rows.filter(pa.array(from_the_end <= latest))


def _runs(rows: pa.Table) -> list[tuple[str, int]]:
    """Users and where each one's rows end; the rows are sorted by user."""
    if not rows.num_rows:
        return []
    runs = pc.run_end_encode(rows["user_id"].combine_chunks())
    return list(zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True))
