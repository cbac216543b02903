"""The database of the rollout: opened at an address, each fault of it told in one sentence without a password.

SQLite by default; any database that SQLAlchemy speaks works, PostgreSQL in a cluster.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import (
    Connection,
    Index,
    Table,
    create_engine,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable

_LOCK_SECONDS = 30


class TableAway(RuntimeError):
    """The database does not answer, or what it holds is none of ours: nothing was changed."""


class Database:
    """Opens the database at `url`, e.g. `sqlite:///var/rollout.db`; whatever fails there is a `TableAway`."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        self.where = parsed.render_as_string(hide_password=True)
        self._engine = create_engine(parsed, connect_args={"timeout": _LOCK_SECONDS} if sqlite else {})

    def close(self) -> None:
        self._engine.dispose()

    def create(self, *parts: Table | Index) -> None:
        """Make the tables and indices that are not there. `create_all` looks before it creates: two processes may
        collide."""
        with self.writing() as connection:
            for part in parts:
                made = CreateTable(part, if_not_exists=True) if isinstance(part, Table) else None
                connection.execute(made if made is not None else CreateIndex(part, if_not_exists=True))  # type: ignore[arg-type]

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._explained(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        with self._explained(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = " ".join(str(getattr(error, "orig", None) or error).split())
            raise TableAway(f"rollout table {self.where}: {cause}") from error
