"""What the gate tells of data without any that was accepted before."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from components.validate import step
from feature_repo.card import DatasetCard
from runtime.decision import Decision
from tests.component.ingest_cards import (
    INTERACTIONS,
    ITEMS,
    PRICE,
    TITLE,
    ingest,
    make_card,
)
from tests.component.make_events import write_facts

MOOD = {"name": "mood", "kind": "categorical", "column": "title"}
START = datetime(2025, 1, 1, tzinfo=UTC)


def judged(folder: Path, card: DatasetCard, as_of: datetime = START + timedelta(days=62)) -> tuple[Decision, str]:
    """The gate's decision and its page, of what ingest makes of the card's files."""
    _, events = ingest(card, folder)
    facts, validation = write_facts(folder / "facts", as_of), folder / "validation"
    decision = step.run(card=card, events=events, facts=facts, reference=None, validation=validation, data_docs=False)
    return decision, (validation / "page.html").read_text()


def events_of(users: int, *, busy: int = 0, one_day: bool = False) -> dict[str, list]:
    """1,200 events over 20 days, a moment each; the first `busy` of them of one user."""
    moments = [START + timedelta(minutes=n if one_day else 24 * n) for n in range(1200)]
    return {
        "user_id": ["busy" if n < busy else f"u{n % users}" for n in range(1200)],
        "item_id": ["xy"[n % 2] for n in range(1200)],
        "event_time": [moment.isoformat() for moment in moments],
    }


def found(decision: Decision) -> dict[str, str]:
    return {each.check: each.level for each in decision.reasons if not each.held}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (events_of(60), {}),
        (events_of(60, busy=200), {"one shopper": "warn"}),
        (events_of(60, busy=1000), {"one shopper": "block"}),
        (events_of(60, one_day=True), {"one day": "block"}),
    ],
)
def test_many_events_of_one_shopper_or_day_are_told_at_the_first_run(tmp_path, table, expected):
    decision, page = judged(tmp_path, make_card(tmp_path, table))
    assert {name: level for name, level in found(decision).items() if name.startswith("one ")} == expected
    assert ("belongs in columns.nobody" in page) == ("one shopper" in expected)
    assert ("columns.event_time is when it happened" in page) == ("one day" in expected)


def test_a_feature_that_is_the_same_for_all_items_is_said(tmp_path):
    decision, page = judged(tmp_path, make_card(tmp_path, items={**ITEMS, "title": ["A mug", "A mug"]}))
    assert found(decision)["title constant"] == "warn" and "price constant" not in found(decision)
    assert "take title out of the card&#39;s features, or add token: false" in page
    assert "--new-reference" not in page, "nothing was held against an earlier run"


def test_a_static_feature_that_changes_every_day_blocks(tmp_path):
    days = [f"2025-01-{day:02d}" for day in range(1, 9)]
    items = {"item_id": ["x"] * 8, "title": [f"mood {day}" for day in days], "price": ["3"] * 8, "since": days}
    columns = {"event_time": "event_time", "item_available_at": "since"}
    decision, page = judged(tmp_path, make_card(tmp_path, items=items, columns=columns, features=[MOOD, PRICE]))
    assert found(decision)["mood restless"] == "block" and "price restless" not in found(decision)
    assert "give feature mood varies_in_time: true in the card" in page


def test_interactions_whose_item_was_set_aside_say_why(tmp_path):
    decision, _ = judged(tmp_path, make_card(tmp_path, items={**ITEMS, "price": ["3.5", "free"]}))
    (reason,) = [each for each in decision.blocking if each.check == "item known"]
    assert "the items table has such items, but their own rows were set aside (price_not_a_number)" in reason.message


def test_types_that_count_for_nothing_are_kept_and_shown_and_judge_nothing(tmp_path):
    table = {**INTERACTIONS, "kind": ["purchase", "dislike", "purchase"]}
    columns = {"event_time": "event_time", "event_type": "kind"}
    events = {"purchase": {"predict": True}, "cart": {"predict": True}}
    decision, page = judged(
        tmp_path,
        make_card(
            tmp_path,
            table,
            columns=columns,
            events=events,
        ),
    )
    assert [each.found for each in decision.reasons if each.check == "interactions"] == [2]
    assert "purchase 2 (predicted), dislike 1 (kept, counts for nothing)" in page
    assert "events names cart, which no event has" in page


def test_the_page_counts_its_checks_once(tmp_path):
    decision, page = judged(tmp_path, make_card(tmp_path))
    checks = [each for each in decision.reasons if each.level != "info"]
    held = sum(each.held for each in checks)
    assert f"{held} of {len(checks)} checks held" in page and f"{held} checks that held" in page


KIND = {"columns": {"event_time": "t", "event_type": "k"}}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"columns": {"event_time": "t", "event_type": "kind"}}, "columns.event_type and events go together"),
        ({"columns": {"event_time": "t", "position": "n"}}, "position has no effect"),
        ({**KIND, "events": {"né": {"predict": True}}}, "'né' is no type of an event"),
        ({**KIND, "events": {"view": {}}}, "events: none of view is predicted; write predict: true"),
        ({"events": {"view": {"predict": True}}}, "columns.event_type and events go together"),
        ({**KIND, "events": {"back": {"negative": True, "predict": True}}}, "negative and predict exclude each other"),
        ({**KIND, "events": {"buy": {"predict": True, "history": False}}}, "what is predicted enters the history too"),
        (
            {**KIND, "events": {"buy": {"predict": True}, "seen": {"history": False, "weight": 2}}},
            "weight has no effect",
        ),
        (
            {**KIND, "events": {"buy": {"predict": True}, "back": {"negative": True, "weight": 2}}},
            "weight has no effect on a kind that",
        ),
        (
            {**KIND, "events": {"buy": {"predict": True}, "seen": {}}, "event_log": {"trains": True}},
            "'purchase' would change histories online",
        ),
        ({"event_log": {"interactions": ["add to cart!"]}}, "'add to cart!' is no type of an event"),
        ({"columns": {"event_time": "t", "basket": "order"}}, "without effect: columns.basket"),
        ({"source": {"options": {"days": 3}}}, "without effect: source.options"),
        ({"split": {"by": "order", "test_days": 3}}, "without effect: split.validation_days and test_days"),
        ({"features": [{**TITLE, "min": 3}]}, "without effect: feature 'title': min and max"),
        ({"features": [{**PRICE, "separator": ";"}]}, "without effect: feature 'price': separator"),
    ],
)
def test_no_field_of_a_card_is_without_effect(tmp_path, changed, told):
    with pytest.raises(ValidationError, match=told):
        make_card(tmp_path, **changed)


def test_a_card_survives_being_passed_on_as_json(tmp_path):
    card = make_card(tmp_path, columns={"event_time": "t"}, split={"by": "order"})
    assert DatasetCard.model_validate_json(card.model_dump_json()) == card
