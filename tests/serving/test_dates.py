"""Filters and rules of dates: what a shop says of days and moments is what is shown, whoever asks and whenever."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.document import Rollout
from experiments.rules import Rules
from experiments.rules_table import RulesVersion
from serving.gateway.after.catalogue import ServedCatalogue
from serving.gateway.after.compiled import compiled, faults
from serving.gateway.dates import BadDate, in_days, moves
from tests.serving.open_gateway import OpenGateway, ask, rows
from tests.serving.test_availability import NOBODY
from tests.serving.tiny_archive import FILTERABLE, ITEMS, RELEASED, ZONE

BERLIN = ZoneInfo(ZONE)
NEW_YEAR = datetime(2026, 1, 1, tzinfo=BERLIN)
MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.sampled_from([UTC, BERLIN]))


def days(moment: datetime) -> float:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(days=1)


def within(value: float, bounds: dict[str, float]) -> bool:
    return bounds.get("min", -1e9) <= value <= bounds.get("max", 1e9)


@given(released=MOMENTS, said=MOMENTS, whole=st.booleans(), naive=st.booleans(), end=st.sampled_from(["min", "max"]))
def test_a_bound_lets_pass_what_a_person_with_a_calendar_would(
    released: datetime, said: datetime, whole: bool, naive: bool, end: str
) -> None:
    there = released.astimezone(BERLIN)
    if whole:
        text, matches = (
            said.date().isoformat(),
            {"min": there.date() >= said.date(), "max": there.date() <= said.date()},
        )
    else:
        meant = said.replace(tzinfo=BERLIN) if naive else said
        text = (said.replace(tzinfo=None) if naive else said).isoformat()
        matches = {"min": days(released) >= days(meant), "max": days(released) <= days(meant)}
    bounds = in_days({"released": {end: text}}, {"released": ZONE}, said)["released"]
    assert within(days(released), bounds) == matches[end]


@given(now=MOMENTS, part=st.sampled_from([0, 0.3, 0.99, 1.01, 1.5, 3]), within_days=st.floats(0.5, 60))
def test_of_the_last_days_is_counted_from_now_to_the_minute(now: datetime, part: float, within_days: float) -> None:
    bounds = in_days({"released": {"within_days": within_days}}, {"released": ZONE}, now)["released"]
    assert within(days(now) - part * within_days, bounds) == (part < 1)
    assert not within(days(now) + 1.01 / 1440, bounds), "what comes is not new yet"
    assert moves({"released": {"within_days": within_days}}) and not moves({"released": bounds, "shelf": ["top"]})


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        *(("released", {"min": bad}) for bad in ("soon", "", "2026-13-01", 20_000.0, True, None, "0" * 99)),
        ("released", {"min": "2026-02-01", "max": "2026-01-31"}),
        *(("released", {"within_days": bad}) for bad in (0, -1, 1e9, float("nan"), "30", True)),
        *(("released", bad) for bad in ({"within_days": 3, "min": "2026-01-01"}, ["2026-01-01"], {}, {"since": "x"})),
        *(("price", bad) for bad in ({"min": "2026-01-01"}, {"max": date(2026, 1, 1)}, {"within_days": 3})),
        ("shelf", {"within_days": 3}),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_by_its_name(name: str, wanted: Any) -> None:
    with pytest.raises(BadDate, match=r"found .*, expected ") as refused:
        in_days({"released": {"min": "2026-01-01"}, name: wanted}, {"released": ZONE}, NEW_YEAR)
    assert refused.value.feature == name


def test_no_day_is_too_early_or_late() -> None:
    ends = in_days({"released": {"min": "0001-01-01", "max": "9999-12-31"}}, {"released": ZONE}, NEW_YEAR)["released"]
    assert ends["min"] < -719_000 and ends["max"] > 2_932_000


CATALOGUE = ServedCatalogue({"item_id": ITEMS, "features": {"released": RELEASED}}, {"released": "numeric"},
                      {"released": ZONE})  # fmt: skip


def test_a_rule_of_the_last_days_follows_the_clock() -> None:
    version = RulesVersion(number=1, rules=Rules.of({"blocks": [{"where": {"released": {"within_days": 2}}}]}))
    blocked = {}
    now = datetime(2026, 1, 2, 13, tzinfo=UTC)
    while now < datetime(2026, 1, 4, 13, tzinfo=UTC):
        made = compiled(version, CATALOGUE, now)
        assert made.until is not None and now < made.until <= now + timedelta(minutes=1), "it is made anew"
        (block,) = made.blocks
        assert block.chosen.match_V is not None
        blocked[now.day] = [item for item, match in zip(ITEMS, block.chosen.match_V, strict=True) if match]
        now += timedelta(days=1)
    assert blocked == {2: ["i1", "i2"], 3: ["i2", "i3"]}
    lasting = RulesVersion(number=2, rules=Rules.of({"blocks": [{"where": {"released": {"min": "2026-01-03"}}}]}))
    assert compiled(lasting, CATALOGUE, now).until is None


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ({"released": {"min": "never"}}, "blocks.0.where: released: found 'never'"),
        ({"released": {"min": date(2026, 1, 1)}}, None),
    ],
)
def test_a_rule_that_names_no_date_is_refused_when_it_is_set(where: dict[str, Any], told: str | None) -> None:
    found = faults(Rules.of({"blocks": [{"where": where}]}), CATALOGUE)
    assert (not found) if told is None else found[0].startswith(told)


@pytest.mark.parametrize("options", [{}, {"torchserve": NOBODY}], ids=["model", "memory"])
def test_requests_filter_by_dates_whoever_answers_and_the_log_says_which_moment_was_meant(
    open_gateway: OpenGateway, rollout: Rollout, tmp_path: Path, options: dict[str, Any]
) -> None:
    noon = datetime(2026, 1, 6, 12, 0, 30, tzinfo=UTC)
    client = open_gateway(rollout, clock=lambda: noon, **options)

    def shown(released: dict[str, Any], path: str = "recommendations", **more: Any) -> set[str]:
        asked = {"user_id": "u", "k": 10, "filters": {"released": released}, **more}
        reply = client.post(f"/v1/{path}", json=asked)
        assert reply.status_code == 200, reply.text
        return {item["item_id"] for item in reply.json()["items"]}

    for path, more in (("recommendations", {"exclude_seen": False}), ("popular", {})):
        told = {"i2", "i7"} if options else {*ITEMS}
        assert shown({"min": "2026-01-02", "max": "2026-01-03"}, path, **more) == {"i2", "i3"} & told
        assert shown({"min": "2026-01-07T13:00:00"}, path, **more) == {"i7", "i8", "i9", "i10", "i11"} & told
        assert shown({"within_days": 2.5}, path, **more) == {"i4", "i5"} & told, "i6 has no date"
    logged = [json.loads(row["request"])["filters"]["released"] for row in rows(tmp_path / "log", "exposures")]
    assert logged[0] == {"min": days(datetime(2026, 1, 2, tzinfo=BERLIN)),
                         "max": days(datetime(2026, 1, 4, tzinfo=BERLIN) - timedelta(microseconds=1))}  # fmt: skip
    assert ask(client)["items"] and "released" in FILTERABLE
