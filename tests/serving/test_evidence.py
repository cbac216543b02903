"""Evidence as mathematics: the two arms are alike to it, more of it says more, and no look is too early or too often.

What simulation shows in test_sequential.py for some canaries is held here by what makes it so, for any."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom

from experiments.sample_ratio import log_e_value
from experiments.sequential_test import (
    RateDifference,
    difference,
    half_width,
    mixing,
)

ALPHA = st.sampled_from([0.2, 0.05, 0.01, 0.001])
CHANCE = st.floats(0.005, 0.995)
QUICK = settings(max_examples=30, deadline=None)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """Rows of 6 to 40 users in up to 4 strata; both arms have some in the first."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    users, strata = draw(st.integers(6, 40)), draw(st.integers(1, 4))
    user, stratum = (grid.ravel() for grid in np.meshgrid(np.arange(users), np.arange(strata)))
    treated = rng.random(users) < draw(st.floats(0.1, 0.9))
    treated[:4] = [True, False, True, False]
    exposures = rng.integers(1, 9, len(user)).astype(float)
    outcome = rng.binomial(exposures.astype(int), draw(st.floats(0.05, 0.95))).astype(float)
    outcome[:2] = [0.0, exposures[1]]
    columns = {"user": user, "stratum": stratum, "treated": treated[user].astype(float), "exposures": exposures}
    return {**columns, "outcome": outcome, "planned": draw(st.floats(1, 1e4)), "alpha": draw(ALPHA)}


def near(found: RateDifference, expected: tuple[float, float, float]) -> bool:
    return (found.estimate, found.low, found.high) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@QUICK
@given(tables())
def test_the_difference_is_the_same_seen_from_the_other_arm(table: dict[str, Any]) -> None:
    one, other = difference(**table), difference(**{**table, "treated": 1 - table["treated"]})
    assert near(other, (-one.estimate, -one.high, -one.low)) and other.effective == pytest.approx(one.effective)


@QUICK
@given(tables())
def test_a_share_of_failures_is_the_share_of_successes_seen_from_the_other_side(table: dict[str, Any]) -> None:
    one, other = difference(**table), difference(**{**table, "outcome": table["exposures"] - table["outcome"]})
    assert near(other, (-one.estimate, -one.high, -one.low))


@QUICK
@given(tables(), st.integers(0, 10**6))
def test_neither_the_order_of_rows_nor_the_numbers_of_users_and_strata_say_anything(
    table: dict[str, Any], seed: int
) -> None:
    rng, one = np.random.default_rng(seed), difference(**table)
    moved = {**table, "user": rng.permutation(99)[table["user"]], "stratum": rng.permutation(9)[table["stratum"]]}
    order = rng.permutation(len(table["user"]))
    moved |= {name: column[order] for name, column in moved.items() if isinstance(column, np.ndarray)}
    assert near(difference(**moved), (one.estimate, one.low, one.high))


@QUICK
@given(tables(), st.floats(0.01, 100))
def test_the_unit_of_an_outcome_is_that_of_its_difference(table: dict[str, Any], unit: float) -> None:
    one, other = difference(**table), difference(**{**table, "outcome": unit * table["outcome"]})
    assert near(other, (unit * one.estimate, unit * one.low, unit * one.high))


@QUICK
@given(tables(), st.floats(1.01, 4))
def test_a_wider_spread_and_a_smaller_risk_widen_the_interval_about_the_same_estimate(
    table: dict[str, Any], more: float
) -> None:
    one = difference(**table)
    spread = difference(**table, spread=more)
    assert near(spread, (one.estimate, one.estimate - more * (one.high - one.estimate), spread.high))
    surer = difference(**{**table, "alpha": table["alpha"] / more})
    assert surer.estimate == one.estimate and surer.low < one.low < one.high < surer.high


@QUICK
@given(tables())
def test_a_success_more_speaks_for_its_arm(table: dict[str, Any]) -> None:
    one = difference(**table)
    for arm in (0, 1):
        row = int(np.flatnonzero(table["treated"] == arm)[0])
        other = difference(**{**table, "outcome": table["outcome"] + (np.arange(len(table["user"])) == row)})
        assert (other.estimate > one.estimate) == (arm == 1)


@QUICK
@given(tables(), st.integers(2, 5))
def test_as_many_users_again_who_are_like_them_narrow_the_interval_about_the_same_estimate(
    table: dict[str, Any], times: int
) -> None:
    rows, one = len(table["user"]), difference(**table)
    more = {name: np.tile(column, times) for name, column in table.items() if isinstance(column, np.ndarray)}
    more["user"] = more["user"] + 100 * (np.arange(times * rows) // rows)
    found = difference(**{**table, **more})
    assert found.estimate == pytest.approx(one.estimate) and found.effective == pytest.approx(times * one.effective)
    assert found.high - found.low < one.high - one.low


@QUICK
@given(st.floats(0.1, 1e3), st.floats(0.1, 1e3), ALPHA)
def test_the_bound_is_where_the_mixture_of_likelihood_ratios_reaches_one_over_alpha(
    variance: float, tight: float, alpha: float
) -> None:
    """Robbins (1970): the mean of exp(l S - l² V / 2) over l ~ N(0, 1 / mixing) is a martingale of mean 1, so that it
    ever reaches 1 / alpha with a chance of alpha (Ville): the bound holds at all times at once."""
    bound = float(half_width(np.array(variance), np.array(tight), alpha))
    centre, width = bound / (variance + tight), (variance + tight) ** -0.5

    def integrand(tilt: float) -> float:
        return float(np.exp(tilt * bound - tilt**2 * (variance + tight) / 2) * np.sqrt(tight / (2 * np.pi)))

    mixture, _ = quad(integrand, centre - 10 * width, centre + 10 * width, points=[centre])
    assert mixture == pytest.approx(1 / alpha, rel=1e-6)


@QUICK
@given(st.floats(1, 1e5), st.floats(0.01, 4), ALPHA)
def test_the_bound_is_tightest_at_what_was_planned(planned: float, each: float, alpha: float) -> None:
    """`planned` effective exposures of a residual variance `each` have the variance of their product."""
    rows = np.array(100.0)
    tight = mixing(rows * each, rows, planned, alpha)
    at = {factor: half_width(np.array(planned * each), tight * factor, alpha) for factor in (0.5, 0.9, 1.0, 1.1, 2.0)}
    assert min(at, key=lambda factor: float(at[factor])) in (0.9, 1.0, 1.1)
    assert at[1.0] <= 1.001 * min(at.values())


GROUPS = st.lists(st.tuples(CHANCE, st.integers(0, 400), st.floats(0, 1)), min_size=1, max_size=4)


def counted(groups: list[tuple[float, int, float]]) -> tuple[list[float], list[int], list[int]]:
    return [p for p, _, _ in groups], [n for _, n, _ in groups], [int(n * share) for _, n, share in groups]


@QUICK
@given(GROUPS, st.integers(0, 3))
def test_the_next_user_changes_the_e_value_by_nothing_on_average(
    groups: list[tuple[float, int, float]], which: int
) -> None:
    """A martingale of mean 1 while the division is right, however the looks are chosen: so it is never above 1 / alpha
    but with a chance of alpha (Ville)."""
    p, n, k = counted(groups)
    here = which % len(p)
    now = float(log_e_value(p, n, k))
    after = [m + (at == here) for at, m in enumerate(n)]
    got = float(log_e_value(p, after, [m + (at == here) for at, m in enumerate(k)]))
    missed = float(log_e_value(p, after, k))
    assert np.logaddexp(np.log(p[here]) + got, np.log1p(-p[here]) + missed) == pytest.approx(now, abs=1e-8)


@pytest.mark.parametrize("chance", [0.01, 0.25, 0.5])
def test_before_anybody_came_it_is_one_and_after_a_hundred_still_on_average(chance: float) -> None:
    assert float(log_e_value([chance], [0], [0])) == pytest.approx(0.0)
    k = np.arange(101)
    e = np.exp(log_e_value([chance], np.full((1, 101), 100), k[None]))
    assert binom.pmf(k, 100, chance) @ e == pytest.approx(1.0)


@QUICK
@given(GROUPS)
def test_a_division_is_as_wrong_seen_from_the_other_arm(groups: list[tuple[float, int, float]]) -> None:
    p, n, k = counted(groups)
    other = log_e_value([1 - each for each in p], n, [all_ - mine for all_, mine in zip(n, k, strict=True)])
    assert float(other) == pytest.approx(float(log_e_value(p, n, k)), abs=1e-8)


@QUICK
@given(CHANCE, st.integers(10, 400))
def test_the_further_from_the_weights_the_stronger_the_evidence(chance: float, users: int) -> None:
    k = np.arange(users + 1)
    found = log_e_value([chance], np.full((1, users + 1), users), k[None])
    assert (np.diff(found, 2) > -1e-9).all(), "no way back down once it rises"
    assert abs(int(found.argmin()) - chance * users) <= 1 + 0.01 * users


@QUICK
@given(GROUPS)
def test_users_of_one_chance_are_one_group_however_they_were_counted(groups: list[tuple[float, int, float]]) -> None:
    _, n, k = counted(groups)
    split, whole = log_e_value([0.25] * len(n), n, k), log_e_value([0.25], [sum(n)], [sum(k)])
    assert float(split) == pytest.approx(float(whole), abs=1e-8)


@pytest.mark.parametrize("chance", [0.05, 0.25, 0.5])
def test_where_a_fifth_of_an_arm_is_missing_few_more_users_are_needed_than_by_whoever_knows_that(chance: float) -> None:
    """Whoever knows what is missing needs log(1 / alpha) over the divergence of the two divisions."""
    left = 0.8 * chance / (1 - 0.2 * chance)
    divergence = left * np.log(left / chance) + (1 - left) * np.log((1 - left) / (1 - chance))
    users = 1.3 * np.log(1000) / divergence
    assert float(log_e_value([chance], [users], [left * users])) > np.log(1000)
