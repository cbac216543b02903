"""The reference: which accepted run a new one is held against, and what is said where there is none to use."""

import json
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from components.resolve import reference
from components.shared.reference_files import SCHEMA
from components.validate.step import identity
from runtime.manifest import Manifest
from tests.component.make_events import at, make_card, write_facts

CARD = make_card()


def facts(root: Path, day: float = 9) -> Path:
    write_facts(root, at(day))
    Manifest.seal(root, kind="facts")
    return root


def accepted(home: Path, name: str, day: float, *, card=CARD, passed=True, status="done", schema=SCHEMA, on="") -> Path:
    """A run's record and its validation artifact; `on` is the digest of the facts that it judged."""
    artifact = home / "artifacts" / name
    artifact.mkdir(parents=True)
    parts = {"as_of": at(day).isoformat(), "source": {}, "days": {}, "events": {}, "features": {}}
    (artifact / "profile.json").write_text(
        json.dumps({"schema": schema, "run": name, **parts, "samples": {}, "vocabularies": {}})
    )
    Manifest.seal(artifact, kind="validation")
    report = {"passed": passed, **identity(card, write_facts(home / f"facts-{name}", at(day)))}
    record = {"status": status, "started": f"2026-02-{len(name):02d}", "report": report, "artifact": str(artifact)}
    folder = home / "runs" / name
    folder.mkdir(parents=True)
    (folder / "validate.json").write_text(json.dumps({**record, "parents": {"facts": on}}))
    return artifact


def resolve(home: Path, *, day: float = 9, asked: bool = False, anew: bool = False, card=CARD, log="none"):
    """(reference.json, name of the run whose profile it is)."""
    out = home / f"reference-{len(list(home.iterdir()))}"
    here = facts(home / f"here-{out.name}", day)
    said = reference.run(
        card=card, facts=here, runs=home / "runs", exposures=home / log,
        asked=at(day).isoformat() if asked else None, anew=anew, reference=out,
    )  # fmt: skip
    assert json.loads((out / "reference.json").read_text()) == said
    profile = out / "profile.json"
    return said, json.loads(profile.read_text())["run"] if profile.exists() else None


def test_the_first_run_has_no_reference_and_says_so(tmp_path):
    said, run = resolve(tmp_path)
    assert run is None and said["accepted"] is None and "No usable run was accepted" in said["notes"][0]


def test_the_last_accepted_run_on_this_source_is_taken(tmp_path):
    other = make_card(source={**CARD.source.model_dump(), "interactions": "others.csv"})
    accepted(tmp_path, "old", 3)
    accepted(tmp_path, "newest", 6)
    accepted(tmp_path, "blocked", 7, passed=False)
    accepted(tmp_path, "failed", 7, status="failed")
    accepted(tmp_path, "another source", 7, card=other)
    accepted(tmp_path, "another shop", 7, card=make_card(name="other"))
    said, run = resolve(tmp_path)
    assert run == "newest" and said["notes"] == [] and datetime.fromisoformat(said["accepted"]) == at(6)
    assert resolve(tmp_path, card=other)[1] == "another source"


def test_the_same_data_once_more_is_no_reference_for_itself(tmp_path):
    here = Manifest.read(facts(tmp_path / "same"), kind="facts").digest
    accepted(tmp_path, "before", 3)
    accepted(tmp_path, "same", 9, on=here)
    assert resolve(tmp_path)[1] == "before"


def test_a_run_for_an_earlier_moment_is_not_held_against_later_ones(tmp_path):
    accepted(tmp_path, "before", 3)
    accepted(tmp_path, "after", 8)
    assert resolve(tmp_path, day=5, asked=True)[1] == "before"
    # A source that suddenly ends earlier was not asked for: it is held against what it had.
    assert resolve(tmp_path, day=5)[1] == "after"


def test_a_damaged_profile_or_one_of_another_schema_is_left_out_and_said(tmp_path):
    accepted(tmp_path, "sound", 2)
    accepted(tmp_path, "older code", 4, schema=1)
    damaged = accepted(tmp_path, "damaged", 6) / "profile.json"
    damaged.write_text(damaged.read_text()[:40])
    said, run = resolve(tmp_path)
    assert run == "sound"
    assert [note.split(":")[0] for note in said["notes"]] == [
        "The accepted profile of run damaged is left out",
        "The accepted profile of run older code is left out",
    ]
    assert "content differs from its manifest" in said["notes"][0] and f"expected {SCHEMA}" in said["notes"][1]


def test_what_is_meant_to_change_is_held_against_nothing(tmp_path):
    accepted(tmp_path, "before", 3)
    said, run = resolve(tmp_path, anew=True)
    assert run is None and "begin anew" in said["notes"][0]


def exposure(item: str, day: float, **features) -> dict:
    return {"request_id": "r", "user_id": "u", "item_id": item, "event_time": at(day).isoformat(), "position": 0,
            "version": "1", **features}  # fmt: skip


def served(home: Path, reference_folder: str) -> list[dict]:
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        found = db.read_parquet(str(home / reference_folder / "exposures.parquet")).order("item_id")
        return found.to_arrow_table().to_pylist()


def test_exposures_of_the_last_week_are_taken_from_both_formats(tmp_path):
    log = tmp_path / "log" / "day=2026-01-08"
    log.mkdir(parents=True)
    rows = [exposure("old", 1, price=1.0), exposure("a", 5, price=2.0, image=[1.0, 2.0, 3.0]), exposure("later", 10)]
    # The gateway is still writing its last line.
    (log / "part.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + '\n{"request_id": "r", "item')
    with duckdb.connect() as db:
        db.sql(f"SELECT 'r' AS request_id, 'b' AS item_id, TIMESTAMPTZ '{at(6)}' AS event_time, 0 AS position, "
               "3.5::FLOAT AS price, 'u' AS user_id").write_parquet(str(log / "part.parquet"))  # fmt: skip
    said, _ = resolve(tmp_path, log="log")
    assert said["exposures"] == 2 and not said["served_fault"]
    (folder,) = [path.name for path in tmp_path.glob("reference-*")]
    found = served(tmp_path, folder)
    assert [(row["item_id"], row["price"], row["image"]) for row in found] == [
        ("a", 2.0, [1.0, 2.0, 3.0]),
        ("b", 3.5, None),
    ]
    assert found[0]["event_time"] == datetime(2026, 1, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        (None, "", "No exposures at"),
        ("part.parquet", "half a file", "cannot be read"),
        ("part.jsonl", '{"item": "a"}\n', "cannot be read"),
        ("part.jsonl", json.dumps(exposure("a", 100)) + "\n", "No exposures at"),
    ],
)
def test_an_event_log_without_usable_exposures_is_said_and_stops_nothing(tmp_path, file, content, told):
    if file:
        (tmp_path / "log").mkdir()
        (tmp_path / "log" / file).write_text(content)
    said, _ = resolve(tmp_path, log="log")
    assert said["exposures"] == 0 and told in said["served"]
    assert said["served_fault"] == (told == "cannot be read")
