"""The order of features across purchases: an option of the shop, which others do not feel."""

import hashlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.model.law import laws
from feature_repo.card import load_card
from heterrec.data.sequences import Catalogue, Sequences
from heterrec.evaluation.metrics import rank
from marketplace.choice_model import EMPTY, Law
from marketplace.config import MarketplaceConfig
from marketplace.shop import REMEMBERED, Marketplace

PLAIN = MarketplaceConfig(days=20, users=200, items=150, new_items_per_day=3, categories=6, brands=10, seed=4)
SHOP = replace(PLAIN, order=4.0, brands=4)


def purchases(config: MarketplaceConfig) -> pa.Table:
    return pa.concat_tables(day.interactions for day in Marketplace(config).days())


def test_a_shop_without_order_sells_what_it_always_sold():
    """Digest of the purchases of this shop before the option was there, commit 479d7c8."""
    table = purchases(PLAIN)
    digest = hashlib.sha256()
    for name in ("user_id", "item_id"):
        digest.update("\n".join(table[name].to_pylist()).encode())
    assert digest.hexdigest() == "6e23525a14f176a31218eadaffc7b76997f1e6cb217491bd9ea3d4a3d28d34ad"


def test_each_brand_leads_through_all_categories_on_a_round_of_its_own():
    following = Marketplace(SHOP)._law.following
    for way in following:
        category, seen = 0, []
        for _ in range(SHOP.categories):
            category = int(way[category])
            seen.append(category)
        assert sorted(seen) == list(range(SHOP.categories))
    assert len({tuple(way) for way in following.tolist()}) == SHOP.brands


def begun(law: Law, history: np.ndarray) -> list[tuple[float, int, int]]:
    """(weight, category to follow, row) of each brand's latest purchase, one after the other."""
    found: dict[int, tuple[float, int, int]] = {}
    for age, row in enumerate(history[::-1][: law.tastes.memory].tolist()):
        if row != EMPTY and (brand := int(law.catalogue.brand[row])) not in found:
            found[brand] = (
                law.tastes.fade**age,
                int(law.following[brand, law.catalogue.category[row]]),
                row,
            )
    return list(found.values())


def test_shoppers_go_on_with_what_they_began():
    """Against the same law without the term, and the term written down plainly."""
    shop = Marketplace(SHOP)
    law, plain = shop._law, Law(replace(SHOP, order=0.0), shop._catalogue)
    catalogue, rng = shop._catalogue, np.random.default_rng(0)
    history = rng.permuted(np.tile(np.arange(150), (30, 1)), axis=1)[:, :10]
    history[3], history[4, :7] = EMPTY, EMPTY
    users = np.arange(30)
    added = np.zeros((30, SHOP.categories))
    for n in range(30):
        for weight, category, _ in begun(law, history[n]):
            added[n, category] += SHOP.order * weight
    nest = plain.categories(users, history) + added
    expected = nest - np.log(np.exp(nest).sum(1, keepdims=True))
    np.testing.assert_allclose(law.categories(users, history), expected)
    contexts = law.contexts(users, history)
    for category in range(SHOP.categories):
        members = law.on_sale(category, 5)
        gain = np.zeros((30, len(members)))
        for n in range(30):
            for weight, following, row in begun(law, history[n]):
                same = (catalogue.brand[members] == catalogue.brand[row]) & (following == category)
                other = (catalogue.tier[members] > 0) != (catalogue.tier[row] > 0)
                gain[n] += SHOP.order * weight * same * (1 + other) / 2
        found = law.utilities(users, history, contexts, category, 5)
        np.testing.assert_allclose(found, plain.utilities(users, history, contexts, category, 5) + gain)


def choices() -> list[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """(day, users, histories, chosen), the first choice of a day of each shopper who had three before it."""
    history = np.full((SHOP.users, REMEMBERED), EMPTY, dtype=np.int64)
    found = []
    for number, day in enumerate(Marketplace(SHOP).days()):
        first: dict[int, tuple[np.ndarray, int]] = {}
        for user_id, item_id in zip(
            day.interactions["user_id"].to_pylist(), day.interactions["item_id"].to_pylist(), strict=True
        ):
            user, item = int(user_id[1:]), int(item_id[1:])
            if user not in first and history[user, -3] != EMPTY:
                first[user] = (history[user].copy(), item)
            history[user] = np.append(history[user, 1:], item)
        if first:
            befores, chosen = zip(*first.values(), strict=True)
            found.append((number, np.array(list(first)), np.array(befores), np.array(chosen)))
    return found


def test_choices_follow_the_probabilities_of_the_law_and_are_unlikely_without_its_order():
    law = Marketplace(SHOP)._law
    plain = Law(replace(SHOP, order=0.0), law.catalogue)
    rng, below, gains = np.random.default_rng(0), [], []
    for day, users, history, chosen in choices():
        here = np.arange(len(users)), chosen
        logs = law.log_probabilities(users, history, day)
        gains.append(logs[here] - plain.log_probabilities(users, history, day)[here])
        p = np.exp(logs)
        before = np.array([row[:i].sum() for row, i in zip(p, chosen, strict=True)])
        below.append(before + rng.random(len(chosen)) * p[here])
    counts = np.bincount((np.concatenate(below) * 10).astype(int), minlength=10)
    expected = counts.sum() / 10
    # 27.9 is the 99.9th percentile of chi-square with 9 degrees of freedom.
    assert ((counts - expected) ** 2 / expected).sum() < 27.9
    assert np.concatenate(gains).mean() > 0.5


def test_an_order_that_is_none_is_told():
    with pytest.raises(ValueError, match=r"marketplace: order=-1.0, expected 0 or more"):
        replace(SHOP, order=-1.0)


def sequences() -> Sequences:
    """The shop's purchases, each shopper's last one as test."""
    shop, table = Marketplace(SHOP), purchases(SHOP).sort_by([("user_id", "ascending"), ("event_time", "ascending")])
    users = np.array([int(user[1:]) for user in table["user_id"].to_pylist()])
    known, count = np.unique(users, return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(count)])
    split = np.zeros(len(users), dtype=np.int64)
    split[offsets[1:] - 1] = 2
    items = shop.catalogue()
    return Sequences(
        user_ids=[f"u{user:06d}" for user in known],
        offsets=offsets,
        row=np.array([int(item[1:]) for item in table["item_id"].to_pylist()]),
        time=np.asarray(table["event_time"].cast(pa.int64())),
        basket=np.concatenate([np.arange(n) for n in count]),
        split=split,
        varying={},
        catalogue=Catalogue(
            item_ids=items["item_id"].to_pylist(),
            available_at=np.asarray(items["available_at"].cast(pa.int64())),
            fixed={},
            features=[],
        ),
        repeats=False,
    )


def test_the_oracle_says_how_much_there_is_to_find():
    card = load_card("marketplace_order")
    assert card.source.options["order"] > 0
    options = {name: getattr(SHOP, name) for name in ("days", "users", "items", "new_items_per_day", "categories")}
    options |= {"brands": SHOP.brands, "seed": SHOP.seed, "order": SHOP.order}
    card = card.model_copy(update={"source": card.source.model_copy(update={"options": options})})
    data = sequences()
    queries = data.queries("test")
    found = {name: rank(row.fit(data, queries), data, queries).mean("ndcg", 10) for name, row in laws(card).items()}
    assert found["law"] > found["law_without_order"] + 0.05 > 0.15
    assert list(laws(load_card("marketplace"))) == ["law"] and not laws(load_card("online_retail"))
