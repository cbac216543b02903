"""Materialise: fill the online store as of the run's moment, then read back and compare."""

import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.features.tables import TIME, read_as_of
from components.materialise.histories import histories
from components.materialise.parity import check_items, check_users
from feature_repo.card import DatasetCard
from feature_repo.history import Record, encode

if TYPE_CHECKING:
    from feast import FeatureStore

BEGINNING = datetime(1900, 1, 1, tzinfo=UTC)


def run(
    *, card: DatasetCard, events: Path, facts: Path, sequences: Path, feast_root: Path, materialised: Path
) -> dict[str, Any]:
    """Write item features and user histories as of the facts' moment into the online store of `feast_root`.

    Then read some users and items back through `get_online_features` and compare them with the offline
    values; `ParityError` tells the first that differ. Writes `report.json` into `materialised` and returns it.
    Histories go through the writer of serving/consumer, which merges them with what the event log has told since.
    """
    from feature_repo.definitions import ITEM_STATIC, ITEM_VARYING
    from feature_repo.store import open_store, quiet

    started = time.perf_counter()
    as_of = read_as_of(facts)
    store = open_store(card, events, feast_root)
    views = [name for name, features in ((ITEM_STATIC, card.static), (ITEM_VARYING, card.varying)) if features]
    if views:
        with quiet():
            store.materialize(start_date=BEGINNING, end_date=as_of, feature_views=views)
    users = _write_histories(card, store, sequences, feast_root, as_of)
    report = {
        "as_of": as_of.isoformat(),
        "users": users,
        "items": pq.read_metadata(sequences / "catalogue.parquet").num_rows,
        "checked_items": check_items(card, store, sequences),
        "checked_users": check_users(card, store, sequences),
        "seconds": round(time.perf_counter() - started, 2),
    }
    materialised.mkdir(parents=True, exist_ok=True)
    (materialised / "report.json").write_text(json.dumps(report, indent=1))
    return report


def _write_histories(
    card: DatasetCard, store: "FeatureStore", sequences: Path, feast_root: Path, as_of: datetime
) -> int:
    """Hand every user's history to the one writer, and keep an offline copy for Feast's batch source."""
    from feature_repo.definitions import HISTORY_FIELD
    from feature_repo.store import histories_path
    from serving.consumer.histories import HistoryWriter

    users: list[str] = []
    latest: list[int] = []
    values: list[bytes] = []

    def copied() -> Iterator[tuple[str, list[Record]]]:
        for user, records in histories(card, sequences):
            users.append(user)
            latest.append(records[-1].event_time)
            values.append(encode(records))
            yield user, records

    HistoryWriter(store).merge(copied(), as_of)
    table = pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "event_time": pa.array(latest, TIME),
            "created_time": pa.array([as_of] * len(users), TIME),
            HISTORY_FIELD: pa.array(values, pa.binary()),
        }
    )
    path = histories_path(feast_root)
    partial = path.with_suffix(".partial")
    pq.write_table(table, partial)
    os.replace(partial, path)
    return len(users)
