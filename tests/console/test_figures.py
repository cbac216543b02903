"""What pictures and forecasts compute: axes, areas, the growth of counters, the width of an interval to come."""

import math
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from components.validate import pictures
from console import canary, embedding
from console.standing import among
from experiments.document import ModelVersion, Rollout
from experiments.policy import Policy
from experiments.sequential_test import half_width, mixing
from runtime.charts import Scale
from tests.console import made

FINITE = st.floats(-1e9, 1e9)
T0 = datetime(2026, 1, 5, tzinfo=UTC)


@given(FINITE, st.floats(1e-6, 1e9))
def test_an_axis_has_round_ticks_inside_of_it(low: float, wide: float):
    scale = Scale(low, low + wide)
    assume(scale.high > scale.low and wide > 1e-6 * abs(low))
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 11 and ticks == sorted(ticks)
    assert all(-1e-6 <= scale.share(tick) <= 1 + 1e-6 for tick in ticks)


def test_an_axis_by_tens_has_tens():
    scale = Scale(0.5, 90_000, log=True)
    assert scale.ticks() == [1, 10, 100, 1000, 10000] and scale.share(0.5) == 0 and scale.share(90_000) == 1


@given(st.lists(st.floats(0.01, 1000), min_size=20, max_size=200, unique=True), st.integers(2, 10))
def test_bins_of_equal_shares_are_drawn_with_their_real_widths(values: list[float], number: int):
    """Height times width of every bar is the share of the rows in it, so that the areas make up all of them."""
    edges = sorted(set(np.quantile(values, [n / number for n in range(1, number)], method="lower").tolist()))
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1).tolist()
    found = {"kind": "numeric", "edges": edges, "counts": counts, "missing": 0, "min": min(values), "max": max(values)}
    ends, shares = pictures.bins(found)
    assert ends == sorted(set(ends)) and len(ends) == len(shares) + 1
    assert math.isclose(sum(shares), 1)
    for (low, high), share in zip(pairwise(ends), shares, strict=True):
        inside = sum(low < value <= high or value == low == ends[0] for value in values)
        assert math.isclose(share, inside / len(values)), (low, high)


def test_a_bin_of_one_value_is_as_wide_as_the_narrowest_beside_it():
    """Counts that begin at nothing: the bin of 0 has no width of its own."""
    found = {"kind": "numeric", "edges": [0.0, 1.0, 3.0], "counts": [60, 20, 10, 10], "missing": 0, "min": 0, "max": 9}
    assert pictures.bins(found) == ([-1.0, 0.0, 1.0, 3.0, 9], [0.6, 0.2, 0.1, 0.1])


def test_all_values_alike_are_told_and_not_drawn():
    one = {"kind": "numeric", "edges": [2.0], "counts": [5, 0], "missing": 5, "min": 2.0, "max": 2.0}
    assert pictures.feature("x", one, None) == ("value, 2 in all rows; 50.0% missing", None)
    none = {"kind": "numeric", "edges": [], "counts": [0], "missing": 5, "min": None, "max": None}
    assert pictures.feature("x", none, None)[1] is None


@pytest.mark.parametrize("rate", [0.2, 0.03])
@pytest.mark.parametrize("effective", [200.0, 5_000.0, 80_000.0])
def test_the_forecast_of_an_interval_is_the_judges_own_width(rate: float, effective: float):
    """Of two looks at a stream whose variance grows with its exposures, the first foretells the second."""
    policy, of_one = Policy(), rate * (1 - rate)
    planned = max(policy.planned_exposures, policy.planned_successes / rate)
    tight = mixing(np.asarray(of_one * 1000), np.asarray(1000), planned, policy.alpha)

    def half(n: float) -> float:
        return float(half_width(np.asarray(of_one * n), tight, policy.alpha)) / n

    found = {"effective": effective, "low": -half(effective), "high": half(effective)}
    for later in (effective, 2 * effective, 30 * effective):
        assert math.isclose(canary.half_at(later, found, rate, policy), half(later), rel_tol=1e-9)
    gap = half(7 * effective)
    assert math.isclose(canary.effective_for(gap, found, rate, policy), 7 * effective, rel_tol=1e-6)
    assert canary.effective_for(0.0, found, rate, policy) == math.inf


def running(weight: float) -> Rollout:
    arm = ModelVersion(version="1", archive="a", archive_digest="0", recipe_digest="r", registered=T0)
    stage = Policy().stages.index(weight)
    return Rollout(model="m", champion=arm, challenger=arm, weight=weight, stage=stage, salt="s", since=T0)


def test_exposures_ahead_come_by_the_stages_and_leave_out_the_first_hours_of_each():
    policy, row = Policy(), running(0.25)
    last = made.look(0, row)  # at 6 h, 300 effective exposures
    path = list(canary.ahead(last, row, policy, 1000.0, T0 + timedelta(days=28)))
    moments = [(moment - T0) / timedelta(hours=1) for moment, _ in path]
    assert moments == [6, 12, 24, 36, 28 * 24]  # 25 % until 24 h, then 50 % until patience ends; 12 h count for nothing
    grown = [after - before for (_, before), (_, after) in pairwise(path)]
    assert grown == pytest.approx([0, 1000 * 0.1875 * 0.5, 0, 1000 * 0.25 * (28 - 1.5)])


@given(st.floats(10, 1e5), st.floats(1.1, 10))
def test_more_traffic_decides_no_later(traffic: float, times: float):
    policy, row, until = Policy(), running(0.05), T0 + timedelta(days=28)
    last = made.look(0, row)
    slow, fast = (canary.reached(5000.0, last, row, policy, t, until) for t in (traffic, times * traffic))
    assert slow is None or (fast is not None and fast <= slow)


def test_a_canary_that_cannot_decide_at_this_traffic_is_told_so():
    policy, row = Policy(), running(0.25)
    looks = [made.look(n, row) for n in range(3)]
    (*_, detectable, stages) = canary.forecast(looks, row, policy, T0)
    assert "When patience ends it can tell a difference of" in detectable and stages.startswith("2 stages are ahead")
    for look in looks:
        look.evidence["traffic"]["exposures"] = 5
    assert "at this traffic it never decides" in canary.forecast(looks, row, policy, T0)[0]


def test_a_map_keeps_what_lies_along_two_directions():
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((60, 2)) * [5.0, 2.0]
    turned = flat @ np.linalg.qr(rng.standard_normal((9, 9)))[0][:2]
    place, explained = embedding.principal(turned)
    assert explained == pytest.approx(1.0)
    apart = np.linalg.norm(place[:, None] - place[None], axis=-1)
    assert apart == pytest.approx(np.linalg.norm(flat[:, None] - flat[None], axis=-1))
    again, _ = embedding.principal(turned + 3.0)
    assert again == pytest.approx(place)


def test_colours_tell_numbers_by_size_and_words_by_how_many_there_are():
    of, key = embedding.colours([1.0, 2.0, 3.0, 4.0, 100.0, None])
    assert of == ["q0", "q1", "q2", "q3", "q4", "f7"] and key[-1] == ("f7", "nothing known")
    of, key = embedding.colours(["a", "b", "a", None, *"cdefghij"])
    assert of[:3] == ["f0", "f1", "f0"] and of[3] == "f7" and len(key) == 8
    assert embedding.colours([["x", "y"], []])[0] == ["f0", "f7"]
    assert embedding.colours([None])[1] == []
    _, key = embedding.colours([0.0, 1.0, 1.0, 2.0, 4.0], lambda day: f"day {day:.0f}")
    assert key[0][1] == "up to day 1" and key[-1][1] == "above day 2", "a date is no number of days"


@given(st.lists(st.integers(0, 60), min_size=1, max_size=80), st.integers(0, 60))
def test_a_number_stands_where_it_does_among_the_rows(values: list[int], value: int):
    edges = sorted(set(np.quantile(values, [n / 10 for n in range(1, 10)], method="lower").tolist()))
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1).tolist()
    found = {"kind": "numeric", "edges": edges, "counts": counts, "missing": 0, "min": min(values), "max": max(values)}
    told = among(found, value)
    if not min(values) <= value <= max(values):
        assert told.startswith("beyond all rows")
        return
    below, above = (int(share) / 100 for share in re.findall(r"(\d+)%", told))
    assert below <= sum(each < value for each in values) / len(values) + 0.0051
    assert above <= sum(each > value for each in values) / len(values) + 0.0051


def test_a_word_and_what_is_missing_are_told_by_their_share():
    found = {"kind": "categorical", "values": ["a", "b"], "counts": [6, 2, 1], "missing": 1, "distinct": 4}
    assert (among(found, "a"), among(found, "z")) == ("60.0% of the rows", "one of the rarer values")
    assert among(found, None) == "missing, as in 10.0% of the rows"
