"""Which items a shop has withdrawn: a row an item beside the rollout row, each change with the next number.

Who follows asks for what has changed since the number that it knows; so it reads little, however much is withdrawn.
"""

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import Boolean, Column, Connection, Index, Integer, MetaData, String, Table, insert, select, update
from sqlalchemy.exc import IntegrityError

from serving.rollout.database import Database

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
class Seen:
    """How far somebody has read. An `epoch` is one life of the table; with another one it was made anew."""

    epoch: str = ""
    number: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """What was told since, and how far that is; `anew` where all was read, as the table is another than before."""

    seen: Seen
    available: Mapping[str, bool]
    """Of each item of which the last word is new."""
    anew: bool


class Availability:
    """Of the items of one model, in `database`."""

    def __init__(
        self, database: Database, model: str, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database, self._model, self._clock = database, model, clock
        database.create(_LATEST, _ITEM, _BY_NUMBER)

    def tell(self, item_id: str, available: bool) -> int:
        """Withdraw an item, or return it; the number of that change. Told again it changes nothing.

        Blocks until the change is durable. Raises `TableAway` where it is not made.
        """
        mine = (_ITEM.c.model == self._model) & (_ITEM.c.item_id == item_id)
        with self._database.writing() as connection:
            known = connection.execute(select(_ITEM.c.available, _ITEM.c.number).where(mine)).first()
        if (known.available if known else True) == available:
            return int(known.number) if known else 0
        self._begin()
        with self._database.writing() as connection:
            # The row of the latest number stays locked until the end: numbers become visible in their order.
            latest = _LATEST.c.model == self._model
            connection.execute(update(_LATEST).where(latest).values(number=_LATEST.c.number + 1))
            number = int(connection.execute(select(_LATEST.c.number).where(latest)).scalar_one())
            word = {"available": available, "number": number, "at": self._clock().astimezone(UTC).isoformat()}
            if not connection.execute(update(_ITEM).where(mine).values(word)).rowcount:
                connection.execute(insert(_ITEM).values(model=self._model, item_id=item_id, **word))
        return number

    def changes(self, seen: Seen) -> Changes:
        """What was told since `seen`. Blocks. Raises `TableAway`."""
        with self._database.reading() as connection:
            latest = self._latest(connection)
            anew = latest.epoch != seen.epoch or latest.number < seen.number
            if latest == seen:
                return Changes(seen, {}, False)
            since = 0 if anew else seen.number
            query = select(_ITEM.c.item_id, _ITEM.c.available).where(
                (_ITEM.c.model == self._model) & (_ITEM.c.number > since)
            )
            # A change of this very moment may be among them already; it is then read once more.
            return Changes(latest, {row.item_id: row.available for row in connection.execute(query)}, anew)

    def _latest(self, connection: Connection) -> Seen:
        query = select(_LATEST.c.epoch, _LATEST.c.number).where(_LATEST.c.model == self._model)
        found = connection.execute(query).first()
        return Seen(found.epoch, found.number) if found else Seen()

    def _begin(self) -> None:
        with self._database.reading() as connection:
            if self._latest(connection).epoch:
                return
        with self._database.writing() as connection, suppress(IntegrityError):  # another process was faster
            connection.execute(insert(_LATEST).values(model=self._model, epoch=secrets.token_hex(8), number=0))
