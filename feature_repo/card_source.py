"""Where a card's tables are, and how they are written."""

import codecs
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from feature_repo.keys import NOBODY, is_event_type
from feature_repo.limits import Strict


class Csv(Strict):
    """How a CSV file is written; what is left out is seen from the file."""

    delimiter: str | None = Field(default=None, min_length=1, max_length=4)
    """What separates values; one of , ; | and tab is seen from the header."""
    encoding: str | None = None
    """UTF-8 where it is left out (UTF-16 says so itself); latin-1, cp1252 and what else Python knows."""
    names: list[str] | None = Field(default=None, min_length=1)
    """The columns of a file without a header."""
    decimal: Literal[".", ","] = "."
    """What numbers have before their fraction; with a comma, dots between thousands are taken off."""
    whole: list[str] | None = Field(default=None, min_length=1)
    """Columns of whole numbers that a tool wrote as floating ones (pandas, where some were missing): 17.0 is read as
    17."""

    @model_validator(mode="after")
    def _known(self) -> "Csv":
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError:
                raise ValueError(f"encoding {self.encoding!r} is not known; expected latin-1, cp1252, …") from None
        if self.names and (doubled := sorted({name for name in self.names if self.names.count(name) > 1})):
            raise ValueError(f"names: {', '.join(doubled)} twice")
        return self


class CsvTables(Strict):
    """The same for each table that is a CSV file."""

    interactions: Csv = Csv()
    items: Csv = Csv()
    users: Csv = Csv()


class Sql(Strict):
    """Tables that a database gives. What reaches it is a URL of SQLAlchemy in the environment, and never in a card."""

    url_from: str = Field(pattern=r"^[A-Z][A-Z0-9_]*$")
    """The environment variable that has the URL: postgresql+psycopg://user:password@host/database."""
    interactions: str
    """A query, such as SELECT * FROM clicks."""
    items: str | None = None
    users: str | None = None
    by: str | None = None
    """A column of times or dates of the interactions, such as inserted_at: a day of it that has as many rows as
    before, from the same first to the same last moment, is not read again."""


Address = Annotated[str, Field(pattern=r"^[a-z][a-z0-9+]*://[^@]+$")]
"""Of an object store, as fsspec knows it; who may read it says the environment."""
Place = Annotated[Address | Path, Field(union_mode="left_to_right")]


class InteractionsTable(Strict):
    """One of several tables of interactions: views.csv beside orders.csv."""

    place: Place
    """A file, or a folder of files; a path from the card's folder, or an address."""
    event_type: str | None = None
    """The kind of all its events; left out, its own column says it."""
    columns: dict[str, str] = Field(default_factory=dict)
    """What this table calls what the card's columns name (user_id, event_time, …) or a feature, where it is called
    otherwise there."""
    csv: Csv = Csv()
    """How it is written, where it is a CSV file; what is left out is seen from the file."""

    @property
    def name(self) -> str:
        """Of its part: that of the file or folder."""
        return str(self.place).rstrip("/").rsplit("/", 1)[-1]

    @model_validator(mode="after")
    def _a_type(self) -> "InteractionsTable":
        if self.event_type is not None and not is_event_type(self.event_type):
            raise ValueError(
                f"event_type: {self.event_type!r} is no type of an event: up to 40 letters a to z, digits, spaces and "
                "_ . : / -, a letter or digit first"
            )
        if self.event_type is not None and "event_type" in self.columns:
            raise ValueError("event_type says the kind of all its events; leave columns.event_type out here, or it")
        return self


class CardSource(Strict):
    """Where the data is. `adapter` names a module of components/ingest/sources."""

    adapter: Literal["marketplace", "online_retail", "amazon_beauty", "complete_journey", "files", "sql"]
    interactions: list[InteractionsTable] | Place | None = None
    """A file, or a folder of files; a path from the card's folder, or an address such as s3://bucket/clicks.csv. Or
    several tables, each with its own columns: [{place: views.csv, event_type: view, columns: {event_time: seen}}]."""
    items: Place | None = None
    """Left out: what is known of the items stands on the interactions."""
    users: Place | None = None
    """A file of what is known of the users (the card's user_features)."""
    sql: Sql | None = None
    timezone: str = "UTC"
    """Zone of source times that carry none."""
    time_format: str | None = None
    """How times are written that are neither ISO 8601 nor epochs, in the letters of strptime: %d.%m.%Y %H:%M."""
    csv: CsvTables = CsvTables()
    options: dict[str, int | float | str | bool] = Field(default_factory=dict)
    """Settings of the adapter, e.g. days, users, items and seed of the marketplace."""

    @property
    def has_items(self) -> bool:
        """Whether there is a table of items beside the interactions."""
        if self.adapter in ("files", "sql"):
            return (self.items if self.sql is None else self.sql.items) is not None
        return self.adapter != "online_retail"

    @property
    def has_users(self) -> bool:
        """Whether there is a table of users."""
        if self.adapter == "marketplace":
            return bool(self.options.get("groups"))
        return (self.users if self.sql is None else self.sql.users) is not None

    def identity(self) -> dict[str, Any]:
        """JSON value of all that is said here; what came later counts where it is set, so that runs of before stay
        comparable."""
        said = self.model_dump(mode="json")
        for name in ("sql", "time_format", "users"):
            if said[name] is None:
                del said[name]
        if self.csv.users == Csv():
            del said["csv"]["users"]
        if self.sql is not None and self.sql.users is None:
            del said["sql"]["users"]
        for table in said["csv"].values():
            if table["decimal"] == ".":
                del table["decimal"]
            if table["whole"] is None:
                del table["whole"]
        return said

    @model_validator(mode="after")
    def _of_the_adapter(self) -> "CardSource":
        if self.adapter == "files" and self.interactions is None:
            raise ValueError("the files adapter needs `interactions`, and `items` where there is such a table")
        if isinstance(self.interactions, list):
            self._require_tables(self.interactions)
        if (self.adapter == "sql") != (self.sql is not None):
            raise ValueError(
                "`sql` and the sql adapter go together: sql: {url_from: SHOP_DATABASE, interactions: SELECT …}"
            )
        if self.adapter == "sql" and (self.interactions, self.items, self.users) != (None, None, None):
            raise ValueError("interactions, items and users have no effect beside sql, whose queries give them")
        if self.users is not None and self.adapter not in ("files", "marketplace"):
            raise ValueError(f"users: a table of users is read by the adapters files and sql, not by {self.adapter}")
        if self.adapter == "sql" and self.csv != CsvTables():
            raise ValueError("csv has no effect: the sql adapter reads no file")
        return self

    def _require_tables(self, tables: list[InteractionsTable]) -> None:
        if self.adapter != "files":
            raise ValueError(f"several tables of interactions are read by the files adapter, and not by {self.adapter}")
        names = [table.name for table in tables]
        if len(set(names)) < len(names) or len(names) < 2:
            raise ValueError(
                f"interactions: expected several files of different names, found {', '.join(names) or 'none'}"
            )
        if self.csv.interactions != Csv():
            raise ValueError("csv.interactions has no effect beside several tables: say it as `csv` of each of them")

    @model_validator(mode="after")
    def _whole_times(self) -> "CardSource":
        if self.time_format is None:
            return self
        letters = set(re.findall("%[-#]?([A-Za-z])", self.time_format))
        if letters & {"z", "Z"}:
            raise ValueError("time_format: times with a zone of their own are read as ISO 8601; leave %z out")
        if not (letters & {"Y", "y"} and letters & {"m", "b", "B"} and "d" in letters) and not letters & set("cxDF"):
            raise ValueError(
                f"time_format: {self.time_format!r} names no whole day; expected year, month and day in the letters of "
                "strptime, such as %d.%m.%Y %H:%M"
            )
        return self


class SourceColumns(Strict):
    """Source columns of the two tables. Give `event_time`, or `position` where only the order is known."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    event_time: str | None = None
    position: str | None = None
    created_time: str | None = None
    """When a row was written down, where that may be later than when it happened."""
    event_type: str | None = None
    """What kind of event it is (view, purchase); `events` says what each kind means. Rows of one kind and those of
    another are never the same event."""
    basket: str | None = None
    quantity: str | None = None
    nobody: list[str] = Field(default=list(NOBODY))
    """User ids that stand for no user (null, guest, …), in any case of letters; [] where every id is a user's."""
    item_key: str = "item_id"
    item_available_at: str | None = None
    """Items table: when a row became known. Left out: known before the first interaction."""
    user_key: str = "user_id"
    user_available_at: str | None = None
    """Users table: from when on a row holds; of several rows of a user each event sees the latest before it. Left out:
    one row a user, known before the first interaction and as of the run."""

    @model_validator(mode="after")
    def _ordered(self) -> "SourceColumns":
        if self.event_time is None and self.position is None:
            raise ValueError("columns: give event_time, or position where only the order is known")
        if self.event_time is not None and self.position is not None:
            raise ValueError("columns: position has no effect beside event_time; leave one of them out")
        return self
