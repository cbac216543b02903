"""Materialise: fill the online store as of the run's moment, then read back and compare."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.materialise.histories import histories
from components.materialise.parity import check_items, check_user_features, check_users
from components.shared.tables import TIME, USERS, read_as_of
from feature_repo.card import DatasetCard
from feature_repo.forgotten import Forgotten, microseconds
from feature_repo.history import HistoryRecord, encode
from runtime.files import replace_text, replacing

if TYPE_CHECKING:
    from feast import FeatureStore

    from events.consumer.histories import HistoryWriter

MARK = "materialised.json"
"""In the store's folder: the moment as of which the items and the users' features are online."""


def run(
    *,
    card: DatasetCard,
    events: Path,
    facts: Path,
    sequences: Path,
    feast_root: Path,
    materialised: Path,
    forgotten: Forgotten | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dict[str, Any]:
    """Write features of items and users, and histories, as of the facts' moment into the online store of `feast_root`.

    Items are those of the catalogue of `sequences`, so that what is served is what was joined; where the store
    already has them as of a later moment they stay. Histories go through the writer of events/consumer, which merges
    them with what the event log has told since. Then some users and items are read back and compared with the
    offline values; `ParityError` tells the first that differ. Writes `report.json` into `materialised` and returns it.
    """
    from events.consumer.histories import HistoryWriter
    from feature_repo.store import open_store

    started = time.perf_counter()
    as_of = read_as_of(facts)
    store = open_store(card, events, feast_root)
    newer = _materialised_as_of(feast_root) > as_of
    if not newer:
        _write_features(card, store, sequences, feast_root, as_of, clock(), forgotten)
    days = card.limits.retention_days
    retention = None if days is None else timedelta(days=days)
    writer = HistoryWriter(store, forgotten=forgotten, retention=retention, clock=clock)
    users = _write_histories(card, writer, sequences, feast_root, as_of)
    # By the clock, and not by that of the data as in ingest: what served must not outlive its time where data lags.
    expired = {} if retention is None else {"since": microseconds(clock() - retention)}
    report = {
        "as_of": as_of.isoformat(),
        "users": users,
        "items": pq.read_metadata(sequences / "catalogue.parquet").num_rows,
        "kept_newer_items": newer,
        "checked_items": 0 if newer else check_items(card, store, sequences),
        **({"checked_user_features": _checked_features(card, store, sequences, newer)} if card.user_features else {}),
        "checked_users": check_users(card, store, sequences, **expired),
        "seconds": round(time.perf_counter() - started, 2),
    }
    materialised.mkdir(parents=True, exist_ok=True)
    (materialised / "report.json").write_text(json.dumps(report, indent=1))
    return report


def _write_features(
    card: DatasetCard,
    store: "FeatureStore",
    sequences: Path,
    feast_root: Path,
    as_of: datetime,
    now: datetime,
    forgotten: Forgotten | None,
) -> None:
    from feature_repo.online import write_features

    write_features(store, card.features, pq.read_table(sequences / "catalogue.parquet"), now)
    if card.user_features:
        users = pq.read_table(sequences / USERS)
        if forgotten is not None:  # who was deleted while this run went on must not come back by it
            moment = microseconds(as_of)
            users = users.filter([not forgotten.covers(user, moment) for user in users["user_id"].to_pylist()])
        write_features(store, card.user_features, users, now)
    replace_text(feast_root / MARK, json.dumps({"as_of": as_of.isoformat()}))


def _checked_features(card: DatasetCard, store: "FeatureStore", sequences: Path, newer: bool) -> int:
    return 0 if newer else check_user_features(card, store, sequences)


def _materialised_as_of(feast_root: Path) -> datetime:
    path = feast_root / MARK
    if not path.is_file():
        return datetime.min.replace(tzinfo=UTC)
    return datetime.fromisoformat(json.loads(path.read_text())["as_of"])


def _write_histories(
    card: DatasetCard, writer: "HistoryWriter", sequences: Path, feast_root: Path, as_of: datetime
) -> int:
    """Hand every user's history to the one writer, and keep an offline copy for Feast's batch source."""
    from feature_repo.definitions import HISTORY_FIELD
    from feature_repo.store import histories_path

    users: list[str] = []
    latest: list[int] = []
    values: list[bytes] = []

    def copied() -> Iterator[tuple[str, list[HistoryRecord]]]:
        for user, records in histories(card, sequences):
            users.append(user)
            latest.append(records[-1].event_time)
            values.append(encode(records))
            yield user, records

    writer.merge(copied(), as_of)
    writer.expire()  # also of those who never come back, whom nothing else writes to
    table = pa.table(
        {
            "user_id": pa.array(users, pa.string()),
            "event_time": pa.array(latest, TIME),
            "created_time": pa.array([as_of] * len(users), TIME),
            HISTORY_FIELD: pa.array(values, pa.binary()),
        }
    )
    with replacing(histories_path(feast_root)) as partial:
        pq.write_table(table, partial)
    return len(users)
