"""The profile of accepted data: how every feature is distributed, a sample of its values, and events by day."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from components.shared.columns import number, source_of, values
from components.shared.reference_files import SCHEMA, Profile
from components.validate.figures import local
from feature_repo.card import DatasetCard
from feature_repo.card_features import Described

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Distribution = dict[str, Any]

BINS = 10
VALUES = 20
SAMPLE = 500
"""Events, and items with their static values, that are remembered: the first by a digest, so that every run takes
the same."""
MOST_FOR_EDGES = 2_000_000
"""Rows from which the edges of bins are found."""
MOST_VALUES = 20_000
"""Values of a vocabulary that are remembered, as digests."""


def profile(
    card: DatasetCard,
    db: "DuckDBPyConnection",
    as_of: datetime,
    days: Mapping[date, int],
    report: Mapping[str, Any],
) -> Profile:
    """What the next run is held against; docs/contracts.md, "validation"."""
    found: Profile = {
        "schema": SCHEMA,
        "dataset": card.name,
        "as_of": as_of.isoformat(),
        "source": {name: report[name] for name in ("rows", "rejected", "reasons")},
        "days": {day.isoformat(): events for day, events in days.items()},
        "features": {feature.name: distribution(db, feature, source_of(feature)) for feature in card.described},
        "events": sample_of_events(card, db),
        "samples": {feature.name: sample(db, feature) for feature in card.static},
        "vocabularies": {feature.name: vocabulary(db, feature) for feature in card.described if has_words(feature)},
    }
    if card.events is not None:
        found["event_types"] = kinds_of(db, as_of)
    return found


def kinds_of(
    db: "DuckDBPyConnection", as_of: datetime, since: datetime | None = None, chosen: Sequence[str] | None = None
) -> Distribution:
    """Events by kind, up to `as_of` and after `since`: of the kinds `chosen` where they are given, and of all others
    together."""
    until = f"greatest(event_time, created_time) <= TIMESTAMPTZ '{as_of.isoformat()}'"
    after = "" if since is None else f" AND event_time > TIMESTAMPTZ '{since.isoformat()}'"
    rows = db.execute(f"SELECT event_type, count(*) FROM interactions_all WHERE {until}{after} GROUP BY 1").fetchall()
    counted = dict(rows)
    missing = counted.pop(None, 0)
    values = sorted(counted, key=lambda kind: (-counted[kind], kind)) if chosen is None else list(chosen)
    counts = [counted.pop(kind, 0) for kind in values]
    return {"values": values, "counts": [*counts, sum(counted.values())], "missing": missing}


def has_words(feature: Described) -> bool:
    """Whether the feature has a vocabulary that can grow."""
    return feature.traits.says is not None


def distribution(
    db: "DuckDBPyConnection", feature: Described, rows: str, bins: Distribution | None = None
) -> Distribution:
    """Counts of `feature` in the table or query `rows`, in the bins of another distribution where one is given."""
    if feature.traits.measure is not None:
        return {"kind": feature.kind, **_numbers(db, rows, feature, bins["edges"] if bins else None)}
    return {"kind": feature.kind, **_values(db, rows, feature, bins["values"] if bins else None)}


def sample_of_events(card: DatasetCard, db: "DuckDBPyConnection", known: Sequence[str] | None = None) -> dict[str, str]:
    """Local day of events by id: of the first ids (they are digests), or of those of `known` that are there."""
    which = f"ORDER BY event_id LIMIT {SAMPLE}" if known is None else "WHERE event_id IN (SELECT unnest(?::VARCHAR[]))"
    rows = f"(SELECT event_id, event_time FROM interactions {which})"
    query = f"SELECT event_id, {local('event_time', card)}::DATE::VARCHAR FROM {rows}"
    return dict(db.execute(query, [] if known is None else [list(known)]).fetchall())


def sample(db: "DuckDBPyConnection", feature: Described, items: Sequence[str] | None = None) -> dict[str, str]:
    """Digest of the feature's value by item, of `items` or of the sample."""
    which = f"ORDER BY md5(item_id) LIMIT {SAMPLE}" if items is None else "WHERE item_id IN (SELECT unnest(?))"
    query = f"SELECT item_id, md5(coalesce(\"{feature.name}\"::VARCHAR, ''))[:8] FROM latest_items {which}"
    return dict(db.execute(query, [] if items is None else [list(items)]).fetchall())


def vocabulary(db: "DuckDBPyConnection", feature: Described) -> Distribution:
    """How many values there are, and digests of the first of them by digest."""
    digests = f"SELECT DISTINCT md5(x)[:8] AS d FROM ({words(feature)})"
    known = [d for (d,) in db.execute(f"SELECT d FROM ({digests}) ORDER BY d LIMIT {MOST_VALUES}").fetchall()]
    counted = db.execute(f"SELECT count(*) FROM ({digests})").fetchone()
    assert counted is not None
    return {"size": counted[0], "known": known}


def words(feature: Described) -> str:
    """Query of x, every value (of text: word) that there is, and `rows`, how often."""
    each = f"SELECT unnest({values(feature)}) AS x FROM {source_of(feature)}"
    return f"SELECT x, count(*) AS rows FROM ({each}) WHERE x <> '' GROUP BY x"


def _numbers(db: "DuckDBPyConnection", rows: str, feature: Described, edges: Sequence[float] | None) -> Distribution:
    """Counts between `edges` (deciles where none are given); the outer bins are open."""
    value = f"({number(feature)})::DOUBLE"
    select = f"SELECT CASE WHEN isfinite({value}) THEN {value} END AS x FROM"
    if edges is None:
        steps = [n / BINS for n in range(1, BINS)]
        (count,) = db.execute(f"SELECT count(*) FROM {rows}").fetchall()[0]
        # Quantiles need all values in memory; some of many do.
        some = f"{rows} WHERE hash({feature.key}, event_time) % {1 + count // MOST_FOR_EDGES} = 0"
        query = f"SELECT quantile_disc(x, {steps}) FROM ({select} {some})"
        (quantiles,) = db.execute(query).fetchall()[0]
        edges = sorted(set(quantiles or []))
    bins = " + ".join(f"(x > {edge!r})::INT" for edge in edges) or "0"
    binned = f"CASE WHEN x IS NOT NULL THEN {bins} END"
    query = f"SELECT {binned} AS bin, count(*), min(x), max(x) FROM ({select} {rows}) GROUP BY bin"
    counted = {bin_: (n, low, high) for bin_, n, low, high in db.execute(query).fetchall()}
    lacking = counted.pop(None, (0, None, None))[0]
    ends = [end for _, low, high in counted.values() for end in (low, high) if end is not None]
    return {
        "edges": list(edges),
        "counts": [counted.get(bin_, (0,))[0] for bin_ in range(len(edges) + 1)],
        "missing": lacking,
        "min": min(ends, default=None),
        "max": max(ends, default=None),
    }


def _values(db: "DuckDBPyConnection", rows: str, feature: Described, chosen: Sequence[str] | None) -> Distribution:
    """Counts of the most frequent values (or of `chosen`) and of all others together."""
    each = f"SELECT x, count(*) AS n FROM (SELECT unnest({values(feature)}) AS x FROM {rows}) GROUP BY x"
    if chosen is None:
        query = f"SELECT x FROM ({each}) WHERE x IS NOT NULL ORDER BY n DESC, x LIMIT {VALUES}"
        chosen = [value for (value,) in db.execute(query).fetchall()]
    query = (
        f"SELECT list_position(?::VARCHAR[], x) AS place, sum(n)::BIGINT, count(*) FILTER (x IS NOT NULL), "
        f"bool_or(x IS NULL) FROM ({each}) GROUP BY place, x IS NULL"
    )
    counts, lacking, distinct = [0] * (len(chosen) + 1), 0, 0
    for place, n, different, nothing in db.execute(query, [list(chosen)]).fetchall():
        distinct += different
        if nothing:
            lacking = n
        elif place:
            counts[place - 1] = n
        else:
            counts[-1] += n
    return {"values": list(chosen), "counts": counts, "missing": lacking, "distinct": distinct}
