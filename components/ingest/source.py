"""What an adapter of `components/ingest/sources` gives: raw tables, untouched but for their file format."""

import csv
import gzip
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import duckdb

from components.errors import InputError
from components.ingest.parse import literal
from feature_repo.card import DatasetCard

# Resolved, as a card's paths are: ../shared may be a link.
SHARED = (Path(__file__).parents[2].parent / "shared" / "data").resolve()
DATA_VARIABLE = "HETERREC_DATA"


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Source tables with the column names that the card uses, rows in source order.

    Columns may be of any type that holds the value: keys as numbers, times as strings, lists as one string.
    """

    interactions: duckdb.DuckDBPyRelation
    items: duckdb.DuckDBPyRelation | None
    """None where the source has no items table: item features are then read off the accepted interactions."""
    reject: dict[str, str] = field(default_factory=dict)
    """Reasons of this source alone: reason to the SQL condition on an interaction's raw columns."""
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """An adapter: a module with these three functions."""

    def load(self, card: DatasetCard, connection: duckdb.DuckDBPyConnection, only: Collection[str] | None) -> Raw:
        """The raw tables; of the interactions only the parts `only`, where they are named and the source has parts.

        A source of several parts names each row's part in a column `__origin`, and has an items table.
        Raises `InputError` where they cannot be had.
        """

    def content(self, card: DatasetCard) -> dict[str, Any]:
        """For each part of the interactions a JSON value that changes whenever its rows do; what is no row's
        part (the items) under the name "". A source without parts has that one name only."""

    def identity(self, card: DatasetCard) -> Any:
        """JSON value that stays the same as long as it is the same source, though it grows."""


def locate(path: Path | None, *, field: str, card: DatasetCard, address: str) -> Path:
    """The file that the card's `source.<field>` names; `$HETERREC_DATA`, where set, stands for ../shared/data.

    Raises `InputError` saying where the data is to be had.
    """
    if path is None:
        raise InputError(f"card {card.name!r}: source.{field} is not set. Give the path of the file. {address}")
    folder = os.environ.get(DATA_VARIABLE)
    ours = path.is_relative_to(SHARED)
    if folder and ours:
        path = Path(folder).expanduser() / path.relative_to(SHARED)
    if not path.is_file():
        advice = f"Put it there, or correct source.{field}: a path is relative to the card's folder."
        if ours:
            advice = (
                f"Put it there, set {DATA_VARIABLE} to the folder that takes the place of {SHARED}, or point "
                f"source.{field} of a copy of the card to it."
            )
        raise InputError(f"{path}: no such file (source.{field} of card {card.name!r}). {address} {advice}")
    return path


def read(path: Path, connection: duckdb.DuckDBPyConnection, *, table: str) -> duckdb.DuckDBPyRelation:
    """A Parquet file, or a CSV file (also .gz) whose values all stay strings, to be judged row by row.

    Lines that are no CSV are left out of the relation; a scan of it collects them as `rejects_<table>`.
    """
    try:
        if path.suffix in (".parquet", ".pq"):
            return connection.read_parquet(str(path))
        if any(suffix in (".csv", ".tsv") for suffix in path.suffixes):
            return _read_csv(path, connection, table)
    except duckdb.Error as error:
        raise unreadable(path, error) from error
    raise InputError(f"{path}: cannot tell the format from its name. Expected .parquet, .csv, .csv.gz or .tsv.")


def where(card: DatasetCard) -> Any:
    """The identity of a source of files: what they are called, wherever they lie."""
    return [path.name for path in (card.source.interactions, card.source.items) if path is not None]


def unreadable(path: Path | str, error: Exception) -> InputError:
    first = str(error).splitlines()[0]
    return InputError(f"{path}: cannot be read: {first} Expected a whole Parquet file, or a UTF-8 CSV with a header.")


def _read_csv(path: Path, connection: duckdb.DuckDBPyConnection, table: str) -> duckdb.DuckDBPyRelation:
    # DuckDB's own sniffer lets a few bad lines talk it into another separator; the header alone decides here.
    delimiter, names = _header(path)
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    return connection.sql(
        f"SELECT * FROM read_csv({literal(str(path))}, columns = {{{columns}}}, delim = {literal(delimiter)}, "
        "header = true, auto_detect = false, quote = '\"', escape = '\"', ignore_errors = true, store_rejects = true, "
        f"rejects_table = 'rejects_{table}', rejects_scan = 'scan_of_{table}')"
    )


def _header(path: Path) -> tuple[str, list[str]]:
    """Separator and column names."""
    try:
        # As bytes: a bad one further down is the matter of its own line.
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            line = file.readline().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise unreadable(path, error) from error
    if not line.strip():
        raise InputError(f"{path}: is empty. Expected a CSV with a header of column names.")
    delimiter = max(",;\t|", key=line.count)
    names = next(csv.reader([line], delimiter=delimiter))
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path}: the header has {', '.join(map(repr, doubled))} twice. Rename one of them.")
    return delimiter, names
