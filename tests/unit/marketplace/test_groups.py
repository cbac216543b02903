"""Groups of shoppers: the law has their tastes, the table tells them, and of strangers the table tells nothing."""

from dataclasses import replace

import numpy as np
import pytest

from marketplace.config import MarketplaceConfig
from marketplace.law import EMPTY, GROUPS
from marketplace.shop import Marketplace

PLAIN = MarketplaceConfig(days=6, users=400, items=120, new_items_per_day=2, categories=8, seed=3)
GROUPED = replace(PLAIN, groups=1.5)


def bought(config: MarketplaceConfig) -> list:
    return [day.interactions for day in Marketplace(config).days()]


def test_strangers_buy_the_same_and_a_shop_without_groups_has_neither():
    grouped, strangers, plain = (bought(each) for each in (GROUPED, replace(GROUPED, strangers=True), PLAIN))
    assert all(ours.equals(theirs) for ours, theirs in zip(grouped, strangers, strict=True))
    assert not any(ours.equals(theirs) for ours, theirs in zip(grouped, plain, strict=True))
    tables = [Marketplace(each).users() for each in (GROUPED, replace(GROUPED, strangers=True))]
    told = [table["group"].to_pylist() for table in tables]
    assert tables[0]["user_id"].equals(tables[1]["user_id"]) and sorted(told[0]) == sorted(told[1])
    same = np.mean([ours == theirs for ours, theirs in zip(*told, strict=True)])
    assert len(set(told[0])) == GROUPS and same < 2.5 / GROUPS, "no more than by chance"


def test_of_two_shoppers_who_differ_in_their_group_alone_the_law_tells_the_groups_tastes_apart():
    shop = Marketplace(GROUPED)
    law, nobody = shop._law, np.full((2, 6), EMPTY)
    users = np.array([0, int(np.flatnonzero(law.group != law.group[0])[0])])
    for each in (law.leaning, law.taste):
        each[users[1]] = each[users[0]]
    law.sensitivity[users[1]] = law.sensitivity[users[0]]
    categories = law.categories(users, nobody)
    expected = GROUPED.groups * (law.group_leaning[law.group[users[0]]] - law.group_leaning[law.group[users[1]]])
    found = categories[0] - categories[1]
    np.testing.assert_allclose(found - found.mean(), expected - expected.mean())
    for category in range(PLAIN.categories):
        utility = law.utilities(users, nobody, law.contexts(users, nobody), category, 0)
        style = law.catalogue.style[law.on_sale(category, 0)]
        other = law.group_style[law.group[users[0]]] - law.group_style[law.group[users[1]]]
        np.testing.assert_allclose(utility[0] - utility[1], GROUPED.groups * style @ other, atol=1e-9)


@pytest.mark.parametrize("wrong", [{"groups": -1.0}, {"strangers": True}])
def test_a_shop_says_what_is_wrong_with_its_groups(wrong):
    with pytest.raises(ValueError, match="groups="):
        replace(PLAIN, **wrong)
