"""The binary value of a user's history: what goes in comes out, and nothing else is read."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.history import (
    SCHEMA,
    Record,
    decode,
    encode,
)

NUMBER = st.none() | st.floats(allow_nan=False)
FLAG = st.booleans()
LABEL = st.none() | st.text(max_size=5)


@st.composite
def histories(draw):
    times = sorted(draw(st.lists(st.integers(-(2**62), 2**62), max_size=12)))
    text, place = st.text(max_size=8), st.integers(-(2**62), 2**62)
    return [
        Record(draw(text), draw(text), time, {"price": draw(NUMBER), "label": draw(LABEL)}, draw(place), draw(FLAG))
        for time in times
    ]


@settings(max_examples=60, deadline=None)
@given(histories())
def test_what_was_encoded_is_decoded(records):
    assert decode(encode(records)) == records


def test_only_the_latest_are_kept():
    records = [Record(f"e{n}", "i", n, {}) for n in range(10)]
    assert decode(encode(records, latest=3)) == records[-3:]


def test_events_of_one_instant_all_stay_in_their_order():
    records = [Record(f"e{n}", f"i{n}", 5, {"price": None}) for n in (2, 0, 1)]
    assert decode(encode(records)) == records


def test_a_missing_number_is_neither_nan_nor_zero_and_a_missing_label_is_not_empty():
    records = [Record("a", "i", 1, {"price": None, "label": ""}), Record("b", "i", 2, {"price": 0.0, "label": None})]
    assert [dict(record.values) for record in decode(encode(records))] == [dict(record.values) for record in records]


def test_two_hundred_records_take_a_few_kilobytes():
    records = [Record(f"{n:032x}", f"item{n}", n, {"price": 1.5}) for n in range(200)]
    assert len(encode(records)) < 16_000


@pytest.mark.parametrize(
    ("records", "told"),
    [
        ([Record("a", "i", 2, {}), Record("b", "i", 1, {})], "order of event_time"),
        ([Record("a", "i", 1, {"price": 1.0}), Record("b", "i", 2, {})], "same varying values"),
        ([Record("a", "i", 1, {"price": 1.0}), Record("b", "i", 2, {"price": "x"})], "mixes numbers and strings"),
    ],
)
def test_what_could_not_be_read_back_is_not_encoded(records, told):
    with pytest.raises(ValueError, match=told):
        encode(records)


def test_a_value_of_the_first_schema_is_still_read():
    first = bytes.fromhex("5548010101000000050000000000000001000000610100000069050000007072696365") + b"n\x01"
    assert decode(first + struct.pack("<d", 2.5)) == [Record("a", "i", 5, {"price": 2.5})]


def test_other_bytes_are_refused():
    value = encode([Record("a", "i", 1, {"price": 1.0})])
    later = value[:2] + bytes([SCHEMA + 1]) + value[3:]
    for broken, told in ((b"", "too few"), (later, f"schema {SCHEMA + 1}"), (value[:-1], "ends early"),
                         (value + b"x", "1 bytes more"), (b"PK" + value[2:], "b'PK'")):  # fmt: skip
        with pytest.raises(ValueError, match=told):
            decode(broken)
