"""What can be told of data without any that was accepted before: that it is of many shoppers, days and values."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from components.shared.columns import missing, source_of
from components.validate.figures import local, rows_later
from components.validate.suite import Check, at_most, within
from components.validate.verdicts import Measurement
from feature_repo.card import DatasetCard
from feature_repo.card_features import Feature

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

ENOUGH_EVENTS = 1_000
"""Of fewer it says little that one shopper, or one day, has many."""


def sanity_checks(card: DatasetCard, db: "DuckDBPyConnection") -> Iterator[tuple[Check, Measurement]]:
    """Each with what was found."""
    limits = card.tolerances
    message = "No single shopper has most of the events"
    field = "tolerances.one_shopper"
    remedy = f"see whose id that is: one of nobody or of a bot belongs in columns.nobody; or change {field} in the card"
    yield within("one shopper", message, limits.one_shopper, field=field, remedy=remedy), _largest(db, "user_id")
    if card.columns.event_time is not None:
        message, day = "No single day has most of the events", f"{local('event_time', card)}::DATE"
        field = "tolerances.one_day"
        remedy = (
            f"see whether columns.event_time is when it happened or when it was copied; or change {field} in the card"
        )
        yield within("one day", message, limits.one_day, field=field, remedy=remedy), _largest(db, day, "day")
    for feature in card.features:
        if feature.token and not feature.varies_in_time:
            message = f"{feature.name} is not the same for all items: then it tells nothing"
            remedy = f"take {feature.name} out of the card's features, or add token: false to it, or correct its column"
            yield at_most(f"{feature.name} constant", message, warn=0, remedy=remedy), _constant(db, feature)
    if _revisions(db) > 1:
        for feature in card.static:
            message = f"{feature.name} lasts (how often it changed, an item); what does not is varies_in_time: true"
            name, field = f"{feature.name} restless", "tolerances.restless"
            remedy = f"give feature {feature.name} varies_in_time: true in the card, or change {field} there"
            yield (
                within(name, message, limits.restless, field=field, unit="times", remedy=remedy),
                _changes(db, feature),
            )


def _largest(db: "DuckDBPyConnection", by: str, name: str = "") -> Measurement:
    """The share of the events that the most frequent value of `by` has."""
    name = name or by
    counted = f"SELECT {by} AS {name}, count(*) AS events FROM interactions GROUP BY 1"
    total, most = db.execute(f"SELECT coalesce(sum(events), 0), coalesce(max(events), 0) FROM ({counted})").fetchall()[
        0
    ]
    query = f"SELECT {name}, events FROM ({counted}) ORDER BY events DESC, {name} LIMIT 3"
    return Measurement(found=float(most / total) if total >= ENOUGH_EVENTS else 0.0, evidence=rows_later(db, query))


def _constant(db: "DuckDBPyConnection", feature: Feature) -> Measurement:
    table, name = source_of(feature), f'"{feature.name}"'
    rows, low, high = db.execute(
        f"SELECT count(*), min({name})::VARCHAR, max({name})::VARCHAR FROM {table} WHERE NOT {missing(feature)}"
    ).fetchall()[0]
    return Measurement(found=int(rows > 1 and low == high), evidence=lambda: [{feature.name: low, "items": rows}])


def _revisions(db: "DuckDBPyConnection") -> float:
    """Rows about an item, of the items that have any."""
    rows, items = db.execute("SELECT (SELECT count(*) FROM items), (SELECT count(*) FROM latest_items)").fetchall()[0]
    return float(rows / max(1, items))


def _changes(db: "DuckDBPyConnection", feature: Feature) -> Measurement:
    name = f'"{feature.name}"'
    changed = (
        f'SELECT item_id, event_time, lag({name}) OVER life AS "as it was", {name} AS "as it is" FROM items '
        "WINDOW life AS (PARTITION BY item_id ORDER BY event_time, created_time) "
        f"QUALIFY row_number() OVER life > 1 AND {name} IS DISTINCT FROM lag({name}) OVER life"
    )
    ((changes, items),) = db.execute(
        f"SELECT (SELECT count(*) FROM ({changed})), (SELECT count(*) FROM latest_items)"
    ).fetchall()
    return Measurement(found=float(changes / max(1, items)), evidence=rows_later(db, changed))
