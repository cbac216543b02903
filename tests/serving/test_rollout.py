"""The document that says what serves, and the table that lets nobody overwrite another's change."""

import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from experiments import transitions
from experiments.document import (
    STAGES,
    DocumentChange,
    ModelVersion,
    ReleaseOutcome,
    Rollout,
    release,
)
from experiments.table import RolloutTable, StaleRollout

NOW = datetime(2026, 1, 5, 10, tzinfo=UTC)
ROOT = Path(__file__).parents[2]


def version(name: str, recipe: str) -> ModelVersion:
    return ModelVersion(
        version=name, archive=f"/store/{name}.mar", archive_digest=f"d-{name}", recipe_digest=recipe, registered=NOW
    )


def after(*models: ModelVersion, rollout: Rollout | None = None) -> ReleaseOutcome:
    """Release the models one after the other."""
    outcome = ReleaseOutcome("already released", rollout or Rollout(model="shop"), "")
    for number, model in enumerate(models):
        outcome = release(outcome.rollout, model, now=NOW, salt=lambda n=number: f"salt-{n}")
    return outcome


def test_the_first_model_becomes_champion_without_an_experiment() -> None:
    outcome = after(version("a", "r1"))
    assert outcome.status == "champion"
    first = version("a", "r1")
    assert outcome.rollout == Rollout(model="shop", champion=first, reference=first, since=NOW)


def test_the_same_recipe_refreshes_the_champion_and_opens_no_experiment() -> None:
    outcome = after(version("a", "r1"), version("b", "r1"))
    assert outcome.status == "refreshed"
    assert outcome.rollout.serving == (version("b", "r1"),)
    assert outcome.rollout.weight == 0


def test_refreshes_do_not_become_what_refreshes_are_held_against() -> None:
    """Only the winner of an experiment does, once its watch is over, and a refresh that is surely better."""
    row = after(*(version(name, "r1") for name in "abcdef")).rollout
    assert (row.champion, row.reference) == (version("f", "r1"), version("a", "r1"))
    better = release(row, version("g", "r1"), now=NOW, salt=lambda: "s", better=True).rollout
    assert better.reference == better.champion == version("g", "r1")
    won = transitions.promote(release(row, version("h", "r2"), now=NOW, salt=lambda: "s").rollout, now=NOW)
    assert won.reference == version("a", "r1"), "while it is watched it may still go back"
    assert transitions.roll_back(won, now=NOW, salt=lambda: "s").reference == version("a", "r1")
    assert transitions.end_watch(won, now=NOW, salt=lambda: "s").reference == version("h", "r2")
    challenger = release(
        release(row, version("h", "r2"), now=NOW, salt=lambda: "s").rollout, version("i", "r2"), now=NOW,
        salt=lambda: "s", better=True,
    )  # fmt: skip
    assert challenger.rollout.reference == version("a", "r1"), "it has not won yet"


def test_a_document_of_before_there_was_a_reference_holds_refreshes_against_its_champion_from_then_on() -> None:
    old = Rollout(model="shop", champion=version("a", "r1"), since=NOW).to_json()
    del old["reference"], old["champion"]["data_until"], old["champion"]["network"]
    row = Rollout.from_json(old)
    assert row.held_against == version("a", "r1") and row.champion.fresh_as_of == NOW
    assert after(version("b", "r1"), version("c", "r1"), rollout=row).rollout.reference == version("a", "r1")


def test_a_new_recipe_becomes_challenger_at_the_first_stage() -> None:
    outcome = after(version("a", "r1"), version("b", "r2"))
    assert outcome.status == "challenger"
    assert outcome.rollout.serving == (version("a", "r1"), version("b", "r2"))
    assert (outcome.rollout.weight, outcome.rollout.stage, outcome.rollout.salt) == (STAGES[0], 0, "salt-1")


def test_a_refresh_of_the_challenger_keeps_stage_salt_and_start_of_its_experiment() -> None:
    opened = replace(after(version("a", "r1"), version("b", "r2")).rollout, stage=2, weight=STAGES[2])
    outcome = after(version("c", "r2"), rollout=opened)
    assert outcome == ("refreshed", replace(opened, challenger=version("c", "r2")), outcome.why)


def test_candidates_queue_while_an_experiment_runs_and_a_refresh_of_a_waiting_one_takes_its_place() -> None:
    outcome = after(*(version(n, r) for n, r in [("a", "r1"), ("b", "r2"), ("c", "r3"), ("d", "r4"), ("e", "r3")]))
    assert outcome.status == "queued"
    assert outcome.rollout.serving == (version("a", "r1"), version("b", "r2"))
    assert outcome.rollout.queue == (version("d", "r4"), version("e", "r3"))


def test_an_archive_that_serves_or_waits_is_not_released_twice() -> None:
    everyone = [version("a", "r1"), version("b", "r2"), version("c", "r3")]
    rollout = after(*everyone).rollout
    assert all(
        after(model, rollout=rollout) == ("already released", rollout, after(model, rollout=rollout).why)
        for model in everyone
    )


def test_a_document_survives_json() -> None:
    rollout = after(*(version(n, r) for n, r in [("a", "r1"), ("b", "r2"), ("c", "r3")])).rollout
    assert Rollout.from_json(rollout.to_json()) == rollout


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/new/rollout.db"


def test_a_change_that_expected_an_older_row_is_refused_and_leaves_no_trace(url: str) -> None:
    first, second = after(version("a", "r1")).rollout, after(version("b", "r2")).rollout
    with RolloutTable(url) as table:
        table.propose(DocumentChange(first, "push", "first"), 0)
        for expected in (0, 2):
            with pytest.raises(StaleRollout, match=f"no longer at version {expected}"):
                table.propose(DocumentChange(second, "person", "mine"), expected)
        assert table.read("shop") == replace(first, version=1)
        assert [entry.why for entry in table.history("shop")] == ["first"]


def test_history_keeps_when_who_why_and_each_document(url: str) -> None:
    first = after(version("a", "r1")).rollout
    second = after(version("b", "r2"), rollout=first).rollout
    with RolloutTable(url, clock=lambda: NOW) as table:
        table.propose(DocumentChange(first, "push", "first"), 0)
        table.propose(DocumentChange(second, "anna", "try b"), 1)
    with RolloutTable(url) as table:  # as another process would
        entries = table.history("shop")
        assert [(e.at, e.who, e.why, e.rollout.version) for e in entries] == [
            (NOW, "push", "first", 1),
            (NOW, "anna", "try b", 2),
        ]
        assert entries[0].rollout.challenger is None and entries[1].rollout == table.read("shop")
        assert table.models() == ["shop"] and table.read("other") == Rollout(model="other")


WRITER = """
import sys
from dataclasses import replace
from datetime import UTC, datetime
from experiments.document import DocumentChange, ModelVersion
from experiments.table import RolloutTable, StaleRollout
url, who = sys.argv[1:]
with RolloutTable(url) as table:
    for number in range(20):
        name = f"{who}{number}"
        model = ModelVersion(version=name, archive=name, archive_digest=name, recipe_digest=name,
                             registered=datetime.now(UTC))
        while True:
            row = table.read("shop")
            try:
                table.propose(DocumentChange(replace(row, queue=(*row.queue, model)), who, name), row.version)
                break
            except StaleRollout:
                continue
"""


def test_two_processes_that_write_at_once_lose_no_update(url: str) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, url, who], cwd=ROOT) for who in "xy"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    with RolloutTable(url) as table:
        queue = [model.version for model in table.read("shop").queue]
        assert sorted(queue) == sorted(f"{who}{n}" for who in "xy" for n in range(20))
        assert [entry.why for entry in table.history("shop")] == queue
