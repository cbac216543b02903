"""What a run releases, over the numbers alone: who is asked for what, and who takes whose place."""

import pytest

from components.shared.choice import (
    LONGER,
    OLD,
    TABLES,
    TRAIN,
    Judged,
    above,
    choose,
    describe_choice,
    not_below,
    of_model,
    of_tables,
)
from components.shared.model_names import (
    CHAMPION,
    NEIGHBOURS,
    POPULARITY,
    REFERENCE,
)
from heterrec.evaluation.comparison import MeanDifference
from runtime.decision import Reason

SURE, UNSURE, WORSE = (
    MeanDifference(mean=mean, low=mean - 0.1, high=mean + 0.1, queries=9) for mean in (0.2, 0.05, -0.2)
)


def reason(*, held: bool, level: str = "block", check: str = "x") -> Reason:
    return Reason(check=check, held=held, found=1, allowed=2, message=f"{check}.", remedy="wait", level=level)  # type: ignore[arg-type]


def asked(reasons: list[Reason]) -> dict[str, tuple[str, bool]]:
    return {each.check: (each.level, each.held) for each in reasons}


GOOD, BAD = Judged(name="model", reasons=[reason(held=True)]), Judged(name="model", reasons=[reason(held=False)])
TABLES_GOOD = Judged(name=NEIGHBOURS, reasons=[reason(held=True, check="tables")])
TABLES_BAD = Judged(name=NEIGHBOURS, reasons=[reason(held=False, check="tables")])


@pytest.mark.parametrize(
    ("model", "tables", "released", "checks", "why"),
    [
        (GOOD, TABLES_GOOD, "model", {"x": ("block", True)}, ""),
        (GOOD, TABLES_BAD, "model", {"x": ("block", True)}, ""),
        (GOOD, None, "model", {"x": ("block", True)}, ""),
        (BAD, TABLES_GOOD, NEIGHBOURS, {"x": ("warn", False), "tables": ("block", True)}, "x."),
        (BAD, TABLES_BAD, None, {"x": ("block", False), "tables": ("block", False)}, "x."),
        (BAD, None, None, {"x": ("block", False)}, "x."),
    ],
)
def test_the_model_where_it_passed_else_the_tables_where_they_did_else_nothing(
    model: Judged, tables: Judged | None, released: str | None, checks: dict[str, tuple[str, bool]], why: str
) -> None:
    choice = choose(model, tables)
    assert (choice.released.name if choice.released else None) == released and choice.why == why
    assert asked(choice.reasons) == checks
    blocked = any(not each.held and each.level == "block" for each in choice.reasons)
    assert blocked == (released is None), "the decision passes where anything is released"
    assert choice.to_json() == {"judged": "model", "released": released, "why": why}


def test_what_only_warns_keeps_nobody_from_being_released() -> None:
    warned = Judged(name="model", reasons=[reason(held=True), reason(held=False, level="warn", check="slow")])
    assert warned.passed and choose(warned, TABLES_GOOD).released is warned
    mixed = Judged(name="model", reasons=[reason(held=False), reason(held=True, check="fine"), *warned.reasons[1:]])
    assert [each.check for each in mixed.missing] == ["x"]
    levels = asked(choose(mixed, TABLES_GOOD).reasons)
    assert levels["fine"] == ("block", True) and levels["x"] == levels["slow"] == ("warn", False)


@pytest.mark.parametrize(
    ("serves", "popularity", "tables", "passes"),
    [
        (False, SURE, SURE, True),
        (False, UNSURE, SURE, False),
        (False, SURE, UNSURE, False),  # who would take the place of the tables has to be surely better
        (True, SURE, UNSURE, True),  # and a network that serves keeps it
        (True, SURE, WORSE, False),
        (True, UNSURE, SURE, False),
    ],
)
def test_a_model_is_asked_for_more_where_no_network_serves(
    serves: bool, popularity: MeanDifference, tables: MeanDifference, passes: bool
) -> None:
    found = of_model({POPULARITY: popularity, NEIGHBOURS: tables, "item ID only": WORSE}, [], network_serves=serves)
    assert Judged(name="model", reasons=found).passed == passes
    assert asked(found)["better than item ID only"] == ("warn", False), "a baseline is told, and blocks nothing"
    assert asked(found)[f"better than {NEIGHBOURS}"][0] == ("warn" if serves else "block")
    assert (f"no worse than the {NEIGHBOURS}" in asked(found)) == serves
    assert len(found) == len(asked(found)), "each is asked once"


@pytest.mark.parametrize("serves", [True, False])
def test_tables_as_the_model_are_not_held_against_themselves(serves: bool) -> None:
    found = of_model({POPULARITY: SURE}, [], network_serves=serves)
    assert asked(found) == {"better than popularity": ("block", True)}


def test_champion_and_reference_are_asked_for_by_the_champions_reasons_alone() -> None:
    held = reason(held=False, check="no worse than the reference")
    differences = {POPULARITY: SURE, NEIGHBOURS: SURE, CHAMPION: WORSE, REFERENCE: WORSE}
    found = asked(of_model(differences, [held], network_serves=True))
    assert found["no worse than the reference"] == ("block", False)
    assert not {f"better than {name}" for name in (CHAMPION, REFERENCE)} & set(found)


@pytest.mark.parametrize(
    ("serves", "differences", "champion", "passes"),
    [
        (False, {POPULARITY: SURE}, True, True),
        (False, {POPULARITY: SURE}, False, False),
        (False, {POPULARITY: UNSURE}, True, False),
        (True, {POPULARITY: SURE, CHAMPION: SURE}, False, True),  # not refreshes of it: its own line says nothing
        (True, {POPULARITY: SURE, CHAMPION: UNSURE}, True, False),
        (True, {POPULARITY: SURE}, True, False),  # a champion that cannot be ranked is not shown to be worse
        (True, {POPULARITY: UNSURE, CHAMPION: SURE}, True, False),
    ],
)
def test_tables_take_the_place_of_a_network_that_serves_only_where_they_are_surely_better(
    serves: bool, differences: dict[str, MeanDifference], champion: bool, passes: bool
) -> None:
    found = of_tables(differences, [reason(held=champion, check="the line")], network_serves=serves)
    assert Judged(name=NEIGHBOURS, reasons=found).passed == passes
    assert all(each.check.startswith(f"{NEIGHBOURS}: ") for each in found)
    assert all(each.message.startswith(f"The {NEIGHBOURS} alone: ") for each in found)
    assert all(each.level == "block" for each in found)


def test_what_to_do_depends_on_whether_a_difference_seems_to_be_there() -> None:
    """More shoppers show what is there; what is not there has to be made."""
    for longer in (TRAIN, TABLES):
        remedies = {
            difference: above("x", difference, level="block", longer=longer).remedy
            for difference in (UNSURE, WORSE, MeanDifference(mean=0.0, low=-1.0, high=1.0, queries=9))
        }
        assert list(remedies.values()) == [LONGER, longer, longer]
    without = of_model({POPULARITY: WORSE}, [], network_serves=False)
    assert without[0].remedy == TABLES, "nothing can be trained longer where the tables are the model"
    with_tables = of_model({POPULARITY: WORSE, NEIGHBOURS: WORSE}, [], network_serves=True)
    assert [each.remedy for each in with_tables] == [TRAIN, TRAIN, TRAIN]
    assert not_below(CHAMPION, WORSE).remedy == OLD


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.1, 0.2, "above"), (0.0, 0.2, "not surely above"), (-0.2, 0.0, "not above")]
)
def test_a_verdict_in_words_is_that_of_the_interval(low: float, high: float, verdict: str) -> None:
    found = above("popularity", MeanDifference(mean=0.1, low=low, high=high, queries=9), level="warn", longer="x")
    assert f"is {verdict} that of popularity: difference +0.1000 [{low:+.4f}, {high:+.4f}]." in found.message
    assert found.held == (verdict == "above") and found.level == "warn"


@pytest.mark.parametrize(("difference", "verdict"), [(UNSURE, "not below"), (WORSE, "below")])
def test_not_below_in_words_is_what_was_found(difference: MeanDifference, verdict: str) -> None:
    found = not_below(CHAMPION, difference)
    assert f" is {verdict} that of the {CHAMPION}" in found.message and found.held == (verdict == "not below")


def test_what_was_released_is_told_only_where_it_is_another() -> None:
    assert describe_choice({"judged": "HeterRec", "released": NEIGHBOURS}) == f"the {NEIGHBOURS}, not HeterRec"
    for release in (None, {}, {"judged": "a", "released": "a"}, {"judged": "a", "released": None}):
        assert describe_choice(release) == ""
