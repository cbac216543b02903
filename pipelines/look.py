"""What can be seen of tables that nobody has described: how they are written, and what each column holds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from components.errors import InputError
from components.ingest.parse import Given, literal, time
from components.ingest.read import read
from components.ingest.source import Table
from components.ingest.text import is_text, opened
from feature_repo.card import DatasetCard
from feature_repo.keys import spelled_sql

LOOKED_AT = 500_000
"""Rows of a table that are looked at for what a column holds."""
_DATA = re.compile(r"[-+]?[0-9][-+.0-9: TZ/]*")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """A column: what it is called, and figures of the rows looked at that have a value."""

    name: str
    sql: str
    kind: str
    """DuckDB's type."""
    key: str
    """SQL of its value as an id."""
    rows: int
    filled: int
    distinct: int
    numbers: float
    """Share of the values that are numbers."""
    whole: float
    """Share that are whole numbers."""
    times: float
    """Share that are times."""
    words: float
    """Words in a value, on the average."""
    longest: int
    example: str

    @property
    def missing(self) -> float:
        return 1 - self.filled / max(1, self.rows)

    def says(self, pattern: str) -> bool:
        """Whether its name has one of these words."""
        return re.search(rf"(?:^|[^a-z])(?:{pattern})(?:$|[^a-z])", _apart(self.name)) is not None


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A table in DuckDB under `name`, its file, and how that is written beyond what ingest sees by itself."""

    path: Path
    name: str
    rows: int
    columns: list[Seen]
    csv: dict[str, Any] = field(default_factory=dict)
    evidence: list[str] = field(default_factory=list)


def look(path: Path, connection: duckdb.DuckDBPyConnection, name: str) -> Looked:
    """Raises `InputError` where the file cannot be read as a table."""
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give the files of the interactions and of the items.")
    csv, evidence = _written(path)
    table = _read(path, connection, csv)
    if csv_needs_names(table):
        csv["names"] = [f"column_{number}" for number in range(len(table.names))]
        evidence.append("no header: its first line is like the others; the names are made up by place")
        table = _read(path, connection, csv)
    connection.execute(f"CREATE TEMP TABLE {name} AS FROM ({table.relation.sql_query()})")
    ((rows,),) = connection.execute(f"SELECT count(*) FROM {name}").fetchall()
    kinds = {column: kind for column, kind, *_ in connection.execute(f"DESCRIBE {name}").fetchall()}
    columns = [_seen(connection, name, Given(each, f"c{n}", kinds[f"c{n}"])) for n, each in enumerate(table.names)]
    return Looked(path=path, name=name, rows=rows, columns=columns, csv=csv, evidence=evidence)


def csv_needs_names(table: Table) -> bool:
    """Whether what stands for names is data: half of it numbers or dates."""
    if table.first_line == 1:
        return False  # named, or no CSV
    return 2 * sum(_DATA.fullmatch(name) is not None for name in table.names) >= len(table.names)


def _written(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Separator and encoding, where ingest would not see them."""
    csv: dict[str, Any] = {}
    evidence: list[str] = []
    if not is_text(path):
        return csv, evidence
    with opened(path) as file:
        content = file.read(50_000_000)
    if not content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            content[:-4].decode()
        except UnicodeDecodeError as error:
            csv["encoding"] = "cp1252" if re.search(rb"[\x80-\x9f]", content) else "latin-1"
            evidence.append(f"{csv['encoding']}: byte {content[error.start]:#x} at {error.start} is no UTF-8")
        first = content.split(b"\n", 1)[0]
        if b"::" in first and not re.search(rb"[,;\t|]", first.replace(b"::", b"")):
            csv["delimiter"] = "::"
            evidence.append("separated by ::, as its first line is")
    return csv, evidence


def _read(path: Path, connection: duckdb.DuckDBPyConnection, csv: dict[str, Any]) -> Table:
    card = DatasetCard.model_validate(
        {
            "name": "looked_at",
            "description": "",
            "source": {"adapter": "files", "interactions": path, "items": path, "csv": {"interactions": csv}},
            "features": [],
            "split": {"by": "time"},
        }
    )
    return read(path, connection, card, table="interactions")


def _seen(connection: duckdb.DuckDBPyConnection, table: str, given: Given) -> Seen:
    single = not given.kind.endswith("]") and not given.kind.startswith(("STRUCT", "MAP"))
    text = f"nullif(trim({given.sql}::VARCHAR), '')"
    key = spelled_sql(given.sql, given.kind) if single else text
    moment = "false"
    if single and given.kind not in ("BOOLEAN", "TIME"):
        moment = f"({time('t', given, zone='UTC', latest='now()').value}) BETWEEN TIMESTAMPTZ '1971-01-01' AND now()"
    figures = connection.execute(
        f"SELECT count(*), count(k), count(DISTINCT k), avg((TRY_CAST(k AS DOUBLE) IS NOT NULL)::INT), "
        "avg((TRY_CAST(k AS DOUBLE) = floor(TRY_CAST(k AS DOUBLE)))::INT), avg(coalesce(m, false)::INT), "
        "avg(len(string_split(k, ' '))), max(length(k)), any_value(k) "
        f"FROM (SELECT {key} AS k, {moment} AS m FROM {table} LIMIT {LOOKED_AT}) WHERE true"
    ).fetchall()[0]
    rows, filled, distinct, numbers, whole, times, words, longest, example = figures
    share = rows / max(1, filled)
    return Seen(
        name=given.name,
        sql=given.sql,
        kind=given.kind,
        key=key,
        rows=rows,
        filled=filled,
        distinct=distinct,
        numbers=(numbers or 0.0),
        whole=(whole or 0.0),
        times=(times or 0.0) * share,
        words=(words or 0.0),
        longest=longest or 0,
        example=str(example or "")[:40],
    )


def overlap(connection: duckdb.DuckDBPyConnection, one: Looked, a: Seen, other: Looked, b: Seen) -> float:
    """Share of the rows of `one` whose value of `a` is a value of `b`."""
    ((share,),) = connection.execute(
        f"SELECT avg((k IN (SELECT {b.key} FROM {other.name}))::INT) FROM (SELECT {a.key} AS k FROM {one.name} "
        f"LIMIT {LOOKED_AT}) WHERE k IS NOT NULL"
    ).fetchall()
    return float(share or 0.0)


def counted(connection: duckdb.DuckDBPyConnection, table: Looked, column: Seen, most: int) -> dict[str, int]:
    """The most frequent values of a column."""
    return dict(
        connection.execute(
            f"SELECT {column.key} AS k, count(*) FROM {table.name} WHERE k IS NOT NULL GROUP BY 1 "
            f"ORDER BY 2 DESC, 1 LIMIT {most}"
        ).fetchall()
    )


def shares(connection: duckdb.DuckDBPyConnection, table: Looked, column: Seen, patterns: Sequence[str]) -> list[float]:
    """Share of the values of a column that match each of the regular expressions."""
    tests = ", ".join(f"avg(regexp_matches({column.sql}::VARCHAR, {literal(pattern)})::INT)" for pattern in patterns)
    return [float(share or 0) for share in connection.execute(f"SELECT {tests} FROM {table.name}").fetchall()[0]]


def _apart(name: str) -> str:
    """A name with its words apart: userId and USER-ID alike are `user id`."""
    return re.sub(r"[^a-z0-9]+", " ", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower())
