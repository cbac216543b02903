"""DuckDB as every process here opens it, and how its SQL spells the names and strings of others."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY = "2GB"
"""What a session may hold; the rest of a larger table goes to disk."""


@contextmanager
def session(memory: str = MEMORY) -> Iterator["DuckDBPyConnection"]:
    """A database in memory, for one piece of work. Times are read and shown in UTC.

    What does not fit into `memory` goes to a folder that is gone afterwards. No extension is fetched from the network.
    """
    import duckdb  # a fifth of a second, which not every command that quotes a name has to wait for

    with TemporaryDirectory(prefix="duckdb-") as spill, duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = {literal(memory)}; SET temp_directory = {literal(spill)}")
        connection.execute("SET TimeZone = 'UTC'; SET autoinstall_known_extensions = false")
        connection.execute("SET enable_progress_bar = false")  # it would be drawn into a run's log
        yield connection


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """An SQL string."""
    return "'" + text.replace("'", "''") + "'"


def literals(texts: Iterable[str]) -> str:
    """SQL strings, as they stand in a list."""
    return ", ".join(map(literal, texts))
