"""What Great Expectations sees: a view for each table, in which what is empty is null."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.shared.columns import missing, number, readable, source_of
from feature_repo.card import DatasetCard
from feature_repo.card_features import Described
from feature_repo.expectations import BESIDE
from feature_repo.kinds import Storage

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_TIMES = ("event_time", "created_time")
ITEMS_OF_EVENTS = "interactions with their items"
_KNOWN = """
    interactions LEFT JOIN (SELECT item_id, min(event_time) AS since FROM items_all GROUP BY item_id) known
    USING (item_id)
"""


@dataclass(frozen=True, kw_only=True)
class CheckedTable:
    """A view over `source`: `keys` and times, columns of `features` with those beside them, and `more`."""

    name: str
    source: str
    keys: Sequence[str]
    features: Sequence[Described] = ()
    more: Sequence[tuple[str, str]] = ()
    """Name and SQL."""

    @property
    def view(self) -> str:
        return f"checked_{self.name.replace(' ', '_')}"

    @property
    def shown(self) -> list[str]:
        """Columns by which people know a row: keys, time, and what is said of it."""
        return [*self.keys, "event_time", *(feature.name for feature in self.features)]

    def query(self) -> str:
        more = [f'{sql} AS "{name}"' for name, sql in self.more]
        features = [column for feature in self.features for column in _columns(feature)]
        return f"SELECT {', '.join([*self.keys, *_TIMES, *more, *features])} FROM {self.source}"


def checked_tables(card: DatasetCard) -> dict[str, CheckedTable]:
    """By name, of `figures.prepare`'s tables; `ITEMS_OF_EVENTS` says of each event what the items table has of it."""
    ordinary = [(name, name) for name in ("position", "basket", "event_type")]
    known = [("item_known", "known.since IS NOT NULL"),
             ("item_known_by_then", "coalesce(known.since <= event_time, true)")]  # fmt: skip
    event = ("event_id", "user_id", "item_id")
    tables = [
        CheckedTable(name="interactions", source="interactions", keys=event, features=card.observed, more=ordinary),
        CheckedTable(name=ITEMS_OF_EVENTS, source=_KNOWN, keys=event, more=known),
    ]
    for name, features, key in (
        ("items", card.static, "item_id"),
        ("varying", card.varying, "item_id"),
        ("derived", card.derived, "item_id"),
        ("users", card.user_features, "user_id"),
    ):
        if features:
            source = source_of(features[0])
            tables.append(CheckedTable(name=name, source=source, keys=(key,), features=features))
        elif name == "items":
            tables.append(CheckedTable(name=name, source="latest_items", keys=("item_id",)))
    return {table.name: table for table in tables}


def make_views(db: "DuckDBPyConnection", tables: Sequence[CheckedTable]) -> None:
    """Make the view of each table, in the very connection: it may read temporary tables."""
    for table in tables:
        db.execute(f"CREATE OR REPLACE TEMP VIEW {table.view} AS {table.query()}")


def _columns(feature: Described) -> Iterator[str]:
    name, lacks = feature.name, missing(feature)
    yield f'CASE WHEN NOT {lacks} THEN {readable(feature).removesuffix(f" AS {_quoted(name)}")} END AS "{name}"'
    beside = {
        "size": f'nullif(len("{name}"), 0)',
        "length": number(feature),
        "zero": f"coalesce({number(feature)} = 0, false)",
        "finite": f'NOT isinf("{name}")'
        if feature.storage is Storage.NUMBER
        else f'list_bool_and(list_transform("{name}", x -> x IS NOT NULL AND isfinite(x)))',
    }
    for what in BESIDE.get(feature.storage, ()):
        yield f'{beside[what]} AS "{name} {what}"'


def _quoted(name: str) -> str:
    return f'"{name}"'
