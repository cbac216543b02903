"""What another policy would have earned: estimates that are right where the truth is known, by shoppers."""

import numpy as np
import pytest

from experiments.off_policy import (
    FEWEST,
    doubly_robust,
    interval,
    logged,
    predicted,
    self_normalised,
)

CLICK_XI = np.array([[0.1, 0.3, 0.3], [0.1, 0.3, 0.9]])
"""By kind of shopper and item; the policy in question shows the last item."""
LAW_XI = np.array([[0.8, 0.1, 0.1], [0.3, 0.3, 0.4]])
"""The last item is shown rather to those who like it: unweighed it would look better than it is."""
TRUTH = 0.6


def log(seed: int, shoppers: int = 600, visits: int = 4) -> tuple[np.ndarray, ...]:
    """Shopper, item, reward, propensity and chance of each slot; rows of a shopper are alike by kind and mood."""
    rng = np.random.default_rng(seed)
    shopper = np.repeat(np.arange(shoppers), visits)
    kind = shopper % 2
    item = (rng.random(len(shopper))[:, None] > LAW_XI[kind].cumsum(axis=1)).sum(axis=1)
    mood = rng.choice([0.9, 1.1], shoppers)[shopper]
    reward = (rng.random(len(shopper)) < CLICK_XI[kind, item] * mood).astype(float)
    return shopper, item, reward, LAW_XI[kind, item], (item == 2).astype(float)


def test_intervals_hold_the_truth_as_often_as_they_promise_and_tell_better_from_served() -> None:
    held, better = {"ips": 0, "dr": 0}, 0
    for seed in range(200):
        shopper, item, reward, propensity, chance = log(seed)
        shown, other = np.eye(3)[item], np.eye(3)[np.full(len(item), 2)]
        modelled = predicted(shown, other, reward, propensity, shopper)
        doubly = doubly_robust(reward, propensity, chance, *modelled)
        for name, scored in (("ips", self_normalised(reward, propensity, chance)), ("dr", doubly)):
            found = interval(scored, shopper)
            assert found.supported
            held[name] += found.low <= TRUTH <= found.high
        same = interval(doubly.against(doubly), shopper)
        assert same.low == same.high == 0, "what both share does not widen a difference"
        better += interval(doubly.against(logged(reward)), shopper).low > 0
    assert min(held.values()) >= 184 and better == 200


def test_shoppers_and_not_rows_are_what_an_interval_rests_on() -> None:
    shopper, _, reward, propensity, chance = log(0)
    once = interval(self_normalised(reward, propensity, chance), shopper)
    doubled = [np.tile(each, 4) for each in (reward, propensity, chance)]
    again = interval(self_normalised(*doubled), np.tile(shopper, 4))
    assert (again.value, again.high) == (pytest.approx(once.value), pytest.approx(once.high)), (
        "told four times, it is no more"
    )
    alone = interval(self_normalised(*doubled), np.arange(4 * len(shopper)))
    assert alone.high - alone.low < 0.6 * (once.high - once.low)


def test_doubly_robust_is_right_where_the_model_is_wrong_and_narrower_where_it_is_right() -> None:
    shopper, item, reward, propensity, chance = log(1, shoppers=4000)
    kind, last, found = shopper % 2, np.full(len(shopper), 2), {}
    for name, model_XI in (("wrong", 1 - CLICK_XI), ("right", CLICK_XI)):
        modelled = model_XI[kind, item], model_XI[kind, last]
        found[name] = interval(doubly_robust(reward, propensity, chance, *modelled), shopper)
        assert found[name].low <= TRUTH <= found[name].high
    weighed = interval(self_normalised(reward, propensity, chance), shopper)
    width = {name: each.high - each.low for name, each in {**found, "none": weighed}.items()}
    assert width["right"] < 0.95 * width["none"] < width["wrong"]


def test_a_prediction_has_seen_nothing_of_its_shopper() -> None:
    shopper, item, reward, propensity, _ = log(2)
    features = np.eye(3)[item]
    before = predicted(features, features, reward, propensity, shopper)[0]
    changed = np.where(shopper == 7, 1 - reward, reward)
    after = predicted(features, features, changed, propensity, shopper)[0]
    np.testing.assert_array_equal(before[shopper == 7], after[shopper == 7])
    assert (before != after).any()


def test_few_shoppers_support_nothing_and_a_log_of_another_law_is_refused() -> None:
    shopper, _, reward, propensity, chance = log(3, shoppers=12)
    assert not interval(self_normalised(reward, propensity, chance), shopper).supported and FEWEST > 12
    with pytest.raises(ValueError, match="shows nothing that this policy would"):
        self_normalised(reward, propensity, np.zeros(len(reward)))
    for wrong in (0.0, 1.5, np.nan):
        with pytest.raises(ValueError, match="of another law"):
            self_normalised(reward, np.full(len(reward), wrong), chance)
