"""What shops and people change while models serve: withdrawn items, those that were put, and rules, read again every
half second.

Where their table is away the last that was known holds, whoever answers; a replica that never read it is not ready.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping

from experiments.availability import AvailabilityTable
from experiments.item_log import Features, ItemLog, KnownUpserts
from experiments.rules_table import RulesTable, RulesVersion
from serving.gateway.after.stock import Stock

READ_SECONDS = 0.5
"""Well below the 2 s after which no replica shows what was withdrawn."""
_logger = logging.getLogger(__name__)


class News:
    """Of one model. Without tables there is none, and nothing to wait for. `failed` hears that they do not answer."""

    def __init__(
        self,
        availability: AvailabilityTable | None,
        rules: RulesTable | None,
        failed: Callable[[], None] = lambda: None,
        items: ItemLog | None = None,
    ) -> None:
        self.availability, self._table, self._count, self._items = availability, rules, failed, items
        self.stock, self.rules, self.upserts = Stock(), RulesVersion(), KnownUpserts()
        self.problem: str | None = None
        """Why what is known is not the latest."""
        self._read_at: float | None = time.monotonic() if availability is None and rules is None else None
        self._reading = asyncio.Lock()

    @property
    def known(self) -> bool:
        """Whether it was read at all."""
        return self._read_at is not None

    @property
    def age(self) -> float:
        """Seconds since what is known was read; 0 where there is nothing to read."""
        if self.availability is None and self._table is None:
            return 0.0
        return time.monotonic() - (self._read_at or 0.0)

    async def record(self, available: Mapping[str, bool]) -> int:
        """Withdraw and return items, for all replicas; for this one at once. Raises what the table raises."""
        assert self.availability is not None
        number = await asyncio.to_thread(self.availability.record, available)
        await self._followed()
        return number

    async def put(self, items: Mapping[str, Features | None], absorbed: Mapping[str, int]) -> int:
        """Add and change items, for all replicas; for this one at once. Raises what the table raises."""
        assert self._items is not None
        number = await asyncio.to_thread(self._items.put, items, absorbed=absorbed)
        await self._followed()
        return number

    async def _followed(self) -> None:
        try:
            await self.refresh()
        except Exception as error:  # it is durable: this replica follows as the others do
            self._log_once(error)

    async def refresh(self) -> None:
        """Read what is new, one reading after the other. Raises what the tables raise."""
        async with self._reading:
            began = time.monotonic()
            if self.availability is not None:  # first: rules that are damaged must not hold up the stock
                self.stock.take(await asyncio.to_thread(self.availability.changes, self.stock.seen))
            if self._items is not None:
                self.upserts = await asyncio.to_thread(self._items.read, self.upserts)
            if self._table is not None:
                self.rules = await asyncio.to_thread(self._table.read, self.rules)
            self._read_at, self.problem = began, None

    async def begin(self) -> None:
        """The first reading; what cannot be read yet is waited for by `follow`."""
        try:
            await self.refresh()
        except Exception as error:  # whatever the table raises
            self._log_once(error)

    async def follow(self) -> None:
        """For ever."""
        while self.availability is not None or self._table is not None:
            await asyncio.sleep(READ_SECONDS)
            try:
                await self.refresh()
            except Exception as error:  # whatever the table raises, its age tells
                self.failed(error)

    def failed(self, error: Exception) -> None:
        """The tables did not answer."""
        self._count()
        self._log_once(error)

    def _log_once(self, error: Exception) -> None:
        holds = "what was known last holds" if self.known else "nothing is known of them yet"
        problem = f"withdrawn items and rules cannot be read, {holds}: {error}"
        if problem != self.problem:
            _logger.warning("%s", problem)
        self.problem = problem
