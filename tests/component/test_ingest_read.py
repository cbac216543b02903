"""Whatever a file is called, written like or typed, its values are read as they are, or it is refused in a sentence."""

import gzip
import random
from datetime import (
    UTC,
    datetime,
    timedelta,
    timezone,
)
from datetime import date as date_of
from decimal import Decimal
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.ingest.parse import Given, time
from feature_repo.keys import spelled, spelled_sql
from runtime.errors import InputError
from tests.component.ingest_cards import (
    INTERACTIONS,
    ingest,
    interactions_of,
    make_card,
    rows,
)

SOME = settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
NAMES = ["row", "found", "reasons", "__reasons", "origin", "c0", "value.user_id", "feature.a", "quantity", "line", "h",
         "position", "event_time", "user_id", "price", "Price", 'a "quoted" one', "it's", "", "é", "select",
         "__row"]  # fmt: skip


def card_of(folder: Path, interactions: bytes | None = None, items: bytes | None = None, **more):
    """A card whose files hold these bytes, where they are given."""
    card = make_card(folder, **more)
    for name, content in (("interactions", interactions), ("items", items)):
        if content is not None:
            getattr(card.source, name).write_bytes(content)
    return card


@SOME
@given(names=st.permutations(NAMES), features=st.permutations(["row", "found", "reasons", "quantity", "line", "h"]))
def test_no_name_of_a_file_or_a_card_is_taken_for_one_of_the_programs(tmp_path_factory, names, features):
    folder = tmp_path_factory.mktemp("names")
    others = names[4:]
    written = [name or f"column {place}" for place, name in enumerate(names)]
    lines = [",".join('"' + name.replace('"', '""') + '"' for name in names)]
    lines += [",".join([f"u{n}", "i", f"2025-01-0{n} 10:00:00", "2", *(f"{n}{k}" for k in range(len(others)))])
              for n in (1, 2, 3)]  # fmt: skip
    declared = [{"name": features[k], "kind": "numeric", "table": "interactions", "varies_in_time": True,
                 "column": written[4 + k]} for k in range(4)]  # fmt: skip
    columns = dict(zip(("user_id", "item_id", "event_time", "quantity"), written, strict=False))
    card = card_of(folder, "\n".join(lines).encode(), b"item_id\ni\n", columns=columns, features=declared)
    report, events = ingest(card, folder)
    assert report["accepted"] == 3, report
    found = interactions_of(events)
    assert [row["user_id"] for row in found] == ["u1", "u2", "u3"]
    assert [[row[each["name"]] for each in declared] for row in found] == [
        [float(f"{n}{k}") for k in range(4)] for n in (1, 2, 3)
    ]


ZONES = {"": timedelta(hours=1), "Z": timedelta(), " UTC": timedelta(), " EST": timedelta(hours=-5),
         "+02": timedelta(hours=2), "-03:30": timedelta(hours=-3, minutes=-30), "+0100": timedelta(hours=1),
         " +05:30": timedelta(hours=5, minutes=30),
         " GMT": timedelta(), " America/New_York": timedelta(hours=-5)}  # fmt: skip


@SOME
@given(st.lists(st.tuples(st.integers(0, 3600 * 24 * 27), st.sampled_from(sorted(ZONES)), st.booleans()), min_size=1))
def test_a_time_is_read_the_same_whatever_stands_before_it(entries):
    texts, expected = [], []
    for seconds, zone, date_only in entries:
        local = datetime(2025, 1, 2) + timedelta(seconds=seconds)
        if date_only:
            local, zone = local.replace(hour=0, minute=0, second=0), ""
        texts.append(f"{local:%Y-%m-%d}" if date_only else f"{local:%Y-%m-%d %H:%M:%S}{zone}")
        expected.append(local.replace(tzinfo=timezone(ZONES[zone])).astimezone(UTC))
    column = time("event_time", Given("t", "c0", "VARCHAR"), zone="Europe/Berlin", latest="now()")
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'America/Los_Angeles'")
        connection.register("given", pa.table({"n": list(range(len(texts))), "c0": texts}))
        found = connection.execute(f"SELECT epoch_us({column.value}) FROM given ORDER BY n").fetchall()
    assert [datetime.fromtimestamp(us / 1e6, UTC) for (us,) in found] == expected


@pytest.mark.parametrize("packed", ["gzip", "zstd"])
@pytest.mark.parametrize("share", [0.6, 0.95, "damaged"])
def test_a_packed_file_that_is_cut_or_damaged_stops(tmp_path, packed, share):
    numbers = random.Random(0)
    text = "user_id,item_id,event_time\n" + "".join(f"u{numbers.random()},x,2025-01-02 10:00:00\n" for _ in range(3000))
    whole = gzip.compress(text.encode()) if packed == "gzip" else pa.compress(text.encode(), packed, asbytes=True)
    card = card_of(tmp_path, whole)
    assert ingest(card, tmp_path)[0]["accepted"] == 3000
    cut = whole[:-6] + b"\0\1" + whole[-4:] if share == "damaged" else whole[: int(share * len(whole))]
    (tmp_path / "again").mkdir()
    with pytest.raises(InputError, match=r"interactions\.csv: is cut short or damaged"):
        ingest(card_of(tmp_path, cut), tmp_path / "again")


@SOME
@given(
    st.text(alphabet=st.sampled_from("aA0.17é \t\n\x00\x1f\u00a0\u2003\u3000\u200b\u2060\ufeff\u200d'\"\\"), max_size=8)
)
def test_a_key_has_one_spelling_in_sql_and_in_python(text):
    with duckdb.connect() as connection:
        ((found,),) = connection.execute(
            f"SELECT {spelled_sql('v', 'VARCHAR')} FROM (SELECT $1 AS v)", [text]
        ).fetchall()
    assert (found or "") == spelled(text)
    assert spelled(spelled(text)) == spelled(text)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pa.array([17, 2**60 + 1]), ["17", str(2**60 + 1)]),
        (pa.array([17.0, None, 1.5]), ["17", None, "1.5"]),
        (pa.array([17, 18]).cast(pa.decimal128(38, 10)), ["17", "18"]),
        (pa.array(["007", "1.0", "1e3", "\ufeff17\t", "\u200b17"]), ["007", "1.0", "1e3", "17", "17"]),
    ],
)
def test_a_key_is_spelled_by_the_type_of_its_column(values, expected):
    with duckdb.connect() as connection:
        connection.register("given", pa.table({"v": values}))
        (kind,) = map(str, connection.sql("FROM given").types)
        found = connection.execute(f"SELECT {spelled_sql('v', kind)} FROM given").fetchall()
    assert [value for (value,) in found] == expected


def folder_card(folder: Path, parts: dict[str, pa.Table], **more):
    for name, table in parts.items():
        path = folder / "parts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, **({"use_deprecated_int96_timestamps": True} if "int96" in name else {}))
    card = make_card(folder, **more)
    return card.model_copy(update={"source": card.source.model_copy(update={"interactions": folder / "parts"})})


def part(users: pa.Array, times=None, **columns) -> pa.Table:
    moments = times or pa.array([f"2025-01-0{n + 1}T10:00:00Z" for n in range(len(users))])
    return pa.table({"user_id": users, "item_id": ["x"] * len(users), "event_time": moments, **columns})


def test_parts_of_other_types_change_no_key_of_another_part(tmp_path):
    large = 2**53
    moment = pa.array([datetime(2025, 1, 5, 10), datetime(2025, 1, 6, 10)])
    noon = pa.array([datetime(2025, 1, 9, 12)]).cast(pa.timestamp("ns"))
    parts = {
        "a.parquet": part(pa.array([large, large + 1, large + 2]), extra=pa.array(["x", "y", "z"])),
        "b.PARQUET": part(pa.array([17.0, None]), extra=pa.array([1, 2])),
        "sub/c.pq": part(pa.array(["17", "18"]), moment.cast(pa.timestamp("us")), extra=pa.nulls(2)),
        "day=2025-01-09/int96.parquet": part(pa.array([17]), noon),
        "_SUCCESS": part(pa.array([99])),
    }
    card = folder_card(tmp_path, parts, source={"timezone": "America/New_York"})
    report, events = ingest(card, tmp_path)
    found = {(row["origin"], row["user_id"], row["event_time"].isoformat()[:16]) for row in interactions_of(events)}
    assert found == {
        ("a.parquet", str(large), "2025-01-01T10:00"),
        ("a.parquet", str(large + 1), "2025-01-02T10:00"),
        ("a.parquet", str(large + 2), "2025-01-03T10:00"),
        ("b.PARQUET", "17", "2025-01-01T10:00"),
        ("sub/c.pq", "17", "2025-01-05T15:00"),
        ("sub/c.pq", "18", "2025-01-06T15:00"),
        ("day=2025-01-09/int96.parquet", "17", "2025-01-09T12:00"),  # an instant in UTC, as Spark means it
    }
    assert report["reasons"] == {"missing_user": 1}


def test_ids_as_doubles_that_lost_digits_are_refused(tmp_path):
    parts = {"a.parquet": part(pa.array([2**53, 17])), "b.parquet": part(pa.array([float(2**53), 1.0]))}
    with pytest.raises(InputError, match=r"b\.parquet: column 'user_id' holds ids as floating numbers"):
        ingest(folder_card(tmp_path, parts), tmp_path)
    (tmp_path / "one").mkdir()
    table = part(pa.array([float(2**53), 17.0]))
    report, _ = ingest(make_card(tmp_path / "one", table, suffix=".parquet"), tmp_path / "one")
    assert report["reasons"] == {"inexact_user": 1}


def test_the_day_may_stand_in_the_folders_name_alone(tmp_path):
    parts = {f"day=2025-01-0{n}/p.parquet": pa.table({"user_id": ["a"], "item_id": ["x"]}) for n in (1, 2)}
    _, events = ingest(folder_card(tmp_path, parts, columns={"event_time": "day"}), tmp_path)
    assert [row["event_time"].date().isoformat() for row in interactions_of(events)] == ["2025-01-01", "2025-01-02"]


def test_a_file_that_is_no_part_is_told(tmp_path):
    card = folder_card(tmp_path, {"a.parquet": part(pa.array(["u"]))})
    (tmp_path / "parts" / "b.csv").write_text("user_id\n")
    with pytest.raises(InputError, match=r"b\.csv: is no Parquet file by its name"):
        ingest(card, tmp_path)


def test_a_decimal_too_long_to_be_read_stops_only_where_it_is_used(tmp_path):
    long = pa.array([Decimal(10**40 + 1), Decimal(5)], pa.decimal256(50, 0))
    table = part(pa.array(["a", "b"]), pa.array(["2025-01-01", "2025-01-02"]), extra=long)
    assert ingest(make_card(tmp_path, table, suffix=".parquet"), tmp_path)[0]["accepted"] == 2
    (tmp_path / "used").mkdir()
    with pytest.raises(InputError, match="decimal of more than 38 digits"):
        table = table.rename_columns(["other", "item_id", "event_time", "user_id"])
        ingest(make_card(tmp_path / "used", table, suffix=".parquet"), tmp_path / "used")


def test_numbers_beyond_a_vector_s_and_columns_of_nothing_are_no_crash(tmp_path):
    items = pa.table(
        {"item_id": ["x", "y"], "style": [[0.5, 1e39], [0.5, 1.0]], "tags": pa.nulls(2), "price": pa.nulls(2)}
    )
    features = [{"name": "style", "kind": "embedding", "dimension": 2}, {"name": "tags", "kind": "multi_categorical"},
                {"name": "price", "kind": "numeric"}]  # fmt: skip
    card = make_card(tmp_path, pa.table(INTERACTIONS), items, suffix=".parquet", features=features)
    report, events = ingest(card, tmp_path)
    assert report["item_reasons"] == {"style_not_finite": 1}
    assert [(row["tags"], row["price"]) for row in rows(events, "items/static.parquet")] == [(None, None)]


def test_a_file_s_name_is_no_pattern(tmp_path):
    (tmp_path / "a1.csv").write_text("user_id,item_id,event_time\nother,x,2025-01-01\n")
    card = card_of(tmp_path)
    odd = tmp_path / "a[0-9]*?.csv"
    odd.write_text("user_id,item_id,event_time\nmine,x,2025-01-01\n")
    card = card.model_copy(update={"source": card.source.model_copy(update={"interactions": odd})})
    assert [row["user_id"] for row in interactions_of(ingest(card, tmp_path)[1])] == ["mine"]


HEAD = b"user_id,item_id,event_time\n"
ROW = b"u%d,x,2025-01-%02d 10:00:00\n"


@pytest.mark.parametrize(
    ("content", "accepted", "lines"),
    [
        (HEAD + b"".join(ROW % (n, n) for n in range(1, 20)) + b'"u20,x,2025-01-20\n' + b"".join(
            b'"u%d","x",2025-01-%02d 10:00:00\n' % (n, n) for n in range(21, 29)), 27, 1),
        (HEAD + b'u1,"x\n' + ROW % (2, 2) + ROW % (3, 3), 2, 1),
        (HEAD + b'u1,"x,2025-01-01\n' + ROW % (2, 2) + ROW % (3, 3) + b'u4,x","2025-01-04"\n' + ROW % (5, 5), 4, 1),
        (HEAD + b'u1,"x\ny",2025-01-01\n' + ROW % (2, 2), 2, 0),  # a line break that is meant
        (HEAD + b'u1,5" pipe,2025-01-01\n' + ROW % (2, 2), 2, 0),  # inches
        (HEAD + b"\n\n" + ROW % (1, 1) + b"\n\n\n" + ROW % (2, 2), 2, 0),
        (HEAD + b"u1,x\n" + ROW % (2, 2) + b"u3,x,2025-01-03,9\n", 1, 2),
        (HEAD + b"u1,x,2025-01-01 10:00:00\r" + ROW % (2, 2) + ROW % (3, 3), 3, 0),
    ],
)  # fmt: skip
def test_every_line_is_a_row_or_set_aside(tmp_path, content, accepted, lines):
    report, _ = ingest(card_of(tmp_path, content), tmp_path)
    assert (report["accepted"], report["reasons"].get("malformed_line", 0)) == (accepted, lines)
    assert report["rows"] == report["accepted"] + report["rejected"]


TABLE = "user_id,item_id,event_time\nu1,ä,2025-01-01\nu2,x,2025-01-02\n"


@pytest.mark.parametrize(
    ("content", "csv"),
    [
        (TABLE.encode(), {}),
        (TABLE.replace(",", "\t").encode(), {}),
        (TABLE.replace(",", "|").encode(), {}),
        (TABLE.replace(",", "::").encode(), {"delimiter": "::"}),
        (TABLE.encode("latin-1"), {"encoding": "latin-1"}),
        (TABLE.encode("utf-16"), {}),
        (b"\xef\xbb\xbf" + TABLE.encode(), {}),
        (("sep=;\n" + TABLE.replace(",", ";")).encode(), {}),
        (TABLE.replace("\n", ",\n").encode(), {}),
        (TABLE.replace("\n", "\r\n").encode(), {}),
        (TABLE.replace("\n", "\r").encode(), {}),
        (TABLE.partition("\n")[2].encode(), {"names": ["user_id", "item_id", "event_time"]}),
        (("," + TABLE.replace("\nu", "\n0,u")).encode(), {}),  # the index that pandas writes
        (TABLE.encode() + b"\n\n", {}),
    ],
)
def test_a_table_is_read_however_it_is_written(tmp_path, content, csv):
    report, events = ingest(card_of(tmp_path, content, source={"csv": {"interactions": csv}}), tmp_path)
    assert {(row["user_id"], row["item_id"]) for row in interactions_of(events)} == {("u1", "ä"), ("u2", "x")}
    assert report["rejected"] == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TABLE.partition("\n")[2].encode(), "It seems to have no header|no column 'user_id'"),
        (b"1\t2\t3\n4\t5\t6\n", "seems to have no header"),
        (b"user,item\n1,u,i\n2,u,j\n", "one value more than its header has names"),
        (b"PK\x03\x04rest", "is a zip archive or a workbook of Excel"),
        ('{"user_id": 1}\n'.encode("utf-16"), "looks like JSON"),
        (b"\x00\x01\x02\x03", "is no text"),
        (TABLE.replace("user_id", "usér_id").encode("latin-1"), "is not UTF-8. Say what it is written in"),
    ],
)
def test_what_cannot_be_read_is_refused_in_words_of_this_project(tmp_path, content, message):
    with pytest.raises(InputError, match=message) as error:
        ingest(card_of(tmp_path, content), tmp_path)
    assert "duckdb" not in str(error.value).lower() and "Error" not in str(error.value)


def test_words_for_nobody_are_no_shopper_unless_the_card_says_so(tmp_path):
    users = ["NULL", "guest", "NaN", "\\N", "N/A", "nullable", "u1"]
    table = {"user_id": users, "item_id": ["NA"] * 7, "event_time": [f"2025-01-0{n}" for n in range(1, 8)]}
    report, events = ingest(make_card(tmp_path, table), tmp_path)
    assert report["reasons"] == {"word_for_no_user": 5}
    assert {(row["user_id"], row["item_id"]) for row in interactions_of(events)} == {("nullable", "NA"), ("u1", "NA")}
    (tmp_path / "all").mkdir()
    card = make_card(tmp_path / "all", table, columns={"event_time": "event_time", "nobody": ["u1"]})
    assert ingest(card, tmp_path / "all")[0]["reasons"] == {"word_for_no_user": 1}


def test_ids_and_event_types_are_those_that_the_gateway_takes(tmp_path):
    table = {"user_id": ["u" * 201, "u", "u", "u"], "item_id": ["x", "y" * 201, "x", "x"],
             "event_time": ["2025-01-01"] * 4, "kind": ["view", "view", "add-to-cart", "né"]}  # fmt: skip
    columns, events = {"event_time": "event_time", "event_type": "kind"}, {"add-to-cart": {"predict": True}}
    report, _ = ingest(make_card(tmp_path, table, columns=columns, events=events), tmp_path)
    assert report["reasons"] == {"long_user": 1, "long_item": 1, "malformed_event_type": 1}


def test_a_view_and_a_purchase_at_one_moment_are_two_events(tmp_path):
    table = {"user_id": ["u"] * 3, "item_id": ["x"] * 3, "event_time": ["2025-01-01"] * 3,
             "kind": ["view", "purchase", "view"]}  # fmt: skip
    columns, kinds = {"event_time": "event_time", "event_type": "kind"}, {"purchase": {"predict": True}}
    report, events = ingest(make_card(tmp_path, table, columns=columns, events=kinds), tmp_path)
    assert report["reasons"] == {"duplicate_row": 1}
    assert len({row["event_id"] for row in interactions_of(events)}) == 2


def test_numbers_that_a_tool_wrote_as_decimals_are_told(tmp_path):
    table = {"user_id": ["17.0", "18.5", "19"], "item_id": ["x"] * 3, "event_time": ["2025-01-01"] * 3}
    report, events = ingest(make_card(tmp_path, table), tmp_path)
    assert {row["user_id"] for row in interactions_of(events)} == {"17.0", "18.5", "19"}
    assert [note for note in report["notes"] if "1 events have ids that end in .0" in note]


def test_a_date_is_read_as_times_are_and_kept_as_days_since_1970(tmp_path):
    written = ["2026-01-01", "2026-07-01 12:00", "2026-01-01T12:00:00Z", "1767225600", "", "soon", "01/06/25", "inf"]
    items = {"item_id": [str(n) for n in range(8)], "released": written}
    date = {"name": "released", "kind": "numeric", "date": True, "token": False}
    card = make_card(tmp_path, items=items, features=[date], source={"timezone": "Europe/Berlin"})
    _, events = ingest(card, tmp_path)
    kept = {row["item_id"]: row["released"] for row in rows(events, "items/static.parquet")}
    there = [datetime(2025, 12, 31, 23), datetime(2026, 7, 1, 10), datetime(2026, 1, 1, 12), datetime(2026, 1, 1)]
    assert kept == {str(n): (moment - datetime(1970, 1, 1)) / timedelta(days=1) for n, moment in enumerate(there)} | {
        "4": None
    }
    assert [row["reasons"] for row in rows(events, "rejected.parquet")] == [["released_not_a_date"]] * 3
    typed = pa.table({"item_id": ["x"], "released": pa.array([date_of(2026, 1, 1)], pa.date32())})
    (tmp_path / "typed").mkdir()
    _, events = ingest(make_card(tmp_path / "typed", pa.table(INTERACTIONS), typed, suffix=".parquet", features=[date]),
                       tmp_path / "typed")  # fmt: skip
    assert rows(events, "items/static.parquet")[0]["released"] == 20_454.0
    no_date = pa.table({"item_id": ["x"], "released": [True]})
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"column 'released' \(released\) has type BOOLEAN, expected times"):
        ingest(make_card(tmp_path / "none", pa.table(INTERACTIONS), no_date, suffix=".parquet", features=[date]),
               tmp_path / "none")  # fmt: skip
