"""The consumer's view of the online store: values as they are now, and the one writer of histories."""

import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any

import pyarrow as pa

from events.consumer.histories import HistoryWriter
from feature_repo.definitions import ITEM_DERIVED, ITEM_VARYING
from feature_repo.feast_import import FeatureStore
from feature_repo.forgotten import Forgotten
from feature_repo.kinds import KINDS, Storage
from feature_repo.online import online
from runtime import clocks

REOPEN_SECONDS = 60.0
"""So often the store is opened anew: a new model may have come with other features."""


class OnlineHistories:
    """`connect` opens the store as it was last applied. Methods raise `Unavailable` where it is away."""

    def __init__(
        self,
        connect: Callable[[], FeatureStore],
        *,
        forgotten: Forgotten | None = None,
        retention: timedelta | None = None,
        clock: clocks.Clock = clocks.now,
    ) -> None:
        self._connect, self.forgotten, self.retention, self._clock = connect, forgotten, retention, clock
        self._open()

    def _open(self) -> None:
        self._store = self._connect()
        self._opened = time.monotonic()
        views = [view for view in self._store.list_feature_views() if view.name in (ITEM_VARYING, ITEM_DERIVED)]
        fields = [(view.name, field) for view in views for field in view.features]
        self._references = [f"{view}:{field.name}" for view, field in fields]
        self.kinds: dict[str, pa.DataType] = {
            field.name: pa.float64() if KINDS[field.tags["kind"]].storage is Storage.NUMBER else pa.string()
            for _, field in fields
        }
        """Features that vary over time, with their types."""
        self.writer = HistoryWriter(self._store, forgotten=self.forgotten, retention=self.retention, clock=self._clock)

    def refresh(self) -> None:
        """Open the store anew where that was long ago."""
        if time.monotonic() - self._opened > REOPEN_SECONDS:
            self._open()

    def values(self, item_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
        """The values of these items that vary over time, as they are now; None for what the store does not know."""
        items = sorted(set(item_ids))
        if not items or not self._references:
            return {item: {} for item in items}
        columns = online(self._store, self._references, [{"item_id": item} for item in items])
        return {item: {name: columns[name][row] for name in self.kinds} for row, item in enumerate(items)}
