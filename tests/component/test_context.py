"""What is known of the moment of asking, from a shop's rows to an answer: each event with its own, and no other's."""

import json
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from components.ingest.increment import basis_of
from feature_repo.card import DatasetCard
from feature_repo.card_features import TimeContext
from heterrec.data.sequences import read_sequences
from runtime.errors import InputError
from tests.component.ingest_cards import (
    ingest,
    interactions_of,
    make_card,
    write_csv,
)
from tests.component.test_user_features import (
    START,
    at,
    joined,
    judged,
)

DEVICE = {"name": "device", "kind": "categorical"}
SIZE = {"name": "size", "kind": "numeric", "column": "inches", "min": 0, "max": 100}
SPLIT = {"by": "time", "validation_days": 1, "test_days": 1}


def shop(folder: Path, devices: list, sizes: list | None = None, **more) -> DatasetCard:
    """The card of as many events as there are devices, seven hours apart, of three users in turn."""
    folder.mkdir(exist_ok=True)
    count = len(devices)
    events = {
        "user_id": ["abc"[n % 3] for n in range(count)],
        "item_id": ["xy"[n % 2] for n in range(count)],
        "event_time": [(START + n * timedelta(hours=7 * 24 / count)).isoformat() for n in range(count)],
        "device": devices,
        "inches": sizes or [6] * count,
    }
    return make_card(folder, events, context=[DEVICE, SIZE], split=SPLIT, **more)


@pytest.mark.parametrize("ties", ["order", "basket"])
def test_each_event_has_the_context_of_its_own_row(tmp_path, ties):
    devices = ["phone", "desktop", None] * 8
    sizes = [6.5, None, 27.0, 9.0] * 6
    card = shop(tmp_path, devices, sizes, ties=ties)
    _, events = ingest(card, tmp_path)
    expected = {START + timedelta(hours=7 * n): (devices[n], sizes[n]) for n in range(24)}
    assert {row["event_time"]: (row["device"], row["size"]) for row in interactions_of(events)} == expected
    found = joined(card, events, tmp_path, at(7 * 23))
    assert {row["event_time"]: (row["device"], row["size"]) for row in found} == expected
    about = json.loads((tmp_path / "sequences" / "features.json").read_text())
    assert about["asking"] == [
        {"name": "device", "kind": "categorical", "of": "context"},
        {"name": "size", "kind": "numeric", "of": "context"},
    ]
    data = read_sequences(tmp_path / "sequences")
    assert sorted(map(str, data.asked["device"])) == sorted(map(str, devices))


CLOCKS = [
    {"name": "hour", "by": "hour", "timezone": "America/New_York"},
    {"name": "day_of_week", "by": "weekday"},
]


@pytest.mark.parametrize("ties", ["order", "basket"])
def test_each_event_has_what_the_shop_s_clock_said_at_it(tmp_path, ties):
    card = shop(tmp_path, ["phone"] * 24, ties=ties, time_context=CLOCKS)
    _, events = ingest(card, tmp_path)
    for row in joined(card, events, tmp_path, at(7 * 23)):
        there = row["event_time"].astimezone(ZoneInfo("America/New_York"))
        assert (row["hour"], row["day_of_week"]) == (f"{there:%H}", f"{row['event_time']:%A}".lower())
        assert row["device"] == "phone", "beside what the rows say"
    about = json.loads((tmp_path / "sequences" / "features.json").read_text())
    assert about["asking"][2:] == [
        {"name": "hour", "kind": "categorical", "of": "context", "by": "hour", "timezone": "America/New_York"},
        {"name": "day_of_week", "kind": "categorical", "of": "context", "by": "weekday", "timezone": "UTC"},
    ]
    assert set(read_sequences(tmp_path / "sequences").asked) == {"device", "size", "hour", "day_of_week"}


def test_a_clock_is_read_where_events_are_joined_and_nothing_before_knows_it(tmp_path):
    plain = shop(tmp_path, ["phone", "desktop"] * 12)
    card = plain.model_copy(update={"time_context": [TimeContext.model_validate(each) for each in CLOCKS]})
    assert basis_of(card, 1) == basis_of(plain, 1), "no table has to be read anew for it"
    _, events = ingest(plain, tmp_path)
    without = joined(plain, events, tmp_path / "without", at(7 * 23))
    beside = joined(card, events, tmp_path / "beside", at(7 * 23))
    assert [{name: row[name] for name in without[0]} for row in beside] == without


def test_several_tables_call_it_as_they_like_and_one_that_lacks_it_tells_nothing(tmp_path):
    keys = {"user_id": ["a", "b"], "item_id": ["x", "y"]}
    write_csv(
        tmp_path / "web.csv", {**keys, "event_time": [at(1).isoformat(), at(2).isoformat()], "agent": ["tv", "tv"]}
    )
    write_csv(tmp_path / "till.csv", {**keys, "event_time": [at(3).isoformat(), at(4).isoformat()]})
    tables = [{"place": tmp_path / "web.csv", "columns": {"device": "agent"}}, {"place": tmp_path / "till.csv"}]
    users = write_csv(tmp_path / "users.csv", {"user_id": ["a"], "since": [at(0).isoformat()], "group": ["red"]})
    card = make_card(
        tmp_path,
        columns={"event_time": "event_time", "user_available_at": "since"},
        source={"interactions": tables, "users": users},
        context=[DEVICE],
        user_features=[{"name": "group", "kind": "categorical"}],
    )
    _, events = ingest(card, tmp_path)
    assert [row["device"] for row in interactions_of(events)] == ["tv", "tv", None, None]


def test_the_gate_holds_missing_values_bounds_drift_and_new_values(tmp_path):
    good = shop(tmp_path / "good", ["phone", "desktop"] * 100, [6, 27] * 100)
    assert not {check for check in judged(good, tmp_path / "good") if check.startswith(("device", "size"))}
    bad = shop(tmp_path / "bad", [None] * 150 + ["phone"] * 50, [500, *[6] * 199])
    found = judged(bad, tmp_path / "bad")
    assert found["device missing"] == found["size range"] == "block"
    new = shop(tmp_path / "new", [f"d{n}" for n in range(200)], [90 + n % 9 for n in range(200)])
    found = judged(new, tmp_path / "new", tmp_path / "good" / "validation")
    assert found["device drift"] == found["size drift"] == found["device vocabulary"] == "block"


@pytest.mark.parametrize(
    ("context", "told"),
    [
        ([{"name": "page", "kind": "text"}], "context 'page': found kind text, expected one of categorical, numeric"),
        ([{**DEVICE, "name": "title"}], "features: title declared twice"),
        ([DEVICE, DEVICE], "features: device declared twice"),
        ([{**DEVICE, "name": "event_type"}], "feature name 'event_type' is taken"),
        ([{**DEVICE, "min": 3}], "without effect: feature 'device': min and max"),
    ],
)
def test_a_card_says_what_is_wrong_about_the_context(tmp_path, context, told):
    with pytest.raises(ValidationError, match=told):
        make_card(tmp_path, context=context)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"timezone": "Mars/Olympus"}, "time_context 'hour': timezone 'Mars/Olympus' is no time zone; write an IANA"),
        ({"name": "device"}, "features: device declared twice"),
        ({"name": "day"}, "feature name 'day' is taken"),
        ({"by": "minute"}, "Input should be 'hour' or 'weekday'"),
    ],
)
def test_a_card_says_what_is_wrong_about_a_clock(tmp_path, change, told):
    with pytest.raises(ValidationError, match=told):
        make_card(tmp_path, context=[DEVICE], time_context=[{**CLOCKS[0], **change}])
    columns = {"event_time": None, "position": "event_time"}
    with pytest.raises(ValidationError, match=r"time_context needs columns\.event_time"):
        make_card(tmp_path, columns=columns, split={"by": "order"}, time_context=CLOCKS)


def test_a_source_without_the_column_is_told_and_a_card_that_asks_for_more_reads_all_anew(tmp_path):
    card = make_card(tmp_path, context=[DEVICE])
    with pytest.raises(InputError, match=r"interactions of card 'tiny': no column 'device' \(context device\)"):
        ingest(card, tmp_path)
    assert basis_of(card, 1) != basis_of(card.model_copy(update={"context": []}), 1)
