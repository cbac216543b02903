"""Resolve: turn "now" into facts that every later step receives, so that those can be repeated."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feature_repo.card import DatasetCard
from runtime.errors import InputError
from runtime.manifest import Manifest, digest_json


def run(
    *,
    card: DatasetCard,
    events: Path,
    as_of: datetime | str | None,
    facts: Path,
) -> dict[str, Any]:
    """Write `facts/facts.json` (docs/contracts.md) and return it.

    `as_of` is the moment from which the run looks back; the newest event's time where it is left out.
    Raises `InputError` for an `as_of` that is no time with a zone or lies before every event.
    """
    manifest = Manifest.read(events, kind="events")
    report = json.loads((events / "report.json").read_text())
    if report["last_event"] is None:
        reasons = ", ".join(f"{reason} {rows}" for reason, rows in report["reasons"].items()) or "the source is empty"
        given = card.source.interactions
        places = [str(each.place) for each in given] if isinstance(given, list) else [str(given)] if given else []
        source = ", ".join(places) or f"source {card.source.adapter}"
        raise InputError(
            f"{source}: it has no accepted interaction ({report['rejected']} of {report['rows']} rows were set aside, "
            f"each is in {events}/rejected.parquet: {reasons}). Correct it, or the columns in card {card.name!r}."
        )
    first, last = (_moment(report[key], f"{events}/report.json: {key}") for key in ("first_event", "last_event"))
    moment = last if as_of is None else _moment(as_of, "as_of")
    if moment < first:
        raise InputError(f"as_of {moment.isoformat()} lies before the first event, {first.isoformat()}; ask for later.")
    resolved = {
        "as_of": moment.isoformat(),
        "partitions": _partitions(manifest),
        "items_digest": digest_json(_below(manifest, "items/")),
    }
    facts.mkdir(parents=True, exist_ok=True)
    (facts / "facts.json").write_text(json.dumps(resolved, indent=1))
    return resolved


def _partitions(manifest: Manifest) -> dict[str, str]:
    """Digest of each day of interactions; an edited or late day shows as another digest."""
    days = {match[1] for path in manifest.content if (match := re.match(r"interactions/day=([^/]+)/", path))}
    return {day: digest_json(_below(manifest, f"interactions/day={day}/")) for day in sorted(days)}


def _below(manifest: Manifest, prefix: str) -> dict[str, str]:
    return {path: digest for path, digest in manifest.content.items() if path.startswith(prefix)}


def _moment(value: datetime | str, name: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError as error:
        raise InputError(f"{name}: found {value!r}, expected a time such as 2026-01-31T12:00:00Z.") from error
    if moment.tzinfo is None:
        raise InputError(f"{name}: {value} has no time zone; write it as 2026-01-31T12:00:00Z.")
    return moment.astimezone(UTC)
