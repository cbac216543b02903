"""The shopper's history as Feast's online store holds it, in the form that a model is asked with."""

from pathlib import Path
from typing import Any

from serving.gateway.recommender import History


def feast_history(dataset: str, root: Path) -> History:
    """Reads the online store of `dataset` below `root`; an unknown shopper has an empty history."""
    from feature_repo.online import as_request, user_history
    from feature_repo.store import connect

    store = connect(dataset, root)

    def history(user_id: str) -> list[dict[str, Any]]:
        return as_request(user_history(store, user_id))

    return history
