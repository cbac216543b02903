"""Which items a shop has withdrawn: a row an item beside the rollout row, each change with the next number.

Who follows asks for what has changed since the number that it knows; so it reads little, however much is withdrawn.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from experiments.database import Database

_METADATA = MetaData()
_LATEST = Table(
    "availability",
    _METADATA,
    Column("model", String(200), primary_key=True),
    Column("epoch", String(40), nullable=False),
    Column("number", Integer, nullable=False),
)
_ITEM = Table(
    "availability_item",
    _METADATA,
    Column("model", String(200), primary_key=True),
    Column("item_id", String(200), primary_key=True),
    Column("available", Boolean, nullable=False),
    Column("number", Integer, nullable=False),
    Column("at", String(40), nullable=False),
)
_BY_NUMBER = Index("availability_item_number", _ITEM.c.model, _ITEM.c.number)


@dataclass(frozen=True, slots=True)
class AvailabilityCursor:
    """How far somebody has read. An `epoch` is one life of the table; with another one it was made anew."""

    epoch: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """What was told since, and how far that is; `anew` where all was read, as the table is another than before."""

    seen: AvailabilityCursor
    available: Mapping[str, bool]
    """Of each item of which the last word is new."""
    anew: bool


class AvailabilityTable:
    """Of the items of one model, in `database`."""

    def __init__(
        self, database: Database, model: str, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database, self._model, self._clock = database, model, clock
        database.create(_LATEST, _ITEM, _BY_NUMBER)

    def record(self, available: Mapping[str, bool]) -> int:
        """Withdraw items (False) and return items (True), all at once; the number of the latest change. What is told
        again changes nothing.

        Blocks until the change is durable. Raises `TableAway` where it is not made.
        """
        mine = _ITEM.c.model == self._model
        with self.change() as (connection, number):
            query = select(_ITEM.c.item_id, _ITEM.c.available).where(mine & _ITEM.c.item_id.in_(available))
            known = {row.item_id: row.available for row in connection.execute(query)}
            news = {item: now for item, now in available.items() if known.get(item, True) != now}
            if not news:
                connection.rollback()
                return number - 1
            shared = {"number": number, "at": self._clock().astimezone(UTC).isoformat()}
            for item, now in news.items():
                if item in known:
                    word = {"available": now, **shared}
                    connection.execute(update(_ITEM).where(mine & (_ITEM.c.item_id == item)).values(word))
            if fresh := [item for item in news if item not in known]:
                row = {"model": self._model, "available": False, **shared}
                connection.execute(insert(_ITEM), [{**row, "item_id": item} for item in fresh])
        return number

    @contextmanager
    def change(self) -> Iterator[tuple[Connection, int]]:
        """A transaction that makes one change of the shop's, and the change's number. Raises `TableAway`."""
        self._begin()
        latest = _LATEST.c.model == self._model
        with self._database.writing() as connection:
            # The row of the latest number stays locked until the end: numbers become visible in their order.
            connection.execute(update(_LATEST).where(latest).values(number=_LATEST.c.number + 1))
            yield connection, int(connection.execute(select(_LATEST.c.number).where(latest)).scalar_one())

    def changes(self, seen: AvailabilityCursor) -> Changes:
        """What was told since `seen`. Blocks. Raises `TableAway`."""
        with self._database.reading() as connection:
            latest = self.latest(connection)
            anew = latest.epoch != seen.epoch or latest.number < seen.number
            if latest == seen:
                return Changes(seen, {}, False)
            since = 0 if anew else seen.number
            query = select(_ITEM.c.item_id, _ITEM.c.available).where(
                (_ITEM.c.model == self._model) & (_ITEM.c.number > since)
            )
            # A change of this very moment may be among them already; it is then read once more.
            return Changes(latest, {row.item_id: row.available for row in connection.execute(query)}, anew)

    def latest(self, connection: Connection) -> AvailabilityCursor:
        """How far the table is."""
        query = select(_LATEST.c.epoch, _LATEST.c.number).where(_LATEST.c.model == self._model)
        found = connection.execute(query).first()
        return AvailabilityCursor(found.epoch, found.number) if found else AvailabilityCursor()

    def _begin(self) -> None:
        with self._database.reading() as connection:
            if self.latest(connection).epoch:
                return
        with self._database.writing() as connection, suppress(IntegrityError):  # another process was faster
            connection.execute(insert(_LATEST).values(model=self._model, epoch=secrets.token_hex(8), number=0))
