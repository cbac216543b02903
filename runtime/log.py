"""What a task of a pipeline says while it runs: a line of JSON an event, on standard output.

A cluster's log collector takes the lines as they are; the local runner turns them into a progress bar and sentences.
"""

import json
import sys
from datetime import UTC, datetime
from typing import Any

MARK = '{"event": '


def emit(event: str, **fields: Any) -> None:
    """Write one event; `fields` are JSON values (anything else is written as its string)."""
    record = {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
    sys.stdout.write(json.dumps(record, default=str) + "\n")
    sys.stdout.flush()


def parse(line: str) -> dict[str, Any] | None:
    """The event that a line carries, or None for any other output."""
    start = line.find(MARK)
    if start < 0:
        return None
    try:
        record = json.loads(line[start:])
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None
