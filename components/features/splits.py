"""Baskets and splits of the events, in SQL: which events have an order, which are held out, and as of when the items
are looked at that they may be offered."""

from datetime import datetime
from typing import TYPE_CHECKING

from feature_repo.card import DatasetCard

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SLICES = 4
"""Moments of the training split as of which training sees the items; more are fresher, and each costs a step some time
(benchmarks/NOTES.md)."""

ORDER = "event_time, position, event_id"
"""Order of a user's events; the event id makes it the same on every run."""


def ordered_events(card: DatasetCard, as_of: datetime) -> str:
    """SELECT of `interactions` with `basket` (ordinal within its user, from 0) and `split`.

    A basket lies in one split as a whole, by the time of its first event.
    """
    held_out = _by_time(card, as_of) if card.split.by == "time" else _by_order()
    kind = "".join(f', "{name}"' for name in (*(["event_type"] if card.typed else []), *(f.name for f in card.context)))
    own, ordinal, last = "", "basket", "max(basket) OVER (PARTITION BY user_id)"
    if card.typed:
        # Of several kinds the baskets with something predicted are counted: what was looked at before one is its own.
        own = f", numbered AS ({_numbered(card)})"
        ordinal, last = "asked_before", "max(asked_before + asked::INT) OVER (PARTITION BY user_id) - 1"
    return f"""
        WITH baskets AS ({_baskets(kind) if card.ties == "basket" else _singles(kind)}){own},
        spans AS (
            SELECT *, min(event_time) OVER (PARTITION BY user_id, basket) AS opened,
                   {ordinal} AS ordinal, {last} AS last_ordinal
            FROM {"numbered" if card.typed else "baskets"}
        )
        SELECT event_id, user_id, item_id, event_time, position, basket, {held_out} AS split{kind} FROM spans
    """


def _numbered(card: DatasetCard) -> str:
    """`baskets` with `asked`, whether anything of the basket is predicted, and `asked_before`, how many baskets of
    the user before it have something that is."""
    types = ", ".join("'" + name.replace("'", "''") + "'" for name in card.predicted_types or ())
    return f"""
        SELECT *, coalesce(sum(first_of_asked::INT) OVER (
                   PARTITION BY user_id ORDER BY basket RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
               ), 0)::BIGINT AS asked_before
        FROM (
            SELECT *, asked AND row_number() OVER (PARTITION BY user_id, basket ORDER BY {ORDER}) = 1 AS first_of_asked
            FROM (SELECT *, bool_or(event_type IN ({types})) OVER (PARTITION BY user_id, basket) AS asked FROM baskets)
        )
    """


def _singles(kind: str) -> str:
    """Every event is its own basket."""
    return f"""
        SELECT event_id, user_id, item_id, event_time, position{kind},
               row_number() OVER (PARTITION BY user_id ORDER BY {ORDER}) - 1 AS basket
        FROM interactions
    """


def _baskets(kind: str) -> str:
    """Events of one time or of one basket id are one basket, and so are baskets that overlap in time.

    A basket opens where every earlier one of its user has closed, so ordinals never run against time.
    """
    return f"""
        WITH closing AS (
            SELECT event_id, user_id, item_id, event_time, position{kind},
                   max(event_time) OVER (PARTITION BY user_id, coalesce('b' || basket, 'e' || event_id)) AS closes
            FROM interactions
        ),
        opening AS (
            SELECT *, coalesce(event_time > max(closes) OVER (
                PARTITION BY user_id ORDER BY {ORDER} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ), true) AS opens
            FROM closing
        )
        SELECT * EXCLUDE (closes, opens),
               (sum(opens::INT) OVER (PARTITION BY user_id ORDER BY {ORDER}))::BIGINT - 1 AS basket
        FROM opening
    """


def slice_starts(card: DatasetCard, db: "DuckDBPyConnection", as_of: datetime) -> list[int]:
    """When each slice of the catalogue begins, in microseconds, in order: where the training events (table `events`)
    fall into `SLICES` parts of one size, and where the held-out windows open. By order, where there are no windows, all
    events are cut so."""
    shares = [n / SLICES for n in range(SLICES)]
    among, windows = ("split = 'train'", _windows(card, as_of)) if card.split.by == "time" else ("true", ())
    cuts = f"SELECT unnest(quantile_disc(event_time, {shares})) AS moment FROM events WHERE {among}"
    moments = " UNION ".join([cuts, *(f"SELECT {window}" for window in windows)])
    return [
        start for (start,) in db.execute(f"SELECT epoch_us(moment) AS start FROM ({moments}) ORDER BY 1").fetchall()
    ]


def _windows(card: DatasetCard, as_of: datetime) -> tuple[str, str]:
    """Where the windows of validation and test open."""
    now = f"TIMESTAMPTZ '{as_of.isoformat()}'"
    test, validation = card.split.test_days, card.split.test_days + card.split.validation_days
    return f"{now} - INTERVAL {validation} DAY", f"{now} - INTERVAL {test} DAY"


def _by_time(card: DatasetCard, as_of: datetime) -> str:
    validation, test = _windows(card, as_of)
    return f"CASE WHEN opened > {test} THEN 'test' WHEN opened > {validation} THEN 'validation' ELSE 'train' END"


def _by_order() -> str:
    return """CASE WHEN last_ordinal < 2 THEN 'train' WHEN ordinal >= last_ordinal THEN 'test'
              WHEN ordinal = last_ordinal - 1 THEN 'validation' ELSE 'train' END"""
