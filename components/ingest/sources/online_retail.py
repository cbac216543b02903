"""Online Retail II (UCI, CC BY 4.0; Chen, 2019): the invoice lines of a real shop, with their dirt.

There is no items table: descriptions and prices are read off the lines that are kept, each from its first line on.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import duckdb

from components.ingest.read import read
from components.ingest.source import Raw, locate, where
from feature_repo.card import DatasetCard
from runtime.files import digest_file

ADDRESS = "Online Retail II is at https://archive.ics.uci.edu/dataset/502 (both sheets as one Parquet file)."


def load(card: DatasetCard, connection: duckdb.DuckDBPyConnection, only: Collection[str] | None = None) -> Raw:
    lines = read(_path(card), connection, card, table="interactions")
    invoice, price, code = map(lines.column, ("InvoiceNo", "UnitPrice", "StockCode"))
    return Raw(
        interactions=lines,
        items=None,
        reject={
            # Cast, so that a column of another type is judged row by row like any other fault.
            "cancellation": f"starts_with({invoice}::VARCHAR, 'C')",
            "price_not_positive": f"TRY_CAST({price} AS DOUBLE) <= 0",
            "not_a_product": f"NOT coalesce(regexp_full_match({code}::VARCHAR, '[0-9]{{5}}[A-Za-z]{{0,2}}'), false)",
        },
        notes=(
            "Titles and prices are read off the accepted invoice lines: each counts from the first line that has it.",
        ),
    )


def content(card: DatasetCard) -> dict[str, Any]:
    return {"": digest_file(_path(card))}


def _path(card: DatasetCard) -> Path:
    return locate(card.source.interactions, field="interactions", card=card, address=ADDRESS)


def identity(card: DatasetCard) -> Any:
    return where(card)
