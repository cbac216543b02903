"""Faults that real sources have had, to be planted into the two shops, and where each is to be caught.

`python -m tests.component.planted_faults` writes docs/faults.md from this list.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from benchmarks.trading_days import Shop, Tables

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
Outcome = Literal["blocks", "warns", "stops"]
Inject = Callable[[Tables, Shop, np.random.Generator], None]


@dataclass(frozen=True)
class Planted:
    """One fault in one shop. `by` is the check that must see it, or words of the message that stops the run."""

    what: str
    inject: Inject
    outcome: Outcome
    by: str


@dataclass(frozen=True)
class Fault:
    name: str
    marketplace: Planted | None
    online_retail: Planted | None


# Columns of the interactions: shopper, item, time.
COLUMNS = {
    "marketplace": ("user_id", "item_id", "event_time"),
    "online_retail": ("CustomerID", "StockCode", "InvoiceDate"),
}


def last_day(tables: Tables, shop: Shop) -> pd.Series:
    """The rows of the newest day, as a mask of the interactions."""
    days = shop.days_of(tables)
    return days == days[days < days.min() + timedelta(days=365)].max()


def new_items(tables: Tables) -> pd.Series:
    """The rows about items that came on the newest day."""
    assert tables.items is not None
    return tables.items["available_at"] == tables.items["available_at"].max()


def on_last_day(**change: Callable[[pd.Series], object]) -> Inject:
    """Change columns of the interactions of the newest day."""

    def inject(tables: Tables, shop: Shop, rng: np.random.Generator) -> None:
        rows = last_day(tables, shop)
        for column, of in change.items():
            tables.interactions[column] = tables.interactions[column].where(~rows, of(tables.interactions[column]))

    return inject


def everywhere(**change: Callable[[pd.Series], object]) -> Inject:
    """Change columns of all interactions."""

    def inject(tables: Tables, shop: Shop, rng: np.random.Generator) -> None:
        for column, of in change.items():
            tables.interactions[column] = of(tables.interactions[column])

    return inject


def all_items(**change: Callable[[pd.Series], object]) -> Inject:
    """Change columns of the items table."""

    def inject(tables: Tables, shop: Shop, rng: np.random.Generator) -> None:
        for column, of in change.items():
            tables.items[column] = of(tables.items[column])

    return inject


def items_of_last_day(**change: Callable[[pd.Series], object]) -> Inject:
    def inject(tables: Tables, shop: Shop, rng: np.random.Generator) -> None:
        rows = new_items(tables)
        for column, of in change.items():
            tables.items[column] = tables.items[column].where(~rows, of(tables.items[column]))

    return inject


def keep(rows: Callable[[Tables, Shop, np.random.Generator], object]) -> Inject:
    """Keep only some of the interactions."""

    def inject(tables: Tables, shop: Shop, rng: np.random.Generator) -> None:
        tables.interactions = tables.interactions[np.asarray(rows(tables, shop, rng))]

    return inject


def keep_items(rows: Callable[[pd.DataFrame], object]) -> Inject:
    def inject(tables: Tables, shop: Shop, rng: np.random.Generator) -> None:
        tables.items = tables.items[np.asarray(rows(tables.items))]

    return inject


def shift(hours: float) -> Callable[[pd.Series], pd.Series]:
    def moved(times: pd.Series) -> pd.Series:
        read = pd.to_datetime(times.str[:19], format="%Y-%m-%dT%H:%M:%S", errors="coerce") + pd.Timedelta(hours=hours)
        return read.dt.strftime("%Y-%m-%dT%H:%M:%S").where(read.notna(), times) + times.str[19:].fillna("")

    return moved


def twice(tables: Tables, shop: Shop, rng: np.random.Generator) -> None:
    tables.interactions = pd.concat([tables.interactions, tables.interactions[last_day(tables, shop)]])


def yesterday_again(tables: Tables, shop: Shop, rng: np.random.Generator) -> None:
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
    def inject(tables: Tables, shop: Shop, rng: np.random.Generator) -> None:
        frame = tables.items if items else tables.interactions
        frame[first], frame[second] = frame[second].copy(), frame[first].copy()

    return inject


def bot(events: int, shoppers: int) -> Inject:
    """Shoppers never seen before, with `events` between them; the same few items over and over if they are many."""

    def inject(tables: Tables, shop: Shop, rng: np.random.Generator) -> None:
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


def late_flood(tables: Tables, shop: Shop, rng: np.random.Generator) -> None:
    """The days before get half as many events again, a minute later."""
    user, _, time = COLUMNS[shop.name]
    old = tables.interactions[~last_day(tables, shop)].dropna(subset=[user])
    more = old[rng.random(len(old)) < 0.5].copy()
    more[time] = shift(1 / 60)(more[time])
    tables.interactions = pd.concat([tables.interactions, more])


def rename(column: str) -> Inject:
    def inject(tables: Tables, shop: Shop, rng: np.random.Generator) -> None:
        tables.interactions = tables.interactions.rename(columns={column: f"{column}_v2"})

    return inject


def century(tables: Tables, shop: Shop, rng: np.random.Generator) -> None:
    time = COLUMNS[shop.name][2]
    rows = last_day(tables, shop) & (rng.random(len(tables.interactions)) < 0.05)
    tables.interactions[time] = tables.interactions[time].where(~rows, "1" + tables.interactions[time].str[1:])


def year_3000(times: pd.Series) -> pd.Series:
    return "3" + times.str[1:]


def nothing(series: pd.Series) -> pd.Series:
    return series.where(np.zeros(len(series), dtype=bool))


def vectors(of: Callable[[np.ndarray], np.ndarray], *, rows: slice = slice(None)) -> Inject:
    def inject(tables: Tables, shop: Shop, rng: np.random.Generator) -> None:
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


def next_title(tables: Tables, shop: Shop, rng: np.random.Generator) -> None:
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


def until_noon(tables: Tables, shop: Shop, rng: np.random.Generator) -> pd.Series:
    time = tables.interactions[COLUMNS[shop.name][2]]
    return ~last_day(tables, shop) | (time.str[11:13] < "12")


def first_rows(share: float) -> Callable[..., np.ndarray]:
    return lambda tables, shop, rng: np.arange(len(tables.interactions)) < share * len(tables.interactions)


def old_rows_missing(share: float) -> Callable[..., np.ndarray]:
    return lambda tables, shop, rng: rng.random(len(tables.interactions)) >= share


def without_day(back: int) -> Callable[..., pd.Series]:
    def rows(tables: Tables, shop: Shop, rng: np.random.Generator) -> pd.Series:
        days = shop.days_of(tables)
        known = sorted(day for day in days.dropna().unique() if day.year < 2100)
        return days != known[-back]

    return rows


FAULTS = [
    Fault(
        "currency switched from pounds to pence, from today on",
        Planted("new prices times 100", items_of_last_day(price=times_100), "blocks", "price range"),
        Planted("today's unit prices times 100", on_last_day(UnitPrice=times_100), "blocks", "price jump"),
    ),
    Fault(
        "currency switched, all history exported anew",
        Planted("all prices times 100", all_items(price=times_100), "blocks", "price drift"),
        Planted("all unit prices times 100", everywhere(UnitPrice=times_100), "blocks", "price drift"),
    ),
    Fault(
        "price sign flipped",
        Planted("today's prices negative", items_of_last_day(price=lambda s: -s), "blocks", "price range"),
        Planted("today's unit prices negative", on_last_day(UnitPrice=lambda s: -s), "blocks", "missing_days"),
    ),
    Fault(
        "price field stuck at a placeholder",
        Planted("all prices 9.99", all_items(price=lambda s: s * 0 + 9.99), "blocks", "price drift"),
        Planted("today's 9.99", on_last_day(UnitPrice=lambda s: s * 0 + 9.99), "blocks", "price drift of new changes"),
    ),
    Fault(
        "price empty",
        Planted("no price of today", items_of_last_day(price=nothing), "blocks", "price missing"),
        Planted("no unit price today", on_last_day(UnitPrice=nothing), "blocks", "price missing"),
    ),
    Fault(
        "shifted ids",
        Planted("each category becomes the next", all_items(category=next_category), "blocks", "category changed"),
        Planted("each description goes to the next product", next_title, "blocks", "title changed"),
    ),
    Fault(
        "half of a key column empty",
        Planted("half the brands null", all_items(brand=half_nothing), "blocks", "brand missing"),
        Planted("half the customers null", everywhere(CustomerID=half_nothing), "blocks", "rejected_rate"),
    ),
    Fault(
        "day loaded twice",
        Planted("today's rows twice", twice, "blocks", "rejected_rate"),
        Planted("today's rows twice", twice, "warns", "rejected of new rows"),
    ),
    Fault(
        "yesterday delivered again under today's date",
        Planted("yesterday's events, a day later", yesterday_again, "blocks", "copied day"),
        Planted("yesterday's events, a day later", yesterday_again, "blocks", "copied day"),
    ),
    Fault(
        "missing day: today",
        Planted("nothing of today", keep(without_day(1)), "blocks", "missing_days"),
        Planted("nothing of today", keep(without_day(1)), "blocks", "missing_days"),
    ),
    Fault(
        "missing day: one that was accepted",
        Planted("a day of last week gone", keep(without_day(6)), "blocks", "lost events"),
        Planted("a day of last week gone", keep(without_day(6)), "blocks", "lost events"),
    ),
    Fault(
        "delivery cut at noon",
        Planted("today ends at 12:00", keep(until_noon), "blocks", "events a day"),
        Planted("today ends at 12:00", keep(until_noon), "warns", "events a day"),
    ),
    Fault(
        "truncated file",
        Planted("the Parquet file is cut in the middle", lambda *_: None, "stops", "cannot be read"),
        Planted("the Parquet file is cut in the middle", lambda *_: None, "stops", "cannot be read"),
    ),
    Fault(
        "truncated table",
        Planted("only the first 70 % of the rows", keep(first_rows(0.7)), "blocks", "lost events"),
        Planted("only the first 70 % of the rows", keep(first_rows(0.7)), "blocks", "lost events"),
    ),
    Fault(
        "one of three shards missing",
        Planted("a random third of the rows gone", keep(old_rows_missing(0.33)), "blocks", "lost events"),
        Planted("a random third of the rows gone", keep(old_rows_missing(0.33)), "blocks", "lost events"),
    ),
    Fault(
        "empty file",
        Planted("a header and no row", keep(first_rows(0)), "stops", "no accepted interaction"),
        Planted("a header and no row", keep(first_rows(0)), "stops", "no accepted interaction"),
    ),
    Fault(
        "history flooded by late events",
        Planted("old days get half as many again", late_flood, "blocks", "late events"),
        Planted("old days get half as many again", late_flood, "blocks", "late events"),
    ),
    Fault(
        "time zone shift",
        Planted("today 9 hours early", on_last_day(event_time=shift(-9)), "blocks", "hours of the day"),
        Planted("today 6 hours early", on_last_day(InvoiceDate=shift(-6)), "blocks", "hours of the day"),
    ),
    Fault(
        "time zone shift, all history exported anew",
        Planted("everything an hour early", everywhere(event_time=shift(-1)), "blocks", "accepted events"),
        Planted("everything an hour early", everywhere(InvoiceDate=shift(-1)), "blocks", "accepted events"),
    ),
    Fault(
        "dates day first",
        Planted("31/01/2025 10:00", everywhere(event_time=day_first), "stops", "is a time"),
        Planted("31/01/2010 10:00", everywhere(InvoiceDate=day_first), "stops", "is a time"),
    ),
    Fault(
        "dates of the wrong century",
        Planted("5 % of today in the year 1025", century, "blocks", "missing_days"),
        Planted("5 % of today in the year 1010", century, "blocks", "missing_days"),
    ),
    Fault(
        "dates in the future",
        Planted("today in the year 3025", on_last_day(event_time=year_3000), "blocks", "missing_days"),
        Planted("today in the year 3010", on_last_day(InvoiceDate=year_3000), "blocks", "missing_days"),
    ),
    Fault(
        "swapped columns: keys",
        Planted("shopper and item swapped", swap("user_id", "item_id"), "blocks", "item known"),
        Planted("customer and product swapped", swap("CustomerID", "StockCode"), "stops", "no accepted interaction"),
    ),
    Fault(
        "swapped columns: values",
        Planted("brand and category swapped", swap("brand", "category", items=True), "blocks", "brand changed"),
        Planted("price and quantity swapped", swap("Quantity", "UnitPrice"), "blocks", "price drift"),
    ),
    Fault(
        "column renamed",
        Planted("user_id is user_id_v2", rename("user_id"), "stops", "no column 'user_id'"),
        Planted("CustomerID is CustomerID_v2", rename("CustomerID"), "stops", "no column 'CustomerID'"),
    ),
    Fault(
        "decimal commas",
        Planted("prices such as 12,50", all_items(price=comma), "stops", "is a number"),
        Planted("prices such as 12,50", everywhere(UnitPrice=comma), "stops", "UnitPrice"),
    ),
    Fault(
        "stale catalogue",
        Planted("no item row of the last 6 days", keep_items(
            lambda items: items["available_at"] < items["available_at"].max() - timedelta(days=6)
        ), "blocks", "catalogue_age_days"),
        None,
    ),
    Fault(
        "half the catalogue",
        Planted("every other item missing", keep_items(
            lambda items: items["item_id"].str[-1].isin(list("02468"))
        ), "blocks", "item known"),
        None,
    ),
    Fault(
        "exploding vocabulary",
        Planted("a running number in each brand", all_items(brand=numbered), "blocks", "brand vocabulary"),
        Planted("a running number in each description", everywhere(Description=numbered), "blocks", "title vocabulary"),
    ),
    Fault(
        "text cut off",
        Planted("titles of 5 characters", all_items(title=lambda s: s.str[:5]), "blocks", "title drift"),
        Planted("descriptions of 5 characters", everywhere(Description=lambda s: s.str[:5]), "blocks", "title drift"),
    ),
    Fault(
        "embeddings with NaN",
        Planted("a number in one of ten vectors", vectors(with_hole, rows=slice(0, None, 10)), "blocks",
                "item_rejected_rate"),
        None,
    ),
    Fault(
        "embeddings of another length",
        Planted("15 numbers for 16", vectors(lambda v: v[:15]), "stops", "is 16 numbers"),
        None,
    ),
    Fault(
        "embeddings missing",
        Planted("no vector in today's rows", items_of_last_day(style=nothing), "blocks", "style missing"),
        None,
    ),
    Fault(
        "embeddings all zeros",
        Planted("every vector", vectors(lambda v: v * 0), "blocks", "style drift"),
        None,
    ),
    Fault(
        "another embedding model",
        Planted("numbers in reverse order", vectors(lambda v: v[::-1]), "blocks", "style changed"),
        None,
    ),
    Fault(
        "infinite numbers",
        Planted("today's prices", items_of_last_day(price=lambda s: s * np.inf), "blocks", "item_rejected_rate"),
        Planted("today's prices", on_last_day(UnitPrice=lambda s: s * np.inf), "blocks", "missing_days"),
    ),
    Fault(
        "bot: one shopper",
        Planted("one shopper with 1,000 events today", bot(1000, 1), "blocks", "busiest shopper"),
        Planted("one customer with 4,000 lines today", bot(4000, 1), "blocks", "busiest shopper"),
    ),
    Fault(
        "bots: a crowd on one item",
        Planted("600 new shoppers on one item", bot(600, 600), "blocks", "busiest item"),
        Planted("600 new customers on one product", bot(600, 600), "blocks", "busiest item"),
    ),
    Fault(
        "shopper keys of another system",
        Planted("an x before each", on_last_day(user_id=other_users), "blocks", "new shoppers"),
        Planted("500,000 added in all history", everywhere(CustomerID=other_users), "blocks", "accepted events"),
    ),
    Fault(
        "item keys of another system",
        Planted("a J for each i", on_last_day(item_id=lambda s: s.str.replace("i", "J")), "blocks", "item known"),
        Planted("9 for the first digit", on_last_day(StockCode=rekeyed_items), "blocks", "new items"),
    ),
    Fault(
        "items announced too early for their rows",
        Planted("every item row a week late", all_items(available_at=lambda s: s + timedelta(days=7)), "warns",
                "item known by then"),
        None,
    ),
    Fault(
        "cancellations not marked",
        Planted("a quantity of 0 today", on_last_day(quantity=lambda s: s * 0), "blocks", "missing_days"),
        Planted("a quantity of 0 today", on_last_day(Quantity=lambda s: s * 0), "blocks", "missing_days"),
    ),
]  # fmt: skip


def page() -> str:
    """docs/faults.md."""
    lines = [
        "# Planted faults",
        "",
        "Every fault of this list is planted into two shops by `tests/component/test_planted_faults.py`: into the",
        "newest day of a nightly run, or into the whole export, where the run of the night before was accepted.",
        "**stops**: the run ends with a message about the input. **blocks**: the data gate says no, and nothing is",
        "trained. **warns**: training goes on, and the page says so. The name is that of the check that has to see it,",
        "or words of the message; others may see it too. A dash: the shop has no such column. Written from the list",
        "that is tested: `python -m tests.component.planted_faults`.",
        "",
        "| fault | marketplace | | Online Retail | |",
        "|---|---|---|---|---|",
    ]
    for fault in FAULTS:
        cells = [fault.name]
        for planted in (fault.marketplace, fault.online_retail):
            cells += ["-", ""] if planted is None else [planted.what, f"**{planted.outcome}**: {planted.by}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
