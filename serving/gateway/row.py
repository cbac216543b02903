"""The last good copy of the rollout row, read again every second: a table that is away stops nothing that serves."""

import asyncio
import logging
import time
from collections.abc import Callable

from serving.gateway.recommender import Recommender
from serving.rollout.document import Rollout

READ_SECONDS = 1.0
_logger = logging.getLogger(__name__)


class Row:
    """`failed` is told when the table could not be read."""

    def __init__(self, read: Callable[[], Rollout], recommender: Recommender, failed: Callable[[], None]) -> None:
        self._read, self._recommender, self._failed = read, recommender, failed
        self._read_at = 0.0
        self.rollout: Rollout | None = None

    @property
    def age(self) -> float:
        """Seconds since the row in use was read."""
        return time.monotonic() - self._read_at

    async def refresh(self) -> None:
        def read() -> Rollout:
            rollout = self._read()
            self._recommender.prepare(rollout)
            return rollout

        self.rollout = await asyncio.to_thread(read)
        self._read_at = time.monotonic()

    async def follow(self) -> None:
        """For ever."""
        told = ""
        while True:
            await asyncio.sleep(READ_SECONDS)
            try:
                await self.refresh()
                told = ""
            except Exception as error:  # whatever the table raises, its age tells
                if str(error) != told:
                    _logger.warning("rollout table cannot be read, the last row holds: %s", error)
                told = str(error)
                self._failed()
