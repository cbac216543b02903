"""Makes interactions.csv and items.csv beside this file: what a small shop's own export might look like.

    PYTHONPATH=. python tests/data/example/make.py

The choices are those of the embedded marketplace; the columns, separators and local times are of no particular make.
"""

import csv
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa

from marketplace.config import MarketplaceConfig
from marketplace.shop import Marketplace

HERE = Path(__file__).parent
SHOP = MarketplaceConfig(
    days=28, users=60, items=60, new_items_per_day=1, categories=6, brands=8, style_dimension=4, seed=5
)
BERLIN = ZoneInfo("Europe/Berlin")


def main() -> None:
    days = list(Marketplace(SHOP).days())
    with (HERE / "interactions.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["customer", "sku", "bought_at", "order", "pieces"])
        for row in pa.concat_tables(day.interactions for day in days).to_pylist():
            local = row["event_time"].astimezone(BERLIN)
            order = f"{row['user_id']}-{local:%m%d}"
            writer.writerow([row["user_id"], row["item_id"], f"{local:%Y-%m-%d %H:%M:%S}", order, row["quantity"]])
    with (HERE / "items.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["sku", "since", "name", "maker", "tags", "price", "picture"])
        for row in pa.concat_tables(day.items for day in days).to_pylist():
            since = row["available_at"].astimezone(BERLIN)
            tags = " > ".join(["home", row["category"]])
            picture = ";".join(f"{value:.4f}" for value in row["style"])
            writer.writerow(
                [row["item_id"], f"{since:%Y-%m-%d %H:%M}", row["title"], row["brand"], tags, row["price"], picture]
            )


if __name__ == "__main__":
    main()
