"""Each shipped card against its source: the figures are those of the sources' own descriptions."""

import json
from pathlib import Path

import duckdb
import pytest

from components.ingest import step
from components.ingest.source import SHARED
from feature_repo.card import DATASETS, DatasetCard, load_card
from runtime.errors import InputError


def small(name: str, **options) -> DatasetCard:
    card = load_card(name)
    options = {**card.source.options, "days": 6, "users": 200, "items": 100, **options}
    return card.model_copy(update={"source": card.source.model_copy(update={"options": options})})


def needs(name: str) -> None:
    if not (SHARED / name).is_file():
        pytest.skip(f"needs {SHARED / name}")


@pytest.fixture
def events(tmp_path):
    return tmp_path


def query(events: Path, sql: str) -> list[tuple]:
    with duckdb.connect() as connection:
        return connection.execute(sql.replace("@", str(events))).fetchall()


@pytest.mark.parametrize("path", sorted(DATASETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_card_can_be_read(path):
    card = load_card(path.stem)
    assert card.name == path.stem
    assert card.title is not None


def test_marketplace_dirt_is_set_aside_and_every_good_row_kept(events):
    clean = step.run(card=small("marketplace", dirty_rate=0.0), events=events)
    (events / "dirty").mkdir()
    dirty = step.run(card=small("marketplace", dirty_rate=0.3), events=events / "dirty")
    assert clean["rejected"] == 0
    assert dirty["accepted"] == clean["accepted"] == clean["rows"]
    assert dirty["rows"] == dirty["accepted"] + dirty["rejected"]
    assert set(dirty["reasons"]) == {
        "malformed_time",
        "missing_time",
        "missing_user",
        "missing_item",
        "negative_quantity",
        "zero_quantity",
        "duplicate_row",
        "future_time",
    }
    assert 0.2 < dirty["rejected"] / dirty["accepted"] < 0.4


def test_marketplace_items_are_available_from_their_launch_and_prices_from_their_change(events):
    step.run(card=small("marketplace"), events=events)
    assert query(events, "SELECT count(*), count(DISTINCT item_id) FROM '@/items/static.parquet'") == [(160, 160)]
    late = "SELECT count(*) FROM '@/interactions/*/*.parquet' e JOIN '@/items/static.parquet' i USING (item_id) "
    assert query(events, late + "WHERE e.event_time < i.event_time") == [(0,)]
    ((changes, items),) = query(events, "SELECT count(*), count(DISTINCT item_id) FROM '@/items/varying/*/*.parquet'")
    assert items == 160
    assert changes > 200


def test_placebo_differs_in_nothing_but_the_features(events):
    for name in ("marketplace", "marketplace_placebo"):
        (events / name).mkdir()
        step.run(card=small(name), events=events / name)
    same = "SELECT count(*) FROM ((FROM '@/marketplace/{0}') EXCEPT (FROM '@/marketplace_placebo/{0}'))"
    assert query(events, same.format("interactions/*/*.parquet")) == [(0,)]
    assert query(events, same.format("items/static.parquet"))[0][0] > 150
    shipped, placebo = load_card("marketplace"), load_card("marketplace_placebo")
    assert placebo.features == shipped.features
    assert placebo.source.options == {**shipped.source.options, "placebo": True}


def test_unknown_marketplace_option_is_told(events):
    with pytest.raises(InputError, match=r"card 'marketplace': source\.options: marketplace: unknown option 'dais'"):
        step.run(card=small("marketplace", dais=3), events=events)


def test_example_card_runs_from_its_files_alone(events):
    card = load_card("example")
    report = step.run(card=card, events=events)
    assert (report["rows"], report["rejected"]) == (898, 0)
    ((tags, picture),) = query(events, "SELECT tags, picture FROM '@/items/static.parquet' WHERE item_id = 'i000000'")
    assert tags == ["home", "kettles"]
    assert len(picture) == 4
    ((count, users),) = query(
        events, "SELECT count(DISTINCT basket), count(DISTINCT user_id) FROM '@/interactions/*/*.parquet'"
    )
    assert count > users


def test_online_retail_counts_agree_with_its_description(events):
    needs("online_retail.parquet")
    card = load_card("online_retail")
    report = step.run(card=card, events=events)
    assert report["rows"] == 1_034_613
    assert (report["accepted"], report["users"], report["items"]) == (765_986, 5_852, 4_619)
    assert report["rejected"] == report["rows"] - report["accepted"]
    reasons = report["reasons"]
    assert round(reasons.pop("missing_user") / report["rows"], 3) == 0.226
    assert reasons.pop("not_a_product") > 5_000
    assert reasons == {
        "negative_quantity": 12_326,
        "duplicate_row": 11_775,
        "duplicate_event": 10_591,
        "cancellation": 10_206,
        "price_not_positive": 4_755,
    }
    assert query(events, "SELECT count(*) FROM '@/rejected.parquet'") == [(report["rejected"],)]
    ((baskets, users),) = query(events, "SELECT count(DISTINCT basket), max(user_id) FROM '@/interactions/*/*.parquet'")
    assert baskets > 30_000
    assert "." not in users
    # A summer's noon in London is eleven o'clock UTC.
    first = "SELECT min(event_time AT TIME ZONE 'UTC')::VARCHAR FROM '@/interactions/day={}/*.parquet'"
    assert query(events, first.format("2009-12-01")) == [("2009-12-01 07:45:00",)]
    raw = "SELECT min(InvoiceDate)::VARCHAR FROM '{}' WHERE InvoiceDate::DATE = '2011-07-01' AND CustomerID IS NOT NULL"
    ((local,),) = query(events, raw.format(card.source.interactions))
    ((utc,),) = query(events, first.format("2011-07-01"))
    assert int(local[11:13]) == int(utc[11:13]) + 1
    calendar_covers_empty_days(card, events)
    prices_are_known_from_the_line_that_has_them(events)


def calendar_covers_empty_days(card: DatasetCard, events: Path) -> None:
    traded = "(SELECT DISTINCT (event_time AT TIME ZONE 'UTC')::DATE FROM '@/interactions/*/*.parquet')"
    days = "(SELECT d::DATE AS d FROM range(DATE '2009-12-01', DATE '2011-12-10', INTERVAL 1 DAY) t(d))"
    empty = query(events, f"SELECT d FROM {days} WHERE d NOT IN {traded}")
    assert len(empty) == 135
    closed = card.calendar.closed_days
    open_days = [
        day for (day,) in empty if day not in closed and f"{day:%A}".lower() not in card.calendar.closed_weekdays
    ]
    assert not open_days
    assert {day for (day,) in empty} >= set(closed)


def prices_are_known_from_the_line_that_has_them(events: Path) -> None:
    """Joined as of its own time, a purchase whose product had one price in that minute sees the price it paid."""
    ((differing,),) = query(
        events,
        """
        WITH paid AS (
            SELECT item_id, event_time, any_value(price) AS price FROM '@/interactions/*/*.parquet'
            GROUP BY ALL HAVING count(DISTINCT price) = 1)
        SELECT count(*) FROM paid ASOF JOIN '@/items/varying/*/*.parquet' known
        ON paid.item_id = known.item_id AND paid.event_time >= known.event_time WHERE paid.price <> known.price
        """,
    )
    assert differing == 0


def test_amazon_beauty_is_order_only_and_says_so(events):
    needs("beauty/interactions.csv.gz")
    report = step.run(card=load_card("amazon_beauty"), events=events)
    assert (report["rows"], report["accepted"], report["users"], report["items"]) == (198_502, 198_502, 22_363, 12_101)
    assert report["event_time_synthesised"]
    assert json.loads((events / "report.json").read_text())["notes"]
    categories = "SELECT categories FROM '@/items/static.parquet' WHERE item_id = '9788072216'"
    assert query(events, categories) == [(["Beauty", "Fragrance", "Women's", "Eau de Parfum"],)]
    missing = (
        "SELECT round(avg((brand IS NULL)::INT), 3), count(*) FILTER (categories IS NULL) FROM '@/items/static.parquet'"
    )
    assert query(events, missing) == [(0.173, 0)]
