"""Whether the new days are like the days before them: how much came, from whom, at what hours, and whether twice."""

import math
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Any

from components.validate.drift import chance, moved, stability_index
from components.validate.figures import is_open, local, local_day
from components.validate.suite import Check, factor, within
from components.validate.verdicts import Measurement
from feature_repo.card import DatasetCard

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Found = tuple[Check, Measurement]
Day = dict[str, Any]

USUAL = 28
"""Open days before the new ones that say what is usual."""
ENOUGH = 7
_SPREAD = 1.4826
"""Times the median absolute deviation it is the standard deviation of a normal distribution."""


def day_checks(card: DatasetCard, db: "DuckDBPyConnection", as_of: datetime, since: datetime) -> list[Found]:
    """Checks of the days from that of `since` on, up to `as_of`'s; none where fewer than 7 days came before them.

    Where time is only an order there are no days to speak of, and no checks.
    """
    if card.columns.event_time is None:
        return []
    today = local_day(as_of, card, db)
    # The day of `since` was not over, so it is looked at again.
    first_new = min(today, local_day(since, card, db))
    usual, new = _days(card, db, first_new, as_of)
    if len(usual) < ENOUGH or not new:
        return []
    limits, found = card.tolerances, []
    for what, noun in (("events", "events"), ("users", "shoppers")):
        found.append(_volume(card, what, f"A new day has as many {noun} as a usual one (ratio)", usual, new, today))
    for what, noun in (("busiest_user", "shopper"), ("busiest_item", "item")):
        most = max(10, *(day[what] for day in usual))
        worst = max(new, key=lambda day: day[what])
        message = f"No {noun} has many times the most events that one has on a usual day (ratio)"
        ratio = Measurement(found=worst[what] / most, evidence=_of_day(worst, what, most=most))
        check = within(f"busiest {noun}", message, limits.busiest, field="tolerances.busiest", unit="times")
        found.append((check, ratio))
    for what, noun in (("new_users", "shoppers"), ("new_items", "items")):
        found.append(_newcomers(card, what, noun, usual, new))
    copies = max(new, key=lambda day: day["copied"])
    message = "No new day repeats another: same shopper, item and time of day"
    check = within("copied day", message, limits.copied, field="tolerances.copied")
    found.append((check, Measurement(found=copies["copied"], evidence=lambda: [
        {"day": f"{copies['day']:%a %Y-%m-%d}", "like": f"{copies['like']:%a %Y-%m-%d}", "events": copies["events"]}
    ])))  # fmt: skip
    found.append(_hours(card, db, usual, new, today, as_of))
    return found


def _days(card: DatasetCard, db: "DuckDBPyConnection", first_new: date, as_of: datetime) -> tuple[list[Day], list[Day]]:
    """A row for each usual and each new day with events; leaves the view `recent` in `db`.

    `*_by_now` counts up to the time of day of `as_of`, so that a day that is not over has something to be held against.
    """
    # Closed days between them are allowed for.
    start = first_new - timedelta(days=USUAL * 3 // 2)
    now = f"TIMESTAMPTZ '{as_of.isoformat()}'"
    db.execute(f"""
        CREATE OR REPLACE TEMP VIEW recent AS
        SELECT user_id, item_id, day, clock FROM (
            SELECT user_id, item_id, {local("event_time", card)} AS moment, moment::DATE AS day, moment::TIME AS clock
            FROM (SELECT user_id, item_id, event_time FROM interactions)
            WHERE event_time >= TIMESTAMP '{start}' AT TIME ZONE 'UTC' - INTERVAL 1 DAY
        ) WHERE day >= DATE '{start}'
    """)
    first_seen = "SELECT {key}, {first}::DATE AS first FROM interactions GROUP BY {key}"
    users, items = (first_seen.format(key=key, first=local("min(event_time)", card)) for key in ("user_id", "item_id"))
    rows = db.execute(f"""
        WITH by_user AS (
            SELECT day, user_id, count(*) AS n, count(*) FILTER (clock <= {local(now, card)}::TIME) AS by_now, first
            FROM recent JOIN ({users}) USING (user_id) GROUP BY day, user_id, first
        ), by_item AS (
            SELECT day, item_id, count(*) AS n, first FROM recent JOIN ({items}) USING (item_id)
            GROUP BY day, item_id, first
        )
        SELECT * FROM (
            SELECT day, sum(n)::BIGINT AS events, count(*) AS users, sum(by_now)::BIGINT AS events_by_now,
                   count(*) FILTER (by_now > 0) AS users_by_now, max(n) AS busiest_user,
                   arg_max(user_id, n) AS "user", avg((first = day)::INT) AS new_users FROM by_user GROUP BY day
        ) JOIN (
            SELECT day, count(*) AS items, max(n) AS busiest_item, arg_max(item_id, n) AS item,
                   avg((first = day)::INT) AS new_items FROM by_item GROUP BY day
        ) USING (day) ORDER BY day
    """).to_arrow_table().to_pylist()  # fmt: skip
    rows = [row for row in rows if row["day"] not in card.calendar.unusual_days]
    usual = [row for row in rows if row["day"] < first_new and is_open(card, row["day"])][-USUAL:]
    copies = _copies(db, first_new)
    new = [
        {**row, "copied": n / row["events"], "like": like}
        for row in rows
        if row["day"] >= first_new
        for like, n in [copies.get(row["day"], (row["day"], 0))]
    ]
    return usual, new


def _copies(db: "DuckDBPyConnection", first_new: date) -> dict[date, tuple[date, int]]:
    """Of each new day the earlier day of `recent` that has the most of the same events, and how many."""
    rows = db.execute(f"""
        WITH ours AS (SELECT DISTINCT user_id, item_id, clock, day FROM recent WHERE day >= DATE '{first_new}')
        SELECT ours.day, other.day, count(*) AS n FROM recent other JOIN ours USING (user_id, item_id, clock)
        WHERE other.day < ours.day GROUP BY 1, 2 ORDER BY n, 2 DESC
    """).fetchall()
    return {day: (other, n) for day, other, n in rows}


def _volume(card: DatasetCard, what: str, message: str, usual: Sequence[Day], new: Sequence[Day], today: date) -> Found:
    """The new day furthest from usual. The usual spread widens the bounds: days of some shops differ much."""
    ratios = []
    for day in new:
        counted = f"{what}_by_now" if day["day"] == today else what
        if (center := _center(usual, counted, day["day"])) > 0:
            ratios.append((day[counted] / center, center, day))
    if not ratios:
        ratios = [(1.0, 1.0, new[-1])]
    ratio, center, day = max(ratios, key=lambda found: abs(math.log(max(found[0], 1e-9))))
    residuals = [
        abs(math.log(row[what] / center_of)) for row in usual if (center_of := _center(usual, what, row["day"])) > 0
    ]
    spread = math.hypot(_SPREAD * median(residuals), 1 / math.sqrt(max(1.0, center)))
    limit = card.tolerances.volume
    warn, block = max(limit.warn, math.exp(4 * spread)), max(limit.block, math.exp(7 * spread))
    check = factor(f"{what} a day", message, warn, block, field="tolerances.volume")
    return check, Measurement(found=ratio, evidence=_of_day(day, what, usual=round(center)))


def _center(usual: Sequence[Day], what: str, day: date) -> float:
    """The middle of the same weekdays where there are three, of all days otherwise."""
    same = [row[what] for row in usual if row["day"].weekday() == day.weekday()]
    return float(median(same if len(same) >= 3 else [row[what] for row in usual]))


def _newcomers(card: DatasetCard, what: str, noun: str, usual: Sequence[Day], new: Sequence[Day]) -> Found:
    # Of the latest usual days only: to a shop that has just opened everybody was new.
    most, total = max(day[what] for day in usual[-ENOUGH:]), "users" if what == "new_users" else "items"
    worst = max(new, key=lambda day: day[what])
    chance = 4 * math.sqrt(max(most * (1 - most), 0.01) / worst[total])
    limit = card.tolerances.newcomers
    message = f"Few of a new day's {noun} were never seen before"
    check = within(f"new {noun}", message, limit, field="tolerances.newcomers", slack=most + chance)
    return check, Measurement(found=worst[what], evidence=_of_day(worst, what, most=round(most, 4)))


def _hours(
    card: DatasetCard, db: "DuckDBPyConnection", usual: Sequence[Day], new: Sequence[Day], today: date, as_of: datetime
) -> Found:
    """Shoppers by hour, so that one long visit does not count as many. A day that is not over counts where there is
    no other, and is then held against the same hours."""
    over = [day for day in new if day["day"] < today]
    moment = f"TIMESTAMPTZ '{as_of.isoformat()}'"
    until = "true" if over else f"clock <= {local(moment, card)}::TIME"
    counts = []
    for days in (usual, over or new):
        chosen = ", ".join(f"DATE '{day['day']}'" for day in days)
        query = (
            f"SELECT hour, count(*) FROM (SELECT DISTINCT day, user_id, hour(clock) AS hour FROM recent "
            f"WHERE day IN ({chosen}) AND {until}) GROUP BY hour"
        )
        by_hour = dict(db.execute(query).fetchall())
        hours = {f"{hour:02d}:00": by_hour.get(hour, 0) for hour in range(24)}
        counts.append({"values": [*hours], "counts": [*hours.values(), 0], "missing": 0})
    before, now = counts
    message = f"Shoppers come at the usual hours, {card.source.timezone} (population stability index)"
    limit, slack = card.tolerances.hours, chance(before, now)
    check = within("hours of the day", message, limit, field="tolerances.hours", slack=slack, unit="index")
    return check, Measurement(found=stability_index(before, now), evidence=lambda: moved(before, now))


def _of_day(day: Day, what: str, **more: Any) -> Any:
    who = {"busiest_user": "user", "busiest_item": "item"}.get(what)
    row = {"day": f"{day['day']:%a %Y-%m-%d}", **({who: day[who]} if who else {}), "found": day[what], **more}
    return lambda: [row]
