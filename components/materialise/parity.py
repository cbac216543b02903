"""Does the online store answer what the training data says? Read some back and compare."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from components.materialise.histories import histories
from components.shared.tables import USERS
from feature_repo.card import DatasetCard
from feature_repo.card_features import Described
from feature_repo.history import LATEST

if TYPE_CHECKING:
    from feast import FeatureStore

SAMPLE = 50


class ParityError(RuntimeError):
    """The online store answers something else than the offline data holds."""


def check_items(card: DatasetCard, store: "FeatureStore", sequences: Path, sample: int = SAMPLE) -> int:
    """Compare `sample` items, spread over the catalogue, feature by feature; the number compared."""
    return _check_features(card.features, store, sequences / "catalogue.parquet", sample)


def check_user_features(card: DatasetCard, store: "FeatureStore", sequences: Path, sample: int = SAMPLE) -> int:
    """The same of users, spread over all that there are."""
    return _check_features(card.user_features, store, sequences / USERS, sample)


def _check_features(features: Sequence[Described], store: "FeatureStore", path: Path, sample: int) -> int:
    from feature_repo.definitions import references
    from feature_repo.online import online

    table = pq.read_table(path)
    chosen = table.take(_spread(table.num_rows, sample)).to_pylist()
    if not features or not chosen:
        return 0
    key = features[0].key
    answer = online(store, references(features), [{key: row[key]} for row in chosen])
    for place, row in enumerate(chosen):
        for feature in features:
            found, expected = answer[feature.name][place], row[feature.name]
            if _missing_alike(found) != _missing_alike(expected):
                raise ParityError(
                    f"online store: {key} {row[key]!r} has {feature.name}={found!r}, {path} has {expected!r}. Run "
                    "materialise again; if it persists, the store was written by something else."
                )
    return len(chosen)


def check_users(
    card: DatasetCard, store: "FeatureStore", sequences: Path, *, since: int = -(2**63), sample: int = SAMPLE
) -> int:
    """Compare the histories of `sample` users, spread over all, record by record; the number compared.

    Online there may be more: what the log has told since, which may have pushed out the oldest. What lies before
    `since` (microseconds since 1970) is not asked for: retention takes it out of the store.
    """
    from feature_repo.online import user_histories

    users = pq.read_table(sequences / "events.parquet", columns=["user_id"])["user_id"].unique()
    expected = dict(histories(card, sequences, users.take(_spread(len(users), sample)).to_pylist()))
    found = user_histories(store, expected)
    for user, records in expected.items():
        oldest = found[user][0].order if len(found[user]) >= LATEST else records[0].order
        asked = [each for each in records if each.order >= oldest and each.event_time >= since]
        ids = {record.event_id for record in asked}
        if [each for each in found[user] if each.event_id in ids] != asked:
            raise ParityError(
                f"online store: user {user!r} has a history of {len(found[user])} events that differs from the "
                f"{len(records)} of {sequences}. Run materialise again; if it persists, the store was written by "
                "something else."
            )
    return len(expected)


def _spread(rows: int, sample: int) -> list[int]:
    return list(range(0, rows, max(1, rows // sample)))[:sample]


def _missing_alike(value: Any) -> Any:
    """Stores spell "no value" differently (None, NaN, empty string or list); one spelling for comparing."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(value) or None
    if value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    return value
