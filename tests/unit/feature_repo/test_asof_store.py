"""The ASOF store against brute force and against Feast's own store, on random timelines: the future never joins."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.feast_import import (
    DuckDBOfflineStore,
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    FileSource,
    Float64,
    ParquetFormat,
    String,
    ValueType,
)
from feature_repo.store import quiet, repo_config

START = datetime(2026, 1, 1, tzinfo=UTC)
TIME = pa.timestamp("us", "UTC")
TTL = timedelta(microseconds=4)


def at(us: int) -> datetime:
    return START + timedelta(microseconds=us)


class Row(NamedTuple):
    """A value of `item` that counts from `event` and was written down at `created`."""

    item: str
    event: int
    created: int
    price: float | None
    label: str | None


class Shop:
    """Views with and without a time to live over one Parquet file that each example writes anew."""

    def __init__(self, root: Path) -> None:
        self.path = root / "rows" / "day=2026-01-01" / "part-0.parquet"
        self.path.parent.mkdir(parents=True)
        self._written = 0
        self.write([])
        item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
        source = FileSource(
            path=str(root / "rows" / "*" / "*.parquet"), file_format=ParquetFormat(), timestamp_field="event_time",
            created_timestamp_column="created_time", field_mapping={"cost": "price"},
        )  # fmt: skip
        fields = [
            Field(name="item_id", dtype=String),
            Field(name="price", dtype=Float64),
            Field(name="label", dtype=String),
        ]
        self.views = [
            FeatureView(name=name, entities=[item], ttl=ttl, schema=fields, source=source)
            for name, ttl in (("lasting", timedelta(0)), ("fleeting", TTL))
        ]
        self.store = FeatureStore(config=repo_config("tiny", root, []))
        once = self.views[0].with_name("once")
        twice = self.views[0].with_name("twice").with_join_key_map({"item_id": "other_id"})
        with quiet():
            self.store.apply([item, *self.views, FeatureService(name="both", features=[once, twice])])

    def write(self, rows: list[Row]) -> None:
        table = {
            "item_id": pa.array([row.item for row in rows], pa.string()),
            "event_time": pa.array([at(row.event) for row in rows], TIME),
            "created_time": pa.array([at(row.created) for row in rows], TIME),
            "cost": pa.array([row.price for row in rows], pa.float64()),
            "label": pa.array([row.label for row in rows], pa.string()),
        }
        pq.write_table(pa.table(table), self.path)
        # Feast's own store keeps one DuckDB, which takes a file of the same path, size and time for the same file.
        self._written += 1
        os.utime(self.path, (self._written, self._written))

    def ask(
        self, asked: list[tuple[str | None, int]], view: str, *, by_created: bool, feasts_own: bool = False
    ) -> list:
        """(price, label) for each asked (item, moment)."""
        frame = pd.DataFrame(
            {"row": range(len(asked)), "item_id": [i for i, _ in asked], "event_timestamp": [at(t) for _, t in asked]}
        )
        references = [f"{view}:price", f"{view}:label"]
        store = DuckDBOfflineStore if feasts_own else self.store._get_provider().offline_store
        with quiet():
            job = store.get_historical_features(
                self.store.config, [self.store.get_feature_view(view)], references, frame, self.store.registry, "tiny",
                False, by_created,
            )  # fmt: skip
            found = job.to_arrow().sort_by("row")
        assert found["row"].to_pylist() == list(range(len(asked))), "one row an asked row"
        return list(zip(found["price"].to_pylist(), found["label"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop(tmp_path_factory.mktemp("shop"))


def brute_force(rows: list[Row], item: str | None, moment: int, view: str, by_created: bool) -> tuple:
    known = [
        row for row in rows
        if row.item == item and row.event <= moment and (not by_created or row.created <= moment)
        and (view == "lasting" or row.event + TTL // timedelta(microseconds=1) >= moment)
    ]  # fmt: skip
    best = max(known, key=lambda row: (row.event, row.created), default=None)
    return (best.price, best.label) if best else (None, None)


ROWS = st.lists(
    st.builds(
        Row,
        item=st.sampled_from("ab"),
        event=st.integers(0, 12),
        created=st.integers(-2, 16),
        price=st.none() | st.floats(0, 9),
        label=st.none() | st.sampled_from(["", "sale"]),
    ),
    max_size=14,
    unique_by=lambda row: (row.item, row.event, row.created),
)
ASKED = st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.integers(-1, 17)), min_size=1, max_size=12)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, ASKED, st.sampled_from(["lasting", "fleeting"]), st.booleans())
def test_join_equals_brute_force_on_random_timelines(shop, rows, asked, view, by_created):
    shop.write(rows)
    expected = [brute_force(rows, item, moment, view, by_created) for item, moment in asked]
    assert shop.ask(asked, view, by_created=by_created) == expected


@pytest.mark.parametrize("by_created", [False, True])
@pytest.mark.parametrize("view", ["lasting", "fleeting"])
def test_every_moment_about_a_value_and_its_successor(shop, view, by_created):
    """Random timelines meet a boundary, and the one moment that tells which side it is on, by luck."""
    asked = [("a", moment) for moment in range(-1, 15)]
    for created in (-1, 0, 2, 9):
        rows = [Row("a", 0, created, 1.0, None), Row("a", 8, 8, None, "new")]
        shop.write(rows)
        expected = [brute_force(rows, *each, view, by_created) for each in asked]
        assert shop.ask(asked, view, by_created=by_created) == expected, created


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, ASKED, st.sampled_from(["lasting", "fleeting"]), st.booleans())
def test_join_equals_feasts_own_on_random_timelines(shop, rows, asked, view, by_created):
    shop.write(rows)
    own = shop.ask(asked, view, by_created=by_created, feasts_own=True)
    assert shop.ask(asked, view, by_created=by_created) == own


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ROWS, ROWS, ASKED, st.booleans())
def test_changing_the_future_leaves_the_past_alone(shop, rows, later, asked, by_created):
    now = 6
    asked = [(item, min(moment, now)) for item, moment in asked]
    shop.write(rows)
    before = shop.ask(asked, "lasting", by_created=by_created)
    future = [row._replace(event=row.event + now + 1) for row in later]
    late = [row._replace(created=row.created + now + 3) for row in later] if by_created else []
    shop.write([*rows, *future, *late])
    assert shop.ask(asked, "lasting", by_created=by_created) == before


def test_of_rows_that_are_alike_in_time_always_the_same_one_counts(shop):
    rows = [Row("a", 1, 1, price, None) for price in (2.0, 5.0, 3.0)]
    for order in (rows, rows[::-1]):
        shop.write(order)
        assert shop.ask([("a", 1)], "lasting", by_created=False) == [(5.0, None)]


def test_one_view_under_two_names_joins_two_keys(shop):
    shop.write([Row("a", 1, 1, 1.0, "x"), Row("b", 2, 2, 2.0, "y")])
    frame = pd.DataFrame({"item_id": ["a"], "other_id": ["b"], "event_timestamp": [at(3)]})
    with quiet():
        found = shop.store.get_historical_features(
            entity_df=frame, features=shop.store.get_feature_service("both"), full_feature_names=True
        ).to_df()
    assert found.loc[0, ["once__price", "twice__price", "twice__label"]].tolist() == [1.0, 2.0, "y"]


@pytest.mark.parametrize(
    "moments",
    [
        pd.Series([at(3), at(1)]),
        pd.Series([at(3), at(1)]).dt.tz_localize(None),
        pd.Series([at(3), at(1)]).dt.tz_convert("Asia/Tokyo").astype("datetime64[ns, Asia/Tokyo]"),
        pd.Series([at(3).isoformat(), at(1).isoformat()]),
    ],
)
def test_times_of_any_kind_are_understood(shop, moments):
    shop.write([Row("a", 2, 2, 7.0, None)])
    frame = pd.DataFrame({"item_id": ["a", "a"], "event_timestamp": moments})
    with quiet():
        found = shop.store.get_historical_features(entity_df=frame, features=["lasting:price"]).to_arrow()
    assert sorted(found["price"].to_pylist(), key=str) == [7.0, None]


def test_sql_strings_are_left_to_feasts_store(shop, monkeypatch):
    asked = []
    monkeypatch.setattr(DuckDBOfflineStore, "get_historical_features", staticmethod(lambda *given: asked.append(given)))
    store = shop.store._get_provider().offline_store
    view = shop.store.get_feature_view("lasting")
    store.get_historical_features(shop.store.config, [view], ["lasting:price"], "SELECT 1", shop.store.registry, "tiny")
    assert asked[0][3] == "SELECT 1"
