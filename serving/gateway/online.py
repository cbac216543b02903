"""What the online store holds of a shopper, in the form that the service asks for it."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feature_repo.impressions import Impressions, ImpressionStore

AGAIN_SECONDS = 1.0
"""Between attempts to open a store that could not be opened."""
_logger = logging.getLogger(__name__)


class OnlineStore:
    """Of `dataset` below `root`; an unknown shopper has an empty history, and no features.

    A store that cannot be opened now (its registry is away, or was never filled) costs shoppers their history and not
    the service its start: it is tried again by those who ask for one. Methods block, and may be called in any thread.
    """

    def __init__(self, dataset: str, root: Path) -> None:
        from feature_repo.store import connect

        self._store = _Opened(lambda: connect(dataset, root))
        self._kept: ImpressionStore | None = None
        try:
            self._store.get()
        except Exception as error:  # whatever the registry raises
            _logger.warning("the feature store cannot be opened, popular items answer meanwhile: %s", error)

    def history(self, user_id: str) -> list[dict[str, Any]]:
        """As a model is asked with it."""
        from feature_repo.online import as_request, user_history

        return as_request(user_history(self._store.get(), user_id))

    def traits(self, user_id: str) -> dict[str, Any]:
        """What is known of the user beside the history."""
        from feature_repo.online import user_features

        return user_features(self._store.get(), user_id)

    def impressions(self, user_id: str) -> "Impressions":
        """What the shopper was shown lately and did nothing with, where a rule of fatigue holds."""
        from feature_repo.impressions import kept

        if self._kept is None:
            self._kept = kept(self._store.get())
        return self._kept.read(user_id)


class _Opened:
    """What `connect` gives, once it does; raises what it raises, and tries it no more than once in a while."""

    def __init__(self, connect: Callable[[], Any]) -> None:
        self._connect, self._lock = connect, threading.Lock()
        self._store: Any = None
        self._fault: Exception | None = None
        self._tried = 0.0

    def get(self) -> Any:
        if self._store is None:
            with self._lock:
                if self._store is None:
                    self._try()
        return self._store

    def _try(self) -> None:
        if self._fault is not None and time.monotonic() - self._tried < AGAIN_SECONDS:
            raise self._fault
        try:
            self._store = self._connect()
        except Exception as error:
            self._fault = error
            raise
        finally:
            self._tried = time.monotonic()
