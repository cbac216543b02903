"""What a request reads from the online store, and how items get there."""

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from weakref import WeakKeyDictionary

import pyarrow as pa

from feature_repo import batched_read
from feature_repo.card_features import Described
from feature_repo.definitions import (
    HISTORY_FIELD,
    USER_HISTORY,
    USER_STATIC,
    VIEWS,
)
from feature_repo.faults import telling
from feature_repo.feast_import import (
    EntityKeyProto,
    FeatureStore,
    FeatureView,
    FeatureViewNotFoundException,
    FloatList,
    StringList,
    ValueProto,
    get_provider,
)
from feature_repo.history import EVENT_TYPE, HistoryRecord, decode
from feature_repo.kinds import Storage

_ROWS_AT_ONCE = 20_000
_CONNECTIONS: WeakKeyDictionary[FeatureStore, "_Connection"] = WeakKeyDictionary()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def user_history(store: FeatureStore, user_id: str) -> list[HistoryRecord]:
    """The latest events of one user, oldest first; empty for a user that the store does not know."""
    return user_histories(store, [user_id])[user_id]


def user_histories(store: FeatureStore, user_ids: Iterable[str]) -> dict[str, list[HistoryRecord]]:
    """The latest events of several users in one read of the store."""
    users = list(user_ids)
    answer = online(store, [f"{USER_HISTORY}:{HISTORY_FIELD}"], [{"user_id": user} for user in users])
    values = answer[HISTORY_FIELD]
    return {user: decode(value) if value else [] for user, value in zip(users, values, strict=True)}


def user_features(store: FeatureStore, user_id: str) -> dict[str, Any]:
    """What the store knows of one user beside the history, by name; nothing for a card without user features."""
    return users_features(store, [user_id])[0]


def users_features(store: FeatureStore, user_ids: Sequence[str]) -> list[dict[str, Any]]:
    """The same of several users, in one read of the store."""
    names = user_feature_names(store)
    if not names:
        return [{} for _ in user_ids]
    found = online(store, [f"{USER_STATIC}:{name}" for name in names], [{"user_id": user} for user in user_ids])
    return [{name: found[name][row] for name in names if found[name][row] is not None} for row in range(len(user_ids))]


def user_feature_names(store: FeatureStore) -> list[str]:
    """The user features that the store has, in the card's order; none for a store of a card without any."""
    return _connection(store).fields(store, USER_STATIC)


def as_request(records: Iterable[HistoryRecord]) -> list[dict[str, Any]]:
    """The `history` of a request (docs/contracts.md, "archive") from the records of the online store."""
    return [_event(record) for record in records]


def _event(record: HistoryRecord) -> dict[str, Any]:
    features = dict(record.values)
    kind = {EVENT_TYPE: features.pop(EVENT_TYPE)} if EVENT_TYPE in features else {}
    moment = _EPOCH + timedelta(microseconds=record.event_time)
    return {"item_id": record.item_id, "event_time": moment.isoformat(), **kind, "features": features}


def write_features(store: FeatureStore, features: Sequence[Described], rows: pa.Table, moment: datetime) -> None:
    """Write the `features` of each item or of each user (columns of `rows`, beside `item_id` or `user_id`) online; they
    replace what was there.

    A missing value is written as such: a store that was handed a frame gives '' or NaN in its place (FACTS). `moment`
    is when this is written, and later than any write before: Redis drops, without a word, what is not.
    """
    provider = get_provider(store.config)
    if not features:
        return
    key = features[0].key
    by_view: dict[str, list[Described]] = {}
    for feature in features:
        by_view.setdefault(VIEWS[feature.stored_in], []).append(feature)
    for batch in rows.to_batches(max_chunksize=_ROWS_AT_ONCE):
        keys = [
            EntityKeyProto(join_keys=[key], entity_values=[ValueProto(string_val=value)])
            for value in batch.column(key).to_pylist()
        ]
        for name, of_view in by_view.items():
            columns = [map(_VALUE[feature.storage], batch.column(feature.name).to_pylist()) for feature in of_view]
            names = [feature.name for feature in of_view]
            told: list[Any] = [
                (each, dict(zip(names, values, strict=True)), moment, moment)
                for each, *values in zip(keys, *columns, strict=True)
            ]
            with telling(store.config.project, "They are written in part; materialise again, it replaces them all."):
                provider.online_write_batch(store.config, store.get_feature_view(name), told, None)


def _text(value: str | None) -> ValueProto:
    return ValueProto() if value is None else ValueProto(string_val=value)


def _number(value: float | None) -> ValueProto:
    return ValueProto() if value is None else ValueProto(double_val=value)


def _texts(value: list[str] | None) -> ValueProto:
    return ValueProto() if value is None else ValueProto(string_list_val=StringList(val=value))


def _vector(value: list[float] | None) -> ValueProto:
    return ValueProto() if value is None else ValueProto(float_list_val=FloatList(val=value))


_VALUE: dict[Storage, Callable[[Any], ValueProto]] = {
    Storage.TEXT: _text,
    Storage.TEXTS: _texts,
    Storage.NUMBER: _number,
    Storage.VECTOR: _vector,
}


def online(store: FeatureStore, references: list[str], rows: list[dict[str, str]]) -> dict[str, list[Any]]:
    """Online values as columns, in the order of `rows` (one key each); unknown keys give None. Raises `Unavailable`.

    Asks the store of the provider itself, as `get_online_features` does: the message that Feast builds around the
    same values takes longer than to read them.
    """
    key = next(iter(rows[0])) if rows else ""
    asked = [row[key] for row in rows]
    entities = [EntityKeyProto(join_keys=[key], entity_values=[ValueProto(string_val=value)]) for value in asked]
    columns: dict[str, list[Any]] = {key: asked} if rows else {}
    by_view: dict[str, list[str]] = {}
    for reference in references:
        view, _, name = reference.partition(":")
        by_view.setdefault(view, []).append(name)
    with telling(store.config.project, "Nothing was read; the caller decides what to answer without it."):
        found = _connection(store).read(store, by_view, entities) if entities else {}
    for view_name, names in by_view.items():
        of_view = found.get(view_name, [])
        for name in names:
            columns[name] = [_python(values[name]) if values and name in values else None for values in of_view]
    return columns


class _Connection:
    """One provider, and so one connection, for each store; and its views, read anew as often as the registry is."""

    def __init__(self, store: FeatureStore) -> None:
        self.provider = get_provider(store.config)
        self._views: dict[str, tuple[float, FeatureView]] = {}
        self._fields: dict[str, tuple[float, list[str]]] = {}

    def read(
        self, store: FeatureStore, by_view: dict[str, list[str]], entities: Sequence[EntityKeyProto]
    ) -> dict[str, list[batched_read.Values]]:
        """The features of each view, an entity each."""
        asked = {name: (self.view(store, name), names) for name, names in by_view.items()}
        online_store = self.provider.online_store
        if batched_read.serves(online_store):
            return batched_read.read(online_store, store.config, asked, entities)
        return {
            name: [values for _, values in self.provider.online_read(store.config, view, entities, list(names))]
            for name, (view, names) in asked.items()
        }

    def fields(self, store: FeatureStore, name: str) -> list[str]:
        """The features of a view; none where the registry has no such view."""
        now = time.monotonic()
        until, names = self._fields.get(name, (0.0, []))
        if now >= until:
            try:
                names = [field.name for field in self.view(store, name).features]
            except FeatureViewNotFoundException:
                names = []
            self._fields[name] = now + store.config.registry.cache_ttl_seconds, names
        return names

    def view(self, store: FeatureStore, name: str) -> FeatureView:
        now = time.monotonic()
        until, view = self._views.get(name, (0.0, None))
        if now >= until:
            view = store.get_feature_view(name, allow_registry_cache=True)
            self._views[name] = now + store.config.registry.cache_ttl_seconds, view
        return view


def _connection(store: FeatureStore) -> _Connection:
    if store not in _CONNECTIONS:
        _CONNECTIONS[store] = _Connection(store)
    return _CONNECTIONS[store]


def _python(value: ValueProto) -> Any:
    kind = value.WhichOneof("val")
    if kind is None:
        return None
    found = getattr(value, kind)
    return list(found.val) if kind.endswith("_list_val") else found
