"""A date is shown as people write it, in the shop's zone, and never as the number of days that archives keep."""

import re
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from fastapi.testclient import TestClient

from console.item import as_date
from console.standing import among
from runtime.page import DASH
from tests.serving.tiny_archive import ITEMS, RELEASED, ZONE


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"])
def test_a_day_is_the_day_there_and_a_moment_has_its_time(zone: str) -> None:
    there, epoch = ZoneInfo(zone), datetime(1970, 1, 1, tzinfo=UTC)
    for number in range(0, 40_000, 37):
        day = datetime.combine(datetime(1960, 1, 1) + timedelta(days=number), datetime.min.time(), there)
        assert as_date((day - epoch) / timedelta(days=1), zone) == f"{day:%Y-%m-%d}"
        later = day.astimezone(UTC) + timedelta(hours=5, minutes=17)
        expected = f"{later.astimezone(there):%Y-%m-%d %H:%M}"
        assert as_date((later - epoch) / timedelta(days=1), zone) == expected
    assert as_date(9e7, zone) == "90,000,000 days since 1970"


def test_the_page_of_an_item_shows_its_dates_as_dates(console: TestClient) -> None:
    for item, days in zip(ITEMS, RELEASED, strict=True):
        page = console.get(f"/item?model=shop&id={item}").text
        (shown,) = re.findall(r"<td>released</td><td class=\"n\"><bdi>([^<]*)", page)
        moment = None if days is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=days)
        assert shown == (DASH if moment is None else f"{moment.astimezone(ZoneInfo(ZONE)):%Y-%m-%d %H:%M}")


def test_of_a_date_beyond_all_others_no_number_of_days_is_told() -> None:
    profile = {"kind": "numeric", "counts": [3], "missing": 0, "edges": [], "values": [], "min": 20_000, "max": 20_009}
    assert among(profile, 21_000, bounds=False) == "beyond all rows"
    assert among(profile, 21_000) == "beyond all rows, 20000 to 20009"
