"""The resolve step: what a run needs to know of "now", as facts that can be repeated."""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.resolve import champion, step
from experiments.document import DocumentChange, ModelVersion
from experiments.table import RolloutTable
from runtime.errors import InputError
from tests.component.make_events import (
    at,
    change,
    event,
    item,
    make_card,
    write_events,
)

SHOPPING = [event("u", "a", at(0.5)), event("u", "b", at(1.5)), event("v", "a", at(1.7))]


def events(root, shopping=SHOPPING, items=("a", "b"), report=None):
    prices = [change("a", at(0), 1.0)]
    return write_events(root, make_card(), shopping, [item(name) for name in items], prices, report)


def resolve(artifact, tmp_path, as_of=None, **more):
    return step.run(card=make_card(), events=artifact, as_of=as_of, facts=tmp_path / "facts", **more)


def test_as_of_is_the_newest_event_unless_asked(tmp_path):
    artifact = events(tmp_path / "events")
    facts = resolve(artifact, tmp_path)
    assert datetime.fromisoformat(facts["as_of"]) == at(1.7)
    assert json.loads((tmp_path / "facts" / "facts.json").read_text()) == facts
    for asked in ("2026-01-02T03:00:00+03:00", "2026-01-02T00:00:00Z", at(1)):
        assert datetime.fromisoformat(resolve(artifact, tmp_path, asked)["as_of"]) == at(1)


def test_only_the_day_that_changed_has_another_digest(tmp_path):
    before = resolve(events(tmp_path / "one"), tmp_path)
    late = [*SHOPPING, event("w", "a", at(0.2))]
    after = resolve(events(tmp_path / "two", late), tmp_path)
    assert list(before["partitions"]) == ["2026-01-01", "2026-01-02"]
    changed = {day for day in before["partitions"] if before["partitions"][day] != after["partitions"][day]}
    assert changed == {"2026-01-01"}
    assert before["items_digest"] == after["items_digest"]
    assert resolve(events(tmp_path / "three", items="abc"), tmp_path)["items_digest"] != before["items_digest"]


def test_the_champion_of_the_moment_is_fetched_with_its_model(tmp_path):
    url = f"sqlite:///{tmp_path / 'rollout.db'}"
    before = tmp_path / "before"
    before.mkdir()
    assert champion.run(name="shop", rollout_url=url, champion=before) == {"version": None}
    assert not (before / "model").exists()

    released = tmp_path / "releases" / "shop" / "7"
    (released / "model").mkdir(parents=True)
    (released / "model" / "config.json").write_text("{}")
    (released / "served").mkdir()
    (released / "served" / "config.json").write_text("refitted")
    serving = ModelVersion(
        version="7",
        archive=str(released / "shop.mar"),
        archive_digest="a",
        recipe_digest="r",
        registered=datetime.now(UTC),
    )
    with RolloutTable(url) as table:
        row = table.read("shop")
        table.propose(DocumentChange(replace(row, champion=serving), "test", "the first"), row.version)
    after = tmp_path / "after"
    after.mkdir()
    assert champion.run(name="shop", rollout_url=url, champion=after) == {
        "version": "7", "recipe_digest": "r", "data_until": None, "reference": "7", "nights": [],
    }  # fmt: skip
    assert (after / "model" / "config.json").read_text() == "{}", "as it was judged: what serves has seen these days"
    assert (after / "reference" / "config.json").read_text() == "{}"
    assert not (after / "served").exists()

    shutil.rmtree(released)
    with pytest.raises(InputError, match="has no model there"):
        champion.run(name="shop", rollout_url=url, champion=before)


def test_the_nights_held_against_the_reference_of_now_are_handed_on(tmp_path):
    url, runs = f"sqlite:///{tmp_path / 'rollout.db'}", tmp_path / "runs"
    versions = {}
    for name, weights in (("old", "1"), ("new", "2"), ("new.1", "2")):
        folder = tmp_path / "releases" / "shop" / name
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "weights.pt").write_text(weights)
        versions[name] = ModelVersion(
            version=name, archive=str(folder / "shop.mar"), archive_digest=name, recipe_digest="r",
            registered=datetime.now(UTC), data_until=datetime(2026, 1, 9, tzinfo=UTC),
        )  # fmt: skip

    def night(run: str, day: int, started: str = "1", status: str = "done", **changed: str) -> None:
        artifact = tmp_path / "evaluation" / run
        artifact.mkdir(parents=True)
        table = {"user_id": [run], "ours": [1.0], "theirs": [0.5]}
        pq.write_table(pa.table(table), artifact / "night.parquet")
        as_of = datetime(2026, 1, day, tzinfo=UTC).isoformat()
        told = {"dataset": "shop", "recipe": "r", "reference": "old", "as_of": as_of, **changed}
        pq.write_table(pa.table({**table, "user_id": [f"{run}, tables"]}), artifact / "tables_night.parquet")
        nights = [{**told, "file": "night.parquet"}, {**told, "recipe": "t", "file": "tables_night.parquet"}]
        report = {"night": told} if run == "of another recipe" else {"nights": nights}  # as it was kept before
        (runs / run).mkdir(parents=True)
        record = {"status": status, "started": started, "report": report, "artifact": str(artifact)}
        (runs / run / "evaluate.json").write_text(json.dumps(record))

    def fetched(name: str, champion_: str, reference: str) -> tuple[Path, dict]:
        with RolloutTable(url) as table:
            row = table.read("shop")
            serving = replace(row, champion=versions[champion_], reference=versions[reference])
            table.propose(DocumentChange(serving, "test", ""), row.version)
        (tmp_path / name).mkdir()
        as_of = datetime(2026, 1, 10, tzinfo=UTC).isoformat()
        return tmp_path / name, champion.run(
            name="shop", rollout_url=url, champion=tmp_path / name, as_of=as_of, runs=runs
        )

    night("tonight", 10), night("yesterday", 9), night("again", 9, started="2"), night("later", 11)
    night("of another shop", 9, dataset="other"), night("against another", 9, reference="older")
    night("of another recipe", 8, recipe="r2"), night("failed", 7, status="failed")
    found, report = fetched("apart", "new", "old")
    assert (found / "reference" / "weights.pt").read_text() == "1" and report["data_until"].startswith("2026-01-09")
    users = [pq.read_table(found / each["file"])["user_id"][0].as_py() for each in report["nights"]]
    assert users == ["of another recipe", "again", "again, tables"]
    found, report = fetched("same weights", "new.1", "new")
    assert report["reference"] == "new" and not (found / "reference").exists() and report["nights"] == []
    shutil.rmtree(tmp_path / "evaluation" / "again")
    assert len(fetched("removed", "new", "old")[1]["nights"]) == 1, "a night less, and no fault"
    for name, memory in (("old", "1"), ("new", "1"), ("new.1", "2")):
        (tmp_path / "releases" / "shop" / name / "model" / "weights.pt").unlink()
        (tmp_path / "releases" / "shop" / name / "model" / "memory.npz").write_text(memory)
    assert not (fetched("same tables", "new", "old")[0] / "reference").exists()
    assert (fetched("other tables", "new.1", "old")[0] / "reference").exists()
    shutil.rmtree(tmp_path / "releases" / "shop" / "old")
    with pytest.raises(InputError, match=r"version old of 'shop'.*has no model there"):
        fetched("gone", "new", "old")


@pytest.mark.parametrize(
    ("as_of", "told"),
    [("yesterday", "found 'yesterday'"), ("2026-01-02T00:00:00", "no time zone"), (at(-3), "before the first event")],
)
def test_an_as_of_that_cannot_be_is_told(tmp_path, as_of, told):
    with pytest.raises(InputError, match=told):
        resolve(events(tmp_path / "events"), tmp_path, as_of)


def test_no_accepted_interaction_is_told(tmp_path):
    report = {"first_event": None, "last_event": None, "rows": 5, "rejected": 5, "reasons": {"malformed_time": 5}}
    with pytest.raises(InputError, match=r"no accepted interaction \(5 of 5 rows were set aside.*: malformed_time 5\)"):
        resolve(events(tmp_path / "events", report=report), tmp_path)


def test_an_artifact_of_another_kind_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"manifest\.json is missing"):
        resolve(tmp_path, tmp_path)
