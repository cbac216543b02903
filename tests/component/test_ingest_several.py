"""Several tables of interactions, each with columns and a way of writing of its own, are one source."""

import random
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

from components.ingest import step
from feature_repo.card import load_card
from runtime.errors import InputError
from tests.component.ingest_cards import (
    ingest,
    interactions_of,
    make_card,
    write,
    write_csv,
)

KINDS = {"view": {}, "purchase": {"predict": True}}
COLUMNS = {"user_id": "user", "item_id": "sku", "event_time": "at", "event_type": "kind", "quantity": "pieces"}
VIEWS = {"user": ["a", "b", "a"], "sku": ["x", "y", "y"], "seen_at": ["2025-03-01T10:00:00Z"] * 3}
ORDERS = {
    "user": ["a", "b"],
    "sku": ["x", "x"],
    "at": ["2025-03-02", "2025-03-03"],
    "pieces": [1, 0],
    "paid": [3.5, 4.0],
}
PRICE = {"name": "price", "kind": "numeric", "table": "interactions", "varies_in_time": True}


def two_tables(folder: Path, *, views=VIEWS, orders=ORDERS, order_columns=None, **more):
    views = write_csv(folder / "views.csv", views)
    orders = write(folder / "orders.parquet", orders if isinstance(orders, pa.Table) else pa.table(orders))
    tables = [
        {"place": views, "event_type": "view", "columns": {"event_time": "seen_at"}},
        {
            "place": orders,
            "event_type": "purchase",
            "columns": {"price": "paid"} if order_columns is None else order_columns,
        },
    ]
    given = {"columns": COLUMNS, "events": KINDS, "features": [PRICE], "items": {"item_id": ["x", "y"]}}
    return make_card(folder, source={"interactions": tables}, **{**given, **more})


def told(events: Path) -> list[tuple]:
    names = ("user_id", "item_id", "event_type", "origin", "price")
    return sorted(tuple(row[name] for name in names) for row in interactions_of(events))


def test_each_table_is_read_by_its_own_columns_and_has_its_type(tmp_path):
    report, events = ingest(two_tables(tmp_path), tmp_path)
    assert told(events) == [
        ("a", "x", "purchase", "orders.parquet", 3.5),
        ("a", "x", "view", "views.csv", None),
        ("a", "y", "view", "views.csv", None),
        ("b", "y", "view", "views.csv", None),
    ]
    assert report["reasons"] == {"zero_quantity": 1} and report["event_types"] == {"view": 3, "purchase": 1}
    assert any("Types of events: view 3 (in the history), purchase 1 (predicted)" in note for note in report["notes"])


def test_one_table_cut_in_two_is_the_table(tmp_path):
    """Property: however rows are dealt to tables, with whatever names, the events are those of one table."""
    rng = random.Random(0)
    moments = [f"2025-03-{day:02d}T10:{n:02d}:00Z" for day in range(1, 6) for n in range(9)]
    rows = [(f"u{rng.randrange(4)}", f"i{rng.randrange(3)}", moment, rng.choice(list(KINDS))) for moment in moments]
    items = {"item_id": ["i0", "i1", "i2"], "title": ["A", "B", "C"], "price": ["1", "2", "3"]}
    names = ("user", "sku", "at", "kind")

    def table(own, chosen):
        return dict(zip(own, map(list, zip(*chosen, strict=True)), strict=True))

    (whole := tmp_path / "whole").mkdir()
    columns = {role: name for role, name in COLUMNS.items() if role != "quantity"}
    _, one = ingest(make_card(whole, table(names, rows), items, columns=columns, events=KINDS), whole)
    (cut := tmp_path / "cut").mkdir()
    mixed = [row for row in rows if rng.random() < 0.3]
    tables = [{"place": write_csv(cut / "mixed.csv", table(names, mixed))}]
    for kind in KINDS:
        own = ("who", "what", "when")
        (folder := cut / kind).mkdir()
        mine = [row[:3] for row in rows if row not in mixed and row[3] == kind]
        for number in range(2):
            write_csv(folder / f"part{number}.csv", table(own, mine[number::2]))
        said = dict(zip(("user_id", "item_id", "event_time"), own, strict=True))
        tables.append({"place": folder, "event_type": kind, "columns": said})
    card = make_card(cut, items=items, columns=columns, events=KINDS, source={"interactions": tables})
    _, several = ingest(card, cut)

    def ids(events):
        return sorted((row["event_id"], row["event_time"], row["event_type"]) for row in interactions_of(events))

    assert ids(several) == ids(one)
    assert {row["origin"] for row in interactions_of(several)} == {
        "mixed.csv", "view/part0.csv", "view/part1.csv", "purchase/part0.csv", "purchase/part1.csv"
    }  # fmt: skip


def test_a_table_that_did_not_change_is_taken_over(tmp_path):
    card = two_tables(tmp_path)
    _, events = ingest(card, tmp_path)
    more = {name: [*column, {"user": "b", "sku": "x"}.get(name, column[-1])] for name, column in VIEWS.items()}
    write_csv(tmp_path / "views.csv", more)
    (again := tmp_path / "again").mkdir()
    report = step.run(card=card, events=again, previous=events)
    assert report["event_types"] == {"view": 4, "purchase": 1}
    assert [row for row in told(again) if row[3] == "orders.parquet"] == [("a", "x", "purchase", "orders.parquet", 3.5)]
    (fresh := tmp_path / "fresh").mkdir()
    (fresh / "more").mkdir()
    assert told(again) == told(ingest(two_tables(fresh / "more", views=more), fresh)[1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"order_columns": {"event_time": "bought"}},
            r"orders\.parquet: no column 'bought' \(event_time in columns of source\.interactions",
        ),
        ({"order_columns": {"price": "cost"}}, r"orders\.parquet: no column 'cost' \(feature price"),
        ({"views": {"who": ["a"], "sku": ["x"], "seen_at": ["2025-03-01"]}}, r"views\.csv: no column 'user' \(user_id"),
    ],
)  # fmt: skip
def test_a_column_that_a_table_lacks_is_told_with_its_file(tmp_path, changed, message):
    with pytest.raises(InputError, match=message):
        ingest(two_tables(tmp_path, **changed), tmp_path)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([{"place": "a.csv"}], "expected several files of different names, found a.csv"),
        ([{"place": "a.csv"}, {"place": "old/a.csv"}], "expected several files of different names, found a.csv, a.csv"),
        ([{"place": "a.csv", "event_type": "né"}, {"place": "b.csv"}], "'né' is no type of an event"),
        (
            [{"place": "a.csv", "event_type": "view"}, {"place": "b.csv"}],
            "event_type is said, which the card's columns",
        ),
        (
            [{"place": "a.csv", "columns": {"colour": "c"}}, {"place": "b.csv"}],
            "'colour' is none of basket, created_time",
        ),
        (
            [{"place": "a.csv", "columns": {"basket": "c"}}, {"place": "b.csv"}],
            "basket is said, which the card's columns",
        ),
    ],
)
def test_what_is_said_of_tables_fits_the_card(tmp_path, tables, message):
    with pytest.raises(ValidationError, match=message):
        make_card(tmp_path, source={"interactions": tables})


def test_places_are_taken_from_the_folder_of_the_card(tmp_path):
    (path := tmp_path / "shop.yaml").write_text(
        "name: shop\ndescription: Two tables\nsplit: {by: time}\n"
        "source:\n  adapter: files\n  items: items.csv\n  interactions:\n"
        "    - {place: views.csv, event_type: view, columns: {event_time: seen_at}}\n"
        "    - {place: s3://bucket/orders.csv, event_type: purchase}\n"
        "columns: {event_time: at, event_type: kind}\nevents: {view: {}, purchase: {predict: true}}\n"
        "features:\n  - {name: title, kind: text}\n"
    )
    card = load_card(str(path))
    assert [table.place for table in card.source.interactions] == [tmp_path / "views.csv", "s3://bucket/orders.csv"]
