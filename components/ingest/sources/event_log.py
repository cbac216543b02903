"""What shoppers did with what they were served: each day of the event log is a further part of a card's own source."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb

from components.ingest.parse import NAIVE_TIMES
from components.ingest.source import (
    Raw,
    SourceAdapter,
    SourceTable,
    pattern,
)
from events.partitions import digest, files
from feature_repo.card import DatasetCard
from runtime.errors import InputError
from runtime.sql import literal

SHOP = "shop"
"""Name of the part that is the source itself, where that has no parts."""
_SERVED = "served "


class WithEventLog:
    """`source`, and the interactions that the consumer of the log at `log` has written (docs/contracts.md)."""

    def __init__(self, source: SourceAdapter, log: Path) -> None:
        self._source, self._log = source, log

    def load(self, card: DatasetCard, connection: duckdb.DuckDBPyConnection, only: Collection[str] | None) -> Raw:
        own = None if only is None else [name for name in only if not name.startswith(_SERVED)]
        whole = self._source.content(card).keys() == {""}
        raw = self._source.load(card, connection, None if whole else own)
        if raw.items is None:
            raise InputError(
                f"card {card.name!r}: event_log.trains needs a source with a table of items, which "
                f"{card.source.adapter} does not have. Leave event_log.trains off."
            )
        shop = raw.interactions
        if whole:
            shop = replace(shop, relation=shop.relation.project(f"*, {literal(SHOP)} AS origin"))
            if own is not None and SHOP not in own:
                shop = replace(shop, relation=shop.relation.filter("false"), expected=None, rejects=None, bad=())
        read = [path for name, paths in self._days().items() if only is None or name in only for path in paths]
        notes = (*raw.notes, f"Of the event log: {len(read)} files of interactions were read.")
        if not read:
            return replace(raw, interactions=shop, notes=notes)
        return replace(raw, interactions=_with(shop, card, connection, read), notes=notes)

    def content(self, card: DatasetCard) -> dict[str, Any]:
        own = self._source.content(card)
        days = {name: digest(paths) for name, paths in self._days().items()}
        return {**own, **({SHOP: own[""]} if own.keys() == {""} else {}), **days}

    def identity(self, card: DatasetCard) -> Any:
        return self._source.identity(card)

    def _days(self) -> dict[str, list[Path]]:
        """The files of each day, by the name of the part that the day is."""
        folders = sorted((self._log / "interactions").glob("day=*"))
        return {_SERVED + folder.name.removeprefix("day="): paths for folder in folders if (paths := files(folder))}


def _with(
    shop: SourceTable, card: DatasetCard, connection: duckdb.DuckDBPyConnection, files: list[Path]
) -> SourceTable:
    """The shop's own rows, and then the log's interactions in the same columns."""
    relation = _served(
        card, connection, files, dict(zip(shop.names, map(str, shop.relation.types), strict=False)), shop
    )
    careful = shop.carefully
    return replace(
        shop,
        relation=shop.relation.union(relation),
        expected=None if shop.expected is None else shop.expected + len(relation),
        carefully=None if careful is None else lambda: _with(_as_shop(careful()), card, connection, files),
    )


def _as_shop(table: SourceTable) -> SourceTable:
    return replace(table, relation=table.relation.project(f"*, {literal(SHOP)} AS origin"))


def _served(
    card: DatasetCard, connection: duckdb.DuckDBPyConnection, read: list[Path], types: dict[str, str], shop: SourceTable
) -> duckdb.DuckDBPyRelation:
    """The log's interactions in the columns of the source, which have `types`."""
    names = card.columns
    assert names.event_time is not None
    columns = {
        names.user_id: _as("user_id", types[names.user_id]),
        names.item_id: _as("item_id", types[names.item_id]),
        names.event_time: _time("time", types[names.event_time], card.source.timezone),
    }
    if names.created_time is not None:
        columns[names.created_time] = _time("received", types[names.created_time], card.source.timezone)
    if names.event_type is not None:
        columns[names.event_type] = _as("event_type", types[names.event_type])
    if names.quantity is not None:
        columns[names.quantity] = _as("1", types[names.quantity])
    for feature in card.sourced:
        if feature.table == "interactions":
            value = f"json_extract_string(features, {literal('$.' + chr(34) + feature.name + chr(34))})"
            value = f"TRY_CAST({value} AS {feature.storage.value})"
            columns[feature.source_column] = _as(value, types[feature.source_column])
    listed = ", ".join(
        f"{columns.get(name, 'NULL::' + types[name])} AS c{number}" for number, name in enumerate(shop.names)
    )
    paths = ", ".join(literal(pattern(path)) for path in read)
    try:
        return connection.sql(
            f"SELECT {listed}, {literal(_SERVED)} || strftime(timezone('UTC', time), '%Y-%m-%d') AS origin "
            f"FROM read_parquet([{paths}], union_by_name = true, hive_partitioning = false) ORDER BY time, position"
        )
    except duckdb.Error as error:
        raise InputError(
            f"{read[0].parents[1]}: the event log's interactions cannot be read: a file is cut, damaged or of another "
            "make. Restore it, or remove it."
        ) from error


def _as(value: str, kind: str) -> str:
    return f"TRY_CAST({value} AS {kind})"


def _time(value: str, kind: str, zone: str) -> str:
    """A moment as the source writes its own, so that the column stays of one type."""
    if kind == "VARCHAR":
        return f"strftime(timezone('UTC', {value}), '%Y-%m-%dT%H:%M:%S.%fZ')"
    if kind == "TIMESTAMP WITH TIME ZONE" or kind == "DATE":
        return value
    if kind in NAIVE_TIMES:
        return f"timezone({literal(zone)}, {value})::{kind}"
    return f"epoch_us({value})"
