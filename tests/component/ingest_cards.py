"""Tiny sources with a card each, for the tests of ingest."""

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from components.ingest import step
from feature_repo.card import DatasetCard

INTERACTIONS = {
    "user_id": ["a", "b", "a"],
    "item_id": ["x", "y", "y"],
    "event_time": ["2025-03-01T10:00:00Z", "2025-03-01T11:00:00Z", "2025-03-02T10:00:00Z"],
}
ITEMS = {"item_id": ["x", "y"], "title": ["Red mug", "Blue kettle"], "price": ["3.5", "20"]}
TITLE = {"name": "title", "kind": "text"}
PRICE = {"name": "price", "kind": "numeric"}


def write_csv(path: Path, columns: dict[str, list]) -> Path:
    lines = [",".join(columns)]
    lines += [
        ",".join("" if value is None else f'"{value}"' for value in row) for row in zip(*columns.values(), strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def write(path: Path, columns: dict[str, list] | pa.Table) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path)
        return path
    return write_csv(path, columns)


def make_card(
    folder: Path, interactions=INTERACTIONS, items=ITEMS, *, suffix=".csv", columns=None, features=None, **more
):
    source = {
        "adapter": "files",
        "interactions": write(folder / f"interactions{suffix}", interactions),
        "items": write(folder / f"items{suffix}", items),
        **more.pop("source", {}),
    }
    return DatasetCard.model_validate(
        {
            "name": "tiny",
            "description": "A few rows.",
            "source": source,
            "columns": {"event_time": "event_time"} if columns is None else columns,
            "features": [TITLE, PRICE] if features is None else features,
            "split": {"by": "time"},
            **more,
        }
    )


def ingest(card: DatasetCard, folder: Path, **more) -> tuple[dict, Path]:
    events = folder / "events"
    events.mkdir()
    return step.run(card=card, events=events, **more), events


def rows(events: Path, files: str) -> list[dict]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.read_parquet(str(events / files), hive_partitioning=False)
        return found.to_arrow_table().to_pylist()


def interactions_of(events: Path) -> list[dict]:
    return rows(events, "interactions/*/*.parquet")


def with_row(columns: dict[str, list], **values) -> dict[str, list]:
    """The table with one more row: its last one, changed."""
    return {name: [*column, values.get(name, column[-1])] for name, column in columns.items()}
