"""Derived features: what the card computes from the events, at each midnight, in one query over the day partitions.

A snapshot of midnight S counts what had happened before S and was known by then: late rows enter later snapshots and
change no earlier one.
"""

from feature_repo.card import DatasetCard
from feature_repo.card_features import Derive, Feature
from runtime.sql import literal, quoted

Counted = tuple[str, int, str]
"""A column, its days, and which events it counts (SQL)."""


def derived_sql(card: DatasetCard) -> str:
    """Query of item_id, event_time, created_time and each derived feature, in order; a row where a value changes.

    Reads the tables `interactions` (with user_id, event_time, created_time, event_type), `items` and `varying`.
    """
    counted = [column for feature in card.derived for column in _counted(feature)]
    values = ", ".join(f"{_value(feature, n)} AS {quoted(feature.name)}" for n, feature in enumerate(card.derived))
    names = [quoted(feature.name) for feature in card.derived]
    changed = " OR ".join([f"{name} IS DISTINCT FROM lag({name}) OVER life" for name in names])
    return f"""
        WITH {_seen()}, {_counts_sql(counted)}, {_counts(counted)},
        snapshots AS (
            SELECT g.item_id, g.day, g.since {_running(counted)}
            FROM grid g LEFT JOIN changes c ON c.item_id = g.item_id AND c.day = g.day
            WINDOW life AS (PARTITION BY g.item_id ORDER BY g.day ROWS UNBOUNDED PRECEDING)
        ){_pasts(card)},
        derived AS (
            SELECT s.item_id, s.day AS event_time, s.day AS created_time, {values} FROM snapshots s {_joins(card)}
        )
        SELECT * FROM derived WINDOW life AS (PARTITION BY item_id ORDER BY event_time)
        QUALIFY row_number() OVER life = 1 OR {changed} ORDER BY event_time, item_id
    """


def _seen() -> str:
    """`grid`: every midnight of every item, from when it was first known to the last event."""
    return """
        seen AS (
            SELECT item_id, min(greatest(event_time, created_time)) AS since
            FROM (SELECT item_id, event_time, created_time FROM interactions
                  UNION ALL SELECT item_id, event_time, created_time FROM items)
            GROUP BY item_id
        ),
        grid AS (
            SELECT item_id, since, unnest(generate_series(
                date_trunc('day', since - INTERVAL 1 MICROSECOND) + INTERVAL 1 DAY,
                (SELECT date_trunc('day', max(event_time)) FROM interactions), INTERVAL 1 DAY)) AS day
            FROM seen
        )
    """


def _counts_sql(counted: list[Counted]) -> str:
    """`told`: events by item, day they happened, first midnight that knew of them, type, and whether a repeat."""
    repeat = "false"
    if any("repeat" in which for _, _, which in counted):
        # By the order in which they came to be known, so that a late one never makes an earlier one a repeat.
        order = "ORDER BY greatest(event_time, created_time), event_time, event_id"
        repeat = f"row_number() OVER (PARTITION BY user_id, item_id {order}) > 1"
    return f"""
        told AS (
            SELECT item_id, happened, known, event_type, repeat, count(*) AS n
            FROM (SELECT item_id, event_type, date_trunc('day', event_time) AS happened, {repeat} AS repeat,
                         date_trunc('day', greatest(event_time, created_time)) + INTERVAL 1 DAY AS known
                  FROM interactions)
            GROUP BY ALL
        )
    """


def _counts(counted: list[Counted]) -> str:
    """`changes`: by how much each count rises and falls at a midnight: events come in, and leave after their days."""
    moves = ["SELECT NULL::VARCHAR AS item_id, NULL::TIMESTAMPTZ AS day WHERE false"]
    for column, days, which in counted:
        alive = f"FROM told WHERE known <= happened + INTERVAL {days} DAY AND {which}"
        moves.append(f"SELECT item_id, known AS day, n AS {column} {alive}")
        moves.append(f"SELECT item_id, happened + INTERVAL {days + 1} DAY AS day, -n AS {column} {alive}")
    sums = "".join(f", sum({column}) AS {column}" for column, _, _ in counted)
    return f"changes AS (SELECT item_id, day{sums} FROM ({' UNION ALL BY NAME '.join(moves)}) GROUP BY item_id, day)"


def _running(counted: list[Counted]) -> str:
    return "".join(f", coalesce(sum(c.{column}) OVER life, 0) AS {column}" for column, _, _ in counted)


def _pasts(card: DatasetCard) -> str:
    """A table a changing number: its value from each moment at which a newer one came to be known."""
    tables = ""
    for name in sorted({derive.of for derive in _derives(card) if derive.of is not None}):
        known = "greatest(event_time, created_time)"
        newest = "row(event_time, created_time)"
        past = f"PARTITION BY item_id ORDER BY {known}, event_time, created_time ROWS UNBOUNDED PRECEDING"
        tables += f""",
        {quoted(f"past_{name}")} AS (
            SELECT item_id, known, value FROM (
                SELECT item_id, {known} AS known, {quoted(name)} AS value, {newest} AS own,
                       max({newest}) OVER ({past}) AS newest
                FROM varying
            ) WHERE own = newest QUALIFY row_number() OVER (PARTITION BY item_id, known ORDER BY own DESC) = 1
        )"""
    return tables


def _joins(card: DatasetCard) -> str:
    joins = ""
    for number, derive in enumerate(_derives(card)):
        if derive.of is not None:
            table = quoted(f"past_{derive.of}")
            for alias, moment in ((f"n{number}", "s.day"), (f"b{number}", f"s.day - INTERVAL {derive.days} DAY")):
                joins += f" ASOF LEFT JOIN {table} {alias} ON {alias}.item_id = s.item_id AND {moment} >= {alias}.known"
    return joins


def _value(feature: Feature, number: int) -> str:
    derive = feature.derive
    assert derive is not None
    if derive.by == "age":
        return "date_diff('day', s.since, s.day)::DOUBLE"
    if derive.by == "count":
        return f"s.{quoted(f'{feature.name}.n')}::DOUBLE"
    if derive.by == "repeat_rate":
        return f"s.{quoted(f'{feature.name}.repeats')} / nullif(s.{quoted(f'{feature.name}.n')}, 0)::DOUBLE"
    return f"n{number}.value / nullif(b{number}.value, 0) - 1"


def _counted(feature: Feature) -> list[Counted]:
    derive = feature.derive
    assert derive is not None
    if derive.by not in ("count", "repeat_rate"):
        return []
    assert derive.days is not None
    which = f"event_type = {literal(derive.events)}" if derive.events is not None else "true"
    found = [(quoted(f"{feature.name}.n"), derive.days, which)]
    if derive.by == "repeat_rate":
        found.append((quoted(f"{feature.name}.repeats"), derive.days, f"{which} AND repeat"))
    return found


def _derives(card: DatasetCard) -> list[Derive]:
    return [feature.derive for feature in card.derived if feature.derive is not None]
