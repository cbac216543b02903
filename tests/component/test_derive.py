"""Derived features against brute force on random timelines: only what was known by a midnight counts."""

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from components.ingest.derive import derived_sql
from feature_repo.card import DatasetCard

START = datetime(2026, 1, 1, tzinfo=UTC)
TIME = pa.timestamp("us", "UTC")
CARD = DatasetCard.model_validate(
    {
        "name": "tiny",
        "description": "A shop",
        "source": {"adapter": "files", "interactions": "a.csv", "items": "b.csv"},
        "columns": {"event_time": "event_time", "event_type": "kind"},
        "events": {"view": {"predict": True}},
        "features": [
            {"name": "price", "kind": "numeric", "varies_in_time": True},
            *(
                {"name": name, "kind": "numeric", "derive": derive, "token": False}
                for name, derive in {
                    "views_1d": {"by": "count", "days": 1, "events": "view"},
                    "all_2d": {"by": "count", "days": 2},
                    "again_3d": {"by": "repeat_rate", "days": 3},
                    "age": {"by": "age"},
                    "price_change_2d": {"by": "change", "of": "price", "days": 2},
                }.items()
            ),
        ],
        "split": {"by": "time"},
    }
)


def at(quarters: int) -> datetime:
    """Quarters of a day, so that midnights are among the times."""
    return START + timedelta(hours=6 * quarters)


class Click(NamedTuple):
    user: str
    item: str
    event: int
    created: int
    kind: str


class Price(NamedTuple):
    item: str
    event: int
    created: int
    value: float


def derive(clicks: list[Click], prices: list[Price]) -> list[dict]:
    """What the query gives, in its own order."""
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        tables = {
            "interactions": {
                "event_id": [f"{click!r}" for click in clicks],
                "user_id": [click.user for click in clicks],
                "item_id": [click.item for click in clicks],
                "event_time": pa.array([at(click.event) for click in clicks], TIME),
                "created_time": pa.array([at(click.created) for click in clicks], TIME),
                "event_type": [click.kind for click in clicks],
            },
            "varying": {
                "item_id": pa.array([price.item for price in prices], pa.string()),
                "event_time": pa.array([at(price.event) for price in prices], TIME),
                "created_time": pa.array([at(price.created) for price in prices], TIME),
                "price": pa.array([price.value for price in prices], pa.float64()),
            },
            "items": {
                "item_id": pa.array([], pa.string()),
                "event_time": pa.array([], TIME),
                "created_time": pa.array([], TIME),
            },
        }
        for name, columns in tables.items():
            db.register(name, pa.table(columns))
        return db.execute(derived_sql(CARD)).to_arrow_table().to_pylist()


def brute_force(clicks: list[Click], prices: list[Price], item: str, midnight: int) -> dict | None:
    """The values at a midnight (in quarters), from the words of `Derive`."""
    known = [c for c in clicks if c.item == item and c.event < midnight and c.created < midnight]
    firsts = [max(c.event, c.created) for c in clicks if c.item == item]
    if not firsts or min(firsts) > midnight:
        return None

    def within(days: int) -> list[Click]:
        return [c for c in known if c.event >= midnight - 4 * days]

    def repeats(c: Click) -> bool:
        order = (max(c.event, c.created), c.event, repr(c))
        return any((max(o.event, o.created), o.event, repr(o)) < order and o.user == c.user for o in known)

    def price(moment: int) -> float | None:
        told = [p for p in prices if p.item == item and max(p.event, p.created) <= moment]
        return max(told, key=lambda p: (p.event, p.created)).value if told else None

    now, then, lately = price(midnight), price(midnight - 8), within(3)
    return {
        "views_1d": float(sum(c.kind == "view" for c in within(1))),
        "all_2d": float(len(within(2))),
        "again_3d": sum(map(repeats, lately)) / len(lately) if lately else None,
        "age": float(midnight // 4 - min(firsts) // 4),
        "price_change_2d": None if now is None or then is None else now / then - 1,
    }


CLICKS = st.lists(
    st.builds(
        lambda user, item, event, late, kind: Click(user, item, event, event + late, kind),
        st.sampled_from("uv"), st.sampled_from("ab"), st.integers(0, 24), st.sampled_from([0, 0, 0, 1, 5, 12]),
        st.sampled_from(["view", "purchase"]),
    ),
    min_size=1, max_size=20, unique_by=lambda click: (click.user, click.item, click.event),
)  # fmt: skip
PRICES = st.lists(
    st.builds(
        lambda item, event, late, value: Price(item, event, event + late, value),
        st.sampled_from("ab"), st.integers(0, 24), st.sampled_from([0, 0, 3, 9]), st.sampled_from([1.0, 2.0, 4.0]),
    ),
    max_size=10, unique_by=lambda price: (price.item, price.event, price.created),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(CLICKS, PRICES)
def test_snapshots_equal_brute_force_on_random_timelines(clicks, prices):
    found = derive(clicks, prices)
    names = [feature.name for feature in CARD.derived]
    last = max(click.event for click in clicks) // 4
    for item in "ab":
        snapshots = {row["event_time"]: {name: row[name] for name in names} for row in found if row["item_id"] == item}
        now = None
        for day in range(last + 1):
            now = snapshots.get(at(4 * day), now)
            expected = brute_force(clicks, prices, item, 4 * day)
            assert (now is None) == (expected is None), (item, day)
            if expected is not None:
                assert now == pytest.approx(expected), (item, day)


def test_what_comes_later_changes_no_earlier_snapshot():
    early = [Click("u", "a", n, n, "view") for n in (1, 5, 9, 13)]
    late = [Click("v", "a", 2, 11, "view"), Click("u", "b", 3, 14, "view"), Click("u", "a", 20, 20, "view")]
    before = derive(early, [Price("a", 0, 0, 1.0)])
    after = derive([*early, *late], [Price("a", 0, 0, 1.0), Price("a", 4, 11, 2.0)])
    until = at(8)
    assert [row for row in after if row["event_time"] <= until] == [row for row in before if row["event_time"] <= until]


@pytest.mark.parametrize(
    ("derive", "told"),
    [
        ({"by": "count"}, "needs `days`"),
        ({"by": "age", "days": 2}, "has no `days`"),
        ({"by": "change", "days": 2}, "goes with `by: change` only"),
        ({"by": "change", "days": 2, "of": "cost"}, "'cost' is no varying number"),
        ({"by": "count", "days": 2, "events": "view"}, "needs columns.event_type"),
    ],
)
def test_a_derivation_that_says_too_little_or_too_much_is_told(derive, told):
    card = {
        **CARD.model_dump(),
        "columns": {"event_time": "t"},
        "features": [{"name": "x", "kind": "numeric", "derive": derive, "token": False}],
    }
    with pytest.raises(ValidationError, match=told):
        DatasetCard.model_validate(card)


@pytest.mark.parametrize("by", ["count", "repeat_rate"])
def test_what_counts_events_is_no_token_as_it_would_show_evaluation_the_days_held_out(by):
    counted = {"name": "x", "kind": "numeric", "derive": {"by": by, "days": 2}}
    with pytest.raises(ValidationError, match="Add `token: false`"):
        DatasetCard.model_validate({**CARD.model_dump(), "features": [counted]})
