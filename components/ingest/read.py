"""A file of the source: what it is says its content, not its name."""

from pathlib import Path

import duckdb

from components.errors import InputError
from components.ingest.parquet import MAGIC, read_parquet
from components.ingest.source import Table
from components.ingest.text import GZIP, ZSTD, read_csv
from feature_repo.card import DatasetCard

_OTHERS = {
    b"PK\x03\x04": "a zip archive or a workbook of Excel",
    b"\xd0\xcf\x11\xe0": "a workbook of Excel",
    b"BZh": "packed by bzip2",
    b"\xfd7zXZ": "packed by xz",
    b"ORC": "ORC",
    b"Obj\x01": "Avro",
    b"ARROW1": "Arrow",
    b"SQLite": "an SQLite database",
}


def read(path: Path, connection: duckdb.DuckDBPyConnection, card: DatasetCard, *, table: str) -> Table:
    """A Parquet file, or a CSV file (also packed by gzip or zstd) whose values stay text, to be judged row by row."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(MAGIC):
        return read_parquet(path, connection, card, table=table)
    if path.suffix.lower() in (".parquet", ".pq", ".parq"):
        raise InputError(
            f"{path}: cannot be read: no whole Parquet file, though its name says so. Write or copy it again."
        )
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise InputError(f"{path}: is {what}. Expected CSV (also .gz or .zst) or Parquet: save it as one of them.")
    how = getattr(card.source.csv, table)
    packed, wide = head.startswith((GZIP, ZSTD)), head.startswith((b"\xff\xfe", b"\xfe\xff")) or how.encoding
    if b"\0" in head and not packed and not wide:
        raise InputError(f"{path}: is no text. Expected CSV (also .gz or .zst) or Parquet: save it as one of them.")
    return read_csv(path, connection, how)
