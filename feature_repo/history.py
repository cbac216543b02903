"""One user's history as one versioned binary value: what the online store keeps and a request reads.

One value and not one row an event, because a single write replaces it whole: plain pushes lose events of
one instant and let late writes overwrite newer ones. Columns, little-endian, after a fixed header:

    "UH" | schema uint8 | number of varying values uint8 | number of records uint32
    event_time int64 each (microseconds since 1970, UTC) | position int64 each | streamed: a byte each
    event_id strings | item_id strings
    then for each varying value: its name (a string), "n" or "s", and a column of doubles or of strings

A string column is its lengths (int32 each, -1 for null), then the UTF-8 bytes. A column of doubles is a byte
each that says whether there is a value, then the values: null stays null and never becomes NaN or 0.
Schema 1 had neither positions nor the bytes after them; it is still read.
"""

import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

SCHEMA = 2
EVENT_TYPE = "event_type"
"""Among the values of a record: of which kind it is, where a history has several kinds of events."""
LATEST = 200
"""Records kept of a user, unless the caller says otherwise."""

_MAGIC = b"UH"
_HEADER = struct.Struct("<2sBBI")

Value = float | str | None


class Record(NamedTuple):
    """One event: `event_time` in microseconds since 1970 (UTC), `values` the varying features as they were.

    `position` orders events of one instant: the row in the source, or the event's place in the log.
    `streamed` tells an event that only the log has told of from one that ingest accepted.
    """

    event_id: str
    item_id: str
    event_time: int
    values: Mapping[str, Value]
    position: int = 0
    streamed: bool = False

    @property
    def order(self) -> tuple[int, int, str]:
        """Sorts a user's events as the features step does: no two events are equal, so the order is always the same."""
        return self.event_time, self.position, self.event_id


def encode(records: Sequence[Record], latest: int = LATEST) -> bytes:
    """The binary value of the last `latest` of `records`, which come oldest first.

    Raises `ValueError` where the records are out of order or do not carry the same varying values.
    """
    if latest < 1:
        raise ValueError(f"latest={latest}: a history keeps at least one record")
    kept = records[-latest:]
    times = [record.event_time for record in kept]
    if any(later < earlier for earlier, later in pairwise(times)):
        raise ValueError("history: records are not in the order of event_time; sort them oldest first")
    names = list(kept[0].values) if kept else []
    if any(record.values.keys() != kept[0].values.keys() for record in kept):
        raise ValueError(f"history: every record must carry the same varying values, the first has {names}")
    parts = [
        _HEADER.pack(_MAGIC, SCHEMA, len(names), len(kept)),
        struct.pack(f"<{len(kept)}q", *times),
        struct.pack(f"<{len(kept)}q", *(record.position for record in kept)),
        bytes(record.streamed for record in kept),
        _pack_strings([record.event_id for record in kept]),
        _pack_strings([record.item_id for record in kept]),
    ]
    for name in names:
        parts += [_pack_strings([name]), _pack_values(name, [record.values[name] for record in kept])]
    return b"".join(parts)


def decode(value: bytes) -> list[Record]:
    """The records in `value`, oldest first. Raises `ValueError` for a value that is not a whole history."""
    try:
        magic, schema, n_values, n_records = _HEADER.unpack_from(value)
    except struct.error as error:
        raise ValueError(f"history: {len(value)} bytes are too few for a header") from error
    if magic != _MAGIC or schema not in (1, SCHEMA):
        raise ValueError(f"history: found {magic!r} schema {schema}, expected {_MAGIC!r} schema 1 to {SCHEMA}")
    reader = _Reader(value, _HEADER.size)
    try:
        times = reader.unpack("q", n_records)
        positions = reader.unpack("q", n_records) if schema > 1 else (0,) * n_records
        streamed = map(bool, reader.take(n_records) if schema > 1 else bytes(n_records))
        event_ids, item_ids = reader.strings(n_records), reader.strings(n_records)
        columns = {reader.strings(1)[0]: reader.values(n_records) for _ in range(n_values)}
    except struct.error as error:
        raise ValueError(f"history: the value ends early, at {len(value)} bytes") from error
    if reader.at != len(value):
        raise ValueError(f"history: {len(value) - reader.at} bytes more than the header promises")
    names = list(columns)
    values: list[dict[str, Value]] = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return list(map(Record, event_ids, item_ids, times, values or [{} for _ in times], positions, streamed))


def _pack_strings(strings: Sequence[str | None]) -> bytes:
    encoded = [None if text is None else text.encode() for text in strings]
    lengths = struct.pack(f"<{len(encoded)}i", *(-1 if text is None else len(text) for text in encoded))
    return lengths + b"".join(text for text in encoded if text is not None)


def _pack_values(name: str, values: Sequence[Value]) -> bytes:
    if all(value is None or isinstance(value, str) for value in values) and any(value is not None for value in values):
        return b"s" + _pack_strings([None if value is None else str(value) for value in values])
    if any(isinstance(value, str) for value in values):
        raise ValueError(f"history: varying value {name!r} mixes numbers and strings")
    present = bytes(value is not None for value in values)
    return (
        b"n" + present + struct.pack(f"<{len(values)}d", *(0.0 if value is None else float(value) for value in values))
    )


class _Reader:
    """A position in the bytes; `struct.error` where they end early."""

    def __init__(self, value: bytes, at: int) -> None:
        self.value = value
        self.at = at

    def unpack(self, code: str, count: int) -> tuple[Any, ...]:
        layout = struct.Struct(f"<{count}{code}")
        found = layout.unpack_from(self.value, self.at)
        self.at += layout.size
        return found

    def take(self, length: int) -> bytes:
        if self.at + length > len(self.value):
            raise struct.error("too short")
        self.at += length
        return self.value[self.at - length : self.at]

    def strings(self, count: int) -> list[Any]:
        return [None if length < 0 else self.take(length).decode() for length in self.unpack("i", count)]

    def values(self, count: int) -> list[Value]:
        if self.take(1) == b"s":
            return self.strings(count)
        present = self.take(count)
        return [value if there else None for there, value in zip(present, self.unpack("d", count), strict=True)]
