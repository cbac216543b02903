"""Anyone's CSV, JSON or Parquet files, mapped by the card alone; interactions may be a folder of such files, or several
tables with columns of their own.

What a file is says its content, not its name. A place is a path, or an address of an object store.
"""

from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb

from components.ingest.parquet import read_parts
from components.ingest.parts import PARQUET, as_parquet
from components.ingest.read import read
from components.ingest.remote import fetched, listed
from components.ingest.several import read_tables
from components.ingest.source import (
    Raw,
    SourceTable,
    locate,
    named,
    scratch,
    where,
)
from feature_repo.card import DatasetCard
from feature_repo.card_source import InteractionsTable
from runtime.errors import InputError
from runtime.files import digest_file

ADDRESS = "It is your own file."
WITHOUT_ITEMS = "There is no table of items: what is known of them is read off the interactions."


def load(card: DatasetCard, connection: duckdb.DuckDBPyConnection, only: Collection[str] | None = None) -> Raw:
    interactions, items = interactions_of(card, connection, only), None
    if card.source.items is not None:
        path = _at_hand(card, "items", connection)
        with named(path, _place(card, "items", path), each=True):
            items = read(path, connection, card, table="items")
    return Raw(
        interactions=interactions,
        items=items,
        users=None if card.source.users is None else _users(card, connection),
        notes=interactions.notes if items else (*interactions.notes, WITHOUT_ITEMS),
    )


def _users(card: DatasetCard, connection: duckdb.DuckDBPyConnection) -> SourceTable:
    path = _at_hand(card, "users", connection)
    with named(path, _place(card, "users", path), each=True):
        return read(path, connection, card, table="users")


def content(card: DatasetCard) -> dict[str, Any]:
    others = [_digests(card, name) for name in ("items", "users") if getattr(card.source, name) is not None]
    if isinstance(card.source.interactions, list):
        parts = {name: digest for table in card.source.interactions for name, digest in _of_table(card, table).items()}
    else:
        parts = _digests(card, "interactions")
    if parts.keys() == {""}:
        return {"": [parts, *others]}
    # Without a table of items all interactions must be read to know them: no part is taken over.
    return {"": others, **parts} if card.source.items is not None else {"": [parts, *others] if others else parts}


def identity(card: DatasetCard) -> Any:
    return where(card)


def _of_table(card: DatasetCard, table: InteractionsTable) -> dict[str, str]:
    """Of each file of one of several tables its digest, by the name of its part."""
    place = table.place
    if isinstance(place, str):
        found = _parts(listed(place), place)
    elif place.is_dir():
        found = {name: digest_file(place / name) for name in _parts(_below(place), str(place))}
    else:
        found = {"": digest_file(locate(place, field="interactions", card=card, address=ADDRESS))}
    # What is said of a table changes what is read of it, though the file stays as it is.
    said = table.model_dump_json(exclude={"place"})
    return {f"{table.name}/{name}".rstrip("/"): f"{digest} {said}" for name, digest in found.items()}


def _digests(card: DatasetCard, field: str) -> dict[str, str]:
    """Of each file of a table its digest, by its path below the folder; of a single file under the name ""."""
    place = getattr(card.source, field)
    if isinstance(place, str):
        return _parts(listed(place), place)
    if field == "interactions" and place.is_dir():
        return {name: digest_file(place / name) for name in _parts(_below(place), str(place))}
    return {"": digest_file(locate(place, field=field, card=card, address=ADDRESS))}


def interactions_of(
    card: DatasetCard, connection: duckdb.DuckDBPyConnection, only: Collection[str] | None
) -> SourceTable:
    if isinstance(card.source.interactions, list):
        return _several(card, card.source.interactions, connection, only)
    path = _at_hand(card, "interactions", connection)
    place = _place(card, "interactions", path)
    if not path.is_dir():
        with named(path, place, each=True):
            return read(path, connection, card, table="interactions")
    names = list(_parts(_below(path), str(path)))
    bad: list[tuple[str, int, str]] = []
    if not all((path / name).suffix.lower() in PARQUET for name in names):
        with named(path, place, each=True):
            path, bad = as_parquet({name: path / name for name in names}, connection, lambda _: card, only)
    # All of them: what type a column has is a matter of all files, also where only some of their rows are read.
    with named(path, place, each=True):
        return read_parts([path / name for name in names], path, connection, card, only=only, bad=bad)


def _several(
    card: DatasetCard,
    tables: list[InteractionsTable],
    connection: duckdb.DuckDBPyConnection,
    only: Collection[str] | None,
) -> SourceTable:
    """Several tables: each file is a part, of a folder below the folder's name."""
    files: dict[str, tuple[InteractionsTable, Path]] = {}
    places: dict[Path, str] = {}
    for table in tables:
        path = _fetched(table.place, connection) if isinstance(table.place, str) else table.place
        places[path] = str(table.place).rstrip("/")
        if path.is_dir():
            below = _parts(_below(path), str(table.place))
            files |= {f"{table.name}/{name}": (table, path / name) for name in below}
        else:
            files[table.name] = (table, locate(path, field="interactions", card=card, address=ADDRESS))
    with ExitStack() as stack:
        for path, place in places.items():
            stack.enter_context(named(path, place, each=True))
        return read_tables(files, connection, card, only)


def _place(card: DatasetCard, field: str, path: Path) -> str:
    """What messages call the table: the address of what was copied to `path`."""
    place = getattr(card.source, field)
    return place.rstrip("/") if isinstance(place, str) else str(path)


def _at_hand(card: DatasetCard, field: str, connection: duckdb.DuckDBPyConnection) -> Path:
    """The table's file or folder on this machine."""
    place = getattr(card.source, field)
    if isinstance(place, str):
        return _fetched(place, connection)
    if field == "interactions" and place is not None and place.is_dir():
        return Path(place)
    return locate(place, field=field, card=card, address=ADDRESS)


def _fetched(address: str, connection: duckdb.DuckDBPyConnection) -> Path:
    (folder := scratch(connection) / uuid4().hex).mkdir()
    return fetched(address, folder)


def _below(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): "" for path in sorted(folder.rglob("*")) if path.is_file()}


def _parts(files: dict[str, str], place: str) -> dict[str, str]:
    """Those of a folder's files that are parts: not what writers leave for themselves (_SUCCESS, .crc).

    Raises `InputError` where there is none, or where Parquet files lie beside others.
    """
    found = {name: digest for name, digest in sorted(files.items()) if not _is_left(name)}
    if not found:
        raise InputError(f"{place}: holds no file. A folder of interactions is one of Parquet, CSV or JSON files.")
    others = [name for name in found if Path(name).suffix.lower() not in PARQUET]
    if others and len(others) < len(found):
        raise InputError(
            f"{place}/{others[0]}: is no Parquet file by its name, and others are. A folder of interactions is one of "
            "Parquet files, or one of CSV or JSON files, in subfolders too: move the file away."
        )
    return found


def _is_left(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))
