"""Every move of an experiment, on every kind of document: what it changes, what it leaves, and where it is refused."""

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from experiments import transitions
from experiments.document import ModelVersion, Rollout, SentBack

BEGAN = datetime(2026, 1, 5, 10, tzinfo=UTC)
NOW = BEGAN + timedelta(days=2)


def version(name: str) -> ModelVersion:
    about = {"archive": f"/store/{name}.mar", "archive_digest": f"d-{name}", "recipe_digest": name, "registered": BEGAN}
    return ModelVersion(version=name, **about)  # type: ignore[arg-type]


A, B, C, D = map(version, "abcd")
EMPTY = Rollout(model="shop")
ALONE = replace(EMPTY, champion=A, reference=A, since=BEGAN, version=7)
OPENED = replace(ALONE, challenger=B, stage=1, weight=0.05, salt="salt")
WATCHED = replace(ALONE, champion=B, former=A, salt="salt")
WAITING = {"queue": (C, D)}
WEEK = timedelta(days=7)
RESTS = (SentBack(recipe_digest="b", until=NOW + WEEK),)
RESTING = replace(ALONE, sent_back=RESTS)
MOVES: dict[str, Callable[[Rollout], Rollout]] = {
    "raise": lambda row: transitions.raise_weight(row, 0.25, now=NOW),
    "promote": lambda row: transitions.promote(row, now=NOW),
    "roll back": lambda row: transitions.roll_back(row, now=NOW, salt=lambda: "fresh"),
    "end watch": lambda row: transitions.end_watch(row, now=NOW, salt=lambda: "fresh"),
    "pause": lambda row: transitions.pause(row, True),
    "resume": lambda row: transitions.pause(row, False),
    "readmit": lambda row: transitions.readmit(row, now=NOW),
}


def changed(move: str, row: Rollout) -> dict[str, Any]:
    """The fields that the move changed, and to what."""
    after = MOVES[move](row)
    names = [field.name for field in fields(row)]
    return {name: getattr(after, name) for name in names if getattr(after, name) != getattr(row, name)}


@pytest.mark.parametrize(
    ("move", "row", "change"),
    [
        ("raise", OPENED, {"stage": 2, "weight": 0.25, "since": NOW}),
        ("raise", replace(OPENED, stage=0, weight=0.01), {"stage": 1, "weight": 0.25, "since": NOW}),
        ("raise", replace(OPENED, paused=True), {"stage": 2, "weight": 0.25, "since": NOW}),
        (
            "promote",
            OPENED,
            {"champion": B, "former": A, "challenger": None, "stage": None, "weight": 0.0, "since": NOW},
        ),
        (
            "roll back",
            OPENED,
            {"challenger": None, "stage": None, "weight": 0.0, "salt": "", "since": NOW, "sent_back": RESTS},
        ),
        ("roll back", WATCHED, {"champion": A, "former": None, "salt": "", "since": NOW, "sent_back": RESTS}),
        ("end watch", WATCHED, {"former": None, "reference": B, "salt": "", "since": NOW}),
        (
            "end watch",
            replace(WATCHED, sent_back=RESTS),
            {"former": None, "reference": B, "salt": "", "since": NOW, "sent_back": ()},
        ),
        ("readmit", RESTING, {"sent_back": (replace(RESTS[0], until=NOW),)}),
        ("pause", OPENED, {"paused": True}),
        ("pause", WATCHED, {"paused": True}),
        ("resume", replace(OPENED, paused=True), {"paused": False}),
        ("resume", replace(WATCHED, paused=True), {"paused": False}),
    ],
)
def test_a_move_changes_what_it_is_for_and_nothing_else(move: str, row: Rollout, change: dict[str, Any]) -> None:
    assert changed(move, row) == change


@pytest.mark.parametrize(
    ("move", "row"), [("promote", OPENED), ("roll back", OPENED), ("roll back", WATCHED), ("end watch", WATCHED)]
)
def test_what_ends_an_experiment_ends_its_pause(move: str, row: Rollout) -> None:
    assert not MOVES[move](replace(row, paused=True)).paused


@pytest.mark.parametrize(("move", "row"), [("roll back", OPENED), ("roll back", WATCHED), ("end watch", WATCHED)])
def test_the_candidate_that_waited_longest_opens_its_experiment(move: str, row: Rollout) -> None:
    """With a salt of its own, so that arms are drawn anew; the others wait on."""
    alone, after = MOVES[move](row), MOVES[move](replace(row, **WAITING))
    assert (after.challenger, after.queue, after.salt, after.stage) == (C, (D,), "fresh", 0)
    assert (after.champion, after.former, after.reference) == (alone.champion, None, alone.reference)
    assert 0 < after.weight < 0.05 and after.since == NOW


@pytest.mark.parametrize("move", ["raise", "promote", "pause"])
def test_while_an_experiment_goes_on_all_wait(move: str) -> None:
    assert MOVES[move](replace(OPENED, **WAITING)).queue == (C, D)


@pytest.mark.parametrize("row", [OPENED, WATCHED])
def test_a_recipe_that_is_sent_back_again_and_again_rests_longer_and_what_was_found_adds_up(row: Rollout) -> None:
    other = SentBack(recipe_digest="other", until=NOW)
    row, rests = replace(row, sent_back=(other,)), []
    for found in ((100.0, -0.2), (300.0, 0.0), (0.0, 0.0), (400.0, 0.1), (0.0, 0.0), (0.0, 0.0)):
        after = transitions.roll_back(row, now=NOW, salt=str, effective=found[0], change=found[1])
        row = replace(row, sent_back=after.sent_back)
        assert after.sent_back[0] == other
        rests.append((after.sent_back[1].until - NOW) / WEEK)
    assert rests == [1, 2, 4, 8, 13, 13]
    assert after.sent_back[1].effective == 800 and after.sent_back[1].change == pytest.approx(0.025)
    assert after.sent_back[1].times == 6


REFUSED = {
    "readmit": {"empty", "alone", "opened", "watched"},
    "raise": {"empty", "alone", "watched"},
    "promote": {"empty", "alone", "watched"},
    "roll back": {"empty", "alone"},
    "end watch": {"empty", "alone", "opened"},
    "pause": {"empty", "alone", "opened, paused", "watched, paused"},
    "resume": {"empty", "alone", "opened", "watched"},
}


@pytest.mark.parametrize("move", MOVES)
def test_a_move_that_is_not_open_to_a_document_is_refused_and_says_so(move: str) -> None:
    assert MOVES["readmit"](RESTING) and not any(each.until > NOW for each in MOVES["readmit"](RESTING).sent_back)
    rows = {"empty": EMPTY, "alone": ALONE, "opened": OPENED, "watched": WATCHED}
    rows |= {f"{name}, paused": replace(rows[name], paused=True) for name in ("opened", "watched")}
    refused = set()
    for name, row in rows.items():
        try:
            MOVES[move](row)
        except transitions.WrongMove as fault:
            assert str(fault).startswith("shop: ")
            refused.add(name)
    # But for pause and resume it is all the same whether a person holds the experiment.
    pausing = move in ("pause", "resume")
    assert refused == REFUSED[move] | (
        set() if pausing else {f"{name}, paused" for name in REFUSED[move]} & rows.keys()
    )


@pytest.mark.parametrize("weight", [0.05, 0.049, 0.0])
def test_no_shopper_who_met_the_challenger_loses_it_by_a_raise(weight: float) -> None:
    with pytest.raises(transitions.WrongMove, match=r"is not above 5%; to lower it, roll back"):
        transitions.raise_weight(OPENED, weight, now=NOW)
