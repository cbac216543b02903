"""A clock on the wall: the hours of whole years, summer time included, as DuckDB's ICU has them."""

from datetime import UTC, datetime

import duckdb
import numpy as np
import pytest

from feature_repo.wall_clock import VALUES, WallClock, require_zone

HOUR = 3_600_000_000


def asked(zone: str, time_E: np.ndarray) -> dict[str, list[str]]:
    """By another library."""
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.register("moments", {"time": time_E})
        there = f"timezone('{zone}', make_timestamptz(time))"
        rows = db.execute(f"SELECT hour({there}), isodow({there}) FROM moments").fetchall()
    return {
        "hour": [f"{hour:02}" for hour, _ in rows],
        "weekday": [VALUES["weekday"][day - 1] for _, day in rows],
    }


@pytest.mark.parametrize(
    ("zone", "begin", "step", "count"),
    [
        ("Europe/Berlin", datetime(2025, 1, 1, tzinfo=UTC), HOUR, 366 * 24),
        ("America/New_York", datetime(2025, 1, 1, tzinfo=UTC), HOUR, 366 * 24),
        ("Australia/Lord_Howe", datetime(2025, 4, 5, tzinfo=UTC), HOUR // 60, 2 * 24 * 60),  # half an hour's change
        ("America/St_Johns", datetime(2010, 3, 13, tzinfo=UTC), HOUR // 60, 2 * 24 * 60),  # at a minute past midnight
        ("Asia/Kathmandu", datetime(1985, 12, 31, tzinfo=UTC), HOUR // 240, 24 * 240),  # quarters, and before 2000
    ],
)
def test_it_says_what_clocks_there_say(zone: str, begin: datetime, step: int, count: int) -> None:
    first = int(begin.timestamp()) * 1_000_000
    time_E = np.random.default_rng(0).permutation(first + step * np.arange(count) + step // 3)
    for by, expected in asked(zone, time_E).items():
        clock = WallClock(by=by, timezone=zone)
        assert clock.at_each(time_E) == expected
        some = slice(None, None, 97)
        moments = [datetime.fromtimestamp(time / 1_000_000, UTC) for time in time_E[some].tolist()]
        assert [clock.at(moment) for moment in moments] == expected[some], "serving reads the clock of training"


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "Europe", "../Berlin", "/etc/passwd", "a\0b", "berlin" * 99])
def test_what_is_no_zone_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=r"card: timezone .* is no time zone; write an IANA name"):
        require_zone(name, field="card")
