"""The one writer of online histories: merges what the log tells with what ingest accepted, a user at a time.

A history is a set of events in a total order (time, position, id), cut to the latest. Merging therefore gives the
same value in whatever order, however often and from however many writers events arrive. Three rules:
an event's id is what it is; of two tellings of one event the batch's counts (training sees that one); and the batch
decides alone about the events it once told of, so that one it takes back goes, while an event that only the log
has told of stays.
"""

import threading
import zlib
from collections.abc import (
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from events.consumer.backend import backend_of
from events.schema import MOST_DAYS
from feature_repo import impressions
from feature_repo.definitions import (
    HISTORY_FIELD,
    ITEM_DERIVED,
    ITEM_VARYING,
    USER_HISTORY,
    USER_STATIC,
)
from feature_repo.faults import telling
from feature_repo.feast_import import (
    EntityKeyProto,
    FeatureStore,
    ValueProto,
    deserialize_entity_key,
    get_provider,
    serialize_entity_key,
)
from feature_repo.forgotten import Forgotten, microseconds
from feature_repo.history import (
    EVENT_TYPE,
    LATEST,
    HistoryRecord,
    decode,
    encode,
)
from feature_repo.impressions import Impressions
from feature_repo.kinds import KINDS, Storage
from runtime.clocks import TOLERANCE

PARTITIONS = 16
"""Users are spread over as many locks; every writer of a store must agree on it."""
USERS_AT_ONCE = 2_000

T = TypeVar("T")
Change = tuple[str, Sequence[HistoryRecord]]
"""A user, and what is told of it."""
Merge = Callable[[list[HistoryRecord], Sequence[HistoryRecord]], list[HistoryRecord]]


class UserEvent(NamedTuple):
    """What one user did; its record's `position` is its place in the log, which orders events of one instant."""

    user_id: str
    record: HistoryRecord


class Refused(NamedTuple):
    """An event that was not taken, and why: keep it aside, it will not be taken the next time either."""

    event: UserEvent
    reason: str


@dataclass(kw_only=True)
class Written:
    """What became of one call. All but the refused events can be read now, or are rightly gone."""

    users: int = 0
    """Histories that changed."""
    added: int = 0
    known: int = 0
    """Events that were there already, or are older than everything that is kept."""
    forgotten: int = 0
    """Events of before their user's deletion."""
    refused: list[Refused] = field(default_factory=list)


class HistoryWriter:
    """Writes the histories of `store`, as it was last applied; any number of writers may run beside each other.

    `retention` is the age above which events are dropped. Methods may be called from several threads. Each raises
    `Unavailable` where the store is gone, locked or full: then nothing counts as delivered, deliver it again.
    """

    def __init__(
        self,
        store: FeatureStore,
        *,
        forgotten: Forgotten | None = None,
        retention: timedelta | None = None,
        latest: int = LATEST,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._config, self._clock, self._latest = store.config, clock, latest
        self._forgotten, self._retention = forgotten, retention
        self._view = store.get_feature_view(USER_HISTORY)
        self._kinds = _varying_kinds(store)
        self._provider = get_provider(store.config)
        beside = [view.name for view in store.list_feature_views() if view.name == USER_STATIC]
        self._backend = backend_of(store, self._provider.online_store, USER_HISTORY, *beside)
        self._impressions = impressions.kept(store, self._provider.online_store)
        # Feast gives a provider a single SQLite connection, so a process writes one thing at a time.
        self._turn = threading.Lock()

    def append(self, events: Iterable[UserEvent]) -> Written:
        """Add acknowledged events, in any order, some of them perhaps not for the first time.

        When this returns they can be read. An event that can never be taken is among `refused`, the others are
        written all the same.
        """
        written = Written()
        by_user: dict[str, list[HistoryRecord]] = {}
        for event in events:
            if (reason := self._flaw(event)) is not None:
                written.refused.append(Refused(event, reason))
            elif self._deleted(event.user_id, event.record):
                written.forgotten += 1
            else:
                by_user.setdefault(event.user_id, []).append(event.record._replace(streamed=True))
        self._write(by_user.items(), _append, written, refuse_unreadable=True)
        return written

    def merge(self, histories: Iterable[Change], as_of: datetime) -> Written:
        """Bring in the batch's histories, as ingest and the features step have them at `as_of`.

        What lies after `as_of` stays as it is: an older batch never takes back what a newer one wrote. A stored value
        that cannot be read is replaced.
        """
        until, written = microseconds(as_of), Written()
        alive = ((user, [each for each in records if not self._deleted(user, each)]) for user, records in histories)
        self._write(alive, lambda before, batch: _merge_batch(before, batch, until), written)
        return written

    def forget(self, user_ids: Iterable[str]) -> None:
        """Delete users, online; what the log may still tell of them up to now is not taken again."""
        users = list(user_ids)
        if self._forgotten is not None:
            self._forgotten.add(users, self._clock())
        for partition, part in _by_partition((user, ()) for user in users).items():
            with self._holding(partition):
                self._impressions.delete([user for user, _ in part])
                self._backend.delete([_key(user) for user, _ in part])

    def tell_impressions(self, users: Sequence[str], impressions_of: Callable[[str], Impressions]) -> None:
        """Replace what is told of what these users were shown; it is asked for while nobody deletes them."""
        now = int(self._clock().timestamp())
        for partition, part in _by_partition((user, ()) for user in users).items():
            with self._holding(partition) as still_held:
                told = {user: impressions_of(user) for user, _ in part}
                still_held()
                self._impressions.write(told, now, now + 86_400 * MOST_DAYS)

    def expire(self) -> int:
        """Drop every event older than the retention; the number of users whose history shrank or went."""
        if self._retention is None:
            return 0
        with self._telling():
            users = [user for key in self._backend.stored() if (user := _user_of(key)) is not None]
        written = Written()
        self._write(((user, ()) for user in users), _append, written)
        return written.users

    def _write(
        self, changes: Iterable[Change], merge: Merge, written: Written, *, refuse_unreadable: bool = False
    ) -> None:
        for chunk in _chunks(changes, USERS_AT_ONCE):
            for partition, part in _by_partition(chunk).items():
                with self._holding(partition) as still_held:
                    rows, gone = self._merged(part, merge, written, refuse_unreadable)
                    still_held()
                    if rows:
                        self._provider.online_write_batch(self._config, self._view, rows, None)
                    if gone:
                        self._backend.delete(gone)
                    written.users += len(rows) + len(gone)

    def _merged(
        self, changes: list[Change], merge: Merge, written: Written, refuse_unreadable: bool
    ) -> tuple[list[Any], list[bytes]]:
        """What has to be written, as Feast's rows, and the keys of the histories that are empty now."""
        rows: list[Any] = []
        gone: list[bytes] = []
        for (user, all_told), (moment, value) in zip(changes, self._read(changes), strict=True):
            # Once more, now that nobody else writes: the user may have been deleted since.
            told = [record for record in all_told if not self._deleted(user, record)]
            try:
                before = self._projected(decode(value)) if value else []
            except ValueError as error:
                before = []
                if refuse_unreadable:
                    reason = f"the stored history cannot be read ({error}); materialise it anew, then deliver again"
                    written.refused += [Refused(UserEvent(user, record), reason) for record in told]
                    continue
            after = self._kept(merge(before, self._projected(told)))
            ids = {record.event_id for record in before}
            added = sum(record.event_id not in ids for record in after)
            written.added += added
            written.known += len(told) - added
            if after and (after != before or not before):
                rows.append(self._row(user, after, moment))
            elif value and not after:
                gone.append(_key(user))
        return rows, gone

    def _read(self, changes: list[Change]) -> list[tuple[datetime | None, bytes]]:
        """When each history was written, and its value; empty for a user without one."""
        keys = [_entity(user) for user, _ in changes]
        rows = self._provider.online_read(self._config, self._view, keys, [HISTORY_FIELD])
        return [(moment, values[HISTORY_FIELD].bytes_val if values else b"") for moment, values in rows]

    def _row(self, user: str, records: list[HistoryRecord], before: datetime | None) -> Any:
        # Redis drops, without a word, what is not later than what it has. So the time always rises, also where
        # the clock went back or two writes share a microsecond.
        now = self._clock()
        moment = now if before is None else max(now, before + timedelta(microseconds=1))
        return _entity(user), {HISTORY_FIELD: ValueProto(bytes_val=encode(records, self._latest))}, moment, moment

    def _kept(self, records: list[HistoryRecord]) -> list[HistoryRecord]:
        """The latest of `records` that the retention lets live."""
        records = sorted(records, key=lambda record: record.order)[-self._latest :]
        if self._retention is None:
            return records
        since = microseconds(self._clock() - self._retention)
        return [record for record in records if record.event_time >= since]

    def _projected(self, records: Sequence[HistoryRecord]) -> list[HistoryRecord]:
        """With the varying values that the store declares now, None for those of which nothing was said."""
        if all(record.values.keys() == self._kinds.keys() for record in records):
            return list(records)
        return [record._replace(values={name: record.values.get(name) for name in self._kinds}) for record in records]

    def _deleted(self, user: str, record: HistoryRecord) -> bool:
        return self._forgotten is not None and self._forgotten.covers(user, record.event_time)

    def _flaw(self, event: UserEvent) -> str | None:
        """Why the event can never be taken, if it cannot."""
        user, record = event
        for name, key in (("user_id", user), ("item_id", record.item_id), ("event_id", record.event_id)):
            if not isinstance(key, str) or not key:
                return f"{name}: found {key!r}, expected a string that is not empty"
            if not _is_utf8(key):
                return f"{name}: {key!r} is not UTF-8 text"
        for name, number in (("event_time", record.event_time), ("position", record.position)):
            if type(number) is not int or not -(2**63) <= number < 2**63:
                return f"{name}: found {number!r}, expected a whole number of 64 bits"
        if record.event_time > microseconds(self._clock() + TOLERANCE):
            return f"event_time: {record.event_time} lies more than {TOLERANCE} ahead of the clock"
        for name, value in record.values.items():
            kinds = self._kinds.get(name, (object,))
            if value is not None and (not isinstance(value, kinds) or (isinstance(value, str) and not _is_utf8(value))):
                return f"{name}: found {value!r}, expected {kinds[0].__name__} or nothing"
        return None

    @contextmanager
    def _holding(self, partition: int) -> Iterator[Callable[[], None]]:
        with self._turn, self._telling(), self._backend.hold(partition) as still_held:
            yield still_held

    def _telling(self) -> AbstractContextManager[None]:
        return telling(
            self._config.project,
            "Nothing of this call counts as written; bring the store back and deliver the same events again.",
        )


def _append(before: list[HistoryRecord], told: Sequence[HistoryRecord]) -> list[HistoryRecord]:
    """What was known stays as it is."""
    by_id = {record.event_id: record for record in before}
    for record in told:
        by_id.setdefault(record.event_id, record)
    return list(by_id.values())


def _merge_batch(before: list[HistoryRecord], batch: Sequence[HistoryRecord], until: int) -> list[HistoryRecord]:
    by_id = {record.event_id: record for record in before if record.streamed or record.event_time > until}
    by_id.update((record.event_id, record) for record in batch)
    return list(by_id.values())


def _varying_kinds(store: FeatureStore) -> dict[str, tuple[type, ...]]:
    """Python types of each value that varies in time, by its name, read back from the registry."""
    fields = [
        field
        for view in store.list_feature_views()
        if view.name in (ITEM_VARYING, ITEM_DERIVED)
        for field in view.features
    ]
    kinds: dict[str, tuple[type, ...]] = {
        field.name: (float, int) if KINDS[field.tags["kind"]].storage is Storage.NUMBER else (str,) for field in fields
    }
    # Of a history of several kinds of events each record says its own.
    typed = store.get_feature_view(USER_HISTORY).tags.get(EVENT_TYPE) == "true"
    return {**kinds, EVENT_TYPE: (str,)} if typed else kinds


def partition_of(user_id: str) -> int:
    """The partition of a user, from 0 to PARTITIONS - 1; the same in every process."""
    return zlib.crc32(user_id.encode()) % PARTITIONS


def _by_partition(changes: Iterable[Change]) -> dict[int, list[Change]]:
    parts: dict[int, list[Change]] = {}
    for user, told in changes:
        parts.setdefault(partition_of(user), []).append((user, told))
    return parts


def _chunks(values: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(values)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _entity(user: str) -> EntityKeyProto:
    return EntityKeyProto(join_keys=["user_id"], entity_values=[ValueProto(string_val=user)])


def _key(user: str) -> bytes:
    """The user's key as Feast stores it."""
    return bytes(serialize_entity_key(_entity(user), entity_key_serialization_version=3))


def _user_of(key: bytes) -> str | None:
    """The user of a stored key; None where it is another project's, whose name ends like this one's."""
    try:
        user = str(deserialize_entity_key(key, entity_key_serialization_version=3).entity_values[0].string_val)
    except (ValueError, UnicodeDecodeError):
        return None
    return user if _key(user) == key else None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
