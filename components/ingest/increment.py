"""What an ingest takes over from the one before: unchanged parts of the source, and when each row was first known.

A row that was not there before, though its time had passed, is late: it counts from the moment of the ingest that
found it (`created_time`), so that a training frame of an earlier day is the same whenever it is made. Of a source that
was rewritten no row is: what was known before says nothing of it.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from components.ingest.erase import GONE
from components.ingest.parse import value_of
from components.ingest.row_validation import MALFORMED_LINE
from feature_repo.card import DatasetCard
from feature_repo.card_source import CsvTables
from runtime.links import link_or_copy
from runtime.manifest import digest_json
from runtime.sql import literal

NAME = "increment.json"
SCHEMA = 2


@dataclass(frozen=True, kw_only=True)
class Increment:
    """What an events artifact says of its own making; `increment.json`."""

    basis: str
    """Digest of what must be the same for anything to be taken over: columns, features and the source's identity."""
    parts: dict[str, str]
    """Digest of each part of the source."""
    watermark: str
    """Up to when the source was known; what is found later with an earlier time is late."""
    reached: str = ""
    """Up to when this ingest's own source went: before the watermark where it had lost its last days."""
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each part: `rows`, `rejected` and `reasons` of the interactions."""
    schema: int = SCHEMA

    def write(self, events: Path) -> None:
        (events / NAME).write_text(json.dumps(asdict(self), indent=1, sort_keys=True))

    @classmethod
    def read(cls, events: Path) -> "Increment | None":
        """That of an artifact; None where it has none that could be used."""
        path = events / NAME
        if not path.is_file():
            return None
        raw = json.loads(path.read_text())
        return cls(**raw) if raw.get("schema") == SCHEMA else None


def basis_of(card: DatasetCard, identity: Any) -> str:
    asked = card.model_dump(mode="json", include={"name", "columns", "features", "limits"})
    if card.user_features:
        asked["user_features"] = card.model_dump(mode="json", include={"user_features"})["user_features"]
    else:  # so that nights of before there were any stay
        del asked["columns"]["user_key"], asked["columns"]["user_available_at"]
    if card.context:
        asked["context"] = card.model_dump(mode="json", include={"context"})["context"]
    asked["columns"]["event_types"] = card.history_types  # where it was said before there were `events`
    asked["limits"] = {"retention_days": card.limits.retention_days}
    # How a file is written changes what is read of it; said where it is not seen, so that nights of before stay.
    if card.source.csv != CsvTables() or card.source.time_format is not None:
        said = card.source.identity()
        asked["written"] = [said["csv"], card.source.time_format]
    return digest_json({"card": asked, "adapter": card.source.adapter, "zone": card.source.timezone, "of": identity})


@dataclass(frozen=True, kw_only=True)
class IngestPlan:
    """What this ingest reads, and what it takes over from `previous`."""

    basis: str
    parts: dict[str, str]
    previous: Path | None
    before: Increment | None
    as_of: datetime | None

    @classmethod
    def make(
        cls, card: DatasetCard, identity: Any, parts: dict[str, str], previous: Path | None, as_of: datetime | None
    ) -> "IngestPlan":
        """`previous` is left aside where it was made for another card or source, without the parts of this one, or of
        nothing: a shop may have been empty at first."""
        basis = basis_of(card, identity)
        before = Increment.read(previous) if previous is not None else None
        empty = previous is None or not any(previous.glob("interactions/*/*.parquet"))
        if before is not None and (before.basis != basis or empty):
            before = None
        return cls(basis=basis, parts=parts, previous=previous if before else None, before=before, as_of=as_of)

    @property
    def kept(self) -> list[str]:
        """Parts that are as they were, whose rows are taken over."""
        if self.before is None or self.before.parts.keys() - self.parts.keys() or len(self.parts) == 1:
            return []
        return [name for name, digest in self.parts.items() if name and self.before.parts.get(name) == digest]

    @property
    def read(self) -> list[str] | None:
        """Parts to read; None for all of them."""
        return [name for name in self.parts if name and name not in self.kept] if self.kept else None

    def known_at(self, last_event: datetime) -> datetime:
        """The moment from which rows count that are late: that of this ingest, on the clock of the data."""
        moment = max(self.as_of or last_event, last_event if self.as_of is None else self.as_of)
        if self.before is not None:
            watermark = datetime.fromisoformat(self.before.watermark)
            # Of the watermark's own moment there is a frame already, unless the ingest before fell short of it: days
            # that were lost and are there again must not wait for the next event.
            short = self.before.reached and datetime.fromisoformat(self.before.reached) < watermark
            moment = max(moment, watermark if short else watermark + timedelta(microseconds=1))
        return moment

    def increment(self, last_event: str | None, counts: dict[str, dict[str, Any]]) -> Increment:
        """What is written for the ingest after this one."""
        moments = [datetime.fromisoformat(last_event)] if last_event else []
        if self.as_of is not None:
            moments.append(min(self.as_of, datetime.now(UTC)))
        reached = max(moments, default=datetime(1970, 1, 1, tzinfo=UTC))
        before = datetime.fromisoformat(self.before.watermark) if self.before is not None else reached
        return Increment(
            basis=self.basis,
            parts=self.parts,
            watermark=max(reached, before).isoformat(),
            reached=reached.isoformat(),
            counts=counts,
        )


def open_stored(connection: duckdb.DuckDBPyConnection, plan: IngestPlan) -> None:
    """View `stored`: the interactions of the previous ingest as they are."""
    assert plan.previous is not None
    files = literal(str(plan.previous / "interactions" / "*" / "*.parquet"))
    connection.execute(f"CREATE TEMP VIEW stored AS FROM read_parquet({files}, hive_partitioning = false)")


def open_previous(connection: duckdb.DuckDBPyConnection, plan: IngestPlan) -> None:
    """Views `previous` (of `stored` what may stay) and `kept` (of that, the parts that are taken over)."""
    connection.execute(f"CREATE TEMP VIEW previous AS FROM stored WHERE NOT {GONE}")
    kept = ", ".join(map(literal, plan.kept)) or "NULL"
    connection.execute(f"CREATE TEMP VIEW kept AS FROM previous WHERE coalesce(origin, '') IN ({kept})")


def late_sql(connection: duckdb.DuckDBPyConnection, plan: IngestPlan) -> str:
    """A branch of CASE: when a row `r` counts that is new though its time had passed; nothing for a first ingest."""
    if plan.before is None:
        return ""
    newest = connection.execute(
        'SELECT max("value.event_time")::VARCHAR FROM judged_interactions WHERE len(reasons) = 0'
    ).fetchall()[0][0]
    watermark = datetime.fromisoformat(plan.before.watermark)
    known = plan.known_at(datetime.fromisoformat(newest) if newest else watermark)
    return (
        f"WHEN r.event_time <= TIMESTAMPTZ '{watermark.isoformat()}' "
        f"THEN greatest(r.created_time, TIMESTAMPTZ '{known.isoformat()}')"
    )


def rewritten(connection: duckdb.DuckDBPyConnection, plan: IngestPlan, event: Sequence[str]) -> bool:
    """Whether most of the events that were known are there no more, of the days that the source has now.

    If its rows were late nonetheless, a shop whose ids moved would have no event until the next one, and no derived
    feature of any day before.
    """
    if plan.before is None:
        return False
    listed = ", ".join(event)
    judged = ", ".join(f"{value_of(name)} AS {name}" for name in event)
    ((known, still),) = connection.execute(
        f"WITH now AS (SELECT {judged} FROM judged_interactions WHERE len(reasons) = 0 "
        f"UNION ALL SELECT {listed} FROM kept), "
        f"known AS (SELECT {listed} FROM previous "
        "WHERE event_time BETWEEN (SELECT min(event_time) FROM now) AND (SELECT max(event_time) FROM now)) "
        f"SELECT (SELECT count(*) FROM known), (SELECT count(*) FROM known WHERE ({listed}) IN "
        f"(SELECT ({listed}) FROM now))"
    ).fetchall()
    return bool(2 * still < known)


def take_over_days(connection: duckdb.DuckDBPyConnection, plan: IngestPlan, events: Path) -> str:
    """Link the days to which nothing comes and from which nothing goes; the name of the table of all others."""
    if not plan.kept:
        return ""
    assert plan.previous is not None
    kept = ", ".join(map(literal, plan.kept))
    connection.execute(
        'CREATE TEMP TABLE touched AS SELECT DISTINCT "value.event_time"::DATE AS day FROM judged_interactions '
        "WHERE len(reasons) = 0 UNION SELECT DISTINCT event_time::DATE FROM stored "
        f"WHERE coalesce(origin, '') NOT IN ({kept}) OR {GONE}"
    )
    touched = {day.isoformat() for (day,) in connection.execute("FROM touched").fetchall()}
    for folder in sorted((plan.previous / "interactions").glob("day=*")):
        if folder.name.removeprefix("day=") not in touched:
            shutil.copytree(folder, events / "interactions" / folder.name, copy_function=link_or_copy)
    return "touched"


def counts_by_part(connection: duckdb.DuckDBPyConnection, plan: IngestPlan) -> dict[str, dict[str, Any]]:
    """`rows`, `rejected` and `reasons` of the interactions of each part, of those taken over as they were."""
    counts: dict[str, dict[str, Any]] = {
        name: plan.before.counts[name] for name in plan.kept if plan.before and name in plan.before.counts
    }
    for part, rows, rejected in connection.execute(
        "SELECT coalesce(origin, ''), count(*), count(*) FILTER (len(reasons) > 0) FROM judged_interactions GROUP BY 1"
    ).fetchall():
        counts[part] = {"rows": rows, "rejected": rejected, "reasons": {}}
    for part, reason, rows in connection.execute(
        "SELECT part, reason, count(*) FROM (SELECT coalesce(origin, '') AS part, unnest(reasons) AS reason "
        "FROM judged_interactions) GROUP BY ALL"
    ).fetchall():
        counts[part]["reasons"][reason] = rows
    for name, lines in connection.execute(
        "SELECT coalesce(origin, ''), count(*) FROM lines_interactions GROUP BY 1"
    ).fetchall():
        part = counts.setdefault(name, {"rows": 0, "rejected": 0, "reasons": {}})
        part["rows"], part["rejected"] = part["rows"] + lines, part["rejected"] + lines
        part["reasons"][MALFORMED_LINE] = lines
    return counts


def rejected_before(plan: IngestPlan, *, keep_lines: bool) -> str:
    """Query of the rejected interactions of the parts that are taken over; items are all judged anew.

    A bad row of a deleted user goes whatever its time, which may be what is bad.
    """
    assert plan.previous is not None
    kept, path = ", ".join(map(literal, plan.kept)), literal(str(plan.previous / "rejected.parquet"))
    lines = "" if keep_lines else f" AND reasons <> [{literal(MALFORMED_LINE)}]"
    return (
        f"SELECT * FROM read_parquet({path}) WHERE \"table\" = 'interactions' AND coalesce(origin, '') IN ({kept})"
        f"{lines} AND NOT EXISTS (FROM forgotten f WHERE f.digest = sha256(user_id))"
    )
