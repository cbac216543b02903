"""The blessing of refreshes, over simulated nights: no ratchet, no freeze, and doubt as the rule states it."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from components.evaluate.blessing import (
    NightlyValues,
    RelativeGain,
    Rule,
    bless,
    change,
)

RULE = Rule()


def night(better: float, *, number: int = 0, users: int = 700, seed: int = 0, moved: float = 0.3) -> NightlyValues:
    """A window of seven days of which the next night's shares six; nine of ten shoppers find nothing in ten places,
    and for a share `moved` of them the two models answer unlike each other."""
    ids = np.arange(users) + number * users // 7
    rows = np.random.default_rng([seed, 1]).random((users + 100 * users // 7, 2))[ids]
    own = np.random.default_rng([seed, 2, number]).random((users, 3))
    found = np.where(own[:, 0] < moved, own[:, 1], rows[:, 0])
    place = np.where(own[:, 0] < moved, own[:, 2], rows[:, 1])
    theirs, ours = ((draw < 0.2 * q) / np.log2(2 + (10 * where).astype(int)) for draw, where, q in (
        (rows[:, 0], rows[:, 1], 1.0), (found, place, 1 + better),
    ))  # fmt: skip
    return NightlyValues(ids, ours, theirs)


def nights(drift: float, count: int, rule: Rule = RULE, **kept: float) -> Iterator[tuple[float, bool]]:
    """Quality of what serves after each night, as a share of the reference's, and whether that night was released,
    where each refresh loses `drift` against the one before."""
    quality, fresh, history = 1.0, -1, []
    for number in range(count):
        tonight = night((1 + drift) ** (number + 1) - 1, number=number, **kept)
        earlier = [before._replace(days_ago=number - at) for at, before in history]
        released = bless(tonight, earlier, age_days=number - fresh, rule=rule).passed
        if released:
            quality, fresh = (1 + drift) ** (number + 1), number
        history.append((number, tonight))
        yield quality, released


@pytest.mark.parametrize("drift", [-0.05, -0.01, -0.005])
def test_many_small_losses_do_not_add_up(drift: float) -> None:
    """Ten nights of -5 % were all blessed when each was held against the one before it, and fifteen of -.5 % when a
    week's nights were pooled, of which the middle lies three nights back."""
    for seed in range(2):
        worst = min(quality for quality, _ in nights(drift, 36, users=3500, seed=seed))
        assert worst >= 1 - RULE.margin, (seed, worst)
    assert (1 + drift) ** 36 < 1 - 3 * RULE.margin, "unstopped it would be far below"


def test_equal_refreshes_serve_and_a_small_shop_does_not_freeze() -> None:
    for users, count, at_least in ((7000, 10, 2), (280, 98, 1)):
        for seed in range(3):
            released = sum(passed for _, passed in nights(0.0, count, users=users, seed=seed))
            assert released >= at_least, (users, seed, released)


def test_the_verdicts_on_the_same_shop() -> None:
    told = {
        "no worse": bless(night(0.0, users=70_000), [], age_days=0, rule=RULE),
        "surely below": bless(night(-0.6), [], age_days=99, rule=RULE),
        "undecided": bless(night(0.05, users=140), [], age_days=34.9, rule=RULE),
        "fresher": bless(night(0.05, users=140), [], age_days=35.0, rule=RULE),
        "below": bless(night(-0.25, users=280), [], age_days=99, rule=RULE),
    }
    assert {verdict: made.verdict for verdict, made in told.items()} == {verdict: verdict for verdict in told}
    assert {verdict for verdict, made in told.items() if made.passed} == {"no worse", "fresher"}


def even(ours: float, *, users: int = 2000, days_ago: float = 0.0, spread: float = 0.0) -> NightlyValues:
    """A night of other shoppers than any other's, of whom the reference finds all and ours so much more or less."""
    wave = spread * np.where(np.arange(users) % 2, 1, -1)
    return NightlyValues([f"{days_ago}-{n}" for n in range(users)], 1 + ours + wave, np.ones(users), days_ago)


@pytest.mark.parametrize(
    ("week", "month", "verdict"),
    [(0.0, 0.0, "no worse"), (-0.04, 0.0, "below"), (0.01, -0.04, "below"), (0.0, -0.01, "no worse")],
)
def test_tonight_the_week_and_the_month_each_have_to_be_well(week: float, month: float, verdict: str) -> None:
    """A creeping loss is small every night: only many nights together tell it from luck."""
    earlier = [even(week, days_ago=day) for day in range(1, 7)] + [even(month, days_ago=day) for day in range(7, 31)]
    made = bless(even(0.0), earlier, age_days=0, rule=RULE)
    assert made.verdict == verdict and made.nights == 31
    assert made.week.estimate == pytest.approx(6 / 7 * week)
    assert made.month.estimate == pytest.approx((6 * week + 24 * month) / 31)


def test_nights_at_the_ends_of_week_and_month_are_beyond_them() -> None:
    earlier = [even(0.0, days_ago=day) for day in (6.9, 7.0, 30.9, 31.0)]
    made = bless(even(0.0), earlier, age_days=0, rule=RULE)
    assert (made.week.users, made.month.users, made.nights) == (4000, 8000, 4)


@pytest.mark.parametrize(("month", "verdict"), [(0.002, "fresher"), (-0.01, "undecided")])
def test_what_cannot_be_shown_serves_at_the_end_of_patience_if_the_month_speaks_for_it(
    month: float, verdict: str
) -> None:
    earlier = [even(0.01 if day < 7 else month, days_ago=day) for day in range(1, 31)]
    tonight = even(0.0, users=20, spread=0.9)
    assert bless(tonight, earlier, age_days=RULE.fresh_days, rule=RULE).verdict == verdict
    assert bless(tonight, earlier, age_days=RULE.fresh_days - 0.1, rule=RULE).verdict == "undecided"


@pytest.mark.parametrize(("week", "month", "rises"), [(0.02, 0.02, True), (0.02, -0.01, False), (-0.02, 0.02, False)])
def test_the_luckiest_night_does_not_become_the_reference(week: float, month: float, rises: bool) -> None:
    """Of a hundred equal nights two or three are surely better; held against one of them, a loss would look smaller."""
    earlier = [even(week if day < 7 else month, days_ago=day, spread=0.5) for day in range(1, 31)]
    made = bless(even(0.05, spread=0.5), earlier, age_days=0, rule=RULE)
    assert made.tonight.low > 0 and made.passed and made.rises == rises


@pytest.mark.parametrize(("loss", "verdict"), [(-0.0226, "below"), (-0.0224, "no worse")])
def test_an_estimate_keeps_to_half_of_the_margin(loss: float, verdict: str) -> None:
    assert bless(even(loss), [], age_days=99, rule=RULE).verdict == verdict


@pytest.mark.parametrize(("loss", "verdict"), [(-0.0451, "surely below"), (-0.0449, "below")])
def test_what_is_asked_is_a_tenth_less_than_the_margin(loss: float, verdict: str) -> None:
    """The best of a month's nights lies above the reference, and the margin is told from the best."""
    assert bless(even(loss), [], age_days=99, rule=RULE).verdict == verdict


def test_a_broken_night_is_stopped_and_takes_no_good_one_with_it() -> None:
    before = [night(0.0, number=number, users=14_000)._replace(days_ago=7 - number) for number in range(6)]
    broken = night(-0.3, number=6, users=14_000)._replace(days_ago=1)
    assert not bless(broken._replace(days_ago=0), before, age_days=99, rule=RULE).passed
    next_night = bless(night(0.0, number=7, users=14_000), [*before, broken], age_days=1, rule=RULE)
    assert next_night.passed and next_night.nights == 7, "the broken one says nothing of the line"


def test_the_interval_covers_with_overlapping_windows_of_the_same_shoppers() -> None:
    """Taken as independent, seven nights of the same shoppers would give an interval much too narrow."""
    misses = []
    for seed in range(120):
        week = [night(0.0, number=number, users=350, seed=seed) for number in range(7)]
        found = change(week, alpha=0.05)
        misses.append((found.low > 0, found.high < 0))
    low, high = np.mean(misses, axis=0)
    assert low < 0.11 and high < 0.11, (low, high)


def test_what_nobody_was_asked_says_nothing() -> None:
    unknown = RelativeGain(0.0, -np.inf, np.inf, 1)
    assert change([NightlyValues(["u"], np.ones(1), np.ones(1))], 0.05) == unknown
    assert change([NightlyValues(["u", "v"], np.ones(2), np.zeros(2))], 0.05) == unknown._replace(users=2)
    empty = NightlyValues([], np.zeros(0), np.zeros(0))
    assert bless(empty, [], age_days=0, rule=RULE).verdict == "undecided"


def test_a_change_is_the_ratio_of_what_both_find_and_its_bounds_are_one_sided() -> None:
    found = change([NightlyValues(["a", "b", "c"], np.array([1.0, 0.5, 0.0]), np.array([1.0, 1.0, 0.0]))], alpha=0.05)
    assert found.estimate == pytest.approx(-0.25) and found.users == 3
    assert found.estimate - found.low == pytest.approx(found.high - found.estimate)
    wider = change([NightlyValues(["a", "b", "c"], np.array([1.0, 0.5, 0.0]), np.array([1.0, 1.0, 0.0]))], alpha=0.01)
    assert wider.low < found.low
    strict = replace(RULE, margin=0.01)
    assert bless(night(-0.02, users=70_000), [], age_days=99, rule=strict).verdict in ("below", "surely below")


def test_tonights_own_estimate_counts_though_the_nights_before_were_good() -> None:
    found = np.zeros(200)
    found[:40] = 1.0
    lost = np.zeros(200)
    lost[24:60] = 1.0  # 36 of other shoppers: -10 %, and one night's window cannot be sure of it
    before = [
        NightlyValues([f"{number}-{n}" for n in range(2000)], np.ones(2000), np.ones(2000)) for number in range(6)
    ]
    made = bless(NightlyValues([f"t{n}" for n in range(200)], lost, found), before, age_days=99, rule=RULE)
    assert min(made.week.low, made.month.low) > -RULE.margin and made.tonight.high > -RULE.margin
    assert made.tonight.estimate == pytest.approx(-0.1) and made.verdict == "below"


def test_against_a_reference_that_is_the_same_for_all_the_bounds_are_those_of_a_mean() -> None:
    ours = np.random.default_rng(0).normal(0.8, 0.3, 50)
    found = change([NightlyValues([f"u{n}" for n in range(50)], ours, np.ones(50))], alpha=0.05)
    half = t.ppf(0.95, 49) * ours.std(ddof=1) / np.sqrt(50)
    assert found.low == pytest.approx(ours.mean() - 1 - half) and found.high == pytest.approx(ours.mean() - 1 + half)


def test_by_default_a_look_errs_once_in_a_hundred_nights() -> None:
    """One-sided: it is asked every night, and a year has many."""
    tonight = even(0.0, users=50, spread=0.3)
    look = bless(tonight, [], age_days=0, rule=Rule()).tonight
    half = t.ppf(0.99, 49) * tonight.ours.std(ddof=1) / np.sqrt(50)
    assert look.estimate - look.low == pytest.approx(half) and look.high - look.estimate == pytest.approx(half)
