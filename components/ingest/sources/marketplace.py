"""The embedded marketplace, generated day by day as it is read."""

from collections.abc import Collection, Iterator
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from components.ingest.source import Raw, SourceTable
from feature_repo.card import DatasetCard
from marketplace.config import MarketplaceConfig
from marketplace.corruption import soil
from marketplace.shop import Marketplace, schema_of
from runtime.code_digest import code_digest
from runtime.errors import InputError


def _as_text(schema: pa.Schema) -> pa.Schema:
    """With the times as text, as soiled rows have them."""
    return schema.set(schema.get_field_index("event_time"), pa.field("event_time", pa.string()))


def load(card: DatasetCard, connection: duckdb.DuckDBPyConnection, only: Collection[str] | None = None) -> Raw:
    config = config_of(card)
    shop = Marketplace(config)
    items = pa.concat_tables([shop.item_changes(day) for day in range(config.days)])
    notes = [
        f"Generated: {config.days} days of the embedded marketplace, {config.users} shoppers, "
        f"{config.items} items and {config.new_items_per_day} new ones a day, seed {config.seed}."
    ]
    if config.placebo:
        notes.append("Placebo: each item is shown with another one's features, so they tell nothing of the choices.")
    schema = schema_of(config)
    schema = (_as_text(schema) if config.dirty_rate else schema).append(pa.field("origin", pa.string()))
    reader = pa.RecordBatchReader.from_batches(schema, _batches(shop, only))
    interactions = SourceTable.of(connection.from_arrow(reader), origin="origin")
    users = SourceTable.of(connection.from_arrow(shop.users())) if config.groups else None
    return Raw(
        interactions=interactions,
        items=SourceTable.of(connection.from_arrow(items)),
        users=users,
        notes=tuple(notes),
    )


def content(card: DatasetCard) -> dict[str, Any]:
    config = config_of(card)
    shop = {**identity(card), "code": _code()}
    return {"": [shop, config.days], **{_name(config, day): shop for day in range(config.days)}}


def identity(card: DatasetCard) -> Any:
    """The shop whose life more days only make longer."""
    config = config_of(card)
    said = {**asdict(config), "start": config.start.isoformat(), "days": None}
    for name in (
        "kinds",
        "groups",
        "strangers",
        "devices",
        "strange_devices",
    ):  # so that shops of before them stay the same source
        if not said[name]:
            del said[name]
    return said


def config_of(card: DatasetCard) -> MarketplaceConfig:
    """The shop that the card's `source.options` describe. Raises `InputError`."""
    try:
        return MarketplaceConfig.from_options(card.source.options)
    except ValueError as error:
        raise InputError(f"card {card.name!r}: source.options: {error}") from error


def _name(config: MarketplaceConfig, day: int) -> str:
    return (config.start + timedelta(days=day)).date().isoformat()


def _batches(shop: Marketplace, only: Collection[str] | None) -> Iterator[pa.RecordBatch]:
    config = shop.config
    for number, day in enumerate(shop.days()):
        name = _name(config, number)
        if only is not None and name not in only:
            continue
        table = day.interactions
        if config.dirty_rate:
            table = soil(table, config.dirty_rate, np.random.default_rng([config.seed, 7, number]))
        yield from table.append_column("origin", pa.array([name] * len(table), pa.string())).to_batches()


def _code() -> str:
    return code_digest("marketplace.shop") + code_digest("marketplace.corruption")
