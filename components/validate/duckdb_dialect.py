"""DuckDB as a database of Great Expectations: a dialect of SQLAlchemy over a connection that is open already.

Great Expectations knows no DuckDB, and asks by the name of the dialect how a regular expression, a quantile or a
pattern is written. DuckDB's SQL is PostgreSQL's in all of these but one, so that the dialect says that it is PostgreSQL
and writes the one itself. No package does this: duckdb-engine 0.17 reads the columns by a way that SQLAlchemy 2.1 no
longer has, and every expectation over it ends in an error.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects import postgresql, registry
from sqlalchemy.dialects.postgresql.base import PGCompiler, PGDialect

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

URL = "postgresql+duckdb://"
TYPES = {
    "VARCHAR": postgresql.VARCHAR(),
    "BIGINT": postgresql.BIGINT(),
    "DOUBLE": postgresql.DOUBLE_PRECISION(),
    "BOOLEAN": postgresql.BOOLEAN(),
    "TIMESTAMP WITH TIME ZONE": postgresql.TIMESTAMP(),
}
"""DuckDB's names of the types that the views of `checked.py` have."""

registry.register("postgresql.duckdb", __name__, "DuckDB")


class _Compiler(PGCompiler):
    def visit_custom_op_binary(self, element: Any, operator: Any, **options: Any) -> str:
        """PostgreSQL's `~` finds the expression anywhere in a text; DuckDB's asks that all of it matches."""
        if operator.opstring not in ("~", "!~"):
            return str(super().visit_custom_op_binary(element, operator, **options))  # type: ignore[no-untyped-call]
        text, regex = (self.process(side, **options) for side in (element.left, element.right))
        found = f"regexp_matches({text}, {regex})"
        return found if operator.opstring == "~" else f"(NOT {found})"


class DuckDB(PGDialect):
    """What Great Expectations asks of a database, and no more: queries, and the columns of a view."""

    driver = "duckdb"
    statement_compiler = _Compiler
    default_paramstyle = "qmark"
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Any:
        import duckdb

        return duckdb

    def initialize(self, connection: Any) -> None:
        """PostgreSQL's would ask for its version and settings."""
        self.server_version_info, self.default_schema_name = (15,), "main"

    def has_table(self, connection: Any, table_name: str, schema: str | None = None, **_: Any) -> bool:
        return any(self.get_columns(connection, table_name))

    def get_columns(self, connection: Any, table_name: str, schema: str | None = None, **_: Any) -> list[Any]:
        rows = connection.exec_driver_sql(
            "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index",
            (str(table_name),),
        )
        return [{"name": name, "type": TYPES[kind], "nullable": True, "default": None} for name, kind in rows]

    def get_pk_constraint(self, connection: Any, table_name: str, schema: str | None = None, **_: Any) -> Any:
        return {"constrained_columns": [], "name": None}


def creator(db: "DuckDBPyConnection") -> Callable[[], "_Connection"]:
    """What SQLAlchemy opens a connection by: always `db` itself, whose views and settings no other connection has."""
    return lambda: _Connection(db)


class _Connection:
    """`db` as PEP 249 has it. Nothing is written by it, and it is not its to close."""

    def __init__(self, db: "DuckDBPyConnection") -> None:
        self._db = db

    def cursor(self) -> "_Cursor":
        return _Cursor(self._db)

    def commit(self) -> None: ...

    def rollback(self) -> None: ...

    def close(self) -> None: ...


class _Cursor:
    """Holds the rows of its query: a connection of DuckDB has one result at a time. They are few, being aggregates or
    the first rows that were not expected."""

    arraysize = 1
    rowcount = -1

    def __init__(self, db: "DuckDBPyConnection") -> None:
        self._db = db
        self._rows: Iterator[Any] = iter(())
        self.description: Any = None

    def execute(self, query: str, parameters: Sequence[Any] = ()) -> None:
        done = self._db.execute(query, list(parameters))
        self.description = done.description
        self._rows = (tuple(map(_in_utc, row)) for row in done.fetchall())

    def fetchone(self) -> Any:
        return next(self._rows, None)

    def fetchmany(self, size: int = arraysize) -> list[Any]:
        return list(islice(self._rows, size))

    def fetchall(self) -> list[Any]:
        return list(self._rows)

    def close(self) -> None: ...


def _in_utc(value: Any) -> Any:
    """A moment without its zone, as those are that Great Expectations reads from JSON: it compares the two itself."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    return value
