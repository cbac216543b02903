"""The blessing of refreshes, over simulated nights: no ratchet, no freeze, and doubt as the rule states it."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from components.evaluate.blessing import Change, Night, Rule, bless, change

RULE = Rule()
NIGHTS = 20


def night(better: float, *, number: int = 0, users: int = 700, seed: int = 0, moved: float = 0.3) -> Night:
    """A window of seven days of which the next night's shares six; nine of ten shoppers find nothing in ten places,
    and for a share `moved` of them the two models answer unlike each other."""
    ids = np.arange(users) + number * users // 7
    rows = np.random.default_rng([seed, 1]).random((users + 60 * users // 7, 2))[ids]
    own = np.random.default_rng([seed, 2, number]).random((users, 3))
    found = np.where(own[:, 0] < moved, own[:, 1], rows[:, 0])
    place = np.where(own[:, 0] < moved, own[:, 2], rows[:, 1])
    theirs, ours = ((draw < 0.2 * q) / np.log2(2 + (10 * where).astype(int)) for draw, where, q in (
        (rows[:, 0], rows[:, 1], 1.0), (found, place, 1 + better),
    ))  # fmt: skip
    return Night([f"u{number}" for number in ids], ours, theirs)


def served(drift: float, nights: int, **kept: float) -> list[float]:
    """Quality of what serves after each night, as a share of the reference's, where each refresh loses `drift`."""
    quality, fresh, told, history = 1.0, -1, [], []
    for number in range(nights):
        tonight = night((1 + drift) ** (number + 1) - 1, number=number, **kept)
        if bless(tonight, history[-6:], age_days=number - fresh, rule=RULE).passed:
            quality, fresh = (1 + drift) ** (number + 1), number
        history.append(tonight)
        told.append(quality)
    return told


@pytest.mark.parametrize("drift", [-0.05, -0.02, -0.01])
def test_many_small_losses_do_not_add_up(drift: float) -> None:
    """Ten nights of -5 % were all blessed, when each was held against the one before it."""
    worst = [min(served(drift, NIGHTS, users=3500, seed=seed)) for seed in range(2)]
    assert np.mean(worst) > 1 - RULE.margin - 0.02 and min(worst) > 1 - 2 * RULE.margin, worst
    assert (1 + drift) ** NIGHTS < 1 - 2 * RULE.margin, "unstopped it would be far below"


def test_equal_refreshes_serve_and_a_small_shop_does_not_freeze() -> None:
    for users, at_least in ((3500, 8), (140, 1)):
        for seed in range(2):
            nights, fresh, released, history = 16, -1, [], []
            for number in range(nights):
                tonight = night(0.0, number=number, users=users, seed=seed)
                if bless(tonight, history[-6:], age_days=number - fresh, rule=RULE).passed:
                    released.append(number)
                    fresh = number
                history.append(tonight)
            assert len(released) >= at_least, (users, seed, released)


def test_the_verdicts_on_the_same_shop() -> None:
    told = {
        "no worse": bless(night(0.0, users=70_000), [], age_days=0, rule=RULE),
        "surely below": bless(night(-0.6), [], age_days=99, rule=RULE),
        "undecided": bless(night(0.05, users=140), [], age_days=6.9, rule=RULE),
        "fresher": bless(night(0.05, users=140), [], age_days=7.0, rule=RULE),
        "below": bless(night(-0.25, users=280), [], age_days=99, rule=RULE),
    }
    assert {verdict: made.verdict for verdict, made in told.items()} == {verdict: verdict for verdict in told}
    assert {verdict for verdict, made in told.items() if made.passed} == {"no worse", "fresher"}


def test_the_nights_before_are_evidence_where_one_cannot_tell() -> None:
    alone = bless(night(0.0, number=6, users=1400), [], age_days=0, rule=RULE)
    before = [night(0.0, number=number, users=1400) for number in range(6)]
    pooled = bless(night(0.0, number=6, users=1400), before, age_days=0, rule=RULE)
    assert (alone.verdict, alone.nights, pooled.nights) == ("undecided", 1, 7)
    assert pooled.pooled.high - pooled.pooled.low < 0.8 * (alone.pooled.high - alone.pooled.low)
    assert pooled.verdict == "no worse"


def test_a_broken_night_is_stopped_and_takes_no_good_one_with_it() -> None:
    before = [night(0.0, number=number, users=7000) for number in range(6)]
    broken = night(-0.3, number=6, users=7000)
    assert not bless(broken, before, age_days=99, rule=RULE).passed
    next_night = bless(night(0.0, number=7, users=7000), [*before[1:], broken], age_days=1, rule=RULE)
    assert next_night.passed and next_night.nights == 6, "the broken one says nothing of the line"


def test_the_interval_covers_with_overlapping_windows_of_the_same_shoppers() -> None:
    """Taken as independent, seven nights of the same shoppers would give an interval much too narrow."""
    misses = []
    for seed in range(120):
        nights = [night(0.0, number=number, users=350, seed=seed) for number in range(7)]
        found = change(nights, alpha=0.05)
        misses.append((found.low > 0, found.high < 0))
    low, high = np.mean(misses, axis=0)
    assert low < 0.11 and high < 0.11, (low, high)


def test_what_nobody_was_asked_says_nothing() -> None:
    unknown = Change(0.0, -np.inf, np.inf, 1)
    assert change([Night(["u"], np.ones(1), np.ones(1))], 0.05) == unknown
    assert change([Night(["u", "v"], np.ones(2), np.zeros(2))], 0.05) == unknown._replace(users=2)
    empty = Night([], np.zeros(0), np.zeros(0))
    assert bless(empty, [], age_days=0, rule=RULE).verdict == "undecided"


def test_a_change_is_the_ratio_of_what_both_find_and_its_bounds_are_one_sided() -> None:
    found = change([Night(["a", "b", "c"], np.array([1.0, 0.5, 0.0]), np.array([1.0, 1.0, 0.0]))], alpha=0.05)
    assert found.estimate == pytest.approx(-0.25) and found.users == 3
    assert found.estimate - found.low == pytest.approx(found.high - found.estimate)
    wider = change([Night(["a", "b", "c"], np.array([1.0, 0.5, 0.0]), np.array([1.0, 1.0, 0.0]))], alpha=0.01)
    assert wider.low < found.low
    strict = replace(RULE, margin=0.01)
    assert bless(night(-0.02, users=70_000), [], age_days=99, rule=strict).verdict in ("below", "surely below")


def test_tonights_own_estimate_counts_though_the_nights_before_were_good() -> None:
    found = np.zeros(200)
    found[:40] = 1.0
    lost = np.zeros(200)
    lost[24:60] = 1.0  # 36 of other shoppers: -10 %, and one night's window cannot be sure of it
    before = [Night([f"{number}-{n}" for n in range(2000)], np.ones(2000), np.ones(2000)) for number in range(6)]
    made = bless(Night([f"t{n}" for n in range(200)], lost, found), before, age_days=99, rule=RULE)
    assert made.pooled.low > -RULE.margin and made.tonight.high > -RULE.margin
    assert made.tonight.estimate == pytest.approx(-0.1) and made.verdict == "below"


def test_against_a_reference_that_is_the_same_for_all_the_bounds_are_those_of_a_mean() -> None:
    ours = np.random.default_rng(0).normal(0.8, 0.3, 50)
    found = change([Night([f"u{n}" for n in range(50)], ours, np.ones(50))], alpha=0.05)
    half = t.ppf(0.95, 49) * ours.std(ddof=1) / np.sqrt(50)
    assert found.low == pytest.approx(ours.mean() - 1 - half) and found.high == pytest.approx(ours.mean() - 1 + half)
