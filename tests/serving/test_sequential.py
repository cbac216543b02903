"""The statistics behind a decision: right where nothing differs, whatever is looked at and when."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from benchmarks.decisions.traffic import SimulatedCanary
from benchmarks.decisions.watch import WatchFindings, watch
from experiments.log import Draws
from experiments.policy import Policy
from experiments.sample_ratio import evidence
from experiments.sequential_test import (
    UNKNOWN,
    difference,
    half_width,
    mixing,
    scores,
)

SETTINGS = {"alpha": 0.05, "planned": 2000.0, "users": 40, "ratio_alpha": 0.001}
CANARIES = 300


@pytest.fixture(scope="module")
def same() -> WatchFindings:
    """Canaries in which nothing differs, with all that makes a comparison go wrong."""
    ramp = (0.05, 0.05, 0.25, 0.25, *(0.5,) * 8)
    world = SimulatedCanary(users=800, weights=ramp, exposures=2.0, taste=0.8, first_rate=0.3, last_rate=0.1)
    return watch(world, CANARIES, seed=1, **SETTINGS)


def decided(found: WatchFindings, way: str) -> int:
    return int(np.isfinite(found.first[way]).sum())


def test_at_most_the_promised_share_of_equal_challengers_is_ever_decided(same: WatchFindings) -> None:
    assert decided(same, "sequential") <= binom.ppf(0.999, CANARIES, SETTINGS["alpha"])


@pytest.mark.parametrize("way", ["pooled", "unclustered", "peeking", "naive"])
def test_the_world_of_the_test_punishes_whoever_leaves_one_thing_out(same: WatchFindings, way: str) -> None:
    assert decided(same, way) > binom.ppf(0.999, CANARIES, SETTINGS["alpha"])


def test_the_ratio_of_a_whole_log_is_never_alarming(same: WatchFindings) -> None:
    assert np.isfinite(same.mismatch).sum() <= binom.ppf(0.999, CANARIES, SETTINGS["ratio_alpha"])


def test_a_real_gain_is_found_in_the_right_direction_and_a_lost_part_of_an_arm_too() -> None:
    world = SimulatedCanary(users=800, weights=(0.05, *(0.5,) * 11), exposures=2.0, lift=0.4)
    found = watch(world, 50, seed=2, **SETTINGS)
    assert (found.sign["sequential"] > 0).mean() > 0.8 and not (found.sign["sequential"] < 0).any()
    lost = watch(
        SimulatedCanary(users=2000, weights=(0.05, *(0.5,) * 5), exposures=2.0, lost=0.3), 50, seed=3, **SETTINGS
    )
    assert np.isfinite(lost.mismatch).mean() > 0.95


def rows(seed: int, users: int = 300, strata: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    user, stratum = (grid.ravel() for grid in np.meshgrid(np.arange(users), np.arange(strata)))
    treated = (rng.random(users)[user] < np.linspace(0.1, 0.5, strata)[stratum]).astype(float)
    exposures = rng.poisson(3, len(user)) + 1.0
    return {
        "user": user, "stratum": stratum, "treated": treated, "exposures": exposures,
        "outcome": rng.binomial(exposures.astype(int), 0.2).astype(float),
    }  # fmt: skip


def test_the_estimate_is_the_weighed_difference_of_rates_by_stratum() -> None:
    table = rows(0)
    total = weights = 0.0
    for stratum in range(4):
        arms = []
        for arm in (1, 0):
            mine = (table["stratum"] == stratum) & (table["treated"] == arm)
            arms.append((table["outcome"][mine].sum(), table["exposures"][mine].sum()))
        (y1, n1), (y0, n0) = arms
        weight = n1 * n0 / (n1 + n0)
        total, weights = total + weight * (y1 / n1 - y0 / n0), weights + weight
    found = difference(**table, planned=100, alpha=0.05)
    assert found.estimate == pytest.approx(total / weights) and found.effective == pytest.approx(weights)
    assert found.low < found.estimate < found.high


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.5, 4))
def test_a_day_with_a_better_rate_for_all_moves_nothing(seed: int, factor: float) -> None:
    """Simpson's paradox: what lifts both arms of a stratum alike must not count for one of them."""
    table = rows(seed)
    lifted = {**table, "outcome": table["outcome"] + factor * table["exposures"] * (table["stratum"] == 3)}
    one, other = (difference(**columns, planned=100, alpha=0.05) for columns in (table, lifted))
    assert other.estimate == pytest.approx(one.estimate, abs=1e-9)
    assert (other.low, other.high) == pytest.approx((one.low, one.high), abs=1e-9)


def test_days_of_one_arm_only_count_for_nothing() -> None:
    table = rows(1)
    alone = np.where(table["stratum"] == 0, 1.0, table["treated"])
    full = difference(**{**table, "treated": alone}, planned=100, alpha=0.05)
    kept = {name: column[table["stratum"] > 0] for name, column in table.items()}
    rest = difference(**{**kept, "stratum": kept["stratum"] - 1}, planned=100, alpha=0.05)
    assert full.estimate == pytest.approx(rest.estimate) and full.effective == pytest.approx(rest.effective)


def test_ten_times_the_same_exposures_of_a_user_are_no_new_evidence() -> None:
    table = rows(2)
    copied = {**table, "exposures": table["exposures"] * 10, "outcome": table["outcome"] * 10}
    one, ten = (
        difference(**columns, planned=planned, alpha=0.05) for columns, planned in ((table, 100), (copied, 100))
    )
    assert ten.estimate == pytest.approx(one.estimate)
    assert ten.high - ten.low > 0.8 * (one.high - one.low)


def test_users_who_repeat_themselves_on_other_days_are_no_new_evidence() -> None:
    table = rows(2)
    again = {name: np.concatenate([column, column + 4 * (name == "stratum")]) for name, column in table.items()}
    one, two = (difference(**columns, planned=100, alpha=0.05) for columns in (table, again))
    assert two.estimate == pytest.approx(one.estimate) and two.effective == pytest.approx(2 * one.effective)
    assert two.high - two.low > 0.95 * (one.high - one.low)


def test_nothing_is_known_where_an_arm_or_every_difference_is_missing() -> None:
    table = rows(3)
    none = np.array([], dtype=int)
    assert difference(**dict.fromkeys(table, none), planned=100, alpha=0.05) == UNKNOWN
    for broken in ({"treated": np.zeros(len(table["user"]))}, {"outcome": np.zeros(len(table["user"]))}):
        assert difference(**{**table, **broken}, planned=100, alpha=0.05) == UNKNOWN


def test_a_brownian_motion_leaves_the_bound_no_more_often_than_promised() -> None:
    rng = np.random.default_rng(4)
    path = rng.normal(size=(4000, 1500)).cumsum(1)
    bound = half_width(np.arange(1, 1501.0), np.array(50.0), 0.05)
    left = (np.abs(path) > bound).any(1).sum()
    assert 0.01 * 4000 < left <= binom.ppf(0.999, 4000, 0.05)


def test_scores_of_a_stratum_add_up_to_nothing_but_the_difference() -> None:
    table = rows(5)
    found = scores(*(table[name] for name in ("stratum", "treated", "exposures", "outcome")), 4)
    assert np.bincount(table["stratum"], found.residual) == pytest.approx(np.zeros(4), abs=1e-9)


@pytest.mark.parametrize(("challengers", "alarming"), [(2500, False), (2540, False), (2300, True), (2700, True)])
def test_the_ratio_speaks_when_a_part_of_an_arm_is_missing(challengers: int, alarming: bool) -> None:
    assert (evidence([Draws(0.5, 5000, challengers)]) > np.log(1000)) == alarming


def test_weak_mismatches_of_several_stages_add_up_and_opposite_ones_do_not() -> None:
    alone = [Draws(0.05, 2000, 72), Draws(0.25, 2000, 430), Draws(1 / 3, 2000, 592)]
    assert all(evidence([draw]) < np.log(1000) for draw in alone)
    assert evidence(alone) > np.log(1000)
    assert evidence([]) == 0.0


def wrong_decisions(rate: float, a_day: float, planned_successes: float, *, canaries: int = 400) -> float:
    """Share of canaries without a difference that are decided at one of 84 looks, successes being rare and single."""
    rng, policy = np.random.default_rng(0), Policy()
    closed = np.zeros((4, canaries))  # score, variance, squared residuals, successes
    seen, decided = 0.0, np.zeros(canaries, dtype=bool)
    for day, weight in enumerate((0.01, 0.01, 0.05, 0.05, *(0.25,) * 3, *(0.5,) * 14)):
        counts = np.zeros((2, canaries))
        for part in (0.25, 0.5, 0.75, 1.0):
            counts += rng.poisson(a_day * rate / 4 * np.array([[weight], [1 - weight]]), (2, canaries))
            n = a_day * part * np.array([weight, 1 - weight])
            total, p = n.sum(), counts.sum(0) / n.sum()
            spread = [k * (1 - p) ** 2 + (size - k) * p**2 for k, size in zip(counts, n, strict=True)]
            score = counts[0] - n[0] * p
            variance = spread[0] * (1 - weight) ** 2 + spread[1] * weight**2
            score, variance, residual, successes = closed + np.stack(
                [score, variance, spread[0] + spread[1], counts.sum(0)]
            )
            planned = np.maximum(
                policy.planned_exposures, planned_successes * (seen + total) / np.maximum(successes, 1)
            )
            tight = np.maximum(mixing(residual, seen + total, planned, policy.alpha), 1e-300)
            enough = day > 0 or n[0] >= policy.decision_users
            decided |= (variance > 0) & enough & (np.abs(score) > half_width(variance, tight, policy.alpha))
        closed, seen = np.stack([score, variance, residual, successes]), seen + total
    return float(decided.mean())


@pytest.mark.parametrize(
    ("rate", "a_day"), [(0.1, 2e3), (0.01, 2e4), (0.001, 2e5), (3e-4, 1e5), (3e-4, 1e6), (1e-4, 1e5), (1e-4, 1e6)]
)
def test_the_interval_keeps_its_level_however_rare_a_success_is(rate: float, a_day: float) -> None:
    assert wrong_decisions(rate, a_day, Policy().planned_successes) <= 0.05
    if rate <= 3e-4:
        assert wrong_decisions(rate, a_day, 0.0) > 0.2, "planned in exposures alone it decides before there is evidence"
