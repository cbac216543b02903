"""Two shops as a nightly run finds them: the source up to a day, ingested and judged against the night before."""

import json
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components.ingest import step as ingest
from components.ingest.source import locate
from components.resolve import step as resolve
from components.validate import step as validate
from feature_repo.card import DatasetCard, load_card
from marketplace.config import MarketplaceConfig
from marketplace.corruption import soil
from marketplace.shop import Marketplace
from runtime.decision import Decision
from runtime.manifest import Manifest

STYLE = pa.list_(pa.float32())


@dataclass
class SourceFrames:
    """A source as data frames, in the source's own columns; `items` is None where the shop has no items table."""

    interactions: pd.DataFrame
    items: pd.DataFrame | None

    def copy(self) -> "SourceFrames":
        return SourceFrames(self.interactions.copy(), None if self.items is None else self.items.copy())


@dataclass(frozen=True)
class TradingShop:
    """`card` without paths, and the source from its first day to its last."""

    name: str
    card: DatasetCard
    tables: SourceFrames
    time: str
    """Column of the interactions with the shop's local time."""

    def midnight(self, day: date) -> datetime:
        """The end of `day` on the shop's clock: as_of of the run of that night."""
        return datetime.combine(day + timedelta(days=1), datetime.min.time(), ZoneInfo(self.card.source.timezone))

    def days_of(self, tables: SourceFrames) -> pd.Series:
        """Midnight of each row's day; nothing where its time is dirt."""
        return pd.to_datetime(tables.interactions[self.time].str[:10], errors="coerce")

    def until(self, day: date) -> SourceFrames:
        """What the source held in the night after `day`."""
        days = self.days_of(self.tables)
        # A row whose time cannot be read is of the day of the row before it.
        kept = self.tables.interactions[days.ffill() <= pd.Timestamp(day)]
        items = self.tables.items
        if items is not None:
            items = items[items["available_at"].dt.date <= day]
        return SourceFrames(kept, items)


@cache
def marketplace(days: int = 24, users: int = 700) -> TradingShop:
    card = load_card("marketplace")
    config = MarketplaceConfig(days=days, users=users, items=300, new_items_per_day=5, seed=3)
    shop, interactions, items = Marketplace(config), [], []
    for number, day in enumerate(shop.days()):
        interactions.append(soil(day.interactions, 0.01, np.random.default_rng(number)).to_pandas())
        items.append(day.items.to_pandas())
    source = card.source.model_copy(update={"adapter": "files", "options": {}})
    limits = card.limits.model_copy(update={"max_catalogue_age_days": 3.0, "max_age_days": 2.0})
    card = card.model_copy(update={"source": source, "limits": limits})
    return TradingShop("marketplace", card, SourceFrames(pd.concat(interactions), pd.concat(items)), "event_time")


@cache
def online_retail(first: date = date(2010, 9, 13), last: date = date(2010, 10, 7), days: int = 1000) -> TradingShop:
    """The first trading `days` from `first` to `last`. Raises `InputError` where the data is not at hand."""
    card = load_card("online_retail")
    path = locate(card.source.interactions, field="interactions", card=card, address="")
    query = (
        "SELECT * REPLACE (strftime(InvoiceDate, '%Y-%m-%dT%H:%M:%S') AS InvoiceDate) FROM read_parquet(?) "
        "WHERE InvoiceDate::DATE BETWEEN ? AND ? ORDER BY InvoiceDate"
    )
    with duckdb.connect() as db:
        lines = db.execute(query, [str(path), first, last]).df()
    dates = lines["InvoiceDate"].str[:10]
    lines = lines[dates.isin(sorted(dates.unique())[:days])]
    limits = card.limits.model_copy(update={"min_interactions": 1000, "max_age_days": 4.0})
    return TradingShop(
        "online_retail", card.model_copy(update={"limits": limits}), SourceFrames(lines, None), "InvoiceDate"
    )


@dataclass(frozen=True)
class NightlyRun:
    """One nightly run: the decision, and the folders that the next night starts from."""

    decision: Decision
    report: dict
    reference: Path

    def unheld(self) -> dict[str, str]:
        """Level by check of what did not hold."""
        return {reason.check: reason.level for reason in self.decision.reasons if not reason.held}


def write(shop: TradingShop, tables: SourceFrames, folder: Path) -> DatasetCard:
    """The source as Parquet files, and the card that reads them."""
    folder.mkdir(parents=True)
    paths = {"interactions": folder / "interactions.parquet"}
    pq.write_table(pa.Table.from_pandas(tables.interactions, preserve_index=False), paths["interactions"])
    if tables.items is not None:
        paths["items"] = folder / "items.parquet"
        table = pa.Table.from_pandas(tables.items, preserve_index=False)
        if "style" in table.schema.names:
            table = table.set_column(table.schema.get_field_index("style"), "style", table["style"].cast(STYLE))
        pq.write_table(table, paths["items"])
    return shop.card.model_copy(update={"source": shop.card.source.model_copy(update=paths)})


def judge(card: DatasetCard, folder: Path, as_of: datetime, reference: Path | None) -> NightlyRun:
    """Ingest, resolve and validate. Raises `InputError` as these do."""
    events, facts, validation = folder / "events", folder / "facts", folder / "validation"
    events.mkdir()
    ingest.run(card=card, events=events, as_of=as_of)
    Manifest.seal(events, kind="events")
    resolve.run(card=card, events=events, as_of=as_of, facts=facts)
    decision = validate.run(
        card=card, events=events, facts=facts, reference=reference, validation=validation, data_docs=False
    )
    return NightlyRun(decision, json.loads((events / "report.json").read_text()), validation)


def night(shop: TradingShop, tables: SourceFrames, day: date, folder: Path, reference: Path | None) -> NightlyRun:
    return judge(write(shop, tables, folder), folder, shop.midnight(day), reference)


def trading_days(shop: TradingShop) -> list[date]:
    """Days with rows, in order; times that are dirt do not count."""
    days = shop.days_of(shop.tables).dropna()
    counts = days.value_counts()
    return sorted(day.date() for day, rows in counts.items() if rows > 100 and day.year < 2100)
