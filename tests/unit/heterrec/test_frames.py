"""Whatever table comes in, the same sequences come out; whatever is none, is told by name."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from heterrec.data.frames import table_of
from heterrec.data.prepare import prepare
from heterrec.data.sequence_files import write_sequences
from heterrec.data.sequences import Sequences, read_sequences

START = datetime(2026, 1, 1, tzinfo=UTC)
EVENTS = {
    "user_id": ["b", "a", "b", "a", "b", "a"],
    "item_id": ["x", "y", "z", "x", "y", "nobody knows"],
    "event_time": [START + timedelta(days=day) for day in (0, 1, 1, 3, 5, 6)],
}
ITEMS = {
    "item_id": ["x", "y", "z", "never sold"],
    "brand": ["acme", None, "acme", "bolt"],
    "price": [1.0, 2.5, None, 4.0],
    "organic": [True, False, True, None],
    "title": ["a red hat", "a blue hat", "two green shoes", "one white shoe"],
    "tags": [["new"], [], ["new", "sale"], None],
    "image": [[0.1, 0.2], [0.3, 0.4], None, [0.5, 0.6]],
}


class Streamed:
    """A table of a library that this project has never heard of, which speaks Arrow's C stream (polars is one)."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.table = pa.table(columns)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.table.__arrow_c_stream__(requested_schema)


class Exchanged:
    """The same by the data frame protocol alone."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.table = pa.table(columns)

    def __dataframe__(self, nan_as_null: bool = False, allow_copy: bool = True) -> Any:
        return self.table.__dataframe__(nan_as_null, allow_copy)


def same(a: Sequences, b: Sequences) -> None:
    for name in ("offsets", "row", "time", "basket", "split"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert (a.user_ids, a.varying, a.repeats) == (b.user_ids, b.varying, b.repeats)
    mine, other = a.catalogue, b.catalogue
    np.testing.assert_array_equal(mine.available_at, other.available_at)
    for name in ("item_ids", "fixed", "slices", "title"):
        assert getattr(mine, name) == getattr(other, name), name
    assert mine.features == other.features


def frames(make: Any, columns: dict[str, list[Any]], names: list[str] | None = None) -> Any:
    return make({name: columns[name] for name in names or columns})


@pytest.mark.parametrize("make", [pa.table, pd.DataFrame, Streamed], ids=["pyarrow", "pandas", "C stream"])
def test_a_frame_of_any_library_gives_the_same_sequences(make: Any) -> None:
    same(prepare(make(EVENTS), make(ITEMS)), prepare(EVENTS, ITEMS))


LAYOUTS = {
    "views of text, as polars has it": (pa.string_view(), pa.large_list),
    "large": (pa.large_string(), pa.large_list),
    "views of lists": (pa.string(), pa.list_view),
    "dictionaries": (pa.dictionary(pa.int32(), pa.string()), pa.list_),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_text_and_lists_of_any_layout_are_the_same(layout: str) -> None:
    text, listed = LAYOUTS[layout]

    def laid(columns: dict[str, list[Any]]) -> pa.Table:
        arrays = {}
        for name, column in pa.table(columns).to_pydict().items():
            kind = pa.array(column).type
            inner = text if not pa.types.is_dictionary(text) else pa.string()
            if pa.types.is_string(kind):
                kind = text
            elif pa.types.is_list(kind):
                kind = listed(inner if pa.types.is_string(kind.value_type) else kind.value_type)
            arrays[name] = pa.array(column, kind)
        return pa.table(arrays)

    same(prepare(laid(EVENTS), laid(ITEMS)), prepare(EVENTS, ITEMS))


def test_the_data_frame_protocol_alone_is_enough() -> None:
    names = ["item_id", "brand", "price"]  # it knows no lists
    plain = {name: ITEMS[name] for name in names}
    same(prepare(EVENTS, frames(Exchanged, ITEMS, names)), prepare(EVENTS, plain))


def test_an_index_of_pandas_and_its_categories_are_no_surprise() -> None:
    events = pd.DataFrame(EVENTS).astype({"user_id": "category"}).set_index(pd.Index(range(7, 13), name="n"))
    items = pd.DataFrame(ITEMS).set_index(pd.Index(list("abcd")))
    found = prepare(events, items)
    same(found, prepare(EVENTS, ITEMS))
    assert [feature["name"] for feature in found.catalogue.features] == [name for name in ITEMS if name != "item_id"]


def test_kinds_follow_the_types_and_can_be_said() -> None:
    kinds = {feature["name"]: feature["kind"] for feature in prepare(EVENTS, ITEMS).catalogue.features}
    assert kinds == {
        "brand": "categorical",
        "price": "numeric",
        "organic": "categorical",
        "title": "text",
        "tags": "multi_categorical",
        "image": "embedding",
    }
    said = prepare(EVENTS, ITEMS, kinds={"price": "categorical", "image": "leave"}, title="title").catalogue
    assert said.fixed["price"][said.item_ids.index("y")] == "2.5"
    assert "image" not in said.fixed and said.title == "title"


def test_an_item_that_no_list_names_has_no_features_and_was_not_there_before_its_first_event() -> None:
    catalogue = prepare(EVENTS, ITEMS).catalogue
    row = catalogue.item_ids.index("nobody knows")
    assert all(column[row] is None for column in catalogue.fixed.values())
    assert catalogue.available_at[row] == (START + timedelta(days=6)).timestamp() * 1e6
    assert catalogue.available_at[catalogue.item_ids.index("never sold")] < START.timestamp() * 1e6


def test_numbers_name_users_and_a_position_is_order_enough() -> None:
    events = {"who": [7, 7, 7, 10], "what": [3, 1, 2, 3], "n": [2, 0, 1, 0]}
    found = prepare(events, user="who", item="what", time=None, position="n")
    assert found.user_ids == ["10", "7"]
    assert [found.catalogue.item_ids[row] for row in found.row] == ["3", "1", "2", "3"]
    assert found.split.tolist() == [0, 0, 1, 2]


def test_what_is_written_is_read_again(tmp_path: Any, changing: Sequences) -> None:
    for name, found in (("plain", prepare(EVENTS, ITEMS, ties="basket")), ("varying", changing)):
        write_sequences(found, tmp_path / name, name="shop")
        same(read_sequences(tmp_path / name), found)


BAD: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
    ([1, 2], None, {}, TypeError, "interactions: found list, expected a pandas, polars or pyarrow table"),
    ({**EVENTS, "user_id": [[1], 2, 3, 4, 5, 6]}, None, {}, ValueError, "interactions: a column cannot be read"),
    ({name: [] for name in EVENTS}, None, {}, ValueError, "interactions: has no rows"),
    (EVENTS, ITEMS, {"user": "customer"}, ValueError, r"interactions: has no column 'customer' \(user\), only \["),
    ({**EVENTS, "user_id": ["a"] * 5 + [None]}, None, {}, ValueError, r"interactions.user_id: 1 of 6 rows are null"),
    ({**EVENTS, "item_id": [1.5] * 6}, None, {}, ValueError, r"interactions.item_id: has type double, expected text"),
    ({**EVENTS, "event_time": ["2026-01-01"] * 6}, None, {}, ValueError, r"event_time: has type string, expected time"),
    (EVENTS, None, {"time": None}, ValueError, "time: found None and no position"),
    ({**EVENTS, "n": [-1] * 6}, None, {"position": "n"}, ValueError, "interactions.n: found -1, expected whole"),
    ({**EVENTS, "n": [0.5] * 6}, None, {"position": "n"}, ValueError, "interactions.n: has type double, expected who"),
    (EVENTS, {"sku": ["x"]}, {}, ValueError, r"items: has no column 'item_id' \(item\), only \['sku'\]"),
    (EVENTS, {"item_id": ["x", "x"]}, {}, ValueError, "items.item_id: 'x' comes more than once"),
    (EVENTS, {**ITEMS, "born": [START] * 4}, {}, ValueError, "items.born: has type timestamp.*leave it out with kinds"),
    (EVENTS, ITEMS, {"kinds": {"brand": "word"}}, ValueError, r"kinds\['brand'\]: found 'word', expected one of"),
    (EVENTS, ITEMS, {"kinds": {"colour": "text"}}, ValueError, "items: has no column 'colour', which kinds or title"),
    (EVENTS, ITEMS, {"kinds": {"title": "numeric"}}, ValueError, "items.title: has type string, which cannot be read"),
    (EVENTS, ITEMS, {"split": "random"}, ValueError, "split: found 'random', expected 'order' or 'time'"),
    (EVENTS, ITEMS, {"ties": "none"}, ValueError, "ties: found 'none'"),
    (EVENTS, ITEMS, {"basket": "order"}, ValueError, "basket='order' has no effect"),
    (EVENTS, ITEMS, {"split": "time"}, ValueError, "all of their 6.0 days are held out"),
    (EVENTS, ITEMS, {"split": "time", "test_days": 0}, ValueError, "test_days: found 0, expected a number of days"),
]


@pytest.mark.parametrize(
    ("interactions", "items", "layout", "kind", "message"), BAD, ids=[case[4][:40] for case in BAD]
)
def test_a_bad_table_is_told_by_its_name(interactions, items, layout, kind, message) -> None:
    with pytest.raises(kind, match=message):
        prepare(interactions, items, **layout)


def test_a_column_that_comes_twice_is_told() -> None:
    doubled = pa.table([pa.array(["a"]), pa.array(["b"])], names=["item_id", "item_id"])
    with pytest.raises(ValueError, match=r"items: columns \['item_id'\] come twice"):
        table_of(doubled, "items")
