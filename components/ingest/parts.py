"""A folder of CSV or JSON files as one of Parquet files: the same names, each value as its own file has it."""

from collections.abc import Collection, Sequence
from pathlib import Path
from uuid import uuid4

import duckdb

from components.errors import InputError
from components.ingest.judge import keep
from components.ingest.parse import literal, quoted
from components.ingest.read import read
from components.ingest.source import scratch
from feature_repo.card import DatasetCard

PARQUET = (".parquet", ".pq", ".parq")
TABLE = "part_of_interactions"


def as_parquet(
    folder: Path,
    names: Sequence[str],
    connection: duckdb.DuckDBPyConnection,
    card: DatasetCard,
    only: Collection[str] | None,
) -> tuple[Path, list[tuple[str, int, str]]]:
    """The folder of copies, and the lines that are no rows: (file, number among its records from 0, line).

    Columns go by their names: files may have them in another order, and one may lack some. Files that are not among
    `only` have their columns and no rows. Raises `InputError` where a file cannot be read.
    """
    target = scratch(connection) / uuid4().hex
    bad: list[tuple[str, int, str]] = []
    for name in names:
        table = read(folder / name, connection, card, table="interactions")
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        columns = ", ".join(f"c{n} AS {quoted(each)}" for n, each in enumerate(table.names))
        if only is not None and name not in only:
            connection.sql(f"SELECT {columns} FROM ({table.relation.sql_query()}) LIMIT 0").write_parquet(str(copy))
            continue
        keep(connection, TABLE, table)
        if any("=" in part for part in Path(name).parts[:-1]) and (said := _twice(name, table.names)):
            raise InputError(f"{folder / name}: {said!r} is a column, and a part of the folder's name. Rename one.")
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
