"""The events artifact as DuckDB tables, cut at `as_of`: the one way the steps after ingest read it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.card import DatasetCard
from feature_repo.card_features import Described
from feature_repo.kinds import Storage
from runtime.errors import InputError
from runtime.sql import literals, session

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

TIME = pa.timestamp("us", tz="UTC")
USERS = "users.parquet"
"""Of the sequences artifact: what is known of each user as of the run."""
_ARROW = {
    Storage.TEXT: pa.string(),
    Storage.TEXTS: pa.list_(pa.string()),
    Storage.NUMBER: pa.float64(),
    Storage.VECTOR: pa.list_(pa.float32()),
}


def arrow_type(feature: Described) -> pa.DataType:
    """Column type of a feature, docs/contracts.md "The card"."""
    return _ARROW[feature.storage]


_KEYS = {"item_id": pa.string(), "event_time": TIME, "created_time": TIME}
_EVENT = {
    "event_id": pa.string(),
    "user_id": pa.string(),
    **_KEYS,
    "position": pa.int64(),
    "basket": pa.string(),
    "event_type": pa.string(),
}


@dataclass(frozen=True, kw_only=True)
class EventsTable:
    """One table of the events artifact: its Parquet files (a glob below the artifact) and its columns."""

    name: str
    files: str
    columns: dict[str, pa.DataType]

    def paths(self, events: Path) -> list[Path]:
        return sorted(events.glob(self.files))


def tables(card: DatasetCard) -> list[EventsTable]:
    """The tables that `card` asks for, with the columns the contract gives them."""
    found = [
        EventsTable(
            name="interactions", files="interactions/day=*/*.parquet", columns={**_EVENT, **_columns(card.observed)}
        ),
        EventsTable(name="items", files="items/static.parquet", columns={**_KEYS, **_columns(card.static)}),
    ]
    if card.varying:
        columns = {**_KEYS, **_columns(card.varying)}
        found.append(EventsTable(name="varying", files="items/varying/day=*/*.parquet", columns=columns))
    if card.derived:
        columns = {**_KEYS, **_columns(card.derived)}
        found.append(EventsTable(name="derived", files="items/derived/day=*/*.parquet", columns=columns))
    if card.user_features:
        columns = {"user_id": pa.string(), "event_time": TIME, "created_time": TIME, **_columns(card.user_features)}
        found.append(EventsTable(name="users", files="users/static.parquet", columns=columns))
    return found


def differences(card: DatasetCard, events: Path) -> list[dict[str, str]]:
    """Where the files differ from the card: {table, column, found, expected}, one entry a column."""
    found = []
    for table in tables(card):
        paths = table.paths(events)
        if not paths:
            found.append(
                {"table": table.name, "column": "*", "found": "no file", "expected": f"{events / table.files}"}
            )
            continue
        schema = pq.read_schema(paths[0])
        for column, expected in table.columns.items():
            actual = schema.field(column).type if column in schema.names else None
            if actual is None or not _agrees(actual, expected):
                found.append(
                    {"table": table.name, "column": column, "found": str(actual or "none"), "expected": str(expected)}
                )
    return found


def require_columns(card: DatasetCard, events: Path) -> None:
    """Raise `InputError` where the events artifact lacks what the card declares."""
    if found := differences(card, events):
        lines = [f"{f['table']}.{f['column']}: found {f['found']}, expected {f['expected']}" for f in found]
        raise InputError(
            f"{events}: does not fit card {card.name!r}: {'; '.join(lines)}. Correct the card or ingest again."
        )


def read_as_of(facts: Path) -> datetime:
    """`as_of` of the resolved facts (a folder with facts.json, or the file)."""
    path = facts / "facts.json" if facts.is_dir() else facts
    return datetime.fromisoformat(json.loads(path.read_text())["as_of"])


@contextmanager
def open_events(card: DatasetCard, events: Path, as_of: datetime) -> Iterator["DuckDBPyConnection"]:
    """A DuckDB connection with views `interactions` and `items`, and `varying`, `derived`, `users` where there are any.

    Only what had happened and was known by `as_of` is visible, and of the interactions the types that enter
    histories (`events` of the card); `interactions_all` has every row. Raises `InputError` where columns are missing.
    """
    require_columns(card, events)
    with session() as db:
        for table in tables(card):
            columns = ", ".join(f'"{column}"' for column in table.columns)
            # hive_partitioning off: it would add a column `day`, and a feature may have that name.
            db.read_parquet([str(path) for path in table.paths(events)], hive_partitioning=False).create_view(
                f"{table.name}_all"
            )
            db.execute(
                f"CREATE VIEW {table.name} AS SELECT {columns} FROM {table.name}_all "
                f"WHERE greatest(event_time, created_time) <= TIMESTAMPTZ '{as_of.isoformat()}'{counting(card, table)}"
            )
        yield db


def counting(card: DatasetCard, table: EventsTable) -> str:
    """SQL: of the interactions those whose type enters histories, as the card says."""
    if table.name != "interactions" or card.history_types is None:
        return ""
    return f" AND event_type IN ({literals(card.history_types)})"


def _columns(features: Sequence[Described]) -> dict[str, pa.DataType]:
    return {feature.name: arrow_type(feature) for feature in features}


def _agrees(found: pa.DataType, expected: pa.DataType) -> bool:
    """Equal but for how strings and lists are laid out, and for the name of a list's element."""
    if pa.types.is_large_string(found):
        found = pa.string()
    if pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found):
        return pa.types.is_list(expected) and _agrees(found.value_type, expected.value_type)
    return bool(found == expected)
