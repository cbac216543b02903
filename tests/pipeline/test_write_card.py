"""`card` looks at tables of ten makes: the columns are named right, and the gate takes what the card reads."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from feature_repo.card import load_card
from pipelines.__main__ import main
from pipelines.write_card import write_card
from runtime.errors import InputError

START = datetime(2025, 1, 6, 8, tzinfo=UTC)
WORDS = ["red", "blue", "green", "small", "large", "old", "new", "round", "tall", "warm"]
RANDOM = np.random.default_rng(0)


def shop(rows: int = 1500, users: int = 150, items: int = 60) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Interactions (u, i, n: minutes from the start) and items (i, brand, tags, title, price)."""
    interactions = pd.DataFrame(
        {
            "u": RANDOM.integers(0, users, rows) ** 2 // users + 1000,
            "i": RANDOM.integers(0, items, rows) ** 2 // items + 1,
            "n": np.sort(RANDOM.integers(0, 60 * 24 * 40, rows)),
        }
    ).drop_duplicates(["u", "i", "n"])
    catalogue = pd.DataFrame({"i": np.arange(1, items + 1)})
    catalogue["brand"] = [f"maker {n % 7}" for n in catalogue.i]
    catalogue["tags"] = [f"{WORDS[n % 5]}|{WORDS[5 + n % 4]}" for n in catalogue.i]
    catalogue["title"] = [f"{WORDS[n % 10].title()} thing of number {n} é" for n in catalogue.i]
    catalogue["price"] = [round(3 + n * 1.37, 2) for n in catalogue.i]
    return interactions, catalogue


def at(minutes: int) -> datetime:
    return START + timedelta(minutes=int(minutes))


def own_export(folder: Path) -> None:
    """A shop's own export: semicolons, local names, ISO times; a day of each item, and when its row was written."""
    clicks, items = shop()
    items["Released"] = [f"{2019 + i % 6}-{1 + i % 12:02d}-01" if i % 10 else "" for i in items.i]
    items["updated_at"] = [at(i).isoformat() for i in items.i]
    clicks["when"] = [at(n).strftime("%Y-%m-%d %H:%M:%S") for n in clicks.n]
    clicks.rename(columns={"u": "customerId", "i": "sku"})[["customerId", "sku", "when"]].to_csv(
        folder / "a.csv", sep=";", index=False)  # fmt: skip
    items.rename(columns={"i": "sku"}).to_csv(folder / "b.csv", sep=";", index=False)


def film_ratings(folder: Path) -> None:
    """Tabs without a header and seconds since 1970; pipes, no header and latin-1."""
    clicks, items = shop()
    clicks["rating"], clicks["t"] = RANDOM.integers(1, 6, len(clicks)), [int(at(n).timestamp()) for n in clicks.n]
    clicks[["u", "i", "rating", "t"]].to_csv(folder / "a.data", sep="\t", index=False, header=False)
    items["year"] = [1990 + n % 20 for n in items.i]
    items[["i", "title", "year", "price"]].to_csv(
        folder / "b.item", sep="|", index=False, header=False, encoding="latin-1")  # fmt: skip


def event_log(folder: Path) -> None:
    """Parquet with kinds of events; an event's own id; links and another id beside the items."""
    clicks, items = shop(3000)
    clicks["event_id"] = [f"e{n:06d}" for n in range(len(clicks))]
    clicks["action"] = RANDOM.choice(["view", "purchase", "remove_from_cart"], len(clicks), p=[0.4, 0.5, 0.1])
    clicks["ts"] = pd.to_datetime([at(n) for n in clicks.n])
    clicks["visitor"] = [f"v-{u}" for u in clicks.u]
    clicks["product"] = [f"p{i:04d}" for i in clicks.i]
    clicks[["event_id", "visitor", "ts", "action", "product"]].to_parquet(folder / "a.pq", index=False)
    items["product"], items["image"] = [f"p{i:04d}" for i in items.i], [f"https://x.example/{i}.jpg" for i in items.i]
    items["vector"] = [[float(n % 3), 0.5, 1.0, float(n % 5)] for n in items.i]
    items["out"] = [at(1440 * i).date() for i in items.i]
    items[["product", "title", "image", "vector", "brand", "out"]].to_parquet(folder / "b.PARQUET", index=False)


def notebook(folder: Path) -> None:
    """pandas with its index, packed, with words for no user."""
    clicks, items = shop()
    clicks["user"] = ["NULL" if n % 20 == 0 else f"u{u}" for n, u in enumerate(clicks.u)]
    clicks["timestamp"] = [at(n).isoformat() for n in clicks.n]
    clicks["item"] = clicks.i
    clicks.reset_index(drop=True)[["item", "user", "timestamp"]].to_csv(folder / "a.csv.gz")
    items.rename(columns={"i": "item"})[["item", "brand", "price"]].to_csv(folder / "b.csv.gz")


def grocery(folder: Path) -> None:
    """Baskets, quantities and repeats; dates with times; two tables that look alike."""
    clicks, items = shop()
    clicks["basket_id"] = [10**9 + u * 1000 + n // 1440 for u, n in zip(clicks.u, clicks.n, strict=True)]
    clicks["quantity"], clicks["store"] = RANDOM.integers(1, 4, len(clicks)), RANDOM.integers(1, 9, len(clicks))
    clicks["transaction_timestamp"] = [at(n).strftime("%Y-%m-%d %H:%M") for n in clicks.n]
    names = {"u": "household_id", "i": "product_id"}
    clicks.rename(columns=names).drop(columns="n").to_csv(folder / "a.txt", sep="\t", index=False)
    items.rename(columns=names).drop(columns="title").to_csv(folder / "b.txt", sep="\t", index=False)


def german_orders(folder: Path) -> None:
    """Order numbers, days first, a comma before cents, cp1252; codes beside their words."""
    clicks, items = shop()
    clicks["Bestellnr"] = [f"B{u}{n // 1440:03d}" for u, n in zip(clicks.u, clicks.n, strict=True)]
    clicks["Datum"] = [at(n).strftime("%d.%m.%Y %H:%M") for n in clicks.n]
    clicks["Menge"] = RANDOM.integers(1, 4, len(clicks))
    clicks.rename(columns={"u": "Kundennr", "i": "Artikelnr"})[
        ["Bestellnr", "Kundennr", "Artikelnr", "Datum", "Menge"]
    ].to_csv(folder / "a.csv", sep=";", index=False)
    items["Preis"] = [f"{n:.2f}".replace(".", ",") for n in items.price]
    items["Gruppennr"], items["Gruppe"] = items.i % 9 + 100, [f"Gruppe {n % 9} ü" for n in items.i]
    items.rename(columns={"i": "Artikelnr"})[["Artikelnr", "title", "Gruppennr", "Gruppe", "Preis"]].to_csv(
        folder / "b.csv", sep=";", index=False, encoding="cp1252")  # fmt: skip


def one_table(folder: Path) -> None:
    """A month of a shop with many brands, no table of items, and kinds of events."""
    clicks, items = shop()
    clicks = clicks.merge(items, on="i")
    clicks["event_time"] = [f"{at(n):%Y-%m-%d %H:%M:%S} UTC" for n in clicks.n]
    clicks["event_type"] = RANDOM.choice(["view", "purchase"], len(clicks), p=[0.2, 0.8])
    clicks["user_session"] = [f"{u}-{n // 1440}" for u, n in zip(clicks.u, clicks.n, strict=True)]
    clicks.rename(columns={"u": "user_id", "i": "product_id"})[
        ["event_time", "event_type", "product_id", "brand", "price", "user_id", "user_session"]
    ].to_csv(folder / "a.csv", index=False)


def invoice_lines(folder: Path) -> None:
    """Parquet without a table of items, whose prices are those of the day; returns, and guests without an id."""
    clicks, items = shop()
    clicks = clicks.merge(items, on="i")
    clicks["InvoiceNo"] = [f"{u}{n // 1440:02d}" for u, n in zip(clicks.u, clicks.n, strict=True)]
    clicks["StockCode"] = [f"{i}A" for i in clicks.i]
    clicks["Quantity"] = RANDOM.choice([1, 2, 6, -1], len(clicks), p=[0.5, 0.3, 0.18, 0.02])
    clicks["InvoiceDate"] = pd.to_datetime([at(n).replace(tzinfo=None) for n in clicks.n])
    clicks["UnitPrice"] = [round(p * RANDOM.choice([0.8, 0.9, 1.0, 1.1]), 2) for p in clicks.price]
    clicks["CustomerID"] = clicks.u.astype(float).where(RANDOM.random(len(clicks)) > 0.2)
    clicks.rename(columns={"title": "Description"})[
        ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "UnitPrice", "CustomerID"]
    ].to_parquet(folder / "a.parquet", index=False)


def plays(folder: Path) -> None:
    """JSON lines with lists, and what is nested."""
    clicks, items = shop()
    lines = [{"who": {"userId": f"u{u}"}, "trackId": int(i), "playedAt": at(n).isoformat()}
             for u, i, n in zip(clicks.u, clicks.i, clicks.n, strict=True)]  # fmt: skip
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    songs = [{"trackId": int(i), "name": t, "genres": g.split("|")}
             for i, t, g in zip(items.i, items.title, items.tags, strict=True)]  # fmt: skip
    (folder / "b.json").write_text(json.dumps(songs))


def day_numbers(folder: Path) -> None:
    """Days since the beginning and a time of day; ids that pandas made floating."""
    clicks, items = shop()
    clicks["DAY"], clicks["TRANS_TIME"] = clicks.n // 1440 + 1, [f"{n % 1440 // 60}{n % 60:02d}" for n in clicks.n]
    clicks["household_key"] = clicks.u.astype(float).where(RANDOM.random(len(clicks)) > 0.02)
    clicks["BASKET_ID"] = 10**9 + clicks.u * 1000 + clicks.DAY
    clicks[["household_key", "BASKET_ID", "DAY", "i", "TRANS_TIME"]].rename(columns={"i": "PRODUCT_ID"}).to_csv(
        folder / "a.csv", index=False)  # fmt: skip
    items.rename(columns={"i": "PRODUCT_ID"})[["PRODUCT_ID", "brand", "tags"]].to_csv(folder / "b.csv", index=False)


@pytest.mark.parametrize(
    ("make", "columns", "features"),
    [
        (own_export, ("customerId", "sku", "when"),
         {"brand": "categorical", "tags": "multi_categorical", "title": "text", "price": "numeric",
          "released": "numeric"}),
        (film_ratings, ("column_0", "column_1", "column_3"),
         {"column_1": "text", "column_2": "numeric", "column_3": "numeric"}),
        (event_log, ("visitor", "product", "ts"),
         {"title": "text", "vector": "embedding", "brand": "categorical", "out": "numeric"}),
        (notebook, ("user", "item", "timestamp"), {"brand": "categorical", "price": "numeric"}),
        (grocery, ("household_id", "product_id", "transaction_timestamp"),
         {"brand": "categorical", "tags": "multi_categorical", "price": "numeric"}),
        (german_orders, ("Kundennr", "Artikelnr", "Datum"),
         {"title": "text", "gruppe": "categorical", "preis": "numeric"}),
        (one_table, ("user_id", "product_id", "event_time"), {"brand": "categorical", "price": "numeric"}),
        (invoice_lines, ("CustomerID", "StockCode", "InvoiceDate"), {"unitprice": "numeric", "description": "text"}),
        (plays, ("who.userId", "trackId", "playedAt"), {"name": "text", "genres": "multi_categorical"}),
        (day_numbers, ("household_key", "PRODUCT_ID", None), {"brand": "categorical", "tags": "multi_categorical"}),
    ],
)  # fmt: skip
def test_the_columns_of_a_shop_are_seen_and_the_gate_takes_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], None],
    columns: tuple[str, str, str | None],
    features: dict[str, str],
) -> None:
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "home"))
    (folder := tmp_path / "My shop").mkdir()
    make(folder)
    files = sorted(folder.iterdir(), reverse=make is grocery)  # in any order
    path = write_card(files, None)
    card = load_card(str(path))
    assert path == folder / "my_shop.yaml"
    assert (card.columns.user_id, card.columns.item_id, card.columns.event_time) == columns
    assert {feature.name: feature.kind for feature in card.features} == features
    dates = {own_export: ["released"], event_log: ["out"]}.get(make, [])
    assert [feature.name for feature in card.features if feature.date] == dates
    assert not [feature.name for feature in card.features if feature.date and feature.token]
    if make is event_log:
        assert (card.columns.event_type, card.predicted_types) == ("action", ["purchase"])
    if make is grocery:
        assert (card.columns.basket, card.columns.quantity, card.ties) == ("basket_id", "quantity", "basket")
    if make is german_orders:
        assert (card.source.time_format, card.columns.quantity) == ("%d.%m.%Y %H:%M", "Menge")
    if make is one_table:
        assert (card.source.items, card.predicted_types) == (None, ["purchase"])
    if make is invoice_lines:
        assert (card.columns.basket, card.columns.quantity) == ("InvoiceNo", "Quantity")
        assert [feature.name for feature in card.features if feature.table == "interactions"] == ["unitprice"]
    if make is day_numbers:
        assert (card.columns.position, card.split.by, card.columns.basket) == ("DAY", "order", "BASKET_ID")
    assert main(["check", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"], [reason["message"] for reason in found["not_held"]]
    assert found["report"]["users"] > 100 and found["judges"] > 50 and Path(found["page"]).is_file()
    with pytest.raises(InputError, match="is there already"):
        write_card(files, None)


def test_a_card_that_is_given_a_name_calls_the_data_set_by_it(tmp_path: Path) -> None:
    own_export(tmp_path)
    path = write_card(sorted(tmp_path.iterdir()), tmp_path / "My own-shop.yaml")
    assert load_card(str(path)).name == "my_own_shop", "the commands to come name the file"


def test_one_table_alone_is_refused_in_a_sentence(tmp_path: Path) -> None:
    own_export(tmp_path)
    with pytest.raises(InputError, match="one table alone"):
        write_card([tmp_path / "a.csv"], None)
    with pytest.raises(InputError, match="no table names the rows of another one"):
        write_card([tmp_path / "b.csv", tmp_path / "b.csv"], None)
