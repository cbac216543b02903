"""What ingest does with bad rows, bad files and cards that contradict their data."""

import gzip
import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from components.ingest import step
from feature_repo.card import load_card
from runtime.errors import InputError
from tests.component.ingest_cards import (
    INTERACTIONS,
    ITEMS,
    PRICE,
    TITLE,
    ingest,
    interactions_of,
    make_card,
    rows,
    with_row,
)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"event_time": "2025-02-31T10:00:00Z"}, "malformed_time"),
        ({"event_time": "yesterday"}, "malformed_time"),
        ({"event_time": "infinity"}, "malformed_time"),
        ({"event_time": "01/03/25"}, "malformed_time"),
        ({"event_time": None}, "missing_time"),
        ({"event_time": "  "}, "missing_time"),
        ({"event_time": "2999-01-01T00:00:00Z"}, "future_time"),
        ({"user_id": None}, "missing_user"),
        ({"user_id": " "}, "missing_user"),
        ({"item_id": None}, "missing_item"),
        ({"quantity": "-2"}, "negative_quantity"),
        ({"quantity": "0"}, "zero_quantity"),
        ({"quantity": "many"}, "malformed_quantity"),
        ({}, "duplicate_row"),
        ({"quantity": "3"}, "duplicate_event"),
        ({"paid": "cheap", "user_id": "c"}, "paid_not_a_number"),
        ({"paid": "inf", "user_id": "c"}, "paid_not_finite"),
        ({"paid": "nan", "user_id": "c"}, "paid_not_finite"),
    ],
)
def test_bad_interaction_is_set_aside_with_its_reason(tmp_path, changed, reason):
    table = {**INTERACTIONS, "quantity": ["1", "1", "1"], "paid": ["3.5", "20", None]}
    card = make_card(
        tmp_path,
        with_row(table, **changed),
        columns={"event_time": "event_time", "quantity": "quantity"},
        features=[TITLE, PRICE, {"name": "paid", "kind": "numeric", "table": "interactions", "varies_in_time": True}],
    )
    report, events = ingest(card, tmp_path)
    assert (report["rows"], report["accepted"], report["rejected"]) == (4, 3, 1)
    assert report["reasons"] == {reason: 1}
    (rejected,) = rows(events, "rejected.parquet")
    assert (rejected["table"], rejected["row"], rejected["reasons"]) == ("interactions", 3, [reason])
    record = json.loads(rejected["record"])
    assert all(record[name] == value for name, value in changed.items() if value is not None)


def test_every_reason_that_holds_is_given(tmp_path):
    table = with_row(with_row(INTERACTIONS), user_id=None, item_id="", event_time="soon")
    report, events = ingest(make_card(tmp_path, table), tmp_path)
    rejected = rows(events, "rejected.parquet")
    assert set(rejected[1]["reasons"]) == {"missing_user", "missing_item", "malformed_time"}
    assert report["rejected"] == 2
    assert sum(report["reasons"].values()) == 4


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"item_id": None}, "missing_item"),
        ({"since": "2025-13-01"}, "malformed_time"),
        ({"since": None}, "missing_time"),
        ({"since": "2999-01-01"}, "future_time"),
        ({}, "duplicate_row"),
        ({"title": "Other"}, "duplicate_item"),
        ({"price": "free", "item_id": "z"}, "price_not_a_number"),
        ({"price": "-inf", "item_id": "z"}, "price_not_finite"),
        ({"style": "1;2;3", "item_id": "z"}, "style_wrong_dimension"),
        ({"style": "1;two", "item_id": "z"}, "style_not_finite"),
        ({"style": "1;nan", "item_id": "z"}, "style_not_finite"),
    ],
)
def test_bad_item_is_set_aside_with_its_reason(tmp_path, changed, reason):
    table = {**ITEMS, "since": ["2025-01-01", "2025-01-02"], "style": ["0.5;1", "[1;2]"]}
    card = make_card(
        tmp_path,
        items=with_row(table, **changed),
        columns={"event_time": "event_time", "item_available_at": "since"},
        features=[TITLE, PRICE, {"name": "style", "kind": "embedding", "dimension": 2, "separator": ";"}],
    )
    report, events = ingest(card, tmp_path)
    assert report["rejected"] == 0
    assert (report["item_rows"], report["item_rejected"]) == (3, 1)
    assert report["item_reasons"] == {reason: 1}
    assert [(r["table"], r["row"], r["reasons"]) for r in rows(events, "rejected.parquet")] == [("items", 2, [reason])]
    assert [row["style"] for row in rows(events, "items/static.parquet")] == [[0.5, 1.0], [1.0, 2.0]]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_empty_source_gives_an_empty_artifact_that_says_so(tmp_path, suffix):
    empty = {name: pa.array([], pa.string()) for name in INTERACTIONS}
    report, events = ingest(make_card(tmp_path, empty, suffix=suffix), tmp_path)
    assert (report["rows"], report["accepted"], report["first_event"]) == (0, 0, None)
    assert "No usable interaction: the source is empty." in report["notes"]
    assert not list((events / "interactions").iterdir())
    assert len(rows(events, "items/static.parquet")) == 2


def test_one_user_one_item_one_event(tmp_path):
    table = {name: value[:1] for name, value in INTERACTIONS.items()}
    report, events = ingest(make_card(tmp_path, table), tmp_path)
    assert (report["users"], report["items"], len(interactions_of(events))) == (1, 1, 1)


def test_features_that_are_missing_throughout_stay_missing(tmp_path):
    items = {"item_id": ["x", "y"], "title": [None, None], "price": [None, None]}
    _, events = ingest(make_card(tmp_path, items=items), tmp_path)
    assert [(row["title"], row["price"]) for row in rows(events, "items/static.parquet")] == [(None, None)] * 2


def test_missing_columns_are_told_at_once_with_those_found(tmp_path):
    card = make_card(tmp_path, columns={"event_time": "time", "basket": "invoice"}, ties="basket")
    with pytest.raises(InputError) as error:
        ingest(card, tmp_path)
    assert "no column 'time' (columns.event_time), 'invoice' (columns.basket)" in str(error.value)
    assert "Found: user_id, item_id, event_time." in str(error.value)


def test_missing_feature_column_is_told(tmp_path):
    card = make_card(tmp_path, features=[{"name": "maker", "kind": "categorical", "column": "Brand"}])
    with pytest.raises(InputError, match=r"no column 'Brand' \(feature maker\). Found: item_id, title, price"):
        ingest(card, tmp_path)


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ({"name": "title", "kind": "numeric"}, "title .*: none of the 2 values is a number, e.g. '.+'. Name another"),
        (
            {"name": "tags", "kind": "categorical"},
            r"feature 'tags' \(categorical\): column 'tags' has type VARCHAR\[\]",
        ),
        (
            {"name": "tags", "kind": "embedding", "dimension": 2},
            r"'tags' has type VARCHAR\[\], expected a list of numbers",
        ),
        ({"name": "price", "kind": "multi_categorical"}, "'price' has type DOUBLE, expected a list of values"),
        ({"name": "style", "kind": "numeric"}, r"column 'style' has type DOUBLE\[\], expected numbers"),
        ({"name": "style", "kind": "embedding", "dimension": 3}, "style .* is 3 numbers, .* dimension"),
    ],
)
def test_card_that_contradicts_its_data_is_told_what_was_found(tmp_path, feature, message):
    items = {
        "item_id": ["x", "y"],
        "title": ["Red mug", "Blue kettle"],
        "tags": [["a"], ["b"]],
        "price": [1.0, 2.0],
        "style": [[1.0, 2.0], [3.0, 4.0]],
    }
    with pytest.raises(InputError, match=message):
        ingest(make_card(tmp_path, items=items, suffix=".parquet", features=[feature]), tmp_path)


def test_column_without_a_single_time_is_told(tmp_path):
    with pytest.raises(InputError, match=r"event_time \(column 'item_id'\): none of the 3 values is a time"):
        ingest(make_card(tmp_path, columns={"event_time": "item_id"}), tmp_path)


@pytest.mark.parametrize("written", ["%d.%m.%Y %H:%M", "%d/%m/%y", "%d-%m-%y %H:%M"])
def test_times_that_are_written_day_first_are_told_how_to_write_them(tmp_path, written):
    times = [datetime(2025, 6, day, 12, tzinfo=UTC).strftime(written) for day in (1, 2, 28)]
    with pytest.raises(InputError, match=r"none of the 3 values is a time .* say by source.time_format how"):
        ingest(make_card(tmp_path, {**INTERACTIONS, "event_time": times}), tmp_path)


def test_numbers_with_a_decimal_comma_are_told_how_to_write_them(tmp_path):
    with pytest.raises(InputError, match=r"none of the 2 values is a number, e.g. '[69],50'. .* numbers as 1234\.50"):
        ingest(make_card(tmp_path, items={**ITEMS, "price": ["6,50", "9,50"]}), tmp_path)


def test_unknown_time_zone_is_told(tmp_path):
    with pytest.raises(InputError, match=r"source\.timezone 'Mars/Olympus' is no time zone"):
        ingest(make_card(tmp_path, source={"timezone": "Mars/Olympus"}), tmp_path)


def test_missing_file_is_told_with_what_to_do(tmp_path):
    card = make_card(tmp_path)
    card.source.items.unlink()
    for call in (lambda: ingest(card, tmp_path), lambda: step.fingerprint(card)):
        with pytest.raises(
            InputError, match=r"items.csv: no such file \(source.items of card 'tiny'\).*relative to the card"
        ):
            call()


def test_data_folder_can_be_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HETERREC_DATA", str(tmp_path))
    with pytest.raises(
        InputError, match=f"{tmp_path}/online_retail.parquet: no such file.*archive.ics.uci.edu.*HETERREC_DATA"
    ):
        step.fingerprint(load_card("online_retail"))


@pytest.mark.parametrize("content", [b"not a parquet file", b""])
def test_unreadable_file_is_told(tmp_path, content):
    card = make_card(tmp_path, suffix=".parquet")
    card.source.items.write_bytes(content)
    with pytest.raises(InputError, match=r"items\.parquet: cannot be read"):
        ingest(card, tmp_path)


def test_csv_in_another_encoding_is_told(tmp_path):
    card = make_card(tmp_path)
    card.source.interactions.write_bytes("user_id,item_id,event_time\nJosé,x,2025-01-01\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"is not UTF-8\. Say what it is written in"):
        ingest(card, tmp_path)


def test_line_that_is_no_csv_is_set_aside_and_the_others_keep_their_row_numbers(tmp_path):
    card = make_card(tmp_path)
    lines = ["user_id,item_id,event_time", "a,x,2025-03-01", "a,y,2025-03-02,and,more", "b,x,never", "b,y,2025-03-03"]
    card.source.interactions.write_text("\n".join([*lines, "c,x", "c,y,2025-03-04"]) + "\n")
    report, events = ingest(card, tmp_path)
    assert (report["rows"], report["accepted"], report["rejected"]) == (6, 3, 3)
    assert report["reasons"] == {"malformed_line": 2, "malformed_time": 1}
    rejected = rows(events, "rejected.parquet")
    assert [row["row"] for row in rejected] == [1, 2, 4]
    assert json.loads(rejected[0]["record"]) == {"line": "a,y,2025-03-02,and,more"}
    assert [row["position"] for row in interactions_of(events)] == [0, 3, 5]


@pytest.mark.parametrize(
    ("header", "message"),
    [("", "is empty. Expected a CSV with a header"), ("user_id,item_id,item_id", "the header has 'item_id' twice")],
)
def test_csv_without_a_usable_header_is_told(tmp_path, header, message):
    card = make_card(tmp_path)
    card.source.interactions.write_text(header)
    with pytest.raises(InputError, match=message):
        ingest(card, tmp_path)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_separator_is_read_off_the_header(tmp_path, delimiter):
    card = make_card(tmp_path)
    text = card.source.interactions.read_text().replace('"', "")
    card.source.interactions.write_text(text.replace(",", delimiter))
    assert ingest(card, tmp_path)[0]["accepted"] == 3


def test_compressed_csv_is_read(tmp_path):
    card = make_card(tmp_path)
    packed = tmp_path / "interactions.csv.gz"
    packed.write_bytes(gzip.compress(card.source.interactions.read_bytes()))
    card = card.model_copy(update={"source": card.source.model_copy(update={"interactions": packed})})
    assert ingest(card, tmp_path)[0]["accepted"] == 3
