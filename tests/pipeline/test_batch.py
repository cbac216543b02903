"""Lists for all shoppers: those of a request one by one, whole after any kill, and never of two models."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from components.recommend.parts import PARTS, PLAN, part_of
from components.recommend.step import (
    REPORT,
    ROWS,
    Done,
    of_champion,
    recommend,
    run,
)
from components.recommend.task import recommend as again
from components.shared.expected_tasks import missing
from experiments.table import RolloutTable
from feature_repo.store import histories_path
from pipelines import local, recommend_run
from pipelines.__main__ import main
from pipelines.forget import PERSONAL
from runtime import workspace
from runtime.errors import InputError
from runtime.files import replacing
from runtime.manifest import Manifest
from runtime.workspace import ROOT
from serving.gateway.online import OnlineStore
from serving.releases import Releases
from serving.scoring.scorer import Scorer
from tests.serving.tiny_archive import ITEMS, write_content

SHOPPERS = [f"u{number:03}" for number in range(23)]


@dataclass(frozen=True)
class Made:
    """Histories by rule; every fifth shopper has none, some know a strange item. With `slow`, a second each call."""

    slow: float = 0.0

    def __call__(self, users: Any) -> dict[str, list[dict[str, Any]]]:
        time.sleep(self.slow)
        return {user: [] if int(user[1:]) % 5 == 0 else _history(int(user[1:])) for user in users}


def _history(number: int) -> list[dict[str, Any]]:
    return [
        {
            "item_id": ITEMS[(number * each) % len(ITEMS)] if each != 3 else "gone",
            "event_time": f"2026-01-05T{each:02}:00:00Z",
            "features": {"price": 1.0 + each, "shelf": "top"},
        }
        for each in range(1, 2 + number % 4)
    ]


class Broken:
    """A store whose times are none."""

    def __call__(self, users: Any) -> dict[str, list[dict[str, Any]]]:
        return {user: [{"item_id": ITEMS[0], "event_time": "never", "features": {}}] for user in users}


def made(content: Path, out: Path, **changes: Any) -> Done:
    asked: dict[str, Any] = {"version": "1.0", "archive_digest": "d", "users": SHOPPERS, "k": 4, "part": 4}
    return recommend(content=content, model="shop", out=out, **{"histories": Made(), **asked, **changes})


def lists(out: Path) -> pa.Table:
    return ds.dataset(out / PARTS, format="parquet").to_table()


def parts(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / PARTS).iterdir())}


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_content(tmp_path_factory.mktemp("batch") / "content")


def test_every_list_is_what_a_request_alone_is_answered(content: Path, tmp_path: Path) -> None:
    done = made(content, tmp_path / "out", users=[*reversed(SHOPPERS), "u001"])
    rows, scorer = lists(tmp_path / "out").to_pylist(), Scorer.load(content)
    assert list(dict.fromkeys(row["user_id"] for row in rows)) == SHOPPERS
    for user in SHOPPERS:
        (alone,) = scorer.score([{"user_id": user, "k": 4, "history": Made()([user])[user]}])
        mine = [row for row in rows if row["user_id"] == user]
        assert [row["item_id"] for row in mine] == [item["item_id"] for item in alone["items"]]
        assert [row["score"] for row in mine] == pytest.approx([item["score"] for item in alone["items"]], abs=1e-4)
        assert [row["rank"] for row in mine] == list(range(1, len(mine) + 1))
        assert {row["by"] for row in mine} == {alone.get("fallback", "model")}
    report = json.loads((tmp_path / "out" / REPORT).read_text())
    assert (done.rows, done.found, report["rows"], report["shoppers"]) == (len(rows), 0, len(rows), len(SHOPPERS))


def test_two_processes_write_what_one_writes(content: Path, tmp_path: Path) -> None:
    made(content, tmp_path / "one")
    made(content, tmp_path / "two", processes=2)
    assert parts(tmp_path / "two") == parts(tmp_path / "one")


KILLED = """
import sys
from pathlib import Path
from tests.pipeline.test_batch import Made, made

made(Path(sys.argv[1]), Path(sys.argv[2]), histories=Made(slow=0.2))
"""


def kill_with(program: str, content: Path, out: Path, *, least: int) -> None:
    """Run `program` on `content` and `out`, and kill it when it has made so many parts."""
    command = [sys.executable, "-c", program, str(content), str(out)]
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 300
    while len(list((out / PARTS).glob("part-*"))) < least:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_what_was_killed_goes_on_without_a_wrong_or_missing_row(content: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made(content, tmp_path / "whole")
    for least in (1, 3):
        kill_with(KILLED, content, out, least=least)
        assert not (out / REPORT).exists()
    with replacing(part_of(out, 99)) as half:
        half.touch()
    part_of(out, 99).unlink()
    half.write_bytes(b"what a kill leaves")
    untouched = {path: path.stat().st_mtime_ns for path in (out / PARTS).glob("part-*")}
    done = made(content, out)
    assert done.found == len(untouched) >= 3
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
    assert parts(out) == parts(tmp_path / "whole")
    assert (out / REPORT).read_text() == (tmp_path / "whole" / REPORT).read_text()


def test_a_folder_that_was_killed_while_it_was_begun_is_begun_again(content: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / PARTS).mkdir(parents=True)
    with replacing(out / PLAN) as half:
        half.touch()
    (out / PLAN).unlink()
    half.write_bytes(b"what a kill leaves")
    assert made(content, out).rows > 0 and not half.exists()


def test_a_part_that_was_damaged_is_made_anew(content: Path, tmp_path: Path) -> None:
    made(content, tmp_path / "out")
    before = parts(tmp_path / "out")
    (tmp_path / "out" / PARTS / "part-00002.parquet").write_bytes(b"no parquet")
    pq.write_table(pa.table({"other": [1]}), tmp_path / "out" / PARTS / "part-00003.parquet")
    assert made(content, tmp_path / "out").found == len(before) - 2
    assert parts(tmp_path / "out") == before


@pytest.mark.parametrize(
    "change", [{"version": "2.0"}, {"archive_digest": "e"}, {"k": 5}, {"users": SHOPPERS[1:]}, {"part": 5}], ids=str
)
def test_a_folder_holds_the_lists_of_one_model_and_question(content: Path, tmp_path: Path, change: Any) -> None:
    made(content, tmp_path / "out")
    before = parts(tmp_path / "out")
    with pytest.raises(InputError, match=r"was begun with .*; name a new folder"):
        made(content, tmp_path / "out", **change)
    assert parts(tmp_path / "out") == before


def test_a_folder_of_other_things_stays_as_it_is(content: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=f"is not empty and holds no {PLAN}"):
        made(content, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_the_model_refuses_is_told(content: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the model refuses what is asked"):
        made(content, tmp_path / "out", histories=Broken())
    assert not (tmp_path / "out" / REPORT).exists()


def test_more_items_than_a_request_is_answered_are_refused_and_not_cut(content: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="k: found 101, expected at most"):
        made(content, tmp_path / "out", k=101)
    assert not (tmp_path / "out").exists()


def test_the_champion_s_lists_are_what_it_answers_with_the_gateway_s_history(
    pushed_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETERREC_HOME", str(pushed_home))
    out = tmp_path / "lists"
    assert main(["recommend", "--dataset", "marketplace", "--k", "20", "--out", str(out), "--processes", "1"]) == 0
    found: dict[str, list[tuple[str, float]]] = {}
    for row in lists(out).to_pylist():
        found.setdefault(row["user_id"], []).append((row["item_id"], row["score"]))
    known = pq.read_table(histories_path(workspace.feature_store("marketplace")))["user_id"].to_pylist()
    assert list(found) == sorted(known) and len(known) > 100
    with RolloutTable(workspace.rollout_url()) as table:
        champion = table.read("marketplace").champion
    assert champion is not None
    with zipfile.ZipFile(Releases("marketplace", workspace.archives()).fetched(champion)) as packed:
        packed.extractall(tmp_path / "content")
    scorer, history = (
        Scorer.load(tmp_path / "content"),
        OnlineStore("marketplace", workspace.feature_store("marketplace")).history,
    )
    for user in sorted(known)[:: len(known) // 20]:
        (answer,) = scorer.score([{"user_id": user, "k": 20, "history": history(user)}])
        assert [item for item, _ in found[user]] == [item["item_id"] for item in answer["items"]]
        assert [score for _, score in found[user]] == pytest.approx(
            [item["score"] for item in answer["items"]], abs=1e-4
        )


def test_the_recurring_run_makes_the_command_s_lists_goes_on_where_it_was_killed_and_keeps_few(
    tiny_home: Path, tmp_path: Path
) -> None:
    out = tmp_path / "lists"
    assert of_champion("tiny", k=3, out=out, processes=1).rows > 3
    records = local.execute(recommend_run.build, run_id="lists-1", model="tiny", k=3, processes=1)
    assert records["recommend"].status == "done" and not missing(recommend_run.NAME, records, "SUCCEEDED")
    artifact = Path(records["recommend"].artifact)
    assert lists(artifact).equals(lists(out)) and Manifest.verify(artifact, kind="lists")
    for run_id in ("lists-2", "lists-3"):
        again(run_id=run_id, model="tiny", k=3, processes=1, lists=str(tmp_path / run_id))
    kept = sorted(path.name for path in artifact.parent.iterdir())
    assert kept == ["lists-2-recommend", "lists-3-recommend"] and "lists" in PERSONAL

    begun = tmp_path / "scratch" / "lists"  # as a killed attempt leaves it
    shutil.copytree(out, begun)
    (begun / REPORT).unlink()
    asked: dict[str, Any] = {"model": "tiny", "processes": 1, "scratch": tmp_path / "scratch"}
    report = run(k=3, lists=tmp_path / "again", **asked)
    assert report["parts_found"] == report["parts"] > 0 and lists(tmp_path / "again").equals(lists(out))
    other = run(k=2, lists=tmp_path / "other", **asked)
    assert other["parts_found"] == 0 and other["rows"] < report["rows"], "of another question it is begun anew"


def test_nobody_is_nothing(content: Path, tmp_path: Path) -> None:
    assert made(content, tmp_path / "out", users=[]).rows == 0
    assert ROWS.names == ["user_id", "rank", "item_id", "score", "by"]
