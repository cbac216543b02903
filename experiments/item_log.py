"""Items that a shop has added or changed since the catalogue of its models: a row an item beside the rollout row, with
its features, until a catalogue that serves knows it so. Changes have their numbers with those of the stock.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
)

from experiments.availability import AvailabilityTable
from experiments.database import Database

MOST, MOST_BYTES = 256, 256 * 1024
"""Entries of one model, and of their features as JSON: each request to a model brings them along."""
_UPSERT = Table(
    "item_upsert",
    MetaData(),
    Column("model", String(200), primary_key=True),
    Column("item_id", String(200), primary_key=True),
    Column("features", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("at", String(40), nullable=False),
)
Features = Mapping[str, Any]


class ItemLogFull(RuntimeError):
    """There is no room for what was to be put; nothing was changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upsert:
    """The latest that a shop has said of an item."""

    item_id: str
    features: Features
    number: int
    at: datetime


@dataclass(frozen=True, slots=True)
class KnownUpserts:
    """All that there is, in the order in which it was put; `state` is that of the table then."""

    state: tuple[str, int, int] = ("", 0, 0)
    items: tuple[Upsert, ...] = ()


class ItemLog:
    """Of the items of one model, in `database`, numbered with `availability`."""

    def __init__(
        self,
        database: Database,
        model: str,
        availability: AvailabilityTable,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database, self._model, self._availability, self._clock = database, model, availability, clock
        self._mine = _UPSERT.c.model == model
        database.create(_UPSERT)

    def put(self, items: Mapping[str, Features | None], *, absorbed: Mapping[str, int] | None = None) -> int:
        """Add or change items, all at once, or take back (None) what was said of them; the number of the latest change.
        What is said again changes nothing.

        `absorbed` are the numbers of entries that need not be kept, by their items. Blocks until the change is durable.
        Raises `ItemLogFull`, and `TableAway` where it is not made.
        """
        said = {item: None if features is None else _json(features) for item, features in items.items()}
        with self._availability.change() as (connection, number):
            for item, known in (absorbed or {}).items():
                one = (_UPSERT.c.item_id == item) & (_UPSERT.c.number == known)
                connection.execute(delete(_UPSERT).where(self._mine & one))
            query = select(_UPSERT.c.item_id, _UPSERT.c.features).where(self._mine)
            kept = {row.item_id: row.features for row in connection.execute(query)}
            news = {item: features for item, features in said.items() if kept.get(item) != features}
            if not news:
                connection.rollback()
                return number - 1
            fresh = {item: features for item, features in news.items() if features is not None}
            _require_room({item: each for item, each in kept.items() if item not in news} | fresh)
            connection.execute(delete(_UPSERT).where(self._mine & _UPSERT.c.item_id.in_(news)))
            row = {"model": self._model, "number": number, "at": self._clock().astimezone(UTC).isoformat()}
            if fresh:
                rows = [{**row, "item_id": item, "features": each} for item, each in fresh.items()]
                connection.execute(insert(_UPSERT), rows)
        return number

    def read(self, known: KnownUpserts) -> KnownUpserts:
        """All that holds; not read again where nothing has changed since `known`. Blocks. Raises `TableAway`."""
        with self._database.reading() as connection:
            state = self._state(connection)
            if state == known.state:
                return known
            query = select(_UPSERT).where(self._mine).order_by(_UPSERT.c.number, _UPSERT.c.item_id)
            items = tuple(
                Upsert(
                    item_id=row.item_id,
                    features=json.loads(row.features),
                    number=row.number,
                    at=datetime.fromisoformat(row.at),
                )
                for row in connection.execute(query)
            )
        # What came at this very moment may be among them already; the next reading then sees another state.
        return KnownUpserts(state, items)

    def _state(self, connection: Connection) -> tuple[str, int, int]:
        query = select(func.max(_UPSERT.c.number), func.count()).where(self._mine)
        number, count = connection.execute(query).one()
        return self._availability.latest(connection).epoch, number or 0, count


def _json(features: Features) -> str:
    return json.dumps(features, ensure_ascii=False, sort_keys=True, allow_nan=False)


def _require_room(kept: Mapping[str, str]) -> None:
    size = sum(len(item.encode()) + len(features.encode()) for item, features in kept.items())
    if len(kept) > MOST or size > MOST_BYTES:
        raise ItemLogFull(
            f"{len(kept)} items of {size / 1024:.0f} KiB would wait for a catalogue that knows them, of {MOST} of "
            f"{MOST_BYTES // 1024} KiB at most; send the rest after the next refresh (python -m pipelines catalogue)"
        )
