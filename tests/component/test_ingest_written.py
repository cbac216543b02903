"""However a shop writes its tables down: JSON, its own times and decimals, ids as 17.0, no table of items."""

import gzip
import json
from datetime import UTC, datetime

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from components.ingest.json_lines import read_json
from runtime.errors import InputError
from tests.component.ingest_cards import (
    INTERACTIONS,
    ingest,
    interactions_of,
    make_card,
    rows,
)

SOME = settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
EVENTS = [
    {"user_id": 12345678901234567890, "item_id": 17.0, "event_time": "2025-03-01T10:00:00Z", "device": {"os": "ios"}},
    {"event_time": "2025-03-02T10:00:00Z", "item_id": "007", "user_id": "u2", "tags": ["a", 2, ["b"]]},
    {"user_id": "u3", "item_id": "x", "event_time": "2025-03-03T10:00:00Z", "device": {"os": None}},
]


def json_card(folder, content: bytes, **more):
    card = make_card(folder, **more)
    card.source.interactions.write_bytes(content)
    return card


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("as_array", [False, True])
def test_json_is_read_a_line_or_an_element_an_event(tmp_path, packed, as_array):
    lines = [json.dumps(event) for event in EVENTS]
    text = (
        json.dumps(EVENTS, indent=1)
        if as_array
        else "\ufeff" + "\n".join([*lines, "", "not json", "[1]", '{"a": 1, "a": 2}'])
    )
    content = gzip.compress(text.encode()) if packed else text.encode()
    os = {"name": "os", "kind": "categorical", "column": "device.os", "table": "interactions", "varies_in_time": True}
    report, events = ingest(json_card(tmp_path, content, features=[os]), tmp_path)
    assert report["reasons"] == ({} if as_array else {"malformed_line": 3})
    assert [(row["user_id"], row["item_id"], row["os"]) for row in interactions_of(events)] == [
        ("12345678901234567890", "17", "ios"), ("u2", "007", None), ("u3", "x", None)]  # fmt: skip
    if not as_array:
        assert [row["row"] for row in rows(events, "rejected.parquet")] == [3, 4, 5]


@SOME
@given(
    values=st.lists(
        st.lists(st.none() | st.integers() | st.text(max_size=3) | st.lists(st.text(max_size=2))),
        min_size=1,
        max_size=5,
    )
)
def test_lists_of_json_are_lists_whatever_is_in_them(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("json") / "items.json"
    path.write_text("\n".join(json.dumps({"tags": each}) for each in values))
    with duckdb.connect() as connection:
        connection.execute(f"SET temp_directory = '{path.parent / 'spill'}'")
        found = read_json(path, path, connection).relation.fetchall()
    flat = [[str(x) for part in each for x in (part if isinstance(part, list) else [part]) if x is not None]
            for each in values]  # fmt: skip
    assert [tags for (tags,) in found] == flat


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{'asin': 'B1', 'title': 'a'}\n", "looks like JSON, but none of its lines is an object"),
        (b'[{"user_id": 1}, {"user_', "array of JSON objects is cut short"),
        (b'[{"user_id": 1}, 3]', "its array holds '3'"),
        (b'[{"user_id": 1}]\n[{"user_id": 2}]', "something follows its array"),
    ],
)
def test_json_that_is_none_is_refused_in_a_sentence(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        ingest(json_card(tmp_path, content), tmp_path)


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_how_a_csv_is_written_is_refused_where_the_file_is_none(tmp_path, suffix):
    card = make_card(tmp_path, suffix=suffix if suffix == ".parquet" else ".csv",
                     source={"csv": {"interactions": {"decimal": ","}}})  # fmt: skip
    if suffix == ".json":
        card.source.interactions.write_text(json.dumps(EVENTS[0]))
    with pytest.raises(InputError, match=r"source.csv.interactions of the card has no effect"):
        ingest(card, tmp_path)


def test_times_are_read_as_the_card_says_they_are_written(tmp_path):
    times = ["03.04.2025 10:30", "13.04.2025 9:05", "2025-04-14T00:00:00Z"]
    card = make_card(tmp_path, {**INTERACTIONS, "event_time": times},
                     source={"time_format": "%d.%m.%Y %H:%M", "timezone": "Europe/Berlin"})  # fmt: skip
    report, events = ingest(card, tmp_path)
    assert report["accepted"] == 3
    assert [row["event_time"] for row in interactions_of(events)] == [
        datetime(2025, 4, 3, 8, 30, tzinfo=UTC), datetime(2025, 4, 13, 7, 5, tzinfo=UTC),
        datetime(2025, 4, 14, tzinfo=UTC)]  # fmt: skip
    with pytest.raises(ValidationError, match="names no whole day"):
        make_card(tmp_path, source={"time_format": "%H:%M"})


def test_a_decimal_comma_and_ids_as_floats_are_read_where_the_card_says_so(tmp_path):
    card = make_card(
        tmp_path,
        {"user_id": ["1.0", "2.0", "3.5"], "item_id": ["17.0", "007", "x"], "event_time": INTERACTIONS["event_time"]},
        {"item_id": ["17", "007", "x", "y"], "title": ["a"] * 4, "price": ["1.234,50", "0,5", "12", "1.5"]},
        source={"csv": {"interactions": {"whole": ["user_id", "item_id"]}, "items": {"decimal": ","}}},
    )
    report, events = ingest(card, tmp_path)
    assert {(row["user_id"], row["item_id"]) for row in interactions_of(events)} == {
        ("1", "17"),
        ("3.5", "x"),
        ("2", "007"),
    }
    assert {row["item_id"]: row["price"] for row in rows(events, "items/static.parquet")} == {
        "17": 1234.5, "007": 0.5, "x": 12.0}  # fmt: skip
    assert report["item_reasons"] == {"price_not_a_number": 1}


def test_without_a_table_of_items_they_are_read_off_the_interactions(tmp_path):
    table = {**INTERACTIONS, "title": ["red mug", "kettle", None], "price": ["1", "2", "3"]}
    features = [{"name": "title", "kind": "text"}, {"name": "price", "kind": "numeric", "varies_in_time": True}]
    report, events = ingest(make_card(tmp_path, table, features=features, source={"items": None}), tmp_path)
    assert report["accepted"] == 3 and "item_rows" not in report
    assert {row["item_id"]: row["title"] for row in rows(events, "items/static.parquet")} == {
        "x": "red mug", "y": "kettle"}  # fmt: skip
    with pytest.raises(ValidationError, match="there is no items table"):
        make_card(tmp_path, table, source={"items": None}, columns={"event_time": "event_time", "item_key": "sku"})
