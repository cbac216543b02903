"""The document by itself: which there cannot be, what a release does to each kind, and that JSON keeps all of it."""

from dataclasses import fields, replace
from datetime import (
    UTC,
    datetime,
    timedelta,
    timezone,
)
from typing import Any

import pytest

from experiments import transitions
from experiments.document import (
    STAGES,
    Emptied,
    ModelVersion,
    Rollout,
    SentBack,
    release,
    rest,
    succeeding,
)

BEGAN = datetime(2026, 1, 5, 10, tzinfo=UTC)
NOW = BEGAN + timedelta(days=2)


def version(name: str, recipe: str = "", **about: Any) -> ModelVersion:
    return ModelVersion(
        version=name, archive=name, archive_digest=f"d-{name}", recipe_digest=recipe or name, registered=BEGAN, **about
    )


A, B, C, D = map(version, "abcd")
EMPTY = Rollout(model="shop")
ALONE = replace(EMPTY, champion=A, reference=A, since=BEGAN, version=7)
OPENED = replace(ALONE, challenger=B, stage=1, weight=0.05, salt="salt")
WATCHED = replace(ALONE, champion=B, former=A, salt="salt")


@pytest.mark.parametrize(
    ("row", "change"),
    [
        (ALONE, {"challenger": B}),
        (ALONE, {"stage": 0, "weight": 0.01}),
        (ALONE, {"weight": 0.01}),
        (OPENED, {"challenger": None}),
        (OPENED, {"stage": None}),
        (OPENED, {"weight": 0.0}),
        (OPENED, {"weight": 1.01}),
        (OPENED, {"champion": None}),
        (WATCHED, {"champion": None}),
        (OPENED, {"former": C}),
        (WATCHED, {"challenger": C, "stage": 0, "weight": 0.01}),
    ],
)
def test_no_move_leaves_half_an_experiment(row: Rollout, change: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        replace(row, **change)


def test_all_shoppers_may_meet_a_challenger_and_a_time_has_a_zone() -> None:
    assert replace(OPENED, stage=4, weight=1.0).weight == 1
    with pytest.raises(AssertionError):
        replace(A, registered=BEGAN.replace(tzinfo=None))


AS_CHAMPION = {"champion": version("n", "a")}
OPENS = {"challenger": version("n"), "stage": 0, "weight": STAGES[0], "salt": "fresh", "since": NOW}
RESTS = (SentBack(recipe_digest="n", until=NOW + timedelta(seconds=1), times=3, effective=900.0, change=-0.08),)
RESTING = replace(ALONE, sent_back=RESTS)
BUSY, WATCHING = "n waits: b is being compared with the champion", "n waits: b was just promoted and is being watched"
RELEASES: list[tuple[Rollout, str, bool, str, str, dict[str, Any]]] = [
    (EMPTY, "n", False, "champion", "n is the first model of shop",
     {"champion": version("n"), "reference": version("n"), "since": NOW}),
    (ALONE, "a", False, "refreshed", "n refreshes the champion a: same recipe", AS_CHAMPION),
    (ALONE, "a", True, "refreshed", "n refreshes the champion a", AS_CHAMPION | {"reference": version("n", "a")}),
    (ALONE, "n", False, "challenger", "n is a new recipe: challenger of a for 1% of shoppers", OPENS),
    (replace(ALONE, paused=True), "n", True, "challenger", "n is a new recipe", OPENS | {"paused": False}),
    (OPENED, "a", False, "refreshed", "n refreshes the champion a", AS_CHAMPION),
    (OPENED, "a", True, "refreshed", "n refreshes the champion a", AS_CHAMPION | {"reference": version("n", "a")}),
    (OPENED, "b", False, "refreshed", "n refreshes the challenger b", {"challenger": version("n", "b")}),
    (OPENED, "b", True, "refreshed", "n refreshes the challenger b", {"challenger": version("n", "b")}),
    (OPENED, "n", False, "queued", BUSY, {"queue": (version("n"),)}),
    (replace(OPENED, queue=(C, D)), "n", False, "queued", BUSY, {"queue": (C, D, version("n"))}),
    (replace(OPENED, queue=(C, D)), "c", False, "queued", BUSY, {"queue": (D, version("n", "c"))}),
    (WATCHED, "a", True, "refreshed", "n refreshes the former a", {"former": version("n", "a")}),
    (WATCHED, "b", False, "refreshed", "n refreshes the champion b", {"champion": version("n", "b")}),
    # While it is watched it may still go back, and then it would be the reference of another recipe's refreshes.
    (WATCHED, "b", True, "refreshed", "n refreshes the champion b", {"champion": version("n", "b")}),
    (WATCHED, "n", False, "queued", WATCHING, {"queue": (version("n"),)}),
    # What was sent back rests: it neither opens an experiment nor waits for one.
    (RESTING, "n", True, "resting", "n is not tried: its recipe was sent back 3 times, at -8.0%", {}),
    (replace(OPENED, sent_back=RESTS), "n", False, "resting", "n is not tried", {}),
    (RESTING, "c", False, "challenger", "n is a new recipe", OPENS | {"challenger": version("n", "c")}),
    (replace(ALONE, sent_back=(replace(RESTS[0], until=NOW),)), "n", False, "challenger", "n is a new recipe", OPENS),
    # An arm is refreshed all the same.
    (replace(WATCHED, sent_back=(replace(RESTS[0], recipe_digest="a"),)), "a", True, "refreshed", "n refreshes",
     {"former": version("n", "a")}),
]  # fmt: skip


@pytest.mark.parametrize(("row", "recipe", "better", "status", "why", "change"), RELEASES)
def test_a_release_changes_what_it_is_for_and_nothing_else(
    row: Rollout, recipe: str, better: bool, status: str, why: str, change: dict[str, Any]
) -> None:
    made = release(row, version("n", recipe), now=NOW, salt=lambda: "fresh", better=better)
    after = made.rollout
    names = [field.name for field in fields(row) if getattr(after, field.name) != getattr(row, field.name)]
    assert {name: getattr(after, name) for name in names} == change
    assert made.status == status and made.why.startswith(why)


@pytest.mark.parametrize("better", [False, True])
def test_whoever_goes_back_from_the_watch_leaves_no_trace_in_the_reference(better: bool) -> None:
    watched = release(WATCHED, version("n", "b"), now=NOW, salt=lambda: "s", better=better).rollout
    assert transitions.roll_back(watched, now=NOW, salt=lambda: "s").reference == A
    assert transitions.end_watch(watched, now=NOW, salt=lambda: "s").reference == version("n", "b")


def test_a_refresh_is_better_only_where_it_is_said_to_be_and_old_rows_hold_it_against_their_champion() -> None:
    for row in (ALONE, replace(ALONE, reference=None)):
        assert release(row, version("n", "a"), now=NOW, salt=lambda: "s").rollout.reference == A


@pytest.mark.parametrize("row", [OPENED, WATCHED, replace(OPENED, queue=(C, D))])
def test_what_serves_or_waits_is_not_released_again_under_any_name(row: Rollout) -> None:
    for known in row.known:
        again = replace(version("x", "new recipe"), archive_digest=known.archive_digest)
        made = release(row, again, now=NOW, salt=lambda: "s")
        assert (made.status, made.rollout, made.why) == ("already released", row, "x is part of the rollout already")


def test_what_has_to_be_loaded_champion_first() -> None:
    assert EMPTY.serving == () and EMPTY.known == ()
    assert OPENED.roles == {"champion": A, "challenger": B} and OPENED.serving == (A, B)
    assert WATCHED.roles == {"champion": B, "former": A} and list(WATCHED.roles) == ["champion", "former"]
    assert replace(OPENED, queue=(C, D)).known == (A, B, C, D)


def test_the_pace_of_a_network_and_of_tables_is_not_alike() -> None:
    tables = version("t", network=False)
    assert EMPTY.alike and ALONE.alike and OPENED.alike and replace(ALONE, champion=tables).alike
    assert not replace(OPENED, challenger=tables).alike and not replace(WATCHED, former=tables).alike
    assert replace(OPENED, queue=(tables,)).alike, "what waits is not compared yet"


def test_a_table_that_lost_its_champion_is_not_believed() -> None:
    for before in (None, EMPTY, replace(ALONE, model="other")):
        assert succeeding(EMPTY, before) == EMPTY
    assert succeeding(OPENED, ALONE) == OPENED
    with pytest.raises(Emptied, match="names no champion of shop any more"):
        succeeding(EMPTY, ALONE)


def test_a_challenger_meets_few_shoppers_first_and_all_last() -> None:
    assert STAGES == (0.01, 0.05, 0.25, 0.5, 1.0)


@pytest.mark.parametrize(("times", "said"), [(1, "was sent back once, and rests"), (2, "was sent back 2 times, and")])
def test_why_a_recipe_rests_is_said_in_one_sentence(times: int, said: str) -> None:
    assert said in rest(replace(RESTS[0], times=times, effective=0.0))


def test_json_keeps_every_field_and_its_times_are_of_one_zone() -> None:
    fresh = version("f", data_until=BEGAN, network=False)
    full = replace(OPENED, reference=fresh, queue=(C, fresh), paused=True, sent_back=RESTS)
    for row in (EMPTY, ALONE, OPENED, WATCHED, full):
        assert Rollout.from_json(row.to_json()) == row
    of_before = {name: value for name, value in ALONE.to_json().items() if name != "sent_back"}
    assert Rollout.from_json(of_before) == ALONE, "rows written before recipes rested"
    elsewhere = replace(ALONE, since=BEGAN.astimezone(timezone(timedelta(hours=9))))
    assert elsewhere.to_json() == ALONE.to_json() and ALONE.to_json()["since"] == "2026-01-05T10:00:00+00:00"
    assert (A.fresh_as_of, replace(A, data_until=NOW).fresh_as_of) == (BEGAN, NOW)
