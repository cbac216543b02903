from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest

from marketplace.choice_model import EMPTY, Law
from marketplace.config import MarketplaceConfig, Tastes
from marketplace.shop import REMEMBERED, Marketplace

SHOP = MarketplaceConfig(days=12, users=300, items=120, new_items_per_day=2, categories=6, brands=10, seed=3)
TERMS = [
    spec.name for spec in fields(Tastes) if spec.name not in ("novelty_days", "memory", "fade", "swing", "novelty")
]


@cache
def choices() -> list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """(day, users, histories, chosen), each shopper's choice of a day that had at least three before it."""
    history = np.full((SHOP.users, REMEMBERED), EMPTY, dtype=np.int64)
    found = []
    for number, day in enumerate(Marketplace(SHOP).days()):
        users = [int(user[1:]) for user in day.interactions["user_id"].to_pylist()]
        items = [int(item[1:]) for item in day.interactions["item_id"].to_pylist()]
        first: dict[int, tuple[np.ndarray, int]] = {}
        for user, item in zip(users, items, strict=True):
            if user not in first and history[user, -3] != EMPTY:
                first[user] = (history[user].copy(), item)
            history[user] = np.append(history[user, 1:], item)
        if first:
            befores, chosen = zip(*first.values(), strict=True)
            found.append((number, np.array(list(first)), np.array(befores), np.array(chosen)))
    return found


def log_likelihood(tastes: Tastes) -> float:
    """Mean over the choices of the log-probability that a law with `tastes` gives them."""
    law = Law(replace(SHOP, tastes=tastes), Marketplace(SHOP)._catalogue)
    found = [
        law.log_probabilities(users, history, day)[np.arange(len(users)), chosen]
        for day, users, history, chosen in choices()
    ]
    return float(np.concatenate(found).mean())


@pytest.mark.parametrize("term", TERMS)
def test_choices_are_likelier_under_the_law_than_without_a_term_of_it(term):
    tastes = SHOP.tastes
    assert log_likelihood(tastes) > log_likelihood(replace(tastes, **{term: 0.0})) + 0.002


def test_choices_are_far_likelier_than_chance():
    assert log_likelihood(SHOP.tastes) > -np.log(120) + 1.0


def test_choices_follow_the_probabilities_of_the_law():
    """Chi-square of ranks: how often the choice fell into each tenth of the law's probability mass."""
    law = Marketplace(SHOP)._law
    rng = np.random.default_rng(0)
    below = []
    for day, users, history, chosen in choices():
        p = np.exp(law.log_probabilities(users, history, day))
        before = np.array([row[:i].sum() for row, i in zip(p, chosen, strict=True)])
        below.append(before + rng.random(len(chosen)) * p[np.arange(len(chosen)), chosen])
    counts = np.bincount((np.concatenate(below) * 10).astype(int), minlength=10)
    expected = counts.sum() / 10
    # 27.9 is the 99.9th percentile of chi-square with 9 degrees of freedom.
    assert ((counts - expected) ** 2 / expected).sum() < 27.9


def test_probabilities_sum_to_one_over_what_is_on_sale():
    shop = Marketplace(SHOP)
    time = SHOP.start.replace(day=10)
    p = shop.choice_probabilities("u000001", ["i000003", "i000010"], time)
    assert p.sum() == pytest.approx(1)
    on_sale = len(shop.catalogue(shop.day_of(time)))
    assert on_sale == 120 + 2 * 5
    assert (p[:on_sale] > 0).sum() == on_sale - 2
    assert not p[on_sale:].any()
    assert p[3] == p[10] == 0


def test_who_has_bought_a_whole_category_may_buy_of_it_again():
    config = MarketplaceConfig(days=1, users=5, items=4, new_items_per_day=0, categories=2, seed=1)
    p = Marketplace(config).choice_probabilities("u000000", [f"i{i:06d}" for i in range(4)], config.start)
    assert p.sum() == pytest.approx(1)
    assert np.isfinite(p).all()


@pytest.mark.parametrize("key", ["x000001", "u999999", "u", ""])
def test_unknown_shopper_is_named(key):
    with pytest.raises(ValueError, match=f"no {key!r} here; expected u000000 to u000299"):
        Marketplace(SHOP).choice_probabilities(key, [], SHOP.start)
