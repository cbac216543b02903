"""What was served lately, out of the event log: the exposures that the data gate looks at for skew."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.shared.reference_files import EXPOSURES
from feature_repo.card import DatasetCard
from runtime.sql import literal, session

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation

WINDOW = timedelta(days=7)
MOST = 200_000
"""Exposures looked at: the first by a digest of what they are, so that every run takes the same."""


def copy_exposures(card: DatasetCard, log: Path, as_of: datetime, reference: Path) -> dict[str, Any]:
    """Copy the exposures of the last days before `as_of` from the folder `log` to `reference`; returns what to report.

    A log that is absent, empty or cannot be read is said and costs only the check of skew: it is no fault of the data.
    """
    import duckdb

    files = {suffix: sorted(map(str, log.rglob(f"*.{suffix}"))) for suffix in ("parquet", "jsonl")}
    if not any(files.values()):
        return _nothing(f"No exposures at {log}: skew between what was served and what is trained on is not judged.")
    with session() as db:
        try:
            parts = [_read(db, card, suffix, paths) for suffix, paths in files.items() if paths]
            for number, part in enumerate(parts):
                part.create_view(f"part_{number}")
            union = " UNION ALL BY NAME ".join(f"FROM part_{number}" for number in range(len(parts)))
            window = (
                f"event_time > TIMESTAMPTZ '{(as_of - WINDOW).isoformat()}' AND event_time <= '{as_of.isoformat()}'"
            )
            query = (
                f"SELECT * FROM ({union}) WHERE item_id IS NOT NULL AND {window} "
                f"ORDER BY md5(concat_ws(chr(31), request_id, item_id, event_time)), position LIMIT {MOST}"
            )
            target = literal(str(reference / EXPOSURES))
            db.execute(f"COPY ({query}) TO {target} (FORMAT parquet)")
            (rows,) = db.execute(f"SELECT count(*) FROM {target}").fetchall()[0]
        except duckdb.Error as error:
            (reference / EXPOSURES).unlink(missing_ok=True)
            return {
                **_nothing(f"{log}: the exposures cannot be read: {str(error).splitlines()[0]}"),
                "served_fault": True,
            }
    if not rows:
        (reference / EXPOSURES).unlink()
        return _nothing(f"No exposures at {log} in the {WINDOW.days} days before {as_of:%Y-%m-%d %H:%M} UTC.")
    return {
        "exposures": rows,
        "served": f"{rows:,} exposures of the {WINDOW.days} days before as_of.",
        "served_fault": False,
    }


def _read(db: "DuckDBPyConnection", card: DatasetCard, suffix: str, paths: list[str]) -> "DuckDBPyRelation":
    """The columns of the contract that are there, with its types."""
    if suffix == "parquet":
        found = db.read_parquet(paths, union_by_name=True, hive_partitioning=False)
    else:
        # The last line may still be written.
        found = db.sql(
            f"FROM read_json({paths!r}, format = 'newline_delimited', union_by_name = true, ignore_errors = true, "
            "hive_partitioning = false, sample_size = -1)"
        )
    keys = {"request_id": "VARCHAR", "item_id": "VARCHAR", "event_time": "TIMESTAMPTZ", "position": "BIGINT"}
    features = {feature.name: feature.storage.value for feature in card.features if feature.name in found.columns}
    return found.project(", ".join(f'"{name}"::{kind} AS "{name}"' for name, kind in {**keys, **features}.items()))


def _nothing(why: str) -> dict[str, Any]:
    return {"exposures": 0, "served": why, "served_fault": False}
