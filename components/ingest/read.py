"""A file of the source: what it is says its content, not its name."""

import zlib
from pathlib import Path

import duckdb
import pyarrow as pa

from components.ingest.json_lines import is_json, read_json
from components.ingest.parquet import MAGIC, read_parquet
from components.ingest.source import SourceTable
from components.ingest.text import (
    GZIP,
    ZSTD,
    opened,
    read_csv,
    unpacked,
)
from feature_repo.card import DatasetCard
from feature_repo.card_source import Csv
from runtime.errors import InputError

EXPECTED = "CSV or JSON (also .gz or .zst) or Parquet"
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


def read(path: Path, connection: duckdb.DuckDBPyConnection, card: DatasetCard, *, table: str) -> SourceTable:
    """A Parquet file, or one of CSV or JSON (also packed by gzip or zstd) whose values stay text, to be judged row by
    row."""
    with path.open("rb") as file:
        head = file.read(4096)
    how: Csv = getattr(card.source.csv, table, Csv())
    if head.startswith(MAGIC):
        _require_idle(how, path, table, "Parquet")
        return read_parquet(path, connection, card, table=table)
    if path.suffix.lower() in (".parquet", ".pq", ".parq"):
        raise InputError(
            f"{path}: cannot be read: no whole Parquet file, though its name says so. Write or copy it again."
        )
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise InputError(f"{path}: is {what}. Expected {EXPECTED}: save it as one of them.")
    if looks_like_json(path):
        _require_idle(how, path, table, "JSON")
        plain = unpacked(path, connection) if head.startswith((GZIP, ZSTD)) else path
        return read_json(path, plain, connection)
    packed, wide = head.startswith((GZIP, ZSTD)), head.startswith((b"\xff\xfe", b"\xfe\xff")) or how.encoding
    if b"\0" in head and not packed and not wide:
        raise InputError(f"{path}: is no text. Expected {EXPECTED}: save it as one of them.")
    return read_csv(path, connection, how)


def looks_like_json(path: Path) -> bool:
    """Whether the file, unpacked, begins as JSON does."""
    try:
        with opened(path) as file:
            return is_json(file.read(4096))
    except (OSError, EOFError, zlib.error, pa.ArrowException):
        return False  # told where it is read


def _require_idle(how: Csv, path: Path, table: str, what: str) -> None:
    if how != Csv():
        raise InputError(f"{path}: is {what}: source.csv.{table} of the card has no effect. Leave it out.")
