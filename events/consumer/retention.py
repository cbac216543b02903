"""Days of the log to which no event comes any more: their many files become one, and those beyond retention go."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq

from events import compaction
from events.consumer.attribution import ATTRIBUTION
from events.durable import sync_folder
from events.partitions import UNREADABLE, of_the_disk, write

TABLES = ("exposures", "outcomes", "interactions", "set_aside")
KEPT = timedelta(days=400)
"""So long days are kept where the card says nothing; what is trained on (`interactions`) is then kept for ever."""
EXPIRED = "expired"
"""Name of the one file, without rows, of a day of interactions whose rows were too old."""
LOOK_SECONDS = 3600.0
_DAY = timedelta(days=1)


class Upkeep:
    """Of the log below `log` and of the values `served`; `retention` is the card's."""

    def __init__(self, log: Path, served: Path, *, retention: timedelta | None, clock: Callable[[], datetime]) -> None:
        self._folders = {**{name: log / name for name in TABLES}, "served": served}
        self._retention, self._clock = retention, clock
        self._looked = 0.0
        self._open: list[Path] = []
        """Closed days that were not looked at yet since the last look round."""

    def step(self) -> bool:
        """Merge at most one day, so that events do not wait long meanwhile; whether one was. Raises `OSError`."""
        if not self._open and (not self._looked or time.monotonic() - self._looked > LOOK_SECONDS):
            self._looked = time.monotonic()
            self._expire()
            closed = self._clock() - ATTRIBUTION - _DAY
            self._open = [day for folder in self._folders.values() for day in _days(folder) if _begin(day) <= closed]
        while self._open:
            day = self._open[0]
            try:
                compaction.drop_superseded(day)
                merged = compaction.merge(day)
            except UNREADABLE as error:
                if of_the_disk(error):
                    raise
                self._open.pop(0)  # the next ones are no worse for it, and in an hour it is tried again
                raise OSError(f"{day}: a file cannot be merged ({error}). Restore or remove it.") from error
            self._open.pop(0)
            if merged:
                return True
        return False

    def _expire(self) -> None:
        # By the clock of the data: a shop that closed keeps its last days, here as in ingest.
        newest = max((_begin(day) + _DAY for day in _days(self._folders["exposures"])), default=None)
        if newest is None:
            return
        now = min(self._clock(), newest)
        for name, folder in self._folders.items():
            kept = self._retention if name == "interactions" else self._retention or KEPT
            for day in _days(folder):
                if kept is not None and _begin(day) + _DAY <= now - kept:
                    _empty(day, keep=name == "interactions")


def _days(folder: Path) -> list[Path]:
    return sorted(folder.glob("day=*"))


def _begin(day: Path) -> datetime:
    return datetime.fromisoformat(day.name.removeprefix("day=")).replace(tzinfo=UTC)


def _empty(day: Path, *, keep: bool) -> None:
    """Remove a day's rows. With `keep` a file without rows stays: ingest would take a day that is gone for lost."""
    stays = day / f"{EXPIRED}.parquet"
    gone = [path for path in day.iterdir() if path != stays]
    if keep and gone and not stays.exists():
        write(stays, pq.read_schema(next(day.glob("*.parquet"))).remove_metadata().empty_table())
    for path in gone:
        path.unlink(missing_ok=True)  # the partial file of a killed writing became the one that stays
    if gone:
        sync_folder(day)
    if not keep:
        day.rmdir()
        sync_folder(day.parent)
