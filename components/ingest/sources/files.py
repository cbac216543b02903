"""Anyone's CSV (also .gz) or Parquet files, mapped by the card alone."""

from typing import Any

import duckdb

from components.ingest.source import Raw, locate, read
from components.manifest import digest_file
from feature_repo.card import DatasetCard

ADDRESS = "It is your own file."


def load(card: DatasetCard, connection: duckdb.DuckDBPyConnection) -> Raw:
    source = card.source
    interactions = locate(source.interactions, field="interactions", card=card, address=ADDRESS)
    items = locate(source.items, field="items", card=card, address=ADDRESS)
    return Raw(
        interactions=read(interactions, connection, table="interactions"), items=read(items, connection, table="items")
    )


def content(card: DatasetCard) -> Any:
    source = card.source
    return {
        "interactions": digest_file(locate(source.interactions, field="interactions", card=card, address=ADDRESS)),
        "items": digest_file(locate(source.items, field="items", card=card, address=ADDRESS)),
    }
