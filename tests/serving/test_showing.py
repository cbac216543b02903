"""What comes after a ranking: whatever was ranked, by whom and under which rules, none of them is broken."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.rules import BadRules, Rules
from experiments.rules_table import RulesVersion
from serving.gateway.after.catalogue import ServedCatalogue
from serving.gateway.after.compiled import Explorable, compiled, faults
from serving.gateway.after.showing import (
    Items,
    ShowingLimits,
    ShownList,
    draw,
    show,
)
from serving.gateway.after.stock import Stock

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
IDS = [f"i{n}" for n in range(24)]
BRANDS = [None if n % 7 == 6 else f"b{n % 3}" for n in range(len(IDS))]
KINDS = [f"k{n % 4}" for n in range(len(IDS))]
PRICES = [float(n % 9) for n in range(len(IDS))]
EVENTS = [n * 5 for n in range(len(IDS))]
CATALOGUE = ServedCatalogue(
    {
        "item_id": IDS,
        "title": [f"Kettle {item}" for item in IDS],
        "events": EVENTS,
        "features": {"brand": BRANDS, "kind": KINDS, "price": PRICES},
    },
    {"brand": "categorical", "kind": "categorical", "price": "numeric"},
)
STRANGERS = ["x0", "x1"]
"""Of a challenger's catalogue only."""


def stock(*withdrawn: str) -> Stock:
    found = Stock()
    found.withdrawn = set(withdrawn)
    return found


def shown(
    rules: Mapping[str, Any], asked: ShowingLimits, ranked: Items, gone: Stock | None = None, counts: bool = False
) -> ShownList:
    made = compiled(RulesVersion(number=7, rules=Rules.of(rules)), CATALOGUE, NOW)
    assert not made.problems
    return show(made, Explorable(made), gone or stock(), asked, ranked, counts=counts)


def ranking(*items: str) -> Items:
    return [{"item_id": item, "score": 9.0 - n} for n, item in enumerate(items)]


def ids(found: ShownList) -> list[str]:
    return [item["item_id"] for item in found.items]


def matches(where: Mapping[str, Any], item: str) -> bool:
    """The filters, once more and plainly."""
    if item not in IDS:
        return False
    row = IDS.index(item)
    found = {"brand": BRANDS[row], "kind": KINDS[row], "price": PRICES[row]}
    return all(
        (found[name] in wanted)
        if isinstance(wanted, list)
        else (found[name] not in wanted["not"])
        if "not" in wanted
        else wanted.get("min", 0) <= found[name] <= wanted.get("max", 99)
        for name, wanted in where.items()
    )


def means(rule: Mapping[str, Any], item: str) -> bool:
    return item in rule["items"] if "items" in rule else matches(rule["where"], item)


def counts_now(rule: Mapping[str, Any], placement: str, usual: tuple[str, ...] = ("for_you",)) -> bool:
    begun = "from" not in rule or datetime.fromisoformat(rule["from"]) <= NOW
    over = "until" in rule and datetime.fromisoformat(rule["until"]) <= NOW
    return begun and not over and placement in (rule.get("placements") or usual)


ITEM = st.sampled_from([*IDS, *STRANGERS])
WHERE = st.dictionaries(
    st.just("brand"),
    st.one_of(
        st.lists(st.sampled_from(["b0", "b1", "b2"]), min_size=1, max_size=2),
        st.fixed_dictionaries({"not": st.lists(st.sampled_from(["b0", "b1"]), min_size=1, max_size=2)}),
    ),
    min_size=1,
) | st.fixed_dictionaries({"price": st.fixed_dictionaries({"max": st.sampled_from([0.0, 3.0, 6.0])})})
CHOICE = st.one_of(
    st.fixed_dictionaries({"items": st.lists(ITEM, min_size=1, max_size=4)}), st.fixed_dictionaries({"where": WHERE})
)
TIMES = st.fixed_dictionaries(
    {},
    optional={
        "from": st.sampled_from([NOW - timedelta(days=2), NOW, NOW + timedelta(seconds=1)]).map(datetime.isoformat),
        "until": st.sampled_from([NOW, NOW + timedelta(days=2), NOW + timedelta(days=3)]).map(datetime.isoformat),
        "placements": st.sampled_from([["for_you"], ["together"], ["together", "for_you"]]),
    },
).filter(lambda rule: rule.get("from", "") < rule.get("until", "3"))


def timed(choice: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.tuples(choice, TIMES).map(lambda both: {**both[0], **both[1]})


BOOSTS = st.tuples(CHOICE, st.sampled_from([{"factor": 3.0}, {"factor": 0.2}, {"share": 0.3}, {"share": 1.0}])).map(
    lambda both: {**both[0], **both[1]}
)
RULES = st.fixed_dictionaries(
    {
        "blocks": st.lists(timed(CHOICE), max_size=3),
        "pins": st.lists(
            timed(
                st.fixed_dictionaries(
                    {"item": ITEM, "slot": st.integers(1, 8)},
                    optional={"segments": st.sampled_from([["tea"], ["pots", "tea"], ["pots"]])},
                )
            ),
            max_size=4,
        ),
        "boosts": st.lists(timed(BOOSTS), max_size=3),
        "diversity": st.fixed_dictionaries(
            {},
            optional={
                "caps": st.dictionaries(st.sampled_from(["brand", "kind"]), st.integers(1, 3), max_size=2),
                "alike": st.fixed_dictionaries(
                    {
                        "relevance": st.sampled_from([0.0, 0.5, 1.0]),
                        "by": st.sampled_from([["brand"], ["kind", "brand"]]),
                    }
                ),
            },
        ),
    },
    optional={
        "fatigue": timed(
            st.fixed_dictionaries({"after": st.just(2)}, optional={"then": st.sampled_from(["demote", "hide"])})
        ).filter(lambda rule: "together" not in rule.get("placements", ())),
        "value": timed(
            st.fixed_dictionaries({"by": st.just("price")}, optional={"alpha": st.sampled_from([0.2, 2.0])})
        ),
        "exploration": timed(
            st.fixed_dictionaries(
                {"share": st.sampled_from([0.05, 0.5])},
                optional={
                    "slots": st.lists(st.integers(1, 8), min_size=1, max_size=3),
                    "where": WHERE,
                    "most_events": st.sampled_from([0, 30, 1000]),
                },
            )
        ),
    },
)


@settings(max_examples=300, deadline=None)
@given(
    rules=RULES,
    ranked=st.lists(st.tuples(ITEM, st.floats(-20, 20)), unique_by=lambda pair: pair[0], max_size=26),
    withdrawn=st.sets(ITEM, max_size=6),
    hidden=st.frozensets(ITEM, max_size=4),
    filters=st.one_of(st.just({}), WHERE),
    k=st.integers(1, 10),
    seed=st.text("abc", min_size=1, max_size=8),
    segment=st.sampled_from(["tea", "pots", ""]),
    placement=st.sampled_from(["for_you", "together"]),
    tired=st.frozensets(ITEM, max_size=12),
)
def test_no_rule_is_ever_broken(
    rules: dict[str, Any],
    ranked: list[tuple[str, float]],
    withdrawn: set[str],
    hidden: frozenset[str],
    filters: dict[str, Any],
    k: int,
    seed: str,
    segment: str,
    placement: str,
    tired: frozenset[str],
) -> None:
    allowed = [
        (item, score) for item, score in ranked if item not in hidden and (not filters or matches(filters, item))
    ]  # as every ranking is asked for
    candidates = [{"item_id": item, "score": score} for item, score in sorted(allowed, key=lambda each: -each[1])]
    asked = ShowingLimits(
        k=k, request_id=seed, hidden=hidden, filters=filters, segment=segment, placement=placement, tired=tired
    )
    found = shown(rules, asked, candidates, stock(*withdrawn))
    items = ids(found)
    blocks = [block for block in rules["blocks"] if counts_now(block, placement, ("for_you", "together"))]

    def may(item: str) -> bool:
        if item in withdrawn or item in hidden or (filters and not matches(filters, item)):
            return False
        unknown = item in STRANGERS and any("where" in block for block in blocks)
        return not unknown and not any(means(block, item) for block in blocks)

    assert all(map(may, items)) and len(items) == len(set(items)) <= k
    assert len(items) == len(found.origins) == len(found.propensities) == len(found.draws)
    assert all(type(chance) is float and 0 < chance <= 1 for chance in found.propensities), "JSON has no numpy"

    pinned: dict[int, str] = {}
    for pin in rules["pins"]:
        counts = counts_now(pin, placement) and (not pin.get("segments") or segment in pin["segments"])
        fits = pin["slot"] <= k and pin["slot"] not in pinned and pin["item"] not in pinned.values()
        if counts and fits and pin["item"] in IDS and may(pin["item"]):
            pinned[pin["slot"]] = pin["item"]
    assert {item for item, origin in zip(items, found.origins, strict=True) if origin == "pinned"} == {*pinned.values()}
    ended = len(items) < k
    for slot, item in pinned.items():
        assert items.index(item) + 1 == slot or (ended and items.index(item) + 1 < slot)

    for feature, most in rules["diversity"].get("caps", {}).items() if placement == "for_you" else ():
        column = {"brand": BRANDS, "kind": KINDS}[feature]

        def values(of: list[str], column: list[Any] = column) -> Counter[str]:
            return Counter(column[IDS.index(item)] for item in of if item in IDS and column[IDS.index(item)])

        of_pins = values([*pinned.values()])
        assert all(count <= max(most, of_pins[value]) for value, count in values(items).items())
    if ended:
        left = {item["item_id"] for item in candidates} - set(items)
        assert left == set(found.withheld), "what is left could not be shown"

    fatigue = rules.get("fatigue")
    if fatigue is None or not counts_now(fatigue, placement):
        tired = frozenset()
    by_origin = list(zip(items, found.origins, strict=True))
    assert not [item for item, origin in by_origin if item in tired and origin == "explored"]
    if tired and fatigue is not None and fatigue.get("then") == "hide":
        assert not [item for item, origin in by_origin if item in tired and origin != "pinned"]
    if not any("share" in boost for boost in rules["boosts"]):
        late = [item in tired for item, origin in by_origin if origin == "ranked"]
        assert late == sorted(late), "what tires comes after all else"

    law = rules.get("exploration")
    exploring = law is not None and counts_now(law, placement)
    for slot, (item, origin, number) in enumerate(zip(items, found.origins, found.draws, strict=True), start=1):
        if origin == "explored":
            assert law is not None and exploring and matches(law.get("where", {}), item)
            assert EVENTS[IDS.index(item)] <= law.get("most_events", 9999)
            assert not law.get("slots") or slot in law["slots"]
        assert number is None or number == draw(seed, slot)
        assert number is not None or found.propensities[slot - 1] == 1
        assert (found.explorable[slot - 1] is None) == (number is None)
    simple = not rules["boosts"] and "alike" not in rules["diversity"] and "value" not in rules
    if simple:
        order = [item["item_id"] for item in candidates]
        kept = [(item in tired, order.index(item)) for item, origin in by_origin if origin == "ranked"]
        assert kept == sorted(kept), "the ranking's order stays"


@settings(max_examples=200, deadline=None)
@given(
    share=st.sampled_from([0.2, 0.34, 0.5, 1.0]),
    order=st.permutations(IDS),
    brand=st.sampled_from(["b0", "b1"]),
    k=st.integers(1, 12),
)
def test_a_boost_has_its_share_of_every_beginning_of_the_list(
    share: float, order: list[str], brand: str, k: int
) -> None:
    rules = {"boosts": [{"where": {"brand": [brand]}, "share": share}]}
    items = ids(shown(rules, ShowingLimits(k=k, request_id="r", hidden=frozenset()), ranking(*order)))
    of_brand = [BRANDS[IDS.index(item)] == brand for item in items]
    there = BRANDS.count(brand)
    for slots in range(1, len(items) + 1):
        assert sum(of_brand[:slots]) >= min(int(share * slots + 1e-9), there)
    others = [item for item in items if BRANDS[IDS.index(item)] != brand]
    assert others == [item for item in order if BRANDS[IDS.index(item)] != brand][: len(others)]


def test_a_factor_is_that_of_the_chance_in_a_softmax_and_of_the_count_among_popular_items() -> None:
    asked = ShowingLimits(k=2, request_id="r", hidden=frozenset())
    ranked = [{"item_id": "i0", "score": 1.0}, {"item_id": "i1", "score": 0.0}]
    for factor, first in ((2.7, "i0"), (2.8, "i1")):  # e lies between
        boosted = shown({"boosts": [{"items": ["i1"], "factor": factor}]}, asked, ranked)
        assert ids(boosted)[0] == first and {item["score"] for item in boosted.items} == {0.0, 1.0}
    popular = [{"item_id": "i0", "score": 10.0}, {"item_id": "i1", "score": 4.0}]
    for factor, first in ((2.4, "i0"), (2.6, "i1")):
        assert ids(shown({"boosts": [{"items": ["i1"], "factor": factor}]}, asked, popular, counts=True))[0] == first


@settings(max_examples=100, deadline=None)
@given(
    alpha=st.sampled_from([0.1, 1.0, 2.0]),
    scores=st.lists(st.floats(-8, 8), min_size=len(IDS) + 2, max_size=len(IDS) + 2),
    placement=st.sampled_from(["for_you", "ranking", "similar"]),
)
def test_items_come_by_their_chance_times_what_they_bring(alpha: float, scores: list[float], placement: str) -> None:
    rules = {"value": {"by": "price", "alpha": alpha, "placements": ["for_you", "ranking"]}}
    usual = float(np.median([price for price in PRICES if price > 0]))

    def expected(item: str, score: float) -> float:
        price = PRICES[IDS.index(item)] if item in IDS else 0.0
        return float(np.exp(score)) * (price or usual) ** alpha  # a price of 0 tells nothing, as that of a stranger

    ranked = [{"item_id": item, "score": score} for item, score in zip([*IDS, *STRANGERS], scores, strict=True)]
    ranked.sort(key=lambda item: -item["score"])
    found = shown(rules, ShowingLimits(k=len(ranked), request_id="r", hidden=frozenset(), placement=placement), ranked)
    assert sorted(item["score"] for item in found.items) == sorted(scores), "the score told is the model's"
    if placement == "similar":
        assert found.items == ranked
        return
    values = [expected(item["item_id"], item["score"]) for item in found.items]
    assert all(one >= after * (1 - 1e-9) for one, after in pairwise(values))


def test_likeness_is_held_against_relevance() -> None:
    asked = ShowingLimits(k=3, request_id="r", hidden=frozenset())
    ranked = [{"item_id": item, "score": score} for item, score in (("i0", 1.0), ("i3", 0.9), ("i9", 0.8), ("i1", 0.0))]
    spread = {"diversity": {"alike": {"relevance": 0.4, "by": ["brand"]}}}
    assert ids(shown(spread, asked, ranked)) == ["i0", "i1", "i3"], "i3 and i9 are of the brand of i0"
    same = {"diversity": {"alike": {"relevance": 1.0, "by": ["brand"]}}}
    assert ids(shown(same, asked, ranked)) == ["i0", "i3", "i9"]


BAD = [
    ({"block": []}, "block: Extra inputs"),
    ({"blocks": [{}]}, "blocks.0: Value error, give items or where, one of them"),
    ({"blocks": [{"items": ["a"], "where": {"brand": ["b"]}}]}, "one of them"),
    (
        {"blocks": [{"items": ["a"], "from": "2026-01-02T00:00:00Z", "until": "2026-01-01T00:00:00Z"}]},
        "from must be before",
    ),
    ({"blocks": [{"items": ["a"], "from": "2026-01-02T00:00:00"}]}, "blocks.0.from"),
    ({"pins": [{"item": "a", "slot": 0}]}, "pins.0.slot"),
    ({"boosts": [{"items": ["a"], "factor": 2, "share": 0.1}]}, "give factor or share"),
    ({"boosts": [{"items": ["a"], "factor": float("inf")}]}, "boosts.0.factor"),
    ({"value": {"by": "price", "alpha": 0}}, "value.alpha"),
    ({"value": {"alpha": 1}}, "value.by"),
    ({"diversity": {"caps": {"brand": 0}}}, "diversity.caps.brand"),
    ({"exploration": {"share": 0.9}}, "exploration.share"),
    ({"fatigue": {"after": 1}}, "fatigue.after"),
    ({"fatigue": {"after": 2, "days": 8}}, "fatigue.days"),
    ({"fatigue": {"after": 2, "placements": ["for_you", "popular"]}}, "popular shows everybody the same"),
    ([], "rules: "),
    ({"blocks": [{"items": [str(n)]} for n in range(501)]}, "501 rules, expected at most 500"),
]


@pytest.mark.parametrize(("plain", "message"), BAD, ids=[message for _, message in BAD])
def test_a_bad_document_is_told_by_its_field(plain: Any, message: str) -> None:
    with pytest.raises(BadRules) as error:
        Rules.of(plain)
    assert message in str(error.value)


@settings(max_examples=100, deadline=None)
@given(rules=RULES)
def test_a_document_is_read_as_it_was_written(rules: dict[str, Any]) -> None:
    found = Rules.of(rules)
    assert Rules.of(found.to_json()) == found


def test_what_a_catalogue_cannot_follow_is_told_and_the_other_rules_hold() -> None:
    rules = Rules.of(
        {
            "blocks": [{"where": {"colour": ["red"]}}, {"items": ["i1"]}, {"where": {"price": ["red"]}}],
            "value": {"by": "brand"},
            "diversity": {"caps": {"price": 1}, "alike": {"relevance": 0.5, "by": ["size"]}},
            "exploration": {"share": 0.1, "where": {"colour": ["red"]}},
        }
    )
    told = faults(rules, CATALOGUE)
    assert len(told) == 6 and told[0].startswith("blocks.0.where: ") and "colour" in told[0]
    made = compiled(RulesVersion(number=7, rules=rules), CATALOGUE, NOW)
    assert len(made.problems) == 6 and all(problem.startswith("rules 7, ") for problem in made.problems)
    found = show(made, Explorable(made), stock(), ShowingLimits(k=2, request_id="r", hidden=frozenset()),
                 ranking("i1", "i2"), counts=False)  # fmt: skip
    assert ids(found) == ["i2"]


def test_without_rules_the_ranking_is_shown_but_for_what_is_withdrawn() -> None:
    for order, gone in product((IDS[:8], IDS[::-1]), (set(), {"i3", "i20"})):
        found = shown({}, ShowingLimits(k=5, request_id="r", hidden=frozenset()), ranking(*order), stock(*gone))
        assert ids(found) == [item for item in order if item not in gone][:5] and set(found.propensities) == {1.0}
