"""What tonight's model is held against, from an artifact as resolve makes it; the rankings are written by hand."""

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.evaluate.blessing import Blessing, RelativeGain
from components.evaluate.held import HeldAgainst
from heterrec.data.sequences import Sequences
from heterrec.evaluation.metrics import Ranking
from tests.component.gate_shop import Shop


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("held"))


@pytest.fixture
def shop(made: Shop, tmp_path: Path) -> Shop:
    made.root = tmp_path
    return made


def test_a_model_of_the_champions_recipe_is_its_refresh_and_any_other_none(shop: Shop) -> None:
    for serving in ("network", "tables"):
        for tonight in ("network", "other", "tables"):
            held = shop.held(shop.champion(f"{serving} {tonight}", serving), tonight)
            assert (held.refresh, held.recipe) == (serving == tonight, shop.recipe(tonight))
            instead = held.of(shop.models["tables"], shop.data)
            assert (instead.refresh, instead.recipe) == (serving == "tables", shop.recipe("tables"))
            assert replace(instead, recipe=held.recipe, refresh=held.refresh) == held
    assert not shop.held(shop.champion("nobody", None)).refresh


def test_a_model_of_before_recipes_were_kept_has_that_of_its_settings(shop: Shop) -> None:
    old = shutil.copytree(shop.models["network"], shop.root / "old")
    (old / "recipe.json").unlink()
    held = shop.held(shop.champion("champion", "network"), "other")
    assert held.of(old, shop.data).refresh


def test_what_is_asked_for_is_in_the_card(shop: Shop) -> None:
    held = shop.held(shop.champion("champion", "network"))
    assert held.rule.margin == 0.1 and held.rule.pool_days == 5 and held.rule.fresh_days == 20
    assert held.as_of == shop.now and held.to_json() == {"champion": "7", "reference": "6"}


@pytest.mark.parametrize(("serving", "network"), [(None, False), ("tables", False), ("network", True), ("other", True)])
def test_tables_are_no_network_that_serves(serving: str | None, network: bool, shop: Shop) -> None:
    assert shop.held(shop.champion("champion", serving)).network_serves == network


def without(data: Sequences, feature: str) -> Sequences:
    """The data of a card from which a feature was taken out."""
    described = [each for each in data.catalogue.features if each["name"] != feature]
    return replace(data, catalogue=replace(data.catalogue, features=described))


@pytest.mark.parametrize(
    ("serving", "reference", "named", "ranked"),
    [
        (None, None, None, set()),
        ("network", None, None, set()),
        ("tables", None, "champion", {"champion"}),
        ("tables", "network", None, {"champion"}),
        ("network", "tables", "reference", {"reference"}),
    ],
)
def test_a_reference_that_cannot_be_ranked_is_told_and_the_champion_takes_not_its_place(
    serving: str | None, reference: str | None, named: str | None, ranked: set[str], shop: Shop
) -> None:
    """On a card of fewer features: tables look at what words and values there are, a network cannot."""
    champion = shop.champion("champion", serving, reference)
    held = shop.held(champion, data=without(shop.data, "brand"))
    assert held.reference == named and held.models.keys() == ranked
    there = {"champion": serving, "reference": reference}
    assert {reason.check for reason in held.incomparable} == {name for name in there if there[name]} - ranked
    assert all(
        (reason.level, reason.held, reason.found) == ("warn", False, "needs brand") for reason in held.incomparable
    )
    whole = shop.held(champion)
    assert not whole.incomparable and whole.models.keys() == {name for name in there if there[name]}
    assert whole.reference == ("reference" if reference else "champion" if serving else None)


def judge(shop: Shop, held: HeldAgainst, ours: int = 1) -> tuple[Blessing | None, Path]:
    night = shop.root / "night.parquet"
    rankings = {"ours": shop.ranking(ours), "champion": shop.ranking(2), "reference": shop.ranking(3)}
    return held.judge("ours", shop.data, shop.queries, rankings, night), night


@pytest.mark.parametrize(("reference", "rank"), [(None, 2), ("other", 3)])
@pytest.mark.parametrize("refresh", [True, False])
def test_every_night_is_kept_against_the_reference_and_a_refresh_is_judged_by_it(
    reference: str | None, rank: int, refresh: bool, shop: Shop
) -> None:
    held = shop.held(shop.champion("champion", "network" if refresh else "other", reference))
    blessing, night = judge(shop, held)
    kept, value = pq.read_table(night), {1: 1.0, 2: 1 / np.log2(3), 3: 0.5}
    assert kept["user_id"].to_pylist() == [shop.data.user_ids[user] for user in shop.queries.user]
    assert kept["ours"].to_pylist() == [1.0] * len(kept)
    assert kept["theirs"].to_pylist() == pytest.approx([value[rank]] * len(kept))
    assert (blessing is not None) == refresh
    if blessing:
        assert blessing.tonight.estimate == pytest.approx(1 / value[rank] - 1) and blessing.nights == 1
    assert held.night("night.parquet") == {
        "dataset": "shop", "as_of": shop.now.isoformat(), "recipe": shop.recipe("network"), "file": "night.parquet",
        "reference": "6",
    }  # fmt: skip


@pytest.mark.parametrize(("rank", "found"), [(1, 1.0), (3, 0.5), (10, 1 / np.log2(11)), (11, 0.0)])
def test_a_night_is_told_in_ndcg_at_ten(rank: int, found: float, shop: Shop) -> None:
    _, night = judge(shop, shop.held(shop.champion("champion", "network")), ours=rank)
    assert pq.read_table(night)["ours"].to_pylist() == pytest.approx([found] * len(shop.queries))


def test_without_a_reference_nothing_is_judged_or_kept(shop: Shop) -> None:
    held = shop.held(shop.champion("champion", None))
    blessing, night = judge(shop, held)
    assert blessing is None and not night.exists() and held.night("night.parquet") is None


def test_nights_of_the_same_recipe_within_the_month_are_the_evidence(shop: Shop) -> None:
    """Those of another recipe, or too old, are not even read: their files are gone here."""
    nights = [
        {"recipe": shop.recipe(name), "as_of": (shop.now - timedelta(days=days)).isoformat(), "file": file}
        for name, days, file in [
            ("network", 1, "1.parquet"), ("network", 30.5, "1.parquet"), ("network", 31, "gone"), ("other", 1, "gone"),
        ]
    ]  # fmt: skip
    until = (shop.now - timedelta(days=3, hours=12)).isoformat()
    champion = shop.champion("champion", "network", nights=nights, data_until=until)
    pq.write_table(pa.table({"user_id": ["a", "b"], "ours": [2.0, 0.0], "theirs": [1.0, 0.0]}), champion / "1.parquet")
    held = shop.held(champion)
    blessing, _ = judge(shop, held, ours=2)
    assert blessing is not None and blessing.nights == 3
    asked, value = len(shop.queries), 1 / np.log2(3)
    # a and b are one shopper each, however many nights they were asked in.
    week, month = ((asked * value + n * 2) / (asked * value + n) - 1 for n in (1, 2))
    assert (blessing.week.users, blessing.month.users) == (asked + 2, asked + 2)
    assert (blessing.week.estimate, blessing.month.estimate) == (pytest.approx(week), pytest.approx(month))
    assert held.age_days == 3.5


def test_patience_is_counted_from_the_champions_data_and_is_over_where_that_has_no_date(shop: Shop) -> None:
    ours, verdicts = shop.ranking(2), []
    # Too few shoppers to show anything.
    few = shop.queries.take(slice(0, 3))
    rows = Ranking(queries=3, query=ours.query[:3], target=ours.target[:3], rank=np.array([1, 3, 4]))
    theirs = replace(rows, rank=np.array([3, 1, 4]))
    for number, days in enumerate((19.9, 20, None)):
        until = (shop.now - timedelta(days=days)).isoformat() if days else None
        held = shop.held(shop.champion(f"{number}", "network", data_until=until))
        blessing = held.judge("ours", shop.data, few, {"ours": rows, "champion": theirs}, shop.root / "night")
        assert blessing is not None
        verdicts.append(blessing.verdict)
    assert verdicts == ["undecided", "fresher", "fresher"]


@pytest.mark.parametrize(
    ("verdict", "days", "told"),
    [
        (
            "no worse",
            3,
            "less than 9.0% against the reference (version 6): tonight -1.0% [-2.0%, +3.0%], over",
        ),
        ("fresher", 21, "as the champion's data is 21 days older and the month speaks for it, it is released"),
        ("fresher", None, "as the champion's data has no date and the month speaks for it, it is released"),
        ("surely below", 3, "surely loses more than 9.0% against the reference (version 6)"),
        ("below", 3, "by one of the looks loses more than 4.5%, which is too near to 9.0%, against the reference"),
        (
            "undecided",
            3,
            "data is 20 days older (the champion's data is 3 days older): the reference",
        ),
    ],
)
def test_the_decision_says_the_verdict_with_its_numbers(verdict: Any, days: int | None, told: str, shop: Shop) -> None:
    until = (shop.now - timedelta(days=days)).isoformat() if days else None
    held = shop.held(shop.champion("champion", "network", data_until=until))
    look = RelativeGain(-0.01, -0.02, 0.03, 9)
    blessing = Blessing(verdict=verdict, tonight=look, week=look, month=look._replace(users=12), nights=4)
    reason = held.reason(blessing)
    assert told in reason.message and reason.held == blessing.passed and reason.level == "block"
    assert "over 4 nights" in reason.found and reason.allowed == "above -9.0%" and reason.check.startswith("no worse")
