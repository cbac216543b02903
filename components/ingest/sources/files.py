"""Anyone's CSV (also .gz) or Parquet files, mapped by the card alone; interactions may be a folder of Parquet files."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import duckdb

from components.errors import InputError
from components.ingest.parse import literal
from components.ingest.source import Raw, locate, read, unreadable, where
from components.manifest import digest_file
from feature_repo.card import DatasetCard

ADDRESS = "It is your own file."


def load(card: DatasetCard, connection: duckdb.DuckDBPyConnection, only: Collection[str] | None = None) -> Raw:
    items = locate(card.source.items, field="items", card=card, address=ADDRESS)
    return Raw(interactions=_interactions(card, connection, only), items=read(items, connection, table="items"))


def content(card: DatasetCard) -> dict[str, Any]:
    items = locate(card.source.items, field="items", card=card, address=ADDRESS)
    if (folder := _folder(card)) is not None:
        return {"": digest_file(items), **{path.name: digest_file(path) for path in _parts(folder)}}
    interactions = locate(card.source.interactions, field="interactions", card=card, address=ADDRESS)
    return {"": [digest_file(interactions), digest_file(items)]}


def identity(card: DatasetCard) -> Any:
    return where(card)


def _interactions(
    card: DatasetCard, connection: duckdb.DuckDBPyConnection, only: Collection[str] | None
) -> duckdb.DuckDBPyRelation:
    folder = _folder(card)
    if folder is None:
        path = locate(card.source.interactions, field="interactions", card=card, address=ADDRESS)
        return read(path, connection, table="interactions")
    parts = [path for path in _parts(folder) if only is None or path.name in only]
    # Without a new part: the columns alone.
    files = ", ".join(literal(str(path)) for path in parts or _parts(folder)[:1])
    try:
        rows = connection.sql(
            "SELECT * EXCLUDE (__path), parse_filename(__path) AS __origin FROM read_parquet("
            f"[{files}], union_by_name = true, filename = '__path', hive_partitioning = false)"
        )
    except duckdb.Error as error:
        raise unreadable(folder, error) from error
    return rows if parts else rows.filter("false")


def _folder(card: DatasetCard) -> Path | None:
    """The interactions' folder of Parquet files, each a part of the source, where the card names a folder."""
    path = card.source.interactions
    return path if path is not None and path.is_dir() else None


def _parts(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise InputError(f"{folder}: holds no Parquet file. A folder of interactions is one of Parquet files.")
    return paths
