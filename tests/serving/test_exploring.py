"""Slots in which chance shows new items: by a known law, alike in both arms, and never where a rule fills them."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from experiments.rules import Rules
from experiments.rules_table import RulesVersion
from serving.gateway.after.compiled import Explorable, compiled
from serving.gateway.after.showing import ShowingLimits, show
from tests.serving.test_showing import (
    CATALOGUE,
    IDS,
    NOW,
    ids,
    ranking,
    shown,
    stock,
)


def test_both_arms_explore_alike() -> None:
    """Whatever an arm ranks, the same draws show the same new items in the slots that explore."""
    rules = {"exploration": {"share": 0.5, "slots": [2, 4], "most_events": 20}}
    for number in range(200):
        asked = ShowingLimits(k=4, request_id=f"r{number}", hidden=frozenset())
        arms = [shown(rules, asked, ranking(*order)) for order in (IDS[8:16], IDS[16:24])]
        assert arms[0].draws == arms[1].draws
        explored = [
            [item if origin == "explored" else None for item, origin in zip(ids(arm), arm.origins, strict=True)]
            for arm in arms
        ]
        assert explored[0] == explored[1]


def test_propensities_are_the_probabilities_with_which_items_are_shown() -> None:
    """Chi-square over pairs of slots; the benchmark draws a million. Under the law p is uniform: it fails by chance
    never, as the seeds are fixed."""
    rules = {"exploration": {"share": 0.4, "most_events": 20}, "diversity": {"caps": {"brand": 1}}}
    seen: Counter[tuple[str, str]] = Counter()
    law: dict[tuple[str, str], float] = {}
    made = compiled(RulesVersion(number=1, rules=Rules.of(rules)), CATALOGUE, NOW)
    explorable, times = Explorable(made), 10_000
    for number in range(times):
        asked = ShowingLimits(k=2, request_id=f"r{number}", hidden=frozenset(["i1"]))
        found = show(made, explorable, stock("i2"), asked, ranking("i3", "i20", "i4", "i22"), counts=False)
        pair = (ids(found)[0], ids(found)[1])
        seen[pair] += 1
        chance = found.propensities[0] * found.propensities[1]
        assert law.setdefault(pair, chance) == pytest.approx(chance)
    assert sum(law.values()) == pytest.approx(1, abs=1e-3), "every pair that may be shown was, and its chance is whole"
    expected = np.array([law[pair] for pair in seen]) / sum(law.values()) * times
    assert stats.chisquare([*seen.values()], expected).pvalue > 0.001


def test_nothing_is_explored_twice() -> None:
    rules = {"exploration": {"share": 0.5, "where": {"brand": ["b0"]}, "most_events": 60}}
    for number in range(200):
        found = shown(rules, ShowingLimits(k=8, request_id=f"r{number}", hidden=frozenset()), ranking(*IDS[10:20]))
        assert len(set(ids(found))) == 8
        open_ = [count for count in found.explorable if count is not None]
        assert open_ == sorted(open_, reverse=True), "what was shown is open no more"


def test_a_slot_that_a_rule_fills_does_not_explore() -> None:
    rules = {
        "exploration": {"share": 0.5},
        "pins": [{"item": "i9", "slot": 1}],
        "boosts": [{"items": ["i20"], "share": 0.5}],
    }
    for number in range(40):
        found = shown(
            rules, ShowingLimits(k=3, request_id=f"r{number}", hidden=frozenset()), ranking("i1", "i20", "i4")
        )
        assert ids(found)[:2] == ["i9", "i20"] and found.propensities[:2] == [1, 1] and found.draws[:2] == [None, None]
