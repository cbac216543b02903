"""The shopper's history as Feast's online store holds it, in the form that a model is asked with."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serving.gateway.recommender import History


def feast_history(dataset: str, root: Path) -> History:
    """Reads the online store of `dataset` below `root`; an unknown shopper has an empty history."""
    from feature_repo.online import user_history
    from feature_repo.store import connect

    store = connect(dataset, root)

    def history(user_id: str) -> list[dict[str, Any]]:
        return [
            {
                "item_id": record.item_id,
                "event_time": datetime.fromtimestamp(record.event_time / 1e6, UTC).isoformat(),
                "features": dict(record.values),
            }
            for record in user_history(store, user_id)
        ]

    return history
