"""Interactions in several tables (views.csv, orders.csv), each with columns of its own, as one: each file is a part."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import duckdb

from components.ingest.parquet import read_parts
from components.ingest.parts import as_parquet
from components.ingest.source import SourceTable, named
from feature_repo.card import OF_NO_INTERACTION, DatasetCard
from feature_repo.card_source import InteractionsTable
from runtime.errors import InputError
from runtime.sql import literal, quoted

NEEDED = ("user_id", "item_id", "event_time", "position")
"""What each of the tables must have, where the card names it; what else one lacks is missing at its events."""
Files = Mapping[str, tuple[InteractionsTable, Path]]
"""By the name of each part: the table it is of, and the file on this machine."""


def read_tables(
    files: Files, connection: duckdb.DuckDBPyConnection, card: DatasetCard, only: Collection[str] | None
) -> SourceTable:
    """All tables under the card's own names. Raises `InputError` naming the table that lacks a column."""
    as_read = {name: _as_read(card, table) for name, (table, _) in files.items()}
    folder, bad = as_parquet(
        {name: path for name, (_, path) in files.items()},
        connection,
        lambda name: as_read[name],
        only,
        lambda name, found: ", ".join(_columns(name, files[name][0], card, as_read[name], found)),
    )
    with named(folder, f"the interactions of card {card.name!r}", each=True):
        return read_parts([folder / name for name in files], folder, connection, card, only=only, bad=bad)


def _as_read(card: DatasetCard, table: InteractionsTable) -> DatasetCard:
    """The card with the names that this table has for the columns, and the way it is written."""
    roles = {role: name for role, name in table.columns.items() if role in type(card.columns).model_fields}
    features, context = (
        [spec.model_copy(update={"column": table.columns.get(spec.name, spec.column)}) for spec in described]
        for described in (card.features, card.context)
    )
    csv = card.source.csv.model_copy(update={"interactions": table.csv})
    return card.model_copy(
        update={
            "columns": card.columns.model_copy(update=roles),
            "features": features,
            "context": context,
            "source": card.source.model_copy(update={"csv": csv}),
        }
    )


def _columns(
    name: str, table: InteractionsTable, card: DatasetCard, as_read: DatasetCard, found: SourceTable
) -> Iterator[str]:
    """SQL of what the card reads from the table, under the card's names."""
    for role in type(card.columns).model_fields:
        ours, theirs = getattr(card.columns, role), getattr(as_read.columns, role)
        if role in OF_NO_INTERACTION or ours is None:
            continue
        if role == "event_type" and table.event_type is not None:
            yield f"{literal(table.event_type)} AS {quoted(ours)}"
        elif theirs in found.names:
            yield f"{found.column(theirs)} AS {quoted(ours)}"
        elif role in NEEDED or role in table.columns or (role == "event_type" and table.event_type is None):
            said = "columns" if role not in table.columns else f"columns of source.interactions, {name!r}"
            advice = " or give the table an event_type" if role == "event_type" else ""
            raise InputError(
                f"{name}: no column {theirs!r} ({role} in {said}). Found: {', '.join(found.names) or 'none'}. Say "
                f"under `columns` of this table what it calls {role}{advice}."
            )
    read = (each.read_off_interactions(has_items=card.source.items is not None) for each in (card, as_read))
    for ours, theirs in zip(*read, strict=True):
        if theirs.source_column in found.names:
            yield f"{found.column(theirs.source_column)} AS {quoted(ours.source_column)}"
        elif ours.name in table.columns:
            raise InputError(
                f"{name}: no column {theirs.source_column!r} (feature {ours.name} in columns of source.interactions, "
                f"{name!r}). Found: {', '.join(found.names) or 'none'}. Correct the name."
            )
