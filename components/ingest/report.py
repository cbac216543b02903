"""What ingest reports of a source: how much came in, what was set aside and why, and what a person should know."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import duckdb

from components.ingest.row_validation import counts_of, reasons_of
from components.ingest.source import Raw
from feature_repo.card import DatasetCard
from feature_repo.event_types import CardEventType

USERS_AS_OF_THE_RUN = (
    "The users table has no dates (columns.user_available_at): its features are as of the run, at all events. Whatever "
    "a user's own events move must not be among them."
)


def report_of(
    connection: duckdb.DuckDBPyConnection, card: DatasetCard, raw: Raw, counts: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """The report (docs/contracts.md) of the tables that ingest has in `connection`; `counts` are by part of source."""
    rows, rejected = (sum(part[name] for part in counts.values()) for name in ("rows", "rejected"))
    reasons: Counter[str] = Counter()
    for part in counts.values():
        reasons.update(part["reasons"])
    users, items, first, last, decimal = connection.execute(
        "SELECT count(DISTINCT user_id), count(DISTINCT item_id), min(event_time)::VARCHAR, max(event_time)::VARCHAR, "
        "count(*) FILTER (ends_with(user_id, '.0') OR ends_with(item_id, '.0')) FROM accepted"
    ).fetchall()[0]
    synthesised = card.columns.event_time is None
    report = {
        "rows": rows,
        "accepted": rows - rejected,
        "rejected": rejected,
        "reasons": dict(reasons.most_common()),
        "users": users,
        "items": items,
        "first_event": _iso(first),
        "last_event": _iso(last),
        "event_time_synthesised": synthesised,
        "notes": list(raw.notes),
    }
    if raw.items is not None:
        report["item_rows"], report["item_rejected"] = counts_of(connection, "items")
        report["item_reasons"] = reasons_of(connection, "items")
    if raw.users is not None:
        report["user_rows"], report["user_rejected"] = counts_of(connection, "users")
        report["user_reasons"] = reasons_of(connection, "users")
        if card.columns.user_available_at is None:
            report["notes"].append(USERS_AS_OF_THE_RUN)
    notes: list[str] = report["notes"]
    if synthesised:
        notes.append("The source knows only the order: event times are 2000-01-01 plus one day per position.")
    if card.source.timezone != "UTC":
        notes.append(
            f"Times without a zone are those of {card.source.timezone}; one that the clocks skipped is set aside, "
            "of one that came twice the later is taken."
        )
    if card.events is not None:
        report["event_types"] = types = dict(
            connection.execute(
                "SELECT coalesce(event_type, '(none)'), count(*) FROM accepted GROUP BY 1 ORDER BY 2 DESC, 1"
            ).fetchall()
        )
        notes += _about_types(card.events, types)
    if decimal:
        notes.append(
            f"{decimal:,} events have ids that end in .0, as whole numbers do that a tool wrote as decimals. They are "
            "kept as they stand, and asked for like that: where it is not meant, write whole numbers (or Parquet)."
        )
    if rows == rejected:
        notes.append("No usable interaction: " + ("every row was set aside." if rows else "the source is empty."))
    return report


def _about_types(events: dict[str, CardEventType], found: dict[str, int]) -> list[str]:
    """What the data has of each kind of event, and what that means."""
    told = [f"{name} {count:,} ({_meaning(events.get(name))})" for name, count in list(found.items())[:20]]
    notes = [f"Types of events: {', '.join(told) or 'none'}."]
    if never := [name for name in events if name not in found]:
        notes.append(f"events names {', '.join(never)}, which no event has. Is it spelled as there?")
    return notes


def _meaning(kind: CardEventType | None) -> str:
    if kind is None or not kind.history:
        return "speaks against the item, not in the history" if kind and kind.negative else "kept, counts for nothing"
    return "predicted" if kind.predict else "in the history, speaks against" if kind.negative else "in the history"


def _iso(moment: str | None) -> str | None:
    return None if moment is None else datetime.fromisoformat(moment).astimezone(UTC).isoformat()
