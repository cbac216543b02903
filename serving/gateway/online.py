"""The shopper's history as Feast's online store holds it, in the form that a model is asked with."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.gateway.recommender import History, Traits

AGAIN_SECONDS = 1.0
"""Between attempts to open a store that could not be opened."""
_logger = logging.getLogger(__name__)


def feast_history(dataset: str, root: Path) -> History:
    """The first of `feast_shopper`."""
    return feast_shopper(dataset, root)[0]


def feast_shopper(dataset: str, root: Path) -> tuple[History, Traits]:
    """Read the online store of `dataset` below `root`: an unknown shopper has an empty history, and no features.

    A store that cannot be opened now (its registry is away, or was never filled) costs shoppers their history and not
    the service its start: it is tried again by those who ask for one.
    """
    from feature_repo.online import as_request, user_features, user_history
    from feature_repo.store import connect

    store = _Opened(lambda: connect(dataset, root))
    try:
        store.get()
    except Exception as error:  # whatever the registry raises
        _logger.warning("the feature store cannot be opened, popular items answer meanwhile: %s", error)

    def history(user_id: str) -> list[dict[str, Any]]:
        return as_request(user_history(store.get(), user_id))

    def traits(user_id: str) -> dict[str, Any]:
        return user_features(store.get(), user_id)

    return history, traits


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
