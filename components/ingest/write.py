"""The events artifact's files, streamed from DuckDB in order, so that memory does not grow with the data."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

BATCH_ROWS = 200_000


def write_days(connection: duckdb.DuckDBPyConnection, query: str, schema: pa.Schema, root: Path) -> int:
    """Write the rows of `query`, which come in order of event_time, as day=YYYY-MM-DD/part-0.parquet; returns days."""
    root.mkdir(parents=True, exist_ok=True)
    days, open_day, writer = 0, "", None
    try:
        for batch in connection.execute(query).to_arrow_reader(BATCH_ROWS):
            table = pa.Table.from_batches([batch]).cast(schema)
            for day, rows in _split(table):
                if day != open_day:
                    if writer is not None:
                        writer.close()
                    folder = root / f"day={day}"
                    folder.mkdir()
                    writer, open_day, days = pq.ParquetWriter(folder / "part-0.parquet", schema), day, days + 1
                assert writer is not None
                writer.write_table(rows)
    finally:
        if writer is not None:
            writer.close()
    return days


def write_file(connection: duckdb.DuckDBPyConnection, query: str, schema: pa.Schema, path: Path) -> None:
    """Write the rows of `query` as one Parquet file, which is there even without rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema) as writer:
        for batch in connection.execute(query).to_arrow_reader(BATCH_ROWS):
            writer.write_table(pa.Table.from_batches([batch]).cast(schema))


def _split(table: pa.Table) -> list[tuple[str, pa.Table]]:
    """The table's consecutive days."""
    days = pc.cast(table["event_time"], pa.date32())
    counts = pc.value_counts(days.combine_chunks())
    found, start = [], 0
    # value_counts keeps the order of first appearance, and the rows are in order of time.
    for day, count in zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True):
        found.append((day.isoformat(), table.slice(start, count)))
        start += count
    return found
