import json
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.errors import InputError
from components.ingest import step
from components.manifest import Manifest
from feature_repo.card import DatasetCard, load_card

NOW = datetime.now(UTC)
INTERACTIONS = {
    "user_id": ["a", "b", "a"],
    "item_id": ["x", "y", "y"],
    "event_time": ["2025-03-01T10:00:00Z", "2025-03-01T11:00:00Z", "2025-03-02T10:00:00Z"],
}
ITEMS = {"item_id": ["x", "y"], "title": ["Red mug", "Blue kettle"], "price": ["3.5", "20"]}
TITLE = {"name": "title", "kind": "text"}
PRICE = {"name": "price", "kind": "numeric"}


def write_csv(path: Path, columns: dict[str, list]) -> Path:
    lines = [",".join(columns)]
    lines += [
        ",".join("" if value is None else f'"{value}"' for value in row) for row in zip(*columns.values(), strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def write(path: Path, columns: dict[str, list] | pa.Table) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(columns if isinstance(columns, pa.Table) else pa.table(columns), path)
        return path
    return write_csv(path, columns)


def make_card(
    folder: Path, interactions=INTERACTIONS, items=ITEMS, *, suffix=".csv", columns=None, features=None, **more
):
    source = {
        "adapter": "files",
        "interactions": write(folder / f"interactions{suffix}", interactions),
        "items": write(folder / f"items{suffix}", items),
        **more.pop("source", {}),
    }
    return DatasetCard.model_validate(
        {
            "name": "tiny",
            "description": "A few rows.",
            "source": source,
            "columns": {"event_time": "event_time"} if columns is None else columns,
            "features": [TITLE, PRICE] if features is None else features,
            "split": {"by": "time"},
            **more,
        }
    )


def ingest(card: DatasetCard, folder: Path, **more) -> tuple[dict, Path]:
    events = folder / "events"
    events.mkdir()
    return step.run(card=card, events=events, **more), events


def rows(events: Path, files: str) -> list[dict]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.read_parquet(str(events / files), hive_partitioning=False)
        return found.to_arrow_table().to_pylist()


def interactions_of(events: Path) -> list[dict]:
    return rows(events, "interactions/*/*.parquet")


def with_row(columns: dict[str, list], **values) -> dict[str, list]:
    """The table with one more row: its last one, changed."""
    return {name: [*column, values.get(name, column[-1])] for name, column in columns.items()}


def test_artifact_is_as_the_contract_has_it(tmp_path):
    card = make_card(tmp_path, features=[TITLE, {**PRICE, "varies_in_time": True}])
    report, events = ingest(card, tmp_path)
    assert sorted(p.relative_to(events).as_posix() for p in events.rglob("*.*")) == [
        "interactions/day=2025-03-01/part-0.parquet",
        "interactions/day=2025-03-02/part-0.parquet",
        "items/static.parquet",
        "items/varying/day=2025-02-28/part-0.parquet",
        "rejected.parquet",
        "report.json",
    ]
    time = pa.timestamp("us", "UTC")
    schema = pq.read_schema(events / "interactions/day=2025-03-01/part-0.parquet")
    assert dict(zip(schema.names, schema.types, strict=True)) == {
        "event_id": pa.string(),
        "user_id": pa.string(),
        "item_id": pa.string(),
        "event_time": time,
        "created_time": time,
        "position": pa.int64(),
        "basket": pa.string(),
    }
    assert rows(events, "items/static.parquet")[0] == {
        "item_id": "x",
        "event_time": datetime(2025, 2, 28, 10, tzinfo=UTC),
        "created_time": datetime(2025, 2, 28, 10, tzinfo=UTC),
        "title": "Red mug",
    }
    assert json.loads((events / "report.json").read_text()) == report
    assert report["accepted"] == 3
    assert report["first_event"] == "2025-03-01T10:00:00+00:00"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"event_time": "2025-02-31T10:00:00Z"}, "malformed_time"),
        ({"event_time": "yesterday"}, "malformed_time"),
        ({"event_time": "infinity"}, "malformed_time"),
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


def test_values_are_read_whatever_type_holds_them(tmp_path):
    interactions = pa.table(
        {
            "user_id": [17.0, None, 18.0],
            "item_id": [1, 2, 2],
            "event_time": pa.array([1_740_823_200, 1_740_826_800, 1_740_909_600]),
        }
    )
    items = pa.table(
        {
            "item_id": [1, 2],
            "tags": [["a", " b "], []],
            "joined": ["a| b", ""],
            "style": pa.array([[1.0, 2.0], None], pa.list_(pa.float64(), 2)),
            "brand": [7.0, None],
            "price": pa.array([3, None], pa.int32()),
        }
    )
    features = [
        {"name": "tags", "kind": "multi_categorical"},
        {"name": "joined", "kind": "multi_categorical"},
        {"name": "style", "kind": "embedding", "dimension": 2},
        {"name": "brand", "kind": "categorical"},
        PRICE,
    ]
    report, events = ingest(make_card(tmp_path, interactions, items, suffix=".parquet", features=features), tmp_path)
    assert report["reasons"] == {"missing_user": 1}
    found = interactions_of(events)
    assert [(row["user_id"], row["item_id"]) for row in found] == [("17", "1"), ("18", "2")]
    assert found[0]["event_time"] == datetime(2025, 3, 1, 10, tzinfo=UTC)
    first, second = rows(events, "items/static.parquet")
    assert [first[name] for name in ("tags", "joined", "style", "brand", "price")] == [
        ["a", "b"],
        ["a", "b"],
        [1.0, 2.0],
        "7",
        3.0,
    ]
    assert [second[name] for name in ("tags", "joined", "style", "brand", "price")] == [None] * 5


def test_local_times_become_utc_and_those_the_clocks_skipped_are_set_aside(tmp_path):
    table = {
        "user_id": ["a"] * 5,
        "item_id": ["x"] * 5,
        "event_time": [
            "2025-03-30 00:30:00",
            "2025-03-30 01:30:00",
            "2025-03-30 02:30:00",
            "2025-03-30T01:45:00Z",
            "2025-10-26 01:30:00",
        ],
    }
    report, events = ingest(make_card(tmp_path, table, source={"timezone": "Europe/London"}), tmp_path)
    assert report["reasons"] == {"time_in_clock_change": 1}
    assert rows(events, "rejected.parquet")[0]["row"] == 1
    assert [f"{row['event_time']:%m-%d %H:%M}" for row in interactions_of(events)] == [
        "03-30 00:30",
        "03-30 01:30",
        "03-30 01:45",
        "10-26 01:30",
    ]


def test_a_price_on_the_items_counts_from_when_it_changed(tmp_path):
    items = {
        "item_id": ["x", "x", "x", "y"],
        "since": ["2025-01-01", "2025-02-01", "2025-03-01", "2025-01-01"],
        "title": ["Red mug", "Red mug", "Red mug XL", "Kettle"],
        "price": ["1", "1", "2", "9"],
    }
    card = make_card(
        tmp_path,
        items=items,
        columns={"event_time": "event_time", "item_available_at": "since"},
        features=[TITLE, {**PRICE, "varies_in_time": True}],
    )
    _, events = ingest(card, tmp_path)
    prices = [(r["item_id"], f"{r['event_time']:%m-%d}", r["price"]) for r in rows(events, "items/varying/*/*.parquet")]
    assert sorted(prices) == [("x", "01-01", 1.0), ("x", "03-01", 2.0), ("y", "01-01", 9.0)]
    titles = [(r["item_id"], f"{r['event_time']:%m-%d}", r["title"]) for r in rows(events, "items/static.parquet")]
    assert sorted(titles) == [("x", "01-01", "Red mug"), ("x", "03-01", "Red mug XL"), ("y", "01-01", "Kettle")]


def test_values_of_both_tables_are_carried_along_without_erasing_each_other(tmp_path):
    interactions = {**INTERACTIONS, "paid": ["5", "7", None]}
    items = {
        "item_id": ["x", "y"],
        "since": ["2025-01-01", "2025-03-01T12:00:00Z"],
        "stock": ["few", None],
        "title": ["a", "b"],
    }
    features = [
        TITLE,
        {"name": "stock", "kind": "categorical", "varies_in_time": True},
        {"name": "paid", "kind": "numeric", "table": "interactions", "varies_in_time": True},
    ]
    columns = {"event_time": "event_time", "item_available_at": "since"}
    _, events = ingest(make_card(tmp_path, interactions, items, columns=columns, features=features), tmp_path)
    found = [
        (r["item_id"], f"{r['event_time']:%d %H}", r["stock"], r["paid"])
        for r in rows(events, "items/varying/*/*.parquet")
    ]
    assert sorted(found) == [("x", "01 00", "few", None), ("x", "01 10", "few", 5.0), ("y", "01 11", None, 7.0)]
    assert [row["paid"] for row in interactions_of(events)] == [5.0, 7.0, None]


def test_order_only_data_gets_synthesised_times_and_says_so(tmp_path):
    table = {"user_id": ["a", "a", "b", "b", "b"], "item_id": list("xyyxx"), "n": ["0", "1", "0", "first", "-1"]}
    columns = {"position": "n"}
    report, events = ingest(make_card(tmp_path, table, columns=columns, split={"by": "order"}), tmp_path)
    assert report["event_time_synthesised"]
    assert any("2000-01-01 plus one day per position" in note for note in report["notes"])
    assert report["reasons"] == {"malformed_position": 2}
    assert [f"{row['event_time']:%Y-%m-%d}" for row in interactions_of(events)] == ["2000-01-01"] * 2 + ["2000-01-02"]


def test_events_are_sorted_and_keep_the_order_of_the_source_among_equal_times(tmp_path):
    table = {
        "user_id": ["a"] * 4,
        "item_id": list("dcba"),
        "event_time": ["2025-03-02", "2025-03-01", "2025-03-01", "2025-03-01"],
    }
    _, events = ingest(make_card(tmp_path, table), tmp_path)
    assert [(row["item_id"], row["position"]) for row in interactions_of(events)] == [
        ("c", 1),
        ("b", 2),
        ("a", 3),
        ("d", 0),
    ]


def test_event_ids_are_unique_and_outlive_growth_of_the_source(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    _, before = ingest(make_card(tmp_path / "1"), tmp_path / "1")
    grown = {name: [value[0], *value] for name, value in INTERACTIONS.items()} | {"user_id": ["new", "a", "b", "a"]}
    _, after = ingest(make_card(tmp_path / "2", grown), tmp_path / "2")
    ids = [row["event_id"] for row in interactions_of(after)]
    assert len(set(ids)) == 4
    assert {row["event_id"] for row in interactions_of(before)} < set(ids)


def test_same_source_gives_the_same_artifact(tmp_path):
    digests = []
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        _, events = ingest(make_card(tmp_path / name), tmp_path / name)
        digests.append(Manifest.seal(events, kind="events").digest)
    assert digests[0] == digests[1]


def test_what_lies_between_as_of_and_now_is_good_data(tmp_path):
    report, _ = ingest(make_card(tmp_path), tmp_path, as_of=datetime(2025, 3, 1, 12, tzinfo=UTC))
    assert report["accepted"] == 3


def test_a_clock_ahead_of_ours_moves_the_future(tmp_path):
    table = {**INTERACTIONS, "event_time": ["2098-01-01", "2099-02-01", "2101-01-01"]}
    report, _ = ingest(make_card(tmp_path, table), tmp_path, as_of=datetime(2100, 1, 1, tzinfo=UTC))
    assert report["reasons"] == {"future_time": 1}


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
    card = make_card(tmp_path, columns={"event_time": "time", "basket": "invoice"})
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
        ({"name": "title", "kind": "numeric"}, "title .*: none of the 2 values is a number, e.g. '.+'. Declare it as"),
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


def test_unknown_time_zone_is_told(tmp_path):
    with pytest.raises(InputError, match=r"source\.timezone 'Mars/Olympus' is no time zone"):
        ingest(make_card(tmp_path, source={"timezone": "Mars/Olympus"}), tmp_path)


def test_missing_file_is_told_with_what_to_do(tmp_path):
    card = make_card(tmp_path)
    card.source.items.unlink()
    for call in (lambda: ingest(card, tmp_path), lambda: step.fingerprint(card)):
        with pytest.raises(InputError, match=r"items.csv: no such file \(source.items of card 'tiny'\).*HETERREC_DATA"):
            call()


def test_data_folder_can_be_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HETERREC_DATA", str(tmp_path))
    with pytest.raises(InputError, match=f"{tmp_path}/online_retail.parquet: no such file.*archive.ics.uci.edu"):
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
    with pytest.raises(InputError, match=r"cannot be read.*UTF-8"):
        ingest(card, tmp_path)


def test_fingerprint_follows_content_and_not_name(tmp_path):
    card = make_card(tmp_path)
    before = step.fingerprint(card)
    assert step.fingerprint(card.model_copy(update={"name": "other"})) == before
    with card.source.interactions.open("a") as file:
        file.write("c,x,2025-03-03\n")
    assert step.fingerprint(card) != before


def test_fingerprint_of_the_marketplace_follows_its_options():
    card = load_card("marketplace")
    other = card.model_copy(update={"source": card.source.model_copy(update={"options": {"seed": 1}})})
    assert step.fingerprint(card) != step.fingerprint(other)
