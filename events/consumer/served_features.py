"""The feature values that models were asked with, as the data gate's check of skew reads them (docs/contracts.md)."""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from events.schema import WITHOUT_A_MODEL

NEWEST = 10
"""Events of each history that are told of, its newest: a history comes again with every request of its shopper."""
WINDOW = timedelta(days=7)
"""Events older than this at the request are left out: the gate looks at the last days only."""
_TIME = pa.timestamp("us", tz="UTC")


def schema(kinds: Mapping[str, pa.DataType]) -> pa.Schema:
    """Of the rows; `kinds` are the features that vary over time."""
    keys = {
        "request_id": pa.string(), "user_id": pa.string(), "item_id": pa.string(), "event_time": _TIME,
        "position": pa.int64(), "version": pa.string(),
    }  # fmt: skip
    return pa.schema({**keys, **kinds})


def served(
    exposures: Iterable[Mapping[str, Any]], kinds: Mapping[str, pa.DataType]
) -> Iterator[tuple[datetime, dict[str, Any]]]:
    """The moment of each request, and a row for each of the newest events that the model was asked with."""
    for exposure in exposures:
        request = json.loads(exposure["request"])
        answered = exposure["status"] in ("ok", "fallback") and exposure["model_version"] not in WITHOUT_A_MODEL
        for position, event in enumerate(reversed(request.get("history", [])[-NEWEST:]) if answered else ()):
            time = datetime.fromisoformat(event["event_time"])
            if time < exposure["time"] - WINDOW:
                break
            if "features" not in event:
                continue  # of a session: the model took the catalogue's values, and not the store's
            row = {
                "request_id": exposure["request_id"],
                "user_id": exposure["user_id"],
                "item_id": event["item_id"],
                "event_time": time,
                "position": position,
                "version": exposure["model_version"],
                **{name: event["features"].get(name) for name in kinds},
            }
            yield exposure["time"], row
