"""Closed days of the log become one file each while they are read, and days beyond retention go."""

import os
import subprocess
import sys
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from events.compaction import drop_superseded, merge
from events.consumer.delivery import NOTED
from events.consumer.retention import EXPIRED, KEPT, Upkeep
from events.logged import exposure as find_exposure
from events.partitions import digest, files, write_days
from events.schema import TABLES
from experiments import log as rollout_log
from experiments.policy import Policy
from tests.serving.live_shop import (
    Transport,
    exposure,
    fill,
    outcome,
)

ROOT = Path(__file__).parents[2]
DAY = datetime(2026, 3, 1, tzinfo=UTC)
LATER = DAY + timedelta(days=9)


def lay(folder: Path, count: int, *, first: int = 0, day: datetime = DAY, table: str = "outcomes") -> Path:
    """`count` files of one row each, as the consumer writes one for each segment; the folder of the day."""
    schema = {**TABLES, **NOTED}[table]
    for number in range(first, first + count):
        moment = day + timedelta(seconds=number)
        names = ("request_id", "event_id")
        row: dict[str, Any] = {"time": moment, **{name: f"r{number}" for name in names if name in schema.names}}
        write_days(folder / table, f"{1000 + number}-ab", schema, [(moment, row)])
    return folder / table / f"day={day:%Y-%m-%d}"


def rows(day: Path) -> Counter[str]:
    return Counter(name for path in files(day) for name in pq.ParquetFile(path).read()["request_id"].to_pylist())


def keep_up(log: Path, now: datetime, *, retention: timedelta | None = None) -> Upkeep:
    upkeep = Upkeep(log, log / "served", retention=retention, clock=lambda: now)
    while upkeep.step():
        pass
    return upkeep


def test_only_days_whose_outcomes_have_all_come_are_merged(tmp_path: Path) -> None:
    closed = lay(tmp_path, 30)
    still = lay(tmp_path, 3, day=DAY + timedelta(days=2))
    keep_up(tmp_path, LATER)
    assert len(files(closed)) == 1 and rows(closed) == Counter(f"r{n}" for n in range(30))
    assert len(files(still)) == 3
    assert drop_superseded(closed) == 0, "readers that began before may still read them"
    assert drop_superseded(closed, older_than=0) == 30
    assert [path.name for path in closed.iterdir()] == [path.name for path in files(closed)]


def test_who_reads_meanwhile_sees_each_row_once(tmp_path: Path) -> None:
    day = lay(tmp_path, 60)
    expected, seen, done = rows(day), [], threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.append(rows(day))
        seen.append(rows(day))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(5):
            assert merge(day)
            expected_now = Counter({**expected, f"r{60 + number}": 1})
            lay(tmp_path, 1, first=60 + number)
            expected = expected_now
    finally:
        done.set()
        reader.join()
    assert seen[-1] == expected and len(seen) > 2
    for each in seen:
        assert set(each.values()) == {1} and len(each) >= 60


NURSERY = """
import os, sys
from pathlib import Path
import pyarrow.parquet as pq
from events.partitions import files
from events.compaction import drop_superseded, merge
from tests.serving.killed import after
day = Path(sys.argv[1])
def work():
    merge(day)
    drop_superseded(day, older_than=0)
for moment in range(100):
    code = after(moment, work, (os, "replace"), (Path, "unlink"), (os, "fsync"))
    found = (name for path in files(day) for name in pq.ParquetFile(path).read()["request_id"].to_pylist())
    print(code, *sorted(found), flush=True)
    if code == 0:
        break
"""


def test_killed_at_every_step_a_day_holds_each_row_once(tmp_path: Path) -> None:
    day = lay(tmp_path, 4)
    expected = " ".join(sorted(rows(day)))
    command = [sys.executable, "-c", NURSERY, str(day)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True)
    *killed, last = done.stdout.splitlines()
    assert last == f"0 {expected}" and len(killed) >= 4, done.stderr
    assert set(killed) == {f"-9 {expected}"}
    assert len([path for path in day.iterdir() if path.suffix == ".parquet"]) == 1


def test_a_straggler_of_a_merged_day_counts_and_changes_the_day(tmp_path: Path) -> None:
    day = lay(tmp_path, 5)
    before = digest(files(day))
    assert merge(day) and digest(files(day)) == before, "the same rows"
    drop_superseded(day, older_than=0)
    assert digest(files(day)) == before and not merge(day)
    lay(tmp_path, 1, first=7)
    changed = digest(files(day))
    assert changed != before and rows(day)["r7"] == 1
    assert merge(day) and digest(files(day)) == changed and sum(rows(day).values()) == 6
    drop_superseded(day, older_than=0)
    assert digest(files(day)) == changed and sum(rows(day).values()) == 6


def test_files_of_an_older_schema_are_merged_with_those_of_today(tmp_path: Path) -> None:
    day = lay(tmp_path, 2)
    old = pa.table({"request_id": ["old"], "time": pa.array([DAY], pa.timestamp("us", "UTC"))})
    pq.write_table(old, day / "0-old.parquet")
    assert merge(day)
    (merged,) = files(day)
    found = {row["request_id"]: row for row in pq.ParquetFile(merged).read().to_pylist()}
    assert found.keys() == {"r0", "r1", "old"} and found["old"]["event_type"] is None


def test_the_judge_and_lineage_read_a_merged_day(tmp_path: Path) -> None:
    arm = {"variant": "challenger", "salt": "s", "stage": 1, "weight": 0.9999}
    for number in range(6):
        shown = exposure(f"r{number}", f"u{number}", ["i3"], **arm)
        moment = DAY + timedelta(minutes=number)
        write_days(tmp_path / "exposures", f"{number}-a", TABLES["exposures"], [(moment, {**shown, "time": moment})])
        clicked = {**outcome(f"r{number}", "i3", "click"), "time": moment, "received": moment}
        write_days(tmp_path / "outcomes", f"{number}-a", TABLES["outcomes"], [(moment, clicked)])
    policy = Policy(novelty_hours=0)
    for merged in (False, True):
        if merged:
            keep_up(tmp_path, LATER)
        with rollout_log.ExposureLog(tmp_path, salt="s", opened=DAY, now=LATER, policy=policy) as judged:
            assert judged.traffic(1).exposures == 6 and judged.successes().outcomes["success"].sum() == 6
        assert (find_exposure(tmp_path, "r4") or {})["user_id"] == "u4"


def test_days_beyond_retention_go_and_what_is_trained_on_stays_where_the_card_is_silent(tmp_path: Path) -> None:
    tables = ("exposures", "outcomes", "interactions", "set_aside")
    ends = {"silent": (None, KEPT), "said": (timedelta(days=30), timedelta(days=30))}
    for name, (retention, age) in ends.items():
        log = tmp_path / name
        for table in tables:
            for day in (DAY, DAY + timedelta(days=1)):
                lay(log, 2, day=day, table=table)
        lay(log, 1, day=DAY + age, table="exposures")
        keep_up(log, DAY + 3 * age, retention=retention)
        left = {table: [path.name for path in sorted((log / table).iterdir())] for table in tables}
        assert left["outcomes"] == left["set_aside"] == ["day=2026-03-02"], "an older one is gone, by the log's clock"
        assert left["exposures"][0] == "day=2026-03-02" and left["interactions"] == ["day=2026-03-01", "day=2026-03-02"]
        first = log / "interactions" / "day=2026-03-01"
        kept = sum(pq.ParquetFile(path).metadata.num_rows for path in files(first))
        assert kept == (0 if retention else 2)
        assert [path.stem for path in first.iterdir()] == [EXPIRED] or retention is None
        keep_up(log, DAY + 3 * age, retention=retention)
        assert files(first), "ingest would take a day that is gone for a loss"


@pytest.mark.parametrize("content", [b"PAR1 and nothing else", b"PAR1" + 16 * b"\xff" + b"\x10\0\0\0PAR1"])
def test_a_file_that_cannot_be_read_is_named_and_keeps_no_other_day_from_its_turn(
    content: bytes, tmp_path: Path
) -> None:
    bad, good = lay(tmp_path, 2), lay(tmp_path, 2, day=DAY + timedelta(days=1))
    (bad / "1000-ab.parquet").write_bytes(content)
    upkeep = Upkeep(tmp_path, tmp_path / "served", retention=None, clock=lambda: LATER + timedelta(days=9))
    with pytest.raises(OSError, match=r"day=2026-03-01: a file cannot be merged"):
        upkeep.step()
    assert upkeep.step() and len(files(good)) == 1


def test_the_consumer_merges_closed_days_beside_its_work(tmp_path: Path) -> None:
    fill(tmp_path)
    shop = Transport(tmp_path)
    day = lay(shop.log, 20)
    with shop.consumer() as consumer:
        consumer.round(flush=True)
        assert not consumer.problems
    assert len(files(day)) == 1 and sum(rows(day).values()) == 20
    os.utime(files(day)[0], (0, 0))
    with shop.consumer() as consumer:
        consumer.round(flush=True)
    assert len(list(day.iterdir())) == 1
