"""What an adapter of `components/ingest/sources` gives: raw tables, untouched but for their file format."""

import os
import re
from collections.abc import (
    Callable,
    Collection,
    Iterator,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import duckdb

from feature_repo.card import DatasetCard
from feature_repo.card_source import InteractionsTable
from runtime.errors import InputError
from runtime.sql import quoted

# Resolved, as a card's paths are: ../shared may be a link.
SHARED = (Path(__file__).parents[2].parent / "shared" / "data").resolve()
DATA_VARIABLE = "HETERREC_DATA"


@dataclass(frozen=True, kw_only=True)
class SourceTable:
    """A table of a source: `relation` has its columns as c0, c1, …, in source order, and where the source has parts
    `origin`, the part of each row, after them; `names` are what the source calls the columns.

    So no name of a file can be one of the program's, whatever it is.
    """

    relation: duckdb.DuckDBPyRelation
    names: list[str]
    path: Path | None = None
    rejects: str | None = None
    """DuckDB's table of the lines that were no rows; `first_line` is the number of the first row's line."""
    first_line: int = 1
    expected: int | None = None
    """How many rows and lines that are none there must be; where there are not, `carefully` reads them another way."""
    carefully: "Callable[[], SourceTable] | None" = None
    bad: Sequence[tuple[int, str, str | None]] = ()
    """Lines that are no rows: the place among the rows (of its part), from 0, the line, and the part."""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, relation: duckdb.DuckDBPyRelation, *, origin: str | None = None) -> "SourceTable":
        """A relation under its own names, of which `origin` is the column that says the part."""
        names = [name for name in relation.columns if name != origin]
        listed = [f"{quoted(name)} AS c{number}" for number, name in enumerate(names)]
        listed += [f"{quoted(origin)} AS origin"] if origin else []
        return cls(relation=relation.project(", ".join(listed)), names=names)

    def column(self, name: str) -> str:
        """SQL of one of the source's columns. Raises `InputError` where it has none of that name."""
        if name not in self.names:
            raise InputError(f"no column {name!r}. Found: {', '.join(self.names) or 'none'}.")
        return f"c{self.names.index(name)}"

    @property
    def has_origin(self) -> bool:
        return "origin" in self.relation.columns


@dataclass(frozen=True, kw_only=True)
class Raw:
    """Source tables with the column names that the card uses, rows in source order.

    Columns may be of any type that holds the value: keys as numbers, times as strings, lists as one string.
    """

    interactions: SourceTable
    items: SourceTable | None
    """None where the source has no items table: item features are then read off the accepted interactions."""
    users: SourceTable | None = None
    reject: dict[str, str] = field(default_factory=dict)
    """Reasons of this source alone, each with its SQL condition on an interaction's columns (`SourceTable.column`)."""
    notes: tuple[str, ...] = ()


class SourceAdapter(Protocol):
    """An adapter: a module with these three functions."""

    def load(self, card: DatasetCard, connection: duckdb.DuckDBPyConnection, only: Collection[str] | None) -> Raw:
        """The raw tables; of the interactions only the parts `only`, where they are named and the source has parts.

        A source of several parts names each row's part in `origin`, and has an items table.
        Raises `InputError` where they cannot be had.
        """

    def content(self, card: DatasetCard) -> dict[str, Any]:
        """For each part of the interactions a JSON value that changes whenever its rows do; what is no row's
        part (the items) under the name "". A source without parts has that one name only."""

    def identity(self, card: DatasetCard) -> Any:
        """JSON value that stays the same as long as it is the same source, though it grows."""


def locate(path: Path | str | list[InteractionsTable] | None, *, field: str, card: DatasetCard, address: str) -> Path:
    """The file that the card's `source.<field>` names; `$HETERREC_DATA`, where set, stands for ../shared/data.

    Raises `InputError` saying where the data is to be had.
    """
    if path is None:
        raise InputError(f"card {card.name!r}: source.{field} is not set. Give the path of the file. {address}")
    assert not isinstance(path, list), "the card lets the files adapter alone have several tables"
    if isinstance(path, str):
        raise InputError(
            f"{path}: source.{field} of card {card.name!r} is an address; {card.source.adapter} reads files."
        )
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


def where(card: DatasetCard) -> Any:
    """The identity of a source of files: what they are called, wherever they lie."""
    given = card.source.interactions
    interactions = [table.place for table in given] if isinstance(given, list) else [given]
    places = [*interactions, card.source.items, card.source.users]
    return [place if isinstance(place, str) else place.name for place in places if place is not None]


def pattern(path: Path | str) -> str:
    """The path as DuckDB must be told it, which takes `*`, `?` and `[` for patterns."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


@contextmanager
def named(copies: Path, name: str, *, each: bool = False) -> Iterator[None]:
    """Faults told of files in the folder `copies`, which nobody has seen, are told of `name`; of `each` file in it."""
    try:
        yield
    except InputError as error:
        path = re.escape(str(copies)) + ("" if each else r"/[^:,\s]+")
        shown = re.sub(path, lambda _: name, str(error))
        raise InputError(shown) from error.__cause__


def scratch(connection: duckdb.DuckDBPyConnection) -> Path:
    """The folder for copies that live as long as the ingest."""
    ((folder,),) = connection.execute("SELECT current_setting('temp_directory')").fetchall()
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)
