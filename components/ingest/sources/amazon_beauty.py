"""Amazon Beauty 5-core (McAuley et al., 2015) in the order of S3-Rec (Zhou et al., CIKM 2020): order, no times."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from components.ingest.read import read
from components.ingest.source import (
    Raw,
    SourceTable,
    locate,
    where,
)
from feature_repo.card import DatasetCard
from runtime.files import digest_file

ADDRESS = "Amazon Beauty 5-core is for measuring only and not redistributed; the order is that of S3-Rec's data folder."

# The source writes a category path as quoted strings: 'Beauty', 'Fragrance', "Women's". A regular expression
# reads them; they are never evaluated.
QUOTED = "regexp_extract_all({column}, '''[^'']*''|\"[^\"]*\"')"


def load(card: DatasetCard, connection: duckdb.DuckDBPyConnection, only: Collection[str] | None = None) -> Raw:
    interactions, path = _paths(card)
    return Raw(
        interactions=read(interactions, connection, card, table="interactions"),
        items=_listed(read(path, connection, card, table="items")),
    )


def _listed(items: SourceTable) -> SourceTable:
    """Categories as lists, also where the file has to be read another way."""
    column = items.column("categories")
    named = f"* REPLACE (list_transform({QUOTED.format(column=column)}, q -> q[2:-2]) AS {column})"
    again = items.carefully
    return replace(
        items,
        relation=items.relation.project(named),
        carefully=None if again is None else lambda: _listed(again()),
    )


def content(card: DatasetCard) -> dict[str, Any]:
    interactions, items = _paths(card)
    return {"": [digest_file(interactions), digest_file(items)]}


def _paths(card: DatasetCard) -> tuple[Path, Path]:
    source = card.source
    return (
        locate(source.interactions, field="interactions", card=card, address=ADDRESS),
        locate(source.items, field="items", card=card, address=ADDRESS),
    )


def identity(card: DatasetCard) -> Any:
    return where(card)
