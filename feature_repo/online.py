"""What a request reads from the online store."""

from collections.abc import Iterable
from typing import Any

from feature_repo.definitions import HISTORY_FIELD, USER_HISTORY
from feature_repo.feast_import import FeatureStore
from feature_repo.history import Record, decode


def user_history(store: FeatureStore, user_id: str) -> list[Record]:
    """The latest events of one user, oldest first; empty for a user that the store does not know."""
    return user_histories(store, [user_id])[user_id]


def user_histories(store: FeatureStore, user_ids: Iterable[str]) -> dict[str, list[Record]]:
    """The latest events of several users in one read of the store."""
    users = list(user_ids)
    answer = online(store, [f"{USER_HISTORY}:{HISTORY_FIELD}"], [{"user_id": user} for user in users])
    values = answer[HISTORY_FIELD]
    return {user: decode(value) if value else [] for user, value in zip(users, values, strict=True)}


def online(store: FeatureStore, references: list[str], rows: list[dict[str, str]]) -> dict[str, list[Any]]:
    """Feast's online read as columns, in the order of `rows`; unknown keys give None."""
    columns: dict[str, list[Any]] = store.get_online_features(features=references, entity_rows=rows).to_dict()
    return columns
