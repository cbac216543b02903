"""A folder of CSV or JSON files as one of Parquet files: the same names, each value as its own file has it."""

from collections.abc import (
    Callable,
    Collection,
    Mapping,
    Sequence,
)
from pathlib import Path
from uuid import uuid4

import duckdb

from components.ingest.read import read
from components.ingest.row_validation import keep
from components.ingest.source import SourceTable, scratch
from feature_repo.card import DatasetCard
from runtime.errors import InputError
from runtime.sql import literal, quoted

PARQUET = (".parquet", ".pq", ".parq")
TABLE = "part_of_interactions"


def all_columns(name: str, table: SourceTable) -> str:
    """Each column under the name that the file gives it."""
    return ", ".join(f"c{n} AS {quoted(each)}" for n, each in enumerate(table.names))


def as_parquet(
    files: Mapping[str, Path],
    connection: duckdb.DuckDBPyConnection,
    card_of: Callable[[str], DatasetCard],
    only: Collection[str] | None,
    columns_of: Callable[[str, SourceTable], str] = all_columns,
) -> tuple[Path, list[tuple[str, int, str]]]:
    """The folder of copies, and the lines that are no rows: (file, number among its records from 0, line).

    `files` by the names of their copies, each read as `card_of` says and written with the columns (SQL) that
    `columns_of` chooses. Columns go by their names: files may have them in another order, and one may lack some. Files
    that are not among `only` have their columns and no rows. Raises `InputError` where a file cannot be read.
    """
    target = scratch(connection) / uuid4().hex
    bad: list[tuple[str, int, str]] = []
    for name, path in files.items():
        table = read(path, connection, card_of(name), table="interactions")
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        columns = columns_of(name, table)
        if only is not None and name not in only:
            connection.sql(f"SELECT {columns} FROM ({table.relation.sql_query()}) LIMIT 0").write_parquet(str(copy))
            continue
        keep(connection, TABLE, table)
        if any("=" in part for part in Path(name).parts[:-1]) and (said := _twice(name, table.names)):
            raise InputError(f"{path}: {said!r} is a column, and a part of the folder's name. Rename one.")
        connection.execute(
            f"COPY (SELECT {columns} FROM raw_{TABLE} ORDER BY row) TO {literal(str(copy))} (FORMAT parquet)"
        )
        bad += [
            (name, row, line)
            for row, line in connection.execute(f"SELECT row, line FROM lines_{TABLE} ORDER BY row").fetchall()
        ]
    connection.execute(f"DROP TABLE IF EXISTS raw_{TABLE}; DROP TABLE IF EXISTS lines_{TABLE}")
    return target, bad


def _twice(name: str, columns: Sequence[str]) -> str | None:
    keys = [part.partition("=")[0] for part in Path(name).parts[:-1] if "=" in part]
    return next((key for key in keys if key in columns), None)
