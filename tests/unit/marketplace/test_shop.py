from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from marketplace import browsing
from marketplace.config import MarketplaceConfig
from marketplace.corruption import KINDS, soil
from marketplace.shop import Marketplace

SHOP = MarketplaceConfig(days=20, users=200, items=150, new_items_per_day=3, categories=6, brands=10, seed=4)


def purchases(config: MarketplaceConfig) -> pa.Table:
    return pa.concat_tables(day.interactions for day in Marketplace(config).days())


def item_rows(config: MarketplaceConfig) -> pa.Table:
    return pa.concat_tables(day.items for day in Marketplace(config).days())


def test_same_seed_gives_the_same_shop_and_another_seed_another():
    assert purchases(SHOP).equals(purchases(SHOP))
    assert item_rows(SHOP).equals(item_rows(SHOP))
    assert not purchases(SHOP).equals(purchases(replace(SHOP, seed=5)))


def test_more_days_only_add_to_the_end():
    longer, shorter = purchases(replace(SHOP, days=25)), purchases(SHOP)
    assert longer.slice(0, len(shorter)).equals(shorter)
    assert len(longer) > len(shorter)
    rows = item_rows(SHOP)
    assert item_rows(replace(SHOP, days=25)).slice(0, len(rows)).equals(rows)


def test_nothing_is_bought_before_its_launch_or_twice():
    table = purchases(SHOP)
    launches = Marketplace(SHOP).catalogue()
    joined = table.join(launches.select(["item_id", "available_at"]), "item_id")
    assert len(joined) == len(table) > 1500
    assert pc.all(pc.greater_equal(joined["event_time"], joined["available_at"])).as_py()
    pairs = table.group_by(["user_id", "item_id"]).aggregate([([], "count_all")])
    assert pc.max(pairs["count_all"]).as_py() == 1


def test_days_hold_only_their_own_events_in_order():
    for number, day in enumerate(Marketplace(SHOP).days()):
        times = day.interactions["event_time"].combine_chunks().to_numpy(zero_copy_only=False)
        assert (times.astype("datetime64[D]") == np.datetime64(day.date)).all()
        assert (np.diff(times) >= np.timedelta64(0)).all()
        assert (
            Marketplace(SHOP).day_of(SHOP.start.fromordinal(day.date.toordinal()).replace(tzinfo=SHOP.start.tzinfo))
            == number
        )


def test_new_items_come_every_day_and_are_bought():
    table = purchases(SHOP)
    new = pc.greater_equal(table["item_id"], "i000150")
    assert 0.05 < pc.mean(new.cast(pa.float64())).as_py() < 0.5
    assert len(Marketplace(SHOP).catalogue(0)) == 153
    assert len(Marketplace(SHOP).catalogue()) == 210


def test_price_changes_tell_every_price_of_every_day():
    shop = Marketplace(SHOP)
    known: dict[str, float] = {}
    changes = 0
    for number, day in enumerate(shop.days()):
        update = dict(zip(day.items["item_id"].to_pylist(), day.items["price"].to_pylist(), strict=True))
        changes += sum(item in known for item in update)
        known |= update
        now = shop.catalogue(number)
        assert known == dict(zip(now["item_id"].to_pylist(), now["price"].to_pylist(), strict=True))
    assert changes > 100


def test_popularity_drifts():
    catalogue = Marketplace(SHOP)._catalogue
    assert np.corrcoef(catalogue.popularity(0), catalogue.popularity(19))[0, 1] < 0.6
    assert np.corrcoef(catalogue.popularity(0), catalogue.popularity(1))[0, 1] > 0.9


def similarity_to_last(config: MarketplaceConfig) -> tuple[float, float]:
    """Mean cosine of the shown styles, and share of equal shown brands, of consecutive purchases of a shopper."""
    shop = Marketplace(config)
    catalogue = shop.catalogue()
    style = np.array(catalogue["style"].to_pylist())
    brand = np.array(catalogue["brand"].to_pylist())
    table = purchases(config).sort_by([("user_id", "ascending"), ("event_time", "ascending")])
    user = np.array(table["user_id"].to_pylist())
    item = np.array([int(i[1:]) for i in table["item_id"].to_pylist()])
    same = user[1:] == user[:-1]
    before, after = item[:-1][same], item[1:][same]
    shuffled = np.random.default_rng(0).permutation(after)
    cosine = (style[before] * style[after]).sum(axis=1).mean() - (style[before] * style[shuffled]).sum(axis=1).mean()
    loyalty = (brand[before] == brand[after]).mean() - (brand[before] == brand[shuffled]).mean()
    return float(cosine), float(loyalty)


def test_shown_features_tell_of_the_next_choice():
    cosine, loyalty = similarity_to_last(SHOP)
    assert cosine > 0.08
    assert loyalty > 0.05


def test_placebo_keeps_the_choices_and_breaks_their_tie_to_the_shown_features():
    placebo = replace(SHOP, placebo=True)
    assert purchases(placebo).equals(purchases(SHOP))
    cosine, loyalty = similarity_to_last(placebo)
    assert abs(cosine) < 0.02
    assert abs(loyalty) < 0.03
    shown, true = Marketplace(placebo).catalogue(), Marketplace(SHOP).catalogue()
    assert shown["item_id"].equals(true["item_id"])
    titles = zip(shown["title"].to_pylist(), true["title"].to_pylist(), strict=True)
    assert np.mean([a == b for a, b in titles]) < 0.02
    # The same features are about, though of other items; those of items launched later may show early.
    assert len(set(map(tuple, shown["style"].to_pylist()))) == len(shown)


def test_higher_positions_are_examined_and_clicked_more():
    shop, rng = Marketplace(SHOP), np.random.default_rng(0)
    likeliest = int(shop.choice_probabilities("u000001", ["i000003"], SHOP.start).argmax())
    same = [f"i{likeliest:06d}"] * 10
    answers = [shop.click("u000001", same, SHOP.start, rng, history=["i000003"]) for _ in range(2000)]
    examined = np.mean([answer.examined for answer in answers], axis=0)
    np.testing.assert_allclose(examined, 1 / np.log2(np.arange(10) + 2), atol=0.03)
    clicked = np.mean([answer.clicked for answer in answers], axis=0)
    assert clicked[0] > 1.5 * clicked[-1]
    for answer in answers:
        assert (answer.clicked <= answer.examined).all()
        assert (answer.purchased <= answer.clicked).all()


def test_likelier_items_are_clicked_and_purchased_more():
    shop, rng = Marketplace(SHOP), np.random.default_rng(0)
    history = ["i000003", "i000011"]
    order = np.argsort(-shop.choice_probabilities("u000001", history, SHOP.start)[:153])
    best, worst = ([f"i{row:06d}" for row in rows] for rows in (order[:5], order[-7:-2]))
    answers = {
        name: [shop.click("u000001", shown, SHOP.start, rng, history=history) for _ in range(400)]
        for name, shown in (("best", best), ("worst", worst))
    }
    clicks = {name: np.mean([answer.clicked for answer in found]) for name, found in answers.items()}
    purchases_ = {name: np.mean([answer.purchased for answer in found]) for name, found in answers.items()}
    assert clicks["best"] > 5 * clicks["worst"]
    assert purchases_["best"] > 5 * purchases_["worst"]


def test_what_is_not_on_sale_or_already_bought_is_never_clicked():
    shop, rng = Marketplace(SHOP), np.random.default_rng(0)
    shown = ["i000209", "i000003"]
    answers = [shop.click("u000001", shown, SHOP.start, rng, history=["i000003"]) for _ in range(200)]
    assert not np.any([answer.clicked for answer in answers])


def test_dirt_is_added_and_takes_nothing_away():
    day = next(Marketplace(replace(SHOP, users=2000)).days()).interactions
    dirty = soil(day, 0.2, np.random.default_rng(0))
    assert dirty.slice(0, len(day)).drop_columns("event_time").equals(day.drop_columns("event_time"))
    bad = dirty.slice(len(day))
    assert 0.1 < len(bad) / len(day) < 0.3
    assert bad["user_id"].null_count
    assert bad["event_time"].null_count
    assert pc.min(bad["quantity"]).as_py() == -1
    assert len(KINDS) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dayz": 3}, "unknown option 'dayz'; known: days, users"),
        ({"days": 2.5}, "option days is 2.5, expected int"),
        ({"days": True}, "option days is True, expected int"),
        ({"days": 0}, "days=0, expected at least 1"),
        ({"items": 3}, "items=3 for categories=24"),
        ({"dirty_rate": 1.5}, "dirty_rate=1.5, expected 0 to 1"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        MarketplaceConfig.from_options(options)


def test_one_shopper_and_one_category_work():
    config = MarketplaceConfig(days=30, users=1, items=1, new_items_per_day=0, categories=1, brands=1)
    assert set(purchases(config)["user_id"].to_pylist()) <= {"u000000"}


def with_kinds(**options):
    return Marketplace(replace(SHOP, kinds=True, **options))


def test_browsing_moves_no_purchase_and_stays_within_its_day():
    for plain, day in zip(Marketplace(SHOP).days(), with_kinds().days(), strict=True):
        kind = np.array(day.interactions["event_type"].to_pylist())
        bought = day.interactions.filter(pa.array(kind == "purchase")).drop_columns("event_type")
        assert bought.sort_by([("event_time", "ascending"), ("user_id", "ascending")]) == plain.interactions.sort_by(
            [("event_time", "ascending"), ("user_id", "ascending")]
        )
        times = day.interactions["event_time"].to_pylist()
        assert times == sorted(times) and {moment.date() for moment in times} <= {day.date}


def test_looks_precede_purchases_of_what_is_wanted_and_dismissals_say_what_is_not():
    """Lift of the law, with the history of then: of what is looked at like that of what is bought, of what is waved
    away far below it; and of the items bought a share of `browsing.SEEN` was looked at shortly before."""
    shop = with_kinds()
    lifts, seen, purchases = {kind: [] for kind in browsing.KINDS}, 0, 0
    history: dict[str, list[str]] = {}
    for number, day in enumerate(shop.days()):
        rows = day.interactions.to_pylist()
        looked: dict[str, set[str]] = {}
        for row in rows:
            user, item, kind = row["user_id"], row["item_id"], row["event_type"]
            if number > 3 and len(lifts[kind]) < 400:
                lift = shop.lift(user, [item], row["event_time"], history=history.get(user, []))[0]
                lifts[kind].append(lift if np.isfinite(lift) else -20.0)
            if kind == "purchase":
                purchases += 1
                seen += item in looked.get(user, set())
                history.setdefault(user, []).append(item)
            elif kind == "view":
                looked.setdefault(user, set()).add(item)
    median = {kind: float(np.median(found)) for kind, found in lifts.items()}
    assert all(len(found) > 100 for found in lifts.values())
    assert abs(median["view"] - median["purchase"]) < 1 and median["dismissed"] < median["view"] - 1.5
    assert browsing.SEEN - 0.05 < seen / purchases < browsing.SEEN + 0.2
