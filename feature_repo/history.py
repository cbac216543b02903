"""One user's history as one versioned binary value: what the online store keeps and a request reads.

One value and not one row an event, because a single write replaces it whole: plain pushes lose events of
one instant and let late writes overwrite newer ones. After "UH" and a byte for the schema comes JSON, the
columns of `HistoryRecord` in their order; `values` is an object with a column for each varying value:

    [event_id, item_id, event_time, {name: values}, position, streamed]

Columns, so that a name is written once and not with every event. JSON knows no NaN and no infinity: they are
stored as null, which is also what a request would make of them. Schemas 1 and 2 (`packed_history`) are still read.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise, starmap
from typing import Any, NamedTuple

import orjson

from feature_repo import packed_history

SCHEMA = 3
EVENT_TYPE = "event_type"
"""Among the values of a record: of which kind it is, where a history has several kinds of events."""
LATEST = 200
"""Records kept of a user, unless the caller says otherwise."""

_MAGIC = b"UH"
_HEADER = _MAGIC + bytes([SCHEMA])

Value = float | str | None


class HistoryRecord(NamedTuple):
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


_VALUES = HistoryRecord._fields.index("values")


def encode(records: Sequence[HistoryRecord], latest: int = LATEST) -> bytes:
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
    columns: list[Any] = list(zip(*kept, strict=True)) or [()] * len(HistoryRecord._fields)
    columns[_VALUES] = {
        # A whole number that an event told is stored as what it is, a double.
        name: [float(value) if isinstance(value, int) else value for value in (each[name] for each in columns[_VALUES])]
        for name in names
    }
    return _HEADER + orjson.dumps(columns)


def decode(value: bytes) -> list[HistoryRecord]:
    """The records in `value`, oldest first. Raises `ValueError` for a value that is not a whole history."""
    if len(value) <= len(_HEADER):
        raise ValueError(f"history: {len(value)} bytes are too few for a header")
    if value[:2] != _MAGIC or not 1 <= value[2] <= SCHEMA:
        raise ValueError(f"history: found {value[:2]!r} schema {value[2]}, expected {_MAGIC!r} schema 1 to {SCHEMA}")
    if value[2] < SCHEMA:
        return _records(*packed_history.columns(value))
    try:
        return _records(*orjson.loads(value[len(_HEADER) :]))
    except (ValueError, TypeError, AttributeError) as error:  # no JSON, or JSON that is no columns
        raise ValueError(f"history: no whole value in {len(value)} bytes of schema {SCHEMA}: {error}") from error


def _records(
    event_ids: Sequence[str],
    item_ids: Sequence[str],
    times: Sequence[int],
    columns: Mapping[str, Sequence[Value]],
    positions: Sequence[int],
    streamed: Sequence[bool],
) -> list[HistoryRecord]:
    """From columns of equal length; of `columns` one for each varying value."""
    rows = zip(*columns.values(), strict=True) if columns else ((),) * len(times)
    values = [dict(zip(columns, row, strict=True)) for row in rows]
    return list(starmap(HistoryRecord, zip(event_ids, item_ids, times, values, positions, streamed, strict=True)))
