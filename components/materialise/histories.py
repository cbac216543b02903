"""The users' histories that the online store holds, from the events of a `sequences` artifact."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_repo.card import DatasetCard
from feature_repo.history import LATEST, Record


def histories(card: DatasetCard, sequences: Path, latest: int = LATEST) -> Iterator[tuple[str, list[Record]]]:
    """Each user with the last `latest` events, oldest first, varying values as they were at the event."""
    names = [feature.name for feature in card.varying]
    path = sequences / "events.parquet"
    events = pq.read_table(path, columns=["user_id", "event_id", "item_id", "event_time", *names])
    if not events.num_rows:
        return
    # The rows are sorted by user, so that a user is a run of rows.
    runs = pc.run_end_encode(events["user_id"].combine_chunks())
    start = 0
    for user, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        first = max(start, end - latest)
        yield user, _records(events.slice(first, end - first), names)
        start = end


def _records(rows: pa.Table, names: list[str]) -> list[Record]:
    values = [rows[name].to_pylist() for name in names]
    times = rows["event_time"].cast(pa.int64()).to_pylist()
    keys = zip(rows["event_id"].to_pylist(), rows["item_id"].to_pylist(), times, strict=True)
    return [
        Record(event_id, item_id, time, {name: column[row] for name, column in zip(names, values, strict=True)})
        for row, (event_id, item_id, time) in enumerate(keys)
    ]
