"""A table in a database, at an address or in a folder of parts is read as the same table in one file is."""

import json

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy
from pydantic import ValidationError

from components.ingest.sources import files, sql
from feature_repo.card import DatasetCard
from feature_repo.faults import Unavailable
from runtime.errors import InputError
from tests.component.ingest_cards import (
    INTERACTIONS,
    ITEMS,
    ingest,
    interactions_of,
    make_card,
    rows,
    write_csv,
)
from tests.k8s import postgres_server
from tests.s3_server import s3_bucket

EVENT = ("user_id", "item_id", "event_time")


def events_of(folder) -> list[tuple]:
    return [tuple(row[name] for name in EVENT) for row in interactions_of(folder)]


def sql_card(**asked) -> DatasetCard:
    asked = {
        "url_from": "SHOP_DATABASE",
        "interactions": "SELECT * FROM clicks;",
        "items": "SELECT * FROM items",
        **asked,
    }
    return DatasetCard.model_validate(
        {"name": "tiny", "description": "", "source": {"adapter": "sql", "sql": asked},
         "columns": {"event_time": "event_time"}, "split": {"by": "time"},
         "features": [{"name": "title", "kind": "text"}, {"name": "price", "kind": "numeric"}]}
    )  # fmt: skip


def fill(url: str, zoned: str, number: str) -> sqlalchemy.Engine:
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as database:
        database.execute(
            sqlalchemy.text(
                f"CREATE TABLE clicks (user_id {number}, item_id VARCHAR(9), event_time {zoned}, note {number})"
            )
        )
        database.execute(sqlalchemy.text(f"CREATE TABLE items (item_id VARCHAR(9), title VARCHAR(99), price {number})"))
        database.execute(sqlalchemy.text("INSERT INTO items VALUES ('x', 'Red mug: 10:30', 3.5), ('y', NULL, 20)"))
        for n in range(40):
            moment = f"2025-03-0{1 + n // 10} 10:{n % 10:02d}:00"
            row = f"({n % 7}, '{'xy'[n % 2]}', '{moment}', NULL)"
            database.execute(sqlalchemy.text(f"INSERT INTO clicks VALUES {row}"))
    return engine


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=postgres_server.needed)])
def shop(request, tmp_path_factory):
    """A database with 40 clicks over 4 days, and its URL."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('shop') / 'shop.db'}"
        yield fill(url, "VARCHAR(30)", "NUMERIC"), url
        return
    with postgres_server.Postgres() as server:
        server.client("createdb", "shop")
        url = server.url("shop")
        yield fill(url, "TIMESTAMPTZ", "NUMERIC(20, 2)"), url


def test_a_query_is_read_in_portions_and_days_are_taken_over_until_they_change(shop, tmp_path, monkeypatch):
    engine, url = shop
    monkeypatch.setenv("SHOP_DATABASE", url)
    monkeypatch.setattr(sql, "PORTION", 7)  # a portion has no word of the others
    card = sql_card(by="event_time")
    report, events = ingest(card, tmp_path)
    assert (report["accepted"], report["rejected"]) == (40, 0)
    assert {row["user_id"] for row in interactions_of(events)} == {str(n) for n in range(7)}  # 3.00 is 3
    assert {row["origin"] for row in interactions_of(events)} == {f"2025-03-0{n}" for n in range(1, 5)}
    assert {row["item_id"]: row["price"] for row in rows(events, "items/static.parquet")} == {"x": 3.5, "y": 20.0}
    with engine.begin() as database:
        database.execute(sqlalchemy.text("INSERT INTO clicks VALUES (99, 'x', '2025-03-04 23:00:00', NULL)"))
    read: list[str] = []
    real = sql._run
    monkeypatch.setattr(sql, "_run", lambda database, query, *more: read.append(query) or real(database, query, *more))
    try:
        (tmp_path / "next").mkdir()
        _, after = ingest(card, tmp_path / "next", previous=events)
        (tmp_path / "whole").mkdir()
        _, whole = ingest(card, tmp_path / "whole")
    finally:
        with engine.begin() as database:
            database.execute(sqlalchemy.text("DELETE FROM clicks WHERE user_id = 99"))
    assert [query for query in read if "2025-03-04" in query and "2025-03-03" not in query]
    assert sorted(events_of(after)) == sorted(events_of(whole)) and len(events_of(after)) == 41


def test_without_a_column_to_go_by_any_change_is_seen(shop, monkeypatch, tmp_path):
    engine, url = shop
    monkeypatch.setenv("SHOP_DATABASE", url)
    joined = "SELECT c.*, i.title, i.price FROM clicks c JOIN items i ON i.item_id = c.item_id ORDER BY event_time"
    card = sql_card(items=None, interactions=joined)
    assert ingest(card, tmp_path)[0]["accepted"] == 40
    before = sql.content(card)
    assert before == sql.content(card)
    with engine.begin() as database:
        database.execute(sqlalchemy.text("UPDATE clicks SET user_id = user_id + 1"))
    assert before != sql.content(card)


def test_what_a_database_refuses_is_told_without_its_password(shop, monkeypatch):
    monkeypatch.setenv("SHOP_DATABASE", shop[1])
    with pytest.raises(InputError, match=r"source.sql.items .* the database refuses it: .*no_such"):
        sql.content(sql_card(items="SELECT * FROM no_such"))
    for url, message in [
        ("", "is not set"),
        ("no url: hunter2", "holds no URL"),
        ("oracel://u:hunter2@h/x", "oracel, whose"),
        ("postgresql+psycopg://u:a@hunter2:b@h/x", "holds no URL.*as %40"),
        ("postgresql+psycopg://u:a@hunter2@h/x", "holds no URL.*as %40"),
    ]:
        monkeypatch.setenv("SHOP_DATABASE", url)
        with pytest.raises(InputError, match=message) as error:
            sql.content(sql_card())
        assert "hunter2" not in str(error.value)
    monkeypatch.setenv("SHOP_DATABASE", "postgresql+psycopg://u:hunter2@127.0.0.1:1/x")
    with pytest.raises(Unavailable) as away:
        sql.content(sql_card())
    assert "hunter2" not in str(away.value) and away.value.__suppress_context__
    with pytest.raises(ValidationError, match="url_from"):
        sql_card(url_from="postgresql://u:hunter2@h/x")


def test_rows_keep_their_order_where_a_portion_has_no_value_and_a_query_may_end_with_a_comment(
    shop, tmp_path, monkeypatch
):
    engine, url = shop
    monkeypatch.setenv("SHOP_DATABASE", url)
    monkeypatch.setattr(sql, "PORTION", 7)
    query = (
        "SELECT user_id, CASE WHEN event_time < '2025-03-02 10:04:00' THEN item_id ELSE 'z' END AS item_id, "
        "'2025-03-01 10:00:00' AS event_time, event_time AS place, CASE WHEN event_time "
        "BETWEEN '2025-03-01 10:07:00' AND '2025-03-02 10:03:00' THEN NULL ELSE 'b' END AS session "
        "FROM clicks ORDER BY place  -- the whole of it"
    )
    card = sql_card(interactions=query)
    card = card.model_copy(update={"columns": card.columns.model_copy(update={"basket": "session"})})
    _, events = ingest(card, tmp_path)
    found = interactions_of(events)
    with engine.connect() as database:
        there = database.execute(sqlalchemy.text(query.replace(":", r"\:")))
        expected = list(dict.fromkeys((str(int(user)), item) for user, item, *_ in there))  # later ones repeat these
    assert [(row["user_id"], row["item_id"]) for row in found] == expected
    assert len(sql.content(sql_card(by="event_time", interactions="SELECT * FROM clicks -- all"))) == 5


def test_a_statement_without_rows_and_a_row_that_cannot_be_computed_are_told(shop, tmp_path, monkeypatch):
    engine, url = shop
    monkeypatch.setenv("SHOP_DATABASE", url)
    with pytest.raises(InputError, match=r"source.sql.items .* (gives no rows|refuses it)"):
        sql.content(sql_card(items="UPDATE items SET price = 0"))
    if engine.dialect.name == "sqlite":
        return
    late = "SELECT n / (30000 - n) AS user_id, 'x' AS item_id, now() AS event_time FROM generate_series(1, 40000) n"
    with pytest.raises(InputError, match="division by zero") as error:
        sql.content(sql_card(interactions=late))
    assert "SELECT" not in str(error.value)


@pytest.mark.parametrize("folder", [False, True])
def test_files_at_an_address_are_read_and_their_changes_seen(tmp_path, monkeypatch, folder):
    import boto3

    with s3_bucket("shop") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        client = boto3.client("s3")
        local = make_card(tmp_path)
        _, expected = ingest(local, tmp_path)
        name = "clicks/day=1/a.csv" if folder else "clicks.csv"
        client.upload_file(str(local.source.interactions), "shop", name)
        client.upload_file(str(local.source.items), "shop", "items.csv")
        source = {"adapter": "files", "interactions": f"s3://shop/{'clicks' if folder else 'clicks.csv'}",
                  "items": "s3://shop/items.csv"}  # fmt: skip
        card = DatasetCard.model_validate({**local.model_dump(), "source": source})
        before = files.content(card)
        (tmp_path / "far").mkdir()
        _, events = ingest(card, tmp_path / "far")
        assert events_of(events) == events_of(expected)
        assert files.content(card) == before
        write_csv(local.source.items, {**ITEMS, "price": ["4", "20"]})
        client.upload_file(str(local.source.items), "shop", "items.csv")
        assert files.content(card)[""] != before[""]
        gone = DatasetCard.model_validate({**local.model_dump(), "source": {**source, "items": "s3://shop/gone.csv"}})
        with pytest.raises(InputError, match=r"s3://shop/gone.csv: no such file"):
            files.content(gone)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_folder_of_parts_is_one_table_whatever_the_order_of_its_columns(tmp_path, suffix):
    columns = {"event_time": "event_time", "event_type": "type"}
    card = make_card(tmp_path, columns=columns, events={"buy": {"predict": True}})
    (folder := tmp_path / "clicks").mkdir()
    card = card.model_copy(update={"source": card.source.model_copy(update={"interactions": folder})})
    table = {**INTERACTIONS, "type": ["buy"] * 3}

    def write(name: str, columns: dict[str, list], stray: str = "") -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".csv":
            write_csv(folder / name, columns)
            text = (folder / name).read_text().splitlines(keepends=True)
            (folder / name).write_text("".join([*text[:2], stray, *text[2:]]))
        else:
            lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
            (folder / name).write_text("\n".join([lines[0], *([stray.strip()] if stray else []), *lines[1:]]))

    write(f"day=2025-03-01/a*{suffix}", table, stray='"a stray, line\n')
    turned = {name: table[name] for name in reversed(table)}
    write(f"day=2025-03-02/a2{suffix}", {**turned, "event_time": ["2025-03-02T12:00:00Z"] * 3})
    write(f"b{suffix}", {name: table[name] for name in EVENT})
    report, events = ingest(card, tmp_path)
    assert (report["rows"], report["reasons"]["malformed_line"]) == (10, 1)
    assert any("have no column 'type'" in note for note in report["notes"])
    (bad,) = (row for row in rows(events, "rejected.parquet") if row["reasons"] == ["malformed_line"])
    assert (bad["origin"], bad["row"]) == (f"day=2025-03-01/a*{suffix}", 1)
    # The next night only a new part is read, and what was told of the others stays.
    write(f"day=2025-03-03/a{suffix}", {**table, "event_time": ["2025-03-03T12:00:00Z"] * 3})
    for name, previous in (("next", events), ("whole", None)):
        (tmp_path / name).mkdir()
        report, _ = ingest(card, tmp_path / name, previous=previous)
        assert (report["rows"], report["reasons"]["malformed_line"]) == (13, 1), name
    if suffix == ".jsonl":
        write("c.jsonl", {**table, "type": [["buy"]] * 3})
        with (
            duckdb.connect() as connection,
            pytest.raises(InputError, match=rf"^{folder}/.* column 'type' has type .* in {folder}/"),
        ):
            connection.execute(f"SET temp_directory = '{tmp_path / 'spill'}'")
            files.load(card, connection)
    pq.write_table(pa.table(INTERACTIONS), folder / "c.parquet")
    with pytest.raises(InputError, match="is no Parquet file by its name, and others are"):
        files.content(card)
