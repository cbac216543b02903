"""Groups of shoppers and devices: the law has what each leans to, the tables tell which it is, and their placebos tell
nothing."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from marketplace.choice_model import DEVICES, EMPTY, GROUPS
from marketplace.config import MarketplaceConfig
from marketplace.shop import Marketplace

PLAIN = MarketplaceConfig(days=6, users=400, items=120, new_items_per_day=2, categories=8, seed=3)
GROUPED = replace(PLAIN, groups=1.5)
BY_DEVICE = replace(PLAIN, devices=1.5)


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


def test_a_device_told_wrongly_changes_no_purchase_and_one_visit_is_by_one_device():
    told, strange, plain = (bought(each) for each in (BY_DEVICE, replace(BY_DEVICE, strange_devices=True), PLAIN))
    same = []
    for ours, theirs in zip(told, strange, strict=True):
        assert ours.drop(["device"]).equals(theirs.drop(["device"]))
        same += np.equal(ours["device"].to_pylist(), theirs["device"].to_pylist()).tolist()
        devices = ours.group_by("user_id").aggregate([("device", "count_distinct")])["device_count_distinct"]
        assert set(devices.to_pylist()) == {1}
    assert set(pa.concat_tables(told)["device"].to_pylist()) == set(DEVICES)
    assert abs(np.mean(same) - 1 / len(DEVICES)) < 0.1, "no more than by chance"
    assert not any(ours.drop(["device"]).equals(theirs) for ours, theirs in zip(told, plain, strict=True))


def test_of_two_devices_of_one_shopper_the_law_tells_what_they_lean_to_apart():
    shop = Marketplace(BY_DEVICE)
    law, users, nobody, device = shop._law, np.array([7, 7]), np.full((2, 6), EMPTY), np.array([0, 2])
    categories = law.categories(users, nobody, device)
    expected = BY_DEVICE.devices * (law.device_leaning[0] - law.device_leaning[2])
    found = categories[0] - categories[1]
    np.testing.assert_allclose(found - found.mean(), expected - expected.mean())
    for category in range(PLAIN.categories):
        utility = law.utilities(users, nobody, law.contexts(users, nobody, device), category, 0)
        style = law.catalogue.style[law.on_sale(category, 0)]
        other = law.device_style[0] - law.device_style[2]
        np.testing.assert_allclose(utility[0] - utility[1], BY_DEVICE.devices * style @ other, atol=1e-9)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"groups": -1.0}, "groups="),
        ({"strangers": True}, "groups="),
        ({"devices": -1.0}, "devices="),
        ({"strange_devices": True}, "devices="),
        ({"devices": 1.0, "kinds": True}, "leave devices or kinds out"),
    ],
)
def test_a_shop_says_what_is_wrong_with_its_groups_and_devices(wrong, told):
    with pytest.raises(ValueError, match=told):
        replace(PLAIN, **wrong)
