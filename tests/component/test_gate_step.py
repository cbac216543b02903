"""What the model gate makes of rankings, which are written by hand: the report's numbers, and who is asked for what."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from components.evaluate import step
from components.evaluate.blessing import Blessing, RelativeGain, Verdict
from components.evaluate.held import HeldAgainst
from components.shared.choice import Judged, ReleaseChoice, choose
from components.shared.model_names import CHAMPION, NEIGHBOURS, POPULARITY
from heterrec.evaluation.comparison import compare, slices
from heterrec.evaluation.metrics import Ranking
from runtime.decision import Reason
from tests.component.gate_shop import Shop


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("gate"))


@pytest.fixture
def shop(made: Shop, tmp_path: Path) -> Shop:
    made.root = tmp_path
    return made


def drawn(shop: Shop, seed: int, most: int = 40) -> Ranking:
    places = np.random.default_rng(seed).integers(1, most, len(shop.queries))
    return replace(shop.ranking(1), rank=places)


def test_a_models_numbers_are_means_over_shoppers_and_only_its_mrr_has_no_end(shop: Shop) -> None:
    data, queries, asked = shop.data, shop.queries, len(shop.queries)
    far = replace(shop.ranking(1000), rank=np.array([1, 3, 10, 11, *[1000] * (asked - 4)]))
    told = step._report(data, queries, {"new": far}, {})
    assert (told["queries"], told["catalogue"], told["repeats"]) == (asked, len(data.catalogue), data.repeats)
    numbers = told["models"]["new"]
    assert [numbers[f"hr@{k}"] * asked for k in (1, 5, 10, 20)] == pytest.approx([1, 2, 3, 4])
    assert numbers["ndcg@10"] * asked == pytest.approx(1 + 1 / 2 + 1 / np.log2(11))
    assert numbers["mrr@10"] * asked == pytest.approx(1 + 1 / 3 + 1 / 10)
    assert numbers["mrr"] * asked == pytest.approx(1 + 1 / 3 + 1 / 10 + 1 / 11 + (asked - 4) / 1000)


def test_slices_are_asked_by_themselves_and_against_every_peer(shop: Shop) -> None:
    rankings = {name: drawn(shop, seed) for seed, name in enumerate(("new", "peer", "other"))}
    found = step._report(shop.data, shop.queries, rankings, {})["slices"]
    masks = slices(shop.data, shop.queries, rankings["new"])
    assert list(found) == [step.SLICES[name] for name in masks]
    for name, where in masks.items():
        told = found[step.SLICES[name]]
        assert told["queries"] == where.sum(), "here a shopper has one target"
        assert told["differences"].keys() == {"peer", "other"} and told["models"].keys() == rankings.keys()
        if not where.any():
            assert set(told["models"].values()) == {None}, "what is not a number is null"
            continue
        values = {each: ranking.per_pair("ndcg", 10)[where].mean() for each, ranking in rankings.items()}
        assert told["models"] == pytest.approx(values)
        assert told["differences"]["peer"]["mean"] == pytest.approx(values["new"] - values["peer"])
    assert {bool(where.any()) for where in masks.values()} == {True, False}


def test_every_shopper_has_a_row_of_every_model(shop: Shop) -> None:
    rankings = {"new": shop.ranking(2), "peer": shop.ranking(11)}
    table, users = step._table(shop.data, shop.queries, rankings), [shop.data.user_ids[u] for u in shop.queries.user]
    asked = len(users)
    assert table["model"].to_pylist() == ["new"] * asked + ["peer"] * asked
    assert table["user_id"].to_pylist() == users * 2
    for name, values in (("hr", (1, 0)), ("ndcg", (1 / np.log2(3), 0)), ("mrr", (1 / 2, 0))):
        assert table[name].to_pylist() == pytest.approx([values[0]] * asked + [values[1]] * asked)


def test_the_interface_is_shown_two_numbers_of_each_model_and_the_ends_of_each_interval(shop: Shop) -> None:
    rankings = {"new": drawn(shop, 0), "peer": drawn(shop, 1)}
    difference = compare(rankings["new"], rankings["peer"])
    assert step._differences("new", rankings) == {"peer": difference}
    told = step._report(shop.data, shop.queries, rankings, {"peer": difference})
    models = told["models"]
    assert step._flat(told) == {
        **{f"{name} {metric}": models[name][metric] for name in rankings for metric in ("hr@10", "ndcg@10")},
        "ndcg@10 against peer, low": difference.low,
        "ndcg@10 against peer, high": difference.high,
    }
    nobody = replace(shop.ranking(1), queries=0, query=np.array([], int), target=np.array([], int), rank=np.array([]))
    unknown = {"peer": compare(nobody, nobody)}
    empty = shop.queries.take(slice(0, 0))
    told = step._report(shop.data, empty, {"new": nobody, "peer": nobody}, unknown)
    assert step._flat(told) == {}, "null is no number"


LOOK = RelativeGain(0.1, 0.05, 0.15, 9)


def blessed(verdict: Verdict, look: RelativeGain = LOOK) -> Blessing:
    return Blessing(verdict=verdict, tonight=look, week=look, month=look, nights=1)


@pytest.mark.parametrize("verdict", get_args(Verdict))
def test_a_refresh_is_asked_for_its_blessing_and_a_candidate_not_to_be_below_the_champion(
    verdict: Any, shop: Shop
) -> None:
    held = shop.held(shop.champion("champion", "network"))
    differences = step._differences("new", {"new": drawn(shop, 0), CHAMPION: drawn(shop, 1)})
    (reason,) = step._against_champion(held, differences, blessed(verdict))
    assert reason == held.reason(blessed(verdict))
    (reason,) = step._against_champion(held, differences, None)
    assert reason.check == "no worse than the champion" and "champion (version 7)" in reason.message
    assert step._against_champion(held, {}, None) == [], "nothing serves that could be asked about this data"


def judged(name: str) -> Judged:
    return Judged(name=name, reasons=[])


@pytest.mark.parametrize(
    ("released", "verdict", "low", "rises"),
    [
        ("new", "no worse", 0.05, True),
        ("new", "no worse", 0.0, False),
        ("new", "below", 0.05, False),
        (NEIGHBOURS, "no worse", 0.05, False),
        (None, "no worse", 0.05, False),
    ],
)
def test_only_a_refresh_that_is_released_and_surely_better_becomes_the_reference(
    released: str | None, verdict: Any, low: float, rises: bool
) -> None:
    """Not what was judged and is not released, and no candidate, which has none."""
    blessings = {"new": blessed(verdict, LOOK._replace(low=low)), NEIGHBOURS: None}
    assert step._rises(judged(released) if released else None, blessings) == rises


def chosen(shop: Shop, held: HeldAgainst, **ranks: int) -> ReleaseChoice:
    """Where models find what was bought in these places, and none is a refresh."""
    rankings = {name.replace("_", " "): shop.ranking(rank) for name, rank in {**ranks, POPULARITY: 9}.items()}
    lines = {"new": held, NEIGHBOURS: held.of(shop.models["tables"], shop.data)}
    return step._choice("new", rankings, lines, dict.fromkeys(lines))


def of_tables(choice: ReleaseChoice) -> list[str]:
    return [reason.check for reason in choice.reasons if reason.check.startswith(NEIGHBOURS)]


def test_tables_surely_above_the_network_that_serves_take_the_place_of_a_model_that_is_surely_below(shop: Shop) -> None:
    held = shop.held(shop.champion("champion", "other"))
    choice = chosen(shop, held, new=3, champion=2, neighbour_tables=1)
    assert of_tables(choice) == [f"{NEIGHBOURS}: better than {each}" for each in (POPULARITY, CHAMPION)]
    assert choice.released is not None and (choice.judged.name, choice.released.name) == ("new", NEIGHBOURS)
    asked = {reason.check: reason.held for reason in choice.judged.reasons}
    assert asked[f"better than {POPULARITY}"] and not asked["no worse than the champion"]


def test_where_tables_serve_tables_are_asked_what_a_candidate_is_asked(shop: Shop) -> None:
    held = shop.held(shop.champion("champion", "tables"))
    choice = chosen(shop, held, new=3, champion=2, neighbour_tables=2)
    asked = f"better than {POPULARITY}", "no worse than the champion"
    assert of_tables(choice) == [f"{NEIGHBOURS}: {each}" for each in asked]


def test_a_champion_that_cannot_be_ranked_is_told_once_and_of_the_judged_model(shop: Shop) -> None:
    told = Reason(check=CHAMPION, held=False, found="", allowed="", level="warn", message="", remedy="none")
    held = replace(shop.held(shop.champion("champion", "network")), incomparable=[told])
    choice = chosen(shop, held, new=3, neighbour_tables=1)
    assert [reason.check for reason in choice.reasons].count(CHAMPION) == 1 and told in choice.judged.reasons


def test_nobody_to_ask_blocks(shop: Shop) -> None:
    choice = step._choice("new", {}, {}, {})
    assert choice.released is None and [reason.check for reason in choice.reasons] == ["queries"]
    assert choice == choose(choice.judged, None)
