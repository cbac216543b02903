"""The binary value of a user's history: what goes in comes out, and nothing else is read."""

import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.history import (
    SCHEMA,
    HistoryRecord,
    decode,
    encode,
)

NUMBER = st.none() | st.floats(allow_nan=False, allow_infinity=False)
FLAG = st.booleans()
LABEL = st.none() | st.text(max_size=5)


@st.composite
def histories(draw):
    times = sorted(draw(st.lists(st.integers(-(2**62), 2**62), max_size=12)))
    text, place = st.text(max_size=8), st.integers(-(2**62), 2**62)
    return [
        HistoryRecord(
            draw(text), draw(text), time, {"price": draw(NUMBER), "label": draw(LABEL)}, draw(place), draw(FLAG)
        )
        for time in times
    ]


@settings(max_examples=60, deadline=None)
@given(histories())
def test_what_was_encoded_is_decoded(records):
    assert decode(encode(records)) == records


def test_only_the_latest_are_kept():
    records = [HistoryRecord(f"e{n}", "i", n, {}) for n in range(10)]
    assert decode(encode(records, latest=3)) == records[-3:]


def test_events_of_one_instant_all_stay_in_their_order():
    records = [HistoryRecord(f"e{n}", f"i{n}", 5, {"price": None}) for n in (2, 0, 1)]
    assert decode(encode(records)) == records


def test_a_missing_number_is_neither_nan_nor_zero_and_a_missing_label_is_not_empty():
    records = [
        HistoryRecord("a", "i", 1, {"price": None, "label": ""}),
        HistoryRecord("b", "i", 2, {"price": 0.0, "label": None}),
    ]
    assert [dict(record.values) for record in decode(encode(records))] == [dict(record.values) for record in records]


@pytest.mark.parametrize("told", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_stored_as_missing(told):
    assert decode(encode([HistoryRecord("a", "i", 1, {"price": told})])) == [
        HistoryRecord("a", "i", 1, {"price": None})
    ]


def test_a_whole_number_comes_back_as_the_double_that_a_batch_would_tell():
    (record,) = decode(encode([HistoryRecord("a", "i", 1, {"price": 5})]))
    assert repr(dict(record.values)) == "{'price': 5.0}"


def test_two_hundred_records_take_a_few_kilobytes():
    records = [HistoryRecord(f"{n:032x}", f"item{n}", n, {"price": 1.5}) for n in range(200)]
    assert len(encode(records)) < 16_000


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([HistoryRecord("a", "i", 2, {}), HistoryRecord("b", "i", 1, {})], "order of event_time"),
        ([HistoryRecord("a", "i", 1, {"price": 1.0}), HistoryRecord("b", "i", 2, {})], "same varying values"),
        ([HistoryRecord("a", "i", 1, {}), HistoryRecord("b", "i", 2, {"price": 1.0})], "same varying values"),
    ],
)
def test_what_could_not_be_read_back_is_not_encoded(records, told):
    with pytest.raises(ValueError, match=told):
        encode(records)


SECOND = (
    ("5548020000000000", []),
    (
        "5548020001000000050000000000000000000000000000000001000000610100000069",
        [HistoryRecord("a", "i", 5, {})],
    ),
    (
        "554802020200000000401e18240a060000401e18240a060007000000000000000800000000000000000103000000"
        "03000000652d31c3a9320200000002000000693169320500000070726963656e010000000000000004400000000000000000"
        "050000006c6162656c73ffffffff05000000726f756765",
        [
            HistoryRecord("e-1", "i1", 1_700_000_000_000_000, {"price": 2.5, "label": None}, 7, False),
            HistoryRecord("é2", "i2", 1_700_000_000_000_000, {"price": None, "label": "rouge"}, 8, True),
        ],
    ),
)
"""Values that the code of schema 2 wrote (commit 1014a7f), and the records that it was given."""


@pytest.mark.parametrize(("stored", "records"), SECOND)
def test_a_value_of_the_second_schema_is_still_read(stored, records):
    assert decode(bytes.fromhex(stored)) == records


def test_a_value_of_the_first_schema_is_still_read():
    first = bytes.fromhex("5548010101000000050000000000000001000000610100000069050000007072696365") + b"n\x01"
    assert decode(first + struct.pack("<d", 2.5)) == [HistoryRecord("a", "i", 5, {"price": 2.5})]


KEPT = [
    HistoryRecord("a", "i", 1, {"price": 1.0, "label": "x"}),
    HistoryRecord("b", "j", 2, {"price": None, "label": None}, 3, True),
]


@pytest.mark.parametrize("value", [encode(KEPT), bytes.fromhex(SECOND[2][0])])
def test_damage_is_told_as_such_or_reads_as_whole_records(value):
    for at in range(len(value)):
        with pytest.raises(ValueError, match="history: "):
            decode(value[:at])
        for byte in (0, ord("]"), ord("0"), value[at] ^ 1, value[at] ^ 128):
            try:
                found = decode(value[:at] + bytes([byte]) + value[at + 1 :])
            except ValueError:
                continue
            assert len(found) == 2 and all(len(record.values) == 2 for record in found)


def test_columns_that_are_none_are_refused():
    whole = b'[["a"],["i"],[1],{"price":[1.0]},[0],[false]]'
    assert decode(b"UH\x03" + whole) == [HistoryRecord("a", "i", 1, {"price": 1.0})]
    for was, other in ((b'["i"]', b"[]"), (b"[1.0]", b"[]"), (b'{"price":[1.0]}', b"[[1.0]]"), (b"[1]", b"1"),
                       (b",[false]", b""), (b"[0]", b"null"), (whole, b"7")):  # fmt: skip
        with pytest.raises(ValueError, match="no whole value in"):
            decode(b"UH\x03" + whole.replace(was, other))


def test_other_bytes_are_refused():
    value = encode([HistoryRecord("a", "i", 1, {"price": 1.0})])
    later = value[:2] + bytes([SCHEMA + 1]) + value[3:]
    for broken, told in ((b"", "too few"), (later, f"schema {SCHEMA + 1}"), (value[:-1], "no whole value"),
                         (value + b"x", "no whole value"), (b"PK" + value[2:], "b'PK'")):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            decode(broken)
