"""What an event is: a sealed line of JSON with its table and the version of its schema, and its row in Parquet."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import orjson
import pyarrow as pa

from runtime.checksum import (
    Damaged,
    seal,
    unseal,
    whole_in,
)

SCHEMA = 5
"""Version 1 had neither `override` nor `received`, version 2 neither `cause` nor `key`, version 3 neither `placement`
nor what comes after the ranking (`origins`, `propensities`, `draws`, `explorable`, `rules`), version 4 neither `tired`
nor `holdout`: null in their rows."""
POPULAR, REMEMBERED = "popular", "tables"
"""The `model_version` of what no model answered: the most popular items; the tables of the champion's archive."""
WITHOUT_A_MODEL = (POPULAR, REMEMBERED)
MOST_DAYS, MOST_SHOWN = 7, 20
"""As far back, and as often of one item, as is counted what a shopper was shown (`tired`)."""
_TIME = pa.timestamp("us", tz="UTC")
_TEXT, _REAL, _COUNT, _WHOLE, _BOOL = pa.string(), pa.float64(), pa.int32(), pa.int64(), pa.bool_()
TABLES = {
    "exposures": pa.schema(
        {
            "schema": _COUNT, "request_id": _TEXT, "user_id": _TEXT, "variant": _TEXT, "model_version": _TEXT,
            "stage": _COUNT, "weight": _REAL, "salt": _TEXT, "time": _TIME, "latency_ms": _REAL, "status": _TEXT,
            "n_items": _COUNT, "items": pa.list_(_TEXT), "scores": pa.list_(_REAL), "request": _TEXT, "context": _TEXT,
            "override": _BOOL, "cause": _TEXT, "placement": _TEXT, "origins": pa.list_(_TEXT),
            "propensities": pa.list_(_REAL), "draws": pa.list_(_REAL),
            "explorable": pa.list_(_COUNT), "rules": _WHOLE, "tired": pa.list_(_TEXT), "holdout": _BOOL,
        }
    ),
    "outcomes": pa.schema(
        {
            "schema": _COUNT, "request_id": _TEXT, "event_type": _TEXT, "item_id": _TEXT, "time": _TIME,
            "received": _TIME, "key": _TEXT,
        }
    ),
}  # fmt: skip
_TIMES = ("time", "received")
_NEEDED: dict[str, dict[str, type]] = {
    "exposures": {"user_id": str, "model_version": str, "status": str, "items": list, "request": str},
    "outcomes": {"event_type": str},
}
"""What its readers take for granted of an event, beside its request and its time."""


class LoggedEvent(NamedTuple):
    """One line that was read: `row` has the columns of `TABLES[table]`, times as `datetime`."""

    table: str
    row: dict[str, Any]


class NoEvent(ValueError):
    """A line that is no event; the message says why."""


class DamagedEvent(NoEvent):
    """A line that is not what was written."""


def to_line(table: str, event: Mapping[str, Any]) -> bytes:
    """The line of an event, its line break included. Times are ISO 8601 strings with their zone."""
    return seal(orjson.dumps({"table": table, "schema": SCHEMA, **event})) + b"\n"


def events(content: bytes) -> Iterator[tuple[bytes, LoggedEvent | NoEvent]]:
    """What is in a line: its event, or why it is none and then the events that are whole in what was damaged; each
    with the line that it would be by itself."""
    try:
        yield content, of_line(content)
    except DamagedEvent as fault:
        yield content, fault
        yield from _whole_events(content)
    except NoEvent as fault:
        yield content, fault


def _whole_events(damaged: bytes) -> Iterator[tuple[bytes, LoggedEvent | NoEvent]]:
    for record in whole_in(damaged):
        content = unseal(record)
        if not content.startswith(b"{"):  # an event with its place in a stream
            yield from _whole_events(content)
            continue
        try:
            yield record, of_line(record)
        except NoEvent as fault:
            yield record, fault


def of_line(line: bytes) -> LoggedEvent:
    """The event of a line. Raises `DamagedEvent` for a damaged one, and `NoEvent` for one of a later schema than this
    code knows. Lines of before there were checksums are JSON alone."""
    sealed = not line.startswith(b"{")
    try:
        row = orjson.loads(unseal(line) if sealed else line)
    except (Damaged, orjson.JSONDecodeError) as error:
        raise DamagedEvent(f"{type(error).__name__}: {error}") from error
    try:
        table, schema = row.pop("table"), row["schema"]
        if schema > SCHEMA:
            raise NoEvent(f"schema {schema}, expected at most {SCHEMA}: update what reads the log")
        if table not in TABLES:
            raise NoEvent(f"table {table!r}, expected {' or '.join(TABLES)}")
        for name in _TIMES:
            if row.get(name) is not None:
                row[name] = datetime.fromisoformat(row[name])
                if row[name].tzinfo is None:
                    raise NoEvent(f"{name} has no zone")
        if not isinstance(row["time"], datetime) or not isinstance(row["request_id"], str):
            raise NoEvent("time or request_id is missing")
        for name, kind in _NEEDED[table].items():
            if not isinstance(row.get(name), kind):
                raise NoEvent(f"{name} is no {kind.__name__}")
        if table == "exposures" and not sealed:
            for event in orjson.loads(row["request"]).get("history", []):
                datetime.fromisoformat(event["event_time"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, NoEvent):
            raise
        raise NoEvent(f"{type(error).__name__}: {error}") from error
    return LoggedEvent(table, row)
