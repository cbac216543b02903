"""Faults that real sources have had, to be planted into the two shops, and where each is to be caught.

`python -m tests.component.planted_faults` writes docs/faults.md from this list.
"""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import numpy as np

from tests.component.injections import (
    Inject,
    all_items,
    bot,
    century,
    comma,
    day_first,
    everywhere,
    first_rows,
    half_nothing,
    items_of_last_day,
    keep,
    keep_items,
    late_flood,
    next_category,
    next_title,
    nothing,
    numbered,
    old_rows_missing,
    on_last_day,
    other_users,
    rekeyed_items,
    rename,
    shift,
    swap,
    times_100,
    twice,
    until_noon,
    vectors,
    with_hole,
    without_day,
    year_3000,
    yesterday_again,
)

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
Outcome = Literal["blocks", "warns", "stops"]


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
        Planted("5 % of today in the year 1025", century, "stops", "event_time runs from 1025"),
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
