"""The histories that earlier versions stored (schemas 1 and 2), read and never written.

Columns, little-endian, after a fixed header:

    "UH" | schema uint8 | number of varying values uint8 | number of records uint32
    event_time int64 each (microseconds since 1970, UTC) | position int64 each | streamed: a byte each
    event_id strings | item_id strings
    then for each varying value: its name (a string), "n" or "s", and a column of doubles or of strings

A string column is its lengths (int32 each, -1 for null), then the UTF-8 bytes. A column of doubles is a byte
each that says whether there is a value, then the values. Schema 1 had neither positions nor the bytes after them.

A history is written anew only when it changes, so these stay in a store for as long as it keeps events of a user
who does not come back.
"""

import struct
from typing import Any

_HEADER = struct.Struct("<2sBBI")


def columns(value: bytes) -> tuple[Any, ...]:
    """Of event_id, item_id, event_time, {name: a varying value}, position, streamed. Raises `ValueError` for a value
    that is not a whole history."""
    try:
        _, schema, n_values, n_records = _HEADER.unpack_from(value)
        reader = _Reader(value, _HEADER.size)
        times = reader.unpack("q", n_records)
        positions = reader.unpack("q", n_records) if schema > 1 else (0,) * n_records
        streamed = [bool(each) for each in (reader.take(n_records) if schema > 1 else bytes(n_records))]
        event_ids, item_ids = reader.strings(n_records), reader.strings(n_records)
        values = {reader.strings(1)[0]: reader.values(n_records) for _ in range(n_values)}
    except struct.error as error:
        raise ValueError(f"history: the value ends early, at {len(value)} bytes") from error
    if reader.at != len(value):
        raise ValueError(f"history: {len(value) - reader.at} bytes more than the header promises")
    return event_ids, item_ids, times, values, positions, streamed


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

    def values(self, count: int) -> list[Any]:
        if self.take(1) == b"s":
            return self.strings(count)
        present = self.take(count)
        return [value if there else None for there, value in zip(present, self.unpack("d", count), strict=True)]
