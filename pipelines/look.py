"""What can be seen of tables that nobody has described: how they are written, and what each column holds."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from components.ingest.parse import NAIVE_TIMES, Given, time
from components.ingest.read import looks_like_json, read
from components.ingest.source import SourceTable
from components.ingest.text import SEPARATORS, is_text, opened
from feature_repo.card import DatasetCard
from feature_repo.keys import spelled_sql
from runtime.errors import InputError
from runtime.sql import literal

LOOKED_AT = 500_000
"""Rows of a table that are looked at for what a column holds."""
GLANCED_AT = 2_000
"""Rows that tell whether a column is worth a longer look."""
_DATA = re.compile(r"[-+]?[0-9][-+.,0-9: TZ/]*|https?://.*")
"""What stands in rows and hardly in headers."""
_DOTTED = "^ *[-+]?[0-9]+[.]0+ *$"
_FORMATS = tuple(
    f"{day}{hour}"
    for day in ("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d-%b-%Y", "%d %b %Y", "%b %d, %Y",
                "%Y/%m/%d", "%Y%m%d", "%m/%d/%y", "%d.%m.%y")
    for hour in ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
)  # fmt: skip
"""Ways to write a time that ingest reads where the card says so."""


@dataclass(frozen=True, kw_only=True)
class InspectedColumn:
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
    format: str | None
    """How its times are written, where ingest must be told."""
    local: bool
    """Whether its times carry no zone of their own."""
    dotted: bool
    """Whether a CSV has whole numbers as 17.0."""
    words: float
    """Words in a value, on the average."""
    longest: int
    example: str

    @property
    def missing(self) -> float:
        return 1 - self.filled / max(1, self.rows)

    def says(self, pattern: str) -> bool:
        """Whether its name has one of these words."""
        return says(self.name, pattern)


def says(name: str, pattern: str) -> bool:
    """Whether a name has one of the words of a pattern, alone or as in itemid and Artikelnummer."""
    after = "(?:s|id|ids|nr|no|num|number|nummer|key|code|name)?"
    return re.search(rf"(?:^|[^a-z])(?:{pattern}){after}(?:$|[^a-z])", _apart(name)) is not None


@dataclass(frozen=True, kw_only=True)
class InspectedTable:
    """A table in DuckDB under `name`, its file, and how that is written beyond what ingest sees by itself."""

    path: Path
    name: str
    rows: int
    columns: list[InspectedColumn]
    csv: dict[str, Any] = field(default_factory=dict)
    evidence: list[str] = field(default_factory=list)


def look(path: Path, connection: duckdb.DuckDBPyConnection, name: str) -> InspectedTable:
    """Raises `InputError` where the file cannot be read as a table."""
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give the files of the interactions and of the items.")
    csv, evidence = _written(path)
    if is_text(path) and not looks_like_json(path) and (width := _without_header(path, csv)):
        csv["names"] = [f"column_{number}" for number in range(width)]
        evidence.append("no header: its first line is like the others; the names are made up by place")
    table = _read(path, connection, csv)
    connection.execute(f"CREATE TEMP TABLE {name} AS FROM ({table.relation.sql_query()})")
    looked = seen(connection, name, path, table.names)
    return replace(looked, csv=csv, evidence=evidence)


def seen(connection: duckdb.DuckDBPyConnection, name: str, path: Path, names: Sequence[str]) -> InspectedTable:
    """The figures of the table `name`, whose columns are c0, c1, … and are called `names`."""
    ((rows,),) = connection.execute(f"SELECT count(*) FROM {name}").fetchall()
    kinds = {column: kind for column, kind, *_ in connection.execute(f"DESCRIBE {name}").fetchall()}
    columns = [_seen(connection, name, Given(each, f"c{n}", kinds[f"c{n}"])) for n, each in enumerate(names)]
    return InspectedTable(path=path, name=name, rows=rows, columns=columns)


def _without_header(path: Path, how: dict[str, Any]) -> int:
    """How many columns a CSV without a header has; 0 where its first line names them."""
    with opened(path) as file:
        head = file.readline(1 << 20).removeprefix(b"\xef\xbb\xbf")
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"sep=", b'"sep=')):
        return 0
    first = head.decode(how.get("encoding", "utf-8"), "replace").splitlines()[0] if head.strip() else ""
    separator = how.get("delimiter") or max(SEPARATORS, key=re.sub(r'"[^"]*"', "", first).count)
    values = [value.strip(' "') for value in first.split(separator)]
    values = values[:-1] if len(values) > 1 and not values[-1] else values
    data = [value for value in values if _DATA.fullmatch(value)]
    # A frame of pandas whose columns nobody named has 0, 1, 2, … for a header.
    return len(values) if data and data != [str(number) for number in range(len(data))] else 0


def _written(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Separator and encoding, where ingest would not see them."""
    csv: dict[str, Any] = {}
    evidence: list[str] = []
    if not is_text(path) or looks_like_json(path):
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


def _read(path: Path, connection: duckdb.DuckDBPyConnection, csv: dict[str, Any]) -> SourceTable:
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


def _seen(connection: duckdb.DuckDBPyConnection, table: str, given: Given) -> InspectedColumn:
    single = not given.kind.endswith("]") and not given.kind.startswith(("STRUCT", "MAP"))
    text = f"nullif(trim({given.sql}::VARCHAR), '')"
    key = spelled_sql(given.sql, given.kind) if single else text
    dotted = (
        given.kind == "VARCHAR"
        and _share_of_values(connection, table, given, f"regexp_matches({text}, '{_DOTTED}')") > 0.999
    )
    key = f"regexp_replace({key}, '[.]0+$', '')" if dotted else key
    times, written = 0.0, None
    if single and given.kind not in ("BOOLEAN", "TIME"):
        times, written = _times(connection, table, given)
    figures = connection.execute(
        f"SELECT count(*), count(k), count(DISTINCT k), avg((TRY_CAST(k AS DOUBLE) IS NOT NULL)::INT), "
        "avg((TRY_CAST(k AS DOUBLE) = floor(TRY_CAST(k AS DOUBLE)))::INT), "
        "avg(len(string_split(k, ' '))), max(length(k)), any_value(k) "
        f"FROM (SELECT {key} AS k FROM {table} LIMIT {LOOKED_AT})"
    ).fetchall()[0]
    rows, filled, distinct, numbers, whole, words, longest, example = figures
    return InspectedColumn(
        name=given.name,
        sql=given.sql,
        kind=given.kind,
        key=key,
        rows=rows,
        filled=filled,
        distinct=distinct,
        numbers=(numbers or 0.0),
        whole=(whole or 0.0),
        times=times,
        format=written,
        local=given.kind in NAIVE_TIMES or (given.kind == "VARCHAR" and re.search(_ZONE, str(example)) is None),
        dotted=dotted,
        words=(words or 0.0),
        longest=longest or 0,
        example=str(example or "")[:40],
    )


_PLAUSIBLE = "BETWEEN TIMESTAMPTZ '1971-01-01' AND now()"
_ZONE = r"[0-9](Z|z| ?UTC| ?GMT| ?[-+][0-9]{2}:?[0-9]{2}| [A-Z]{3,4})$|^[0-9.]+$"


def _times(connection: duckdb.DuckDBPyConnection, table: str, given: Given) -> tuple[float, str | None]:
    """Share of a column's values that are times, and how they are written where ingest must be told."""
    written = None
    share = _share_of_values(connection, table, given, f"({_moment(given, None)}) {_PLAUSIBLE}", rows=GLANCED_AT)
    if share < 0.5 and (written := _format(connection, table, given)) is None:
        return share, None
    return _share_of_values(connection, table, given, f"({_moment(given, written)}) {_PLAUSIBLE}"), written


def _share_of_values(
    connection: duckdb.DuckDBPyConnection, table: str, given: Given, test: str, rows: int = LOOKED_AT
) -> float:
    """Of the values of a column those for which `test` holds."""
    ((share,),) = connection.execute(
        f"SELECT avg(coalesce({test}, false)::INT) FROM (FROM {table} LIMIT {rows}) "
        f"WHERE nullif(trim({given.sql}::VARCHAR), '') IS NOT NULL"
    ).fetchall()
    return float(share or 0.0)


def _format(connection: duckdb.DuckDBPyConnection, table: str, given: Given) -> str | None:
    """How the times of a column are written; of two ways that read all of them the one by which they lie closer."""
    if given.kind != "VARCHAR" and given.kind not in ("INTEGER", "BIGINT"):
        return None
    rows = connection.execute(
        f"SELECT trim({given.sql}::VARCHAR) FROM {table} WHERE nullif(trim({given.sql}::VARCHAR), '') IS NOT NULL "
        f"LIMIT {GLANCED_AT}"
    ).fetchall()
    found: list[tuple[timedelta, str]] = []
    for way in _FORMATS:
        try:
            moments = [datetime.strptime(text, way) for (text,) in rows]
        except ValueError:
            continue
        if moments and min(moments).year >= 1971 and max(moments) < datetime.now() + timedelta(days=1):
            found.append((max(moments) - min(moments), way))
    return min(found)[1] if found else None


def _moment(given: Given, written: str | None) -> str:
    return time("t", given, zone="UTC", latest="now()", written=written).value


def moment(column: InspectedColumn) -> str:
    """SQL of the moment in a column of times."""
    return _moment(Given(column.name, column.sql, column.kind), column.format)


def overlap(
    connection: duckdb.DuckDBPyConnection,
    one: InspectedTable,
    a: InspectedColumn,
    other: InspectedTable,
    b: InspectedColumn,
) -> float:
    """Share of the rows of `one` whose value of `a` is a value of `b`."""
    ((share,),) = connection.execute(
        f"SELECT avg((k IN (SELECT o FROM (SELECT {b.key} AS o FROM {other.name}) WHERE o IS NOT NULL))::INT) "
        f"FROM (SELECT {a.key} AS k FROM {one.name} LIMIT {LOOKED_AT}) WHERE k IS NOT NULL"
    ).fetchall()
    return float(share or 0.0)


def counted(
    connection: duckdb.DuckDBPyConnection, table: InspectedTable, column: InspectedColumn, most: int
) -> dict[str, int]:
    """The most frequent values of a column."""
    return dict(
        connection.execute(
            f"SELECT {column.key} AS k, count(*) FROM {table.name} WHERE k IS NOT NULL GROUP BY 1 "
            f"ORDER BY 2 DESC, 1 LIMIT {most}"
        ).fetchall()
    )


def shares(
    connection: duckdb.DuckDBPyConnection, table: InspectedTable, column: InspectedColumn, patterns: Sequence[str]
) -> list[float]:
    """Share of the values of a column that match each of the regular expressions."""
    tests = ", ".join(f"avg(regexp_matches({column.sql}::VARCHAR, {literal(pattern)})::INT)" for pattern in patterns)
    return [float(share or 0) for share in connection.execute(f"SELECT {tests} FROM {table.name}").fetchall()[0]]


def _apart(name: str) -> str:
    """A name with its words apart: userId and USER-ID alike are `user id`."""
    return re.sub(r"[^a-z0-9]+", " ", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower())
