"""What one stored history costs: bytes, and processor time to encode and to decode, beside Arrow's IPC stream.

`make bench-histories`. A history is read at every request and written at every event, so this is microseconds of each.
"""

import json
import random
import sys
import timeit
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from time import process_time
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from feature_repo.history import SCHEMA, HistoryRecord, decode, encode
from runtime.task import commit

RESULTS = Path(__file__).parents[1] / "results" / "histories.json"
LENGTHS = (1, 20, 200)
SEED = 1
ROUNDS, CALLS = 30, 50


def main() -> None:
    rows = [
        measure(name, length, write, read)
        for length in LENGTHS
        for name, write, read in (
            (f"schema {SCHEMA}", encode, decode),
            ("Arrow IPC", _encode_arrow, _decode_arrow),
        )
    ]
    RESULTS.write_text(json.dumps({"commit": commit(), "seed": SEED, "rows": rows}, indent=1) + "\n")
    shown = Table("events", "codec", "bytes", "encode, µs", "decode, µs")
    for row in rows:
        times = (f"{row[name]:.1f}" for name in ("encode_us", "decode_us"))
        shown.add_row(str(row["events"]), row["codec"], f"{row['bytes']:,}", *times)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    console.print(shown)
    console.print(f"written to {RESULTS}")


def measure(
    codec: str,
    length: int,
    write: Callable[[Sequence[HistoryRecord]], bytes],
    read: Callable[[bytes], list[HistoryRecord]],
) -> dict[str, Any]:
    """One codec on one history of `length` events."""
    records = drawn(length)
    value = write(records)
    assert read(value) == records, f"{codec} gives other records back"
    return {
        "codec": codec,
        "events": length,
        "bytes": len(value),
        "encode_us": _microseconds(lambda: write(records)),
        "decode_us": _microseconds(lambda: read(value)),
    }


def drawn(length: int) -> list[HistoryRecord]:
    """A history with a price that always is there, a discount that mostly is, and kinds of events."""
    rng = random.Random(SEED)
    moment = 1_790_000_000_000_000
    records = []
    for _ in range(length):
        moment += rng.randrange(10**12)
        values = {
            "price": round(rng.uniform(1, 99), 2),
            "discount": round(rng.random(), 3) if rng.random() < 0.8 else None,
            "event_type": rng.choice(["view", "purchase"]),
        }
        event_id, item_id = uuid.UUID(int=rng.getrandbits(128)).hex, f"B{rng.randrange(10**9):09d}"
        records.append(HistoryRecord(event_id, item_id, moment, values, rng.randrange(10**6), rng.random() < 0.2))
    return records


def _microseconds(call: Callable[[], object]) -> float:
    """Of this process's processor, a call, in the round that was hindered least."""
    return min(timeit.repeat(call, timer=process_time, repeat=ROUNDS, number=CALLS)) / CALLS * 1e6


def _encode_arrow(records: Sequence[HistoryRecord]) -> bytes:
    values = [record.values for record in records]
    fixed = {name: [getattr(record, name) for record in records] for name in (*_BEFORE_VALUES, "position", "streamed")}
    batch = pa.record_batch({**fixed, **{name: [each[name] for each in values] for name in values[0]}})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def _decode_arrow(value: bytes) -> list[HistoryRecord]:
    with pa.ipc.open_stream(value) as stream:
        columns = stream.read_next_batch().to_pydict()
    before = [columns.pop(name) for name in _BEFORE_VALUES]
    after = [columns.pop(name) for name in ("position", "streamed")]
    values = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return list(map(HistoryRecord, *before, values, *after))


_BEFORE_VALUES = ("event_id", "item_id", "event_time")


if __name__ == "__main__":
    main()
