"""What follows from one look at a canary: every rule of the judge, at its very bound, and which rule comes first."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.decision import (
    BUSIEST,
    MISDRAWN,
    Evidence,
    Verdict,
    judge,
    planned_exposures,
)
from experiments.document import ModelVersion, Rollout, SentBack, release
from experiments.guardrails import Guardrail
from experiments.log import LoggedTraffic
from experiments.policy import Policy
from experiments.sequential_test import UNKNOWN, RateDifference

OPENED = datetime(2026, 1, 5, tzinfo=UTC)
BEGAN = OPENED + timedelta(days=3)
"""Of the present stage, or of the watch."""
NOW = BEGAN + timedelta(days=1)
SECOND = timedelta(seconds=1)
POLICY = Policy()


def version(name: str, *, until: datetime = OPENED) -> ModelVersion:
    about = {"archive": name, "archive_digest": name, "recipe_digest": name, "registered": OPENED}
    return ModelVersion(version=name, data_until=until, **about)  # type: ignore[arg-type]


A, B = version("a"), version("b")
HALF = Rollout(model="shop", champion=A, challenger=B, stage=3, weight=0.5, salt="s", since=BEGAN)
QUARTER = replace(HALF, stage=2, weight=0.25)
FULL = replace(HALF, stage=4, weight=1.0)
WATCHED = Rollout(model="shop", champion=B, former=A, salt="s", since=BEGAN)

BETTER = RateDifference(0.02, 0.01, 0.03, 5000.0)
WORSE = RateDifference(-0.02, -0.03, -0.01, 5000.0)
OPEN = RateDifference(0.001, -0.01, 0.012, 5000.0)
BREACHED = Guardrail(
    name="errors", meaning="errors", champion=0.0, challenger=0.1, allowed=0.0, low=0.1, high=0.2, breached=True
)
SOUND = replace(BREACHED, low=-0.1, breached=False)
MANY = LoggedTraffic(exposures=100_000, stage_exposures=10_000, misdrawn=0, latest=NOW, busiest=0.0)
SEEN = Evidence(
    at=NOW, traffic=MANY, champion_rate=0.2, challenger_rate=0.2, outcome=OPEN, users=1000, guardrails=(SOUND,),
    full=False, ratio=0.0,
)  # fmt: skip
LOSS = POLICY.patience_loss * SEEN.champion_rate


def judged(row: Rollout, outcome: RateDifference = OPEN, *, policy: Policy = POLICY, **seen: Any) -> Verdict:
    """The verdict on `SEEN` with another outcome, and whatever else of it or of its traffic differs."""
    at = seen.pop("at", NOW)
    of_traffic = {"latest": at} | {name: seen.pop(name) for name in list(seen) if name in LoggedTraffic.__slots__}
    evidence = replace(SEEN, at=at, outcome=outcome, traffic=replace(MANY, **of_traffic), **seen)
    return judge(row, evidence, policy, opened=OPENED, salt=lambda: "fresh")


@pytest.mark.parametrize(
    ("row", "outcome", "action", "why"),
    [
        (QUARTER, OPEN, "raise", "sound at 25%: click-through +0.10 points [-1.00, +1.20]"),
        (QUARTER, UNKNOWN, "raise", "sound at 25%: click-through not compared yet"),
        (HALF, OPEN, "hold", "not decided yet: click-through +0.10 points [-1.00, +1.20]"),
        (HALF, BETTER, "raise", "sound at 50%: click-through +2.00 points [+1.00, +3.00]"),
        (FULL, BETTER, "promote", "better and sound for all shoppers: click-through +2.00 points [+1.00, +3.00]"),
        (FULL, OPEN, "promote", "no worse, fresher and sound for all shoppers"),
        (QUARTER, WORSE, "roll back", "worse: click-through -2.00 points [-3.00, -1.00]"),
        (FULL, WORSE, "roll back", "worse: "),
    ],
)
def test_an_experiment_whose_stage_has_run_its_time(
    row: Rollout, outcome: RateDifference, action: str, why: str
) -> None:
    made = judged(row, outcome)
    assert made.action == action and made.why.startswith(why), made.why
    expected = {"hold": None, "promote": 0.0, "roll back": 0.0, "raise": 0.5 if row is QUARTER else 1.0}[action]
    assert (made.rollout.weight if made.rollout else None) == expected


def test_whoever_is_worse_goes_back_at_once_and_whoever_is_better_waits_for_the_stage() -> None:
    early = BEGAN + POLICY.hours("stage") - SECOND
    assert judged(HALF, WORSE, at=early).action == "roll back"
    for row in (HALF, FULL):
        made = judged(row, BETTER, at=early)
        assert made.action == "hold" and "lasts until 2026-01-09 00:00 UTC at least" in made.why
        assert judged(row, BETTER, stage_exposures=499).why.startswith("499 of 500 exposures of the challenger")
        assert judged(row, BETTER, stage_exposures=500).action != "hold"


@pytest.mark.parametrize("row", [HALF, FULL])
@pytest.mark.parametrize(
    ("seen", "found"),
    [
        ({"outcome": WORSE}, (5000.0, -0.1)),
        ({"guardrails": (BREACHED,)}, (5000.0, 0.005)),
        ({"guardrails": (BREACHED,), "outcome": UNKNOWN}, (0.0, 0.0)),
        ({"guardrails": (BREACHED,), "champion_rate": 0.0}, (0.0, 0.0)),
    ],
)
def test_whoever_goes_back_rests_and_what_its_shoppers_said_is_kept(
    row: Rollout, seen: dict[str, Any], found: tuple[float, float]
) -> None:
    made = judged(row, **seen)
    assert made.action == "roll back" and made.rollout is not None
    (sent_back,) = made.rollout.sent_back
    assert (sent_back.effective, sent_back.change) == (found[0], pytest.approx(found[1]))
    assert sent_back.recipe_digest == "b" and sent_back.until == NOW + timedelta(days=7)
    tomorrow = release(made.rollout, version("b"), now=NOW + timedelta(days=1), salt=lambda: "s")
    assert tomorrow.status == "resting" and tomorrow.rollout == made.rollout


def late(before: float, effective: float, now: float) -> Verdict:
    """At the end of patience, of a challenger a month fresher that was found at `now` (with an `effective` of 5000),
    and in experiments before at `before`."""
    at = OPENED + POLICY.hours("patience")
    seen = (SentBack(recipe_digest="b", until=BEGAN, effective=effective, change=before),)
    row = replace(HALF, challenger=version("b", until=at), champion=version("a", until=OPENED), sent_back=seen)
    return judged(row, RateDifference(now * 0.2, -0.5, 0.5, 5000.0), at=at)


@given(before=st.floats(-0.5, 0.5), effective=st.floats(1, 1e6), now=st.floats(-0.5, 0.5))
@settings(max_examples=200, deadline=None)
def test_what_is_only_likely_is_asked_of_all_experiments_of_a_recipe(
    before: float, effective: float, now: float
) -> None:
    pooled = (before * effective + now * 5000) / (effective + 5000)
    if abs(pooled + POLICY.patience_loss) < 1e-9:
        return
    made = late(before, effective, now)
    assert (made.action == "raise") == (pooled > -POLICY.patience_loss), made.why
    assert made.action == "raise" or "with the experiments before likelier worse" in made.why


@pytest.mark.parametrize(("estimate", "action"), [(0.0, "roll back"), (0.001, "raise")])
def test_where_nobody_succeeded_nothing_is_likelier(estimate: float, action: str) -> None:
    at = OPENED + POLICY.hours("patience")
    row = replace(HALF, challenger=version("b", until=at), champion=version("a", until=OPENED))
    assert judged(row, RateDifference(estimate, -0.5, 0.5, 5000.0), at=at, champion_rate=0.0).action == action


def test_of_a_recipe_that_was_found_much_worse_one_lucky_experiment_serves_nobody() -> None:
    """Offered for a year, one of -10 % was once found at -4.8 % and served."""
    assert late(0.0, 0.0, -0.048).action == "raise"
    assert late(-0.1, 3000.0, -0.048).action == "roll back"


@pytest.mark.parametrize(
    ("low", "high", "loss", "action"),
    [
        (0.0, 0.1, 0.0, "hold"),  # "better" is surely above, and not at
        (1e-9, 0.1, 0.0, "raise"),
        (-LOSS, 0.1, 0.05, "hold"),  # 5 % of the champion's .2
        (-0.99 * LOSS, 0.1, 0.05, "raise"),
        (-0.1, 0.0, 0.0, "hold"),  # "worse" is surely below
        (-0.1, -1e-9, 0.0, "roll back"),
        (-0.009, -1e-9, 0.05, "roll back"),  # also of whom a loss is allowed
    ],
)
def test_the_ends_of_the_interval_decide_and_neither_at_the_bound(
    low: float, high: float, loss: float, action: str
) -> None:
    outcome = RateDifference((low + high) / 2, low, high, 5000.0)
    assert judged(HALF, outcome, policy=replace(POLICY, allowed_loss=loss)).action == action


def test_patience_ends_at_its_hour_and_only_where_not_all_meet_the_challenger() -> None:
    ends = OPENED + POLICY.hours("patience")
    for row in (QUARTER, HALF):
        assert judged(row, at=ends - SECOND).action in ("raise", "hold")
        made = judged(row, at=ends)
        assert made.action == "roll back" and made.why.startswith("undecided, and no fresher, after 28 days: click")
        assert judged(row, BETTER, at=ends).action == "raise", "what is decided needs no patience"
    assert judged(FULL, at=ends).action == "promote"


@pytest.mark.parametrize(
    ("hours", "outcome", "why"),
    [
        (0, RateDifference(0.0, -0.99 * LOSS, 0.1, 5000.0), None),
        (1, RateDifference(0.0, -0.99 * LOSS, 0.1, 5000.0), "no worse than 5% below, and fresher, after 28 days"),
        (1, RateDifference(0.0, -LOSS, 0.1, 5000.0), None),
        (14 * 24 - 1, RateDifference(-0.99 * LOSS, -0.1, 0.1, 5000.0), None),
        (
            14 * 24,
            RateDifference(-0.99 * LOSS, -0.1, 0.1, 5000.0),
            "undecided, likelier no worse, and 14 days fresher, after",
        ),
        (14 * 24, RateDifference(-LOSS, -0.1, 0.1, 5000.0), None),
        (14 * 24, UNKNOWN, None),  # nothing was compared, and so nothing is likelier
        (14 * 24, RateDifference(0.0, -0.1, 0.1, 0.5), "undecided, likelier no worse"),
    ],
)
def test_at_the_end_of_patience_only_fresher_data_speaks_for_a_challenger(
    hours: int, outcome: RateDifference, why: str | None
) -> None:
    row = replace(HALF, challenger=version("b", until=OPENED + timedelta(hours=hours)))
    made = judged(row, outcome, at=OPENED + POLICY.hours("patience"))
    assert made.action == ("raise" if why else "roll back") and (why or "undecided, and") in made.why, made.why


def test_patience_that_ends_in_favour_still_waits_for_the_stage() -> None:
    ends = OPENED + POLICY.hours("patience")
    row = replace(HALF, since=ends - timedelta(hours=1), challenger=version("b", until=OPENED + timedelta(hours=1)))
    assert judged(row, RateDifference(0.0, -0.001, 0.1, 5000.0), at=ends).action == "hold"


def test_a_watch_ends_at_its_hour() -> None:
    ends = BEGAN + POLICY.hours("watch")
    made = judged(WATCHED, at=ends - SECOND)
    assert made == ("hold", "promoted; a stays warm until 2026-01-10 00:00 UTC", None)
    ended = judged(WATCHED, at=ends)
    assert ended.action == "end watch" and ended.why == "no guardrail was breached for 48 hours; a may be unloaded"
    assert ended.rollout is not None and ended.rollout.serving == (B,)


def test_a_watch_asks_for_no_comparison_of_the_arms() -> None:
    """All shoppers but the holdout meet the new champion: the arms are not drawn by the weight of a stage any more."""
    at = BEGAN + POLICY.hours("watch")
    assert judged(WATCHED, WORSE, at=at, ratio=99.0, misdrawn=MANY.exposures, busiest=1.0).action == "end watch"


BROKEN = [
    ({"misdrawn": 101}, "101 of 100000 exposures are in another arm than their salt draws"),
    ({"busiest": BUSIEST + 1e-9}, "one user has 10% of the exposures: is that a shopper, or everybody without an id?"),
    ({"ratio": -math.log(POLICY.ratio_alpha) + 1e-9}, "sample-ratio mismatch, the users do not divide as the weights"),
]


@pytest.mark.parametrize(("seen", "why"), BROKEN)
@pytest.mark.parametrize("outcome", [BETTER, WORSE, OPEN])
def test_arms_that_are_not_comparable_decide_nothing_either_way(
    outcome: RateDifference, seen: dict[str, Any], why: str
) -> None:
    for row in (QUARTER, HALF, FULL):
        assert judged(row, outcome, **seen) == ("hold", judged(row, outcome, **seen).why, None)
        assert judged(row, outcome, **seen).why.startswith(f"decision withheld: {why}")


def test_at_the_bound_itself_the_arms_are_comparable() -> None:
    assert judged(HALF, BETTER, misdrawn=int(MISDRAWN * MANY.exposures), busiest=BUSIEST).action == "raise"
    assert judged(HALF, BETTER, ratio=-math.log(POLICY.ratio_alpha)).action == "raise"
    assert "(e-value 10^4.0)" in judged(HALF, ratio=4 * math.log(10)).why


@pytest.mark.parametrize("row", [HALF, FULL, WATCHED])
def test_a_silent_log_decides_nothing_either_way(row: Rollout) -> None:
    at, hours = BEGAN + timedelta(days=9), POLICY.hours("silence")
    for outcome in (BETTER, WORSE):
        none = judged(row, outcome, at=at, latest=None)
        assert none == ("hold", "no exposure of this experiment was logged yet", None)
        silent = judged(row, outcome, at=at, latest=at - hours - SECOND)
        assert silent.action == "hold" and silent.why.startswith("the log is silent since 2026-01-16 17:59 UTC")
        assert judged(row, outcome, at=at, latest=at - hours).action != "hold"


@pytest.mark.parametrize("row", [QUARTER, HALF, FULL, WATCHED])
def test_which_rule_comes_first(row: Rollout) -> None:
    """A breached guardrail sends back whatever else holds; then a person; then whether the log can be believed."""
    seen: dict[str, Any] = {"latest": None, "misdrawn": MANY.exposures, "at": OPENED + timedelta(days=99)}
    held = replace(row, paused=True)
    back = judged(held, BETTER, guardrails=(SOUND, BREACHED), **seen)
    assert back.action == "roll back" and back.why == f"guardrail: {BREACHED.sentence}"
    assert back.rollout is not None and back.rollout.serving == (A,)
    assert judged(held, WORSE, **seen).why == "paused by a person; guardrails still watch"
    assert judged(row, WORSE, **seen).why == "no exposure of this experiment was logged yet"
    if row.challenger:
        assert judged(row, WORSE, **{**seen, "latest": seen["at"]}).why.startswith("decision withheld")


def test_evidence_is_json_and_an_end_that_is_not_known_is_none() -> None:
    plain = replace(SEEN, outcome=UNKNOWN, guardrails=(replace(SOUND, low=-math.inf),)).to_json()
    assert plain["at"] == NOW.isoformat() == plain["traffic"]["latest"]
    assert plain["outcome"] == {"estimate": 0.0, "low": None, "high": None, "effective": 0.0}
    assert (plain["guardrails"][0]["low"], plain["guardrails"][0]["high"]) == (None, 0.2)
    assert replace(SEEN, traffic=replace(MANY, latest=None)).to_json()["traffic"]["latest"] is None
    assert SEEN.to_json()["outcome"]["low"] == OPEN.low


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(0, 1)), min_size=1, max_size=5), st.floats(1, 1e6))
def test_what_is_planned_for_does_not_know_successes_from_failures_nor_one_arm_from_the_other(
    users: list[tuple[int, float]], least: float
) -> None:
    exposures = np.array([float(n) for n, _ in users])
    successes = np.floor(exposures * [share for _, share in users])
    policy = replace(POLICY, planned_exposures=least)
    planned = planned_exposures(exposures, successes, policy)
    assert planned == pytest.approx(planned_exposures(exposures, exposures - successes, policy))
    assert planned == pytest.approx(planned_exposures(exposures[::-1], successes[::-1], policy))
    rarer = max(min(successes.sum(), exposures.sum() - successes.sum()), 1)
    assert planned == pytest.approx(max(least, policy.planned_successes * exposures.sum() / rarer))
