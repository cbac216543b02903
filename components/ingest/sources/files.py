"""Anyone's CSV or Parquet files, mapped by the card alone; interactions may be a folder of Parquet files.

What a file is says its content, not its name.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import duckdb

from components.errors import InputError
from components.ingest.parquet import read_parts
from components.ingest.read import read
from components.ingest.source import Raw, Table, locate, where
from components.manifest import digest_file
from feature_repo.card import DatasetCard

ADDRESS = "It is your own file."
PARQUET = (".parquet", ".pq", ".parq")


def load(card: DatasetCard, connection: duckdb.DuckDBPyConnection, only: Collection[str] | None = None) -> Raw:
    items = locate(card.source.items, field="items", card=card, address=ADDRESS)
    return Raw(interactions=_interactions(card, connection, only), items=read(items, connection, card, table="items"))


def content(card: DatasetCard) -> dict[str, Any]:
    items = locate(card.source.items, field="items", card=card, address=ADDRESS)
    if (folder := _folder(card)) is not None:
        return {"": digest_file(items), **{_name(path, folder): digest_file(path) for path in _parts(folder)}}
    interactions = locate(card.source.interactions, field="interactions", card=card, address=ADDRESS)
    return {"": [digest_file(interactions), digest_file(items)]}


def identity(card: DatasetCard) -> Any:
    return where(card)


def _interactions(card: DatasetCard, connection: duckdb.DuckDBPyConnection, only: Collection[str] | None) -> Table:
    folder = _folder(card)
    if folder is None:
        path = locate(card.source.interactions, field="interactions", card=card, address=ADDRESS)
        return read(path, connection, card, table="interactions")
    # All of them: what type a column has is a matter of all files, also where only some of their rows are read.
    return read_parts(_parts(folder), folder, connection, card, only=only)


def _folder(card: DatasetCard) -> Path | None:
    """The interactions' folder of Parquet files, each a part of the source, where the card names a folder."""
    path = card.source.interactions
    return path if path is not None and path.is_dir() else None


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _parts(folder: Path) -> list[Path]:
    """Every file below the folder, but for those that writers leave for themselves (_SUCCESS, .crc)."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    paths = [path for path in found if not any(p.startswith((".", "_")) for p in path.relative_to(folder).parts)]
    if not paths:
        raise InputError(f"{folder}: holds no Parquet file. A folder of interactions is one of Parquet files.")
    if others := sorted(path for path in paths if path.suffix.lower() not in PARQUET):
        raise InputError(
            f"{others[0]}: is no Parquet file by its name. A folder of interactions is one of Parquet files, in "
            "subfolders too: move the file away, or name a single CSV instead of the folder."
        )
    return sorted(paths, key=lambda path: _name(path, folder))
