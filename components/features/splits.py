"""Baskets and splits of the events, in SQL: which events have an order, and which are held out."""

from datetime import datetime

from feature_repo.card import DatasetCard

ORDER = "event_time, position, event_id"
"""Order of a user's events; the event id makes it the same on every run."""


def ordered_events(card: DatasetCard, as_of: datetime) -> str:
    """SELECT of `interactions` with `basket` (ordinal within its user, from 0) and `split`.

    A basket lies in one split as a whole, by the time of its first event.
    """
    held_out = _by_time(card, as_of) if card.split.by == "time" else _by_order()
    return f"""
        WITH baskets AS ({_baskets() if card.ties == "basket" else _singles()}),
        spans AS (
            SELECT *, min(event_time) OVER (PARTITION BY user_id, basket) AS opened,
                   max(basket) OVER (PARTITION BY user_id) AS last_basket
            FROM baskets
        )
        SELECT event_id, user_id, item_id, event_time, position, basket, {held_out} AS split FROM spans
    """


def _singles() -> str:
    """Every event is its own basket."""
    return f"""
        SELECT event_id, user_id, item_id, event_time, position,
               row_number() OVER (PARTITION BY user_id ORDER BY {ORDER}) - 1 AS basket
        FROM interactions
    """


def _baskets() -> str:
    """Events of one time or of one basket id are one basket, and so are baskets that overlap in time.

    A basket opens where every earlier one of its user has closed, so ordinals never run against time.
    """
    return f"""
        WITH closing AS (
            SELECT event_id, user_id, item_id, event_time, position,
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


def _by_time(card: DatasetCard, as_of: datetime) -> str:
    now = f"TIMESTAMPTZ '{as_of.isoformat()}'"
    test = f"{now} - INTERVAL {card.split.test_days} DAY"
    validation = f"{now} - INTERVAL {card.split.test_days + card.split.validation_days} DAY"
    return f"CASE WHEN opened > {test} THEN 'test' WHEN opened > {validation} THEN 'validation' ELSE 'train' END"


def _by_order() -> str:
    return """CASE WHEN last_basket < 2 THEN 'train' WHEN basket = last_basket THEN 'test'
              WHEN basket = last_basket - 1 THEN 'validation' ELSE 'train' END"""
