"""How a fault is planted: changes of a source's tables, as a broken export would make them."""

from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pandas as pd

from benchmarks.gate.trading_days import SourceFrames, TradingShop

Inject = Callable[[SourceFrames, TradingShop, np.random.Generator], None]

# Columns of the interactions: shopper, item, time.
COLUMNS = {
    "marketplace": ("user_id", "item_id", "event_time"),
    "online_retail": ("CustomerID", "StockCode", "InvoiceDate"),
}


def last_day(tables: SourceFrames, shop: TradingShop) -> pd.Series:
    """The rows of the newest day, as a mask of the interactions."""
    days = shop.days_of(tables)
    return days == days[days < days.min() + timedelta(days=365)].max()


def new_items(tables: SourceFrames) -> pd.Series:
    """The rows about items that came on the newest day."""
    assert tables.items is not None
    return tables.items["available_at"] == tables.items["available_at"].max()


def on_last_day(**change: Callable[[pd.Series], object]) -> Inject:
    """Change columns of the interactions of the newest day."""

    def inject(tables: SourceFrames, shop: TradingShop, rng: np.random.Generator) -> None:
        rows = last_day(tables, shop)
        for column, of in change.items():
            tables.interactions[column] = tables.interactions[column].where(~rows, of(tables.interactions[column]))

    return inject


def everywhere(**change: Callable[[pd.Series], object]) -> Inject:
    """Change columns of all interactions."""

    def inject(tables: SourceFrames, shop: TradingShop, rng: np.random.Generator) -> None:
        for column, of in change.items():
            tables.interactions[column] = of(tables.interactions[column])

    return inject


def all_items(**change: Callable[[pd.Series], object]) -> Inject:
    """Change columns of the items table."""

    def inject(tables: SourceFrames, shop: TradingShop, rng: np.random.Generator) -> None:
        for column, of in change.items():
            tables.items[column] = of(tables.items[column])

    return inject


def items_of_last_day(**change: Callable[[pd.Series], object]) -> Inject:
    def inject(tables: SourceFrames, shop: TradingShop, rng: np.random.Generator) -> None:
        rows = new_items(tables)
        for column, of in change.items():
            tables.items[column] = tables.items[column].where(~rows, of(tables.items[column]))

    return inject


def keep(rows: Callable[[SourceFrames, TradingShop, np.random.Generator], object]) -> Inject:
    """Keep only some of the interactions."""

    def inject(tables: SourceFrames, shop: TradingShop, rng: np.random.Generator) -> None:
        tables.interactions = tables.interactions[np.asarray(rows(tables, shop, rng))]

    return inject


def keep_items(rows: Callable[[pd.DataFrame], object]) -> Inject:
    def inject(tables: SourceFrames, shop: TradingShop, rng: np.random.Generator) -> None:
        tables.items = tables.items[np.asarray(rows(tables.items))]

    return inject


def shift(hours: float) -> Callable[[pd.Series], pd.Series]:
    def moved(times: pd.Series) -> pd.Series:
        read = pd.to_datetime(times.str[:19], format="%Y-%m-%dT%H:%M:%S", errors="coerce") + pd.Timedelta(hours=hours)
        return read.dt.strftime("%Y-%m-%dT%H:%M:%S").where(read.notna(), times) + times.str[19:].fillna("")

    return moved


def twice(tables: SourceFrames, shop: TradingShop, rng: np.random.Generator) -> None:
    tables.interactions = pd.concat([tables.interactions, tables.interactions[last_day(tables, shop)]])


def yesterday_again(tables: SourceFrames, shop: TradingShop, rng: np.random.Generator) -> None:
    """The newest day's delivery is the one of the trading day before, under the new date."""
    days = shop.days_of(tables)
    last = last_day(tables, shop)
    today = days[last].max()
    before = days[days < today].max()
    copied = tables.interactions[days == before].copy()
    time = COLUMNS[shop.name][2]
    copied[time] = shift(24 * (today - before).days)(copied[time])
    tables.interactions = pd.concat([tables.interactions[~last], copied])


def swap(first: str, second: str, *, items: bool = False) -> Inject:
    def inject(tables: SourceFrames, shop: TradingShop, rng: np.random.Generator) -> None:
        frame = tables.items if items else tables.interactions
        frame[first], frame[second] = frame[second].copy(), frame[first].copy()

    return inject


def bot(events: int, shoppers: int) -> Inject:
    """Shoppers never seen before, with `events` between them; the same few items over and over if they are many."""

    def inject(tables: SourceFrames, shop: TradingShop, rng: np.random.Generator) -> None:
        user, item, time = COLUMNS[shop.name]
        today = tables.interactions[last_day(tables, shop)].dropna(subset=[user, time])
        today = today[today[time].str.len() >= 19]
        made = today.iloc[rng.integers(len(today), size=events)].copy()
        who = rng.integers(shoppers, size=events)
        made[user] = 90_000 + who if shop.name == "online_retail" else [f"bot{number}" for number in who]
        items = tables.interactions[item].dropna().unique()
        made[item] = rng.choice(items[items != ""], size=events) if shoppers == 1 else made[item].iloc[0]
        if "InvoiceNo" in made:
            made["InvoiceNo"] = [f"9{number:05d}" for number in who]
            made["Quantity"], made["UnitPrice"] = 1, made["UnitPrice"].clip(lower=0.5)
        seconds = rng.integers(9 * 3600, 18 * 3600, size=events)
        clock = [f"T{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}" for s in seconds]
        made[time] = made[time].str[:10] + clock + ("Z" if shop.name == "marketplace" else "")
        tables.interactions = pd.concat([tables.interactions, made])

    return inject


def late_flood(tables: SourceFrames, shop: TradingShop, rng: np.random.Generator) -> None:
    """The days before get half as many events again, a minute later."""
    user, _, time = COLUMNS[shop.name]
    old = tables.interactions[~last_day(tables, shop)].dropna(subset=[user])
    more = old[rng.random(len(old)) < 0.5].copy()
    more[time] = shift(1 / 60)(more[time])
    tables.interactions = pd.concat([tables.interactions, more])


def rename(column: str) -> Inject:
    def inject(tables: SourceFrames, shop: TradingShop, rng: np.random.Generator) -> None:
        tables.interactions = tables.interactions.rename(columns={column: f"{column}_v2"})

    return inject


def century(tables: SourceFrames, shop: TradingShop, rng: np.random.Generator) -> None:
    time = COLUMNS[shop.name][2]
    rows = last_day(tables, shop) & (rng.random(len(tables.interactions)) < 0.05)
    tables.interactions[time] = tables.interactions[time].where(~rows, "1" + tables.interactions[time].str[1:])


def year_3000(times: pd.Series) -> pd.Series:
    return "3" + times.str[1:]


def nothing(series: pd.Series) -> pd.Series:
    return series.where(np.zeros(len(series), dtype=bool))


def vectors(of: Callable[[np.ndarray], np.ndarray], *, rows: slice = slice(None)) -> Inject:
    def inject(tables: SourceFrames, shop: TradingShop, rng: np.random.Generator) -> None:
        style = list(tables.items["style"])
        style[rows] = [of(vector.copy()) for vector in style[rows]]
        tables.items["style"] = style

    return inject


def with_hole(vector: np.ndarray) -> np.ndarray:
    vector[3] = np.nan
    return vector


def times_100(series: pd.Series) -> pd.Series:
    return series * 100


def half_nothing(series: pd.Series) -> pd.Series:
    return series.where(np.arange(len(series)) % 2 == 0)


def numbered(series: pd.Series) -> pd.Series:
    return series.fillna("") + [f" {n * 7919 % 99991:05d}" for n in range(len(series))]


def next_category(series: pd.Series) -> pd.Series:
    known = sorted(series.unique())
    return series.map(dict(zip(known, [*known[1:], known[0]], strict=True)))


def next_title(tables: SourceFrames, shop: TradingShop, rng: np.random.Generator) -> None:
    """Each product gets the description of the next one in the list."""
    lines = tables.interactions
    titles = lines.dropna(subset=["Description"]).drop_duplicates("StockCode").sort_values("StockCode")
    moved = dict(zip(titles["StockCode"], np.roll(titles["Description"], 1), strict=True))
    lines["Description"] = lines["StockCode"].map(moved)


def rekeyed_items(series: pd.Series) -> pd.Series:
    """The newest day comes from a system with item keys of its own."""
    return series.map(lambda code: f"9{code[1:]}" if code[:1].isdigit() else code)


def other_users(series: pd.Series) -> pd.Series:
    return series + 500_000 if series.dtype.kind == "f" else "x" + series


def comma(series: pd.Series) -> pd.Series:
    return series.map("{:.2f}".format).str.replace(".", ",")


def day_first(series: pd.Series) -> pd.Series:
    return series.str[8:10] + "/" + series.str[5:7] + "/" + series.str[:4] + " " + series.str[11:16]


def until_noon(tables: SourceFrames, shop: TradingShop, rng: np.random.Generator) -> pd.Series:
    time = tables.interactions[COLUMNS[shop.name][2]]
    return ~last_day(tables, shop) | (time.str[11:13] < "12")


def first_rows(share: float) -> Callable[..., np.ndarray]:
    return lambda tables, shop, rng: np.arange(len(tables.interactions)) < share * len(tables.interactions)


def old_rows_missing(share: float) -> Callable[..., np.ndarray]:
    return lambda tables, shop, rng: rng.random(len(tables.interactions)) >= share


def without_day(back: int) -> Callable[..., pd.Series]:
    def rows(tables: SourceFrames, shop: TradingShop, rng: np.random.Generator) -> pd.Series:
        days = shop.days_of(tables)
        known = sorted(day for day in days.dropna().unique() if day.year < 2100)
        return days != known[-back]

    return rows
