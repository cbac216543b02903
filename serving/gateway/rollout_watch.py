"""The last good copy of the rollout row, read again every second: a table that is away stops nothing that serves."""

import asyncio
import logging
import time
from collections.abc import Callable

from experiments.document import Rollout, succeeding
from serving.gateway.archives import ArchiveCache, Fetching

READ_SECONDS = 1.0
_logger = logging.getLogger(__name__)


class Waits(RuntimeError):
    """A row was read whose champion's archive is not here."""


class RolloutWatch:
    """`failed` is told when the table, or the archive of its champion, could not be read."""

    def __init__(self, read: Callable[[], Rollout], archives: ArchiveCache, failed: Callable[[], None]) -> None:
        self._read, self._archives, self._failed = read, archives, failed
        self._read_at = 0.0
        self.rollout: Rollout | None = None
        self.problem: str | None = None
        """Why the row in use is not the latest one."""

    @property
    def age(self) -> float:
        """Seconds since the row in use was read."""
        return time.monotonic() - self._read_at

    async def refresh(self) -> None:
        """Read the row and what it needs. Raises what the table raises, and `Waits`."""

        def read() -> Rollout:
            rollout = succeeding(self._read(), self.rollout)
            try:
                self._archives.prepare(rollout)
            except (OSError, ValueError) as error:
                raise Waits(f"row {rollout.version} waits for its champion's archive: {error}") from error
            return rollout

        self.rollout = await asyncio.to_thread(read)
        self._archives.let_go(self.rollout)
        self._read_at = time.monotonic()
        self.problem = None

    async def begin(self) -> None:
        """The first reading: what is not here yet, archive or table, is waited for by `follow`, and not ready until
        then. To end instead would only have the process started again, and again."""
        try:
            await self.refresh()
        except Exception as error:  # whatever the table raises
            waits = isinstance(error, Waits)
            self._log_once(str(error) if waits else f"rollout table cannot be read, and no row is known: {error}")

    async def follow(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(READ_SECONDS)
            try:
                await self.refresh()
            except Exception as error:  # whatever the table raises, its age tells
                waits = isinstance(error, Waits)
                self._log_once(str(error) if waits else f"rollout table cannot be read, the last row holds: {error}")
                if not (waits and isinstance(error.__cause__, Fetching)):
                    self._failed()

    def _log_once(self, problem: str) -> None:
        if problem != self.problem:
            _logger.warning("%s", problem)
        self.problem = problem
