"""The data gate: good data passes, each fault blocks with its numbers and rows, and the page shows them."""

import json
import re
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from components.validate import step
from components.validate.drift import chance, stability_index
from runtime.decision import Decision
from tests.component.make_events import (
    at,
    change,
    event,
    item,
    make_card,
    write_events,
    write_facts,
)
from tests.reasons import assert_told

DAYS = range(6)
SHOPPING = [event(f"u{day % 3}", f"i{n}", at(day + n / 10)) for day in DAYS for n in range(4)]
ITEMS = [item(f"i{n}", weight=float(n)) for n in range(4)]
PRICES = [change(f"i{n}", at(day), 1.0 + n + day / 10) for n in range(4) for day in DAYS]
AS_OF = max(row["event_time"] for row in SHOPPING)


def validate(tmp_path: Path, *, shopping=SHOPPING, items=ITEMS, prices=PRICES, card=None, as_of: datetime = AS_OF,
             report=None, written_for=None, reference=None, out="validation") -> Decision:  # fmt: skip
    card = card or make_card()
    events = write_events(tmp_path / f"events-{out}", written_for or card, shopping, items, prices, report)
    facts = write_facts(tmp_path / f"facts-{out}", as_of)
    decision = step.run(card=card, events=events, facts=facts, reference=reference, validation=tmp_path / out)
    assert_told(decision)
    return decision


def reason(decision: Decision, check: str):
    (found,) = [reason for reason in decision.reasons if reason.check == check]
    return found


def features_with(**changes):
    """The fixture card's features, those named with other settings."""
    return [{**feature.model_dump(), **changes.get(feature.name, {})} for feature in make_card().features]


def with_row(rows, index: int, **values):
    return [{**row, **values} if n == index else row for n, row in enumerate(rows)]


CONSTANT = {"brand constant", "tags constant", "image constant"}


def test_good_data_passes_every_check(tmp_path, capfd):
    decision = validate(tmp_path)
    assert decision.passed, decision
    told = {reason.check for reason in decision.reasons if not reason.held}
    assert told == CONSTANT, "of two items, one with tags, and one picture"
    assert Decision.read(tmp_path / "validation") == decision
    assert (tmp_path / "validation" / "data_docs" / "index.html").is_file()
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


# Faults that touch different checks are made together, so that one run shows several.
FAULTS = {
    "keys": (
        {
            "shopping": with_row(
                with_row(with_row(SHOPPING, 3, event_id=None), 5, user_id=None), 7, item_id="unheard of"
            )
        },
        {"event_id missing", "user_id missing", "item known"},
    ),
    "twice": (
        {"shopping": with_row(SHOPPING, 3, event_id="e0001"), "prices": [*PRICES, change("i0", at(0), 9.0)]},
        {"event_id unique", "one change an instant"},
    ),
    "missing": (
        {"items": [item(f"i{n}", brand=None if n else "acme", tags=[], title="") for n in range(4)]},
        {"brand missing", "tags missing", "title missing"},
    ),
    "out of range": (
        {
            "items": with_row(with_row(ITEMS, 2, weight=-1.0), 1, image=[1.0, 2.0]),
            "prices": with_row(PRICES, 5, price=-3.0),
        },
        {"weight range", "image dimension", "price range"},
    ),
    "not finite": (
        {"items": with_row(ITEMS, 2, weight=float("inf"), image=[1.0, 2.0, float("nan")])},
        {"weight finite", "image finite"},
    ),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_in_the_data_blocks_with_its_rows(tmp_path, kind):
    faults, checks = FAULTS[kind]
    decision = validate(tmp_path, **faults)
    assert not decision.passed and {reason.check for reason in decision.blocking} == checks
    page = (tmp_path / "validation" / "page.html").read_text()
    for found in decision.blocking:
        assert found.found > found.allowed and 0 < len(found.evidence) <= 20
        assert found.check in page and "allowed" in found.message


def test_limits_of_the_card_block(tmp_path):
    card = make_card(limits={"min_interactions": 100, "max_age_days": 1})
    shopping = [row for row in SHOPPING if row["event_time"].date() != at(2).date()]
    decision = validate(tmp_path, card=card, shopping=shopping, as_of=at(8.3))
    assert {reason.check: reason.found for reason in decision.blocking} == {
        "interactions": 20,
        "age_days": pytest.approx(3.0),
        "missing_days": 3,
    }
    # The days from the last event to as_of count too, but not as_of's own: it is not over.
    missing = [row["day"] for row in reason(decision, "missing_days").evidence]
    assert missing == ["Sat 2026-01-03", "Wed 2026-01-07", "Thu 2026-01-08"]


def test_at_most_twenty_rows_are_shown(tmp_path):
    strangers = [event("u", "unheard of", at(day, us=n)) for day in DAYS for n in range(5)]
    found = reason(validate(tmp_path, shopping=strangers), "item known")
    assert found.found == 1.0 and len(found.evidence) == 20 and found.evidence[0]["item_id"] == "unheard of"


def test_tables_without_rows_block_and_do_not_crash(tmp_path):
    decision = validate(tmp_path, items=[], as_of=at(-1))
    assert {reason.check for reason in decision.blocking} == {"interactions"}
    decision = validate(tmp_path, shopping=[], prices=[], out="nothing")
    (blocking,) = decision.blocking
    assert blocking.check == "columns" and "interactions.* is no file" in blocking.message


def test_rejected_rate_counts_what_ingest_set_aside(tmp_path):
    report = {"rows": 30, "rejected": 6, "reasons": {"bad_time": 4, "duplicate": 3}}
    found = reason(validate(tmp_path, report=report), "rejected_rate")
    assert (found.found, found.allowed, found.held) == (0.2, 0.05, False)
    assert {"reason": "bad_time", "rows": 4} in found.evidence
    told = "found 20.0%, allowed 5.00%: bad_time 4, duplicate 3."
    assert found.message == f"Few of the source's rows were set aside: {told}"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"image": {"kind": "numeric", "dimension": None}}, r"items\.image is list<.*float>, expected double"),
        ({"brand": {"name": "maker"}}, r"items\.maker is none, expected string"),
        ({"image": {"dimension": 4}}, r"Every image has 4 numbers, as the card says: not so in 100\.00%"),
    ],
)
def test_a_card_that_contradicts_its_data_blocks_and_says_where(tmp_path, changes, told):
    card = make_card(features=features_with(**changes))
    decision = validate(tmp_path, card=card, written_for=make_card())
    assert not decision.passed
    (blocking,) = decision.blocking
    assert re.search(told, blocking.message), blocking.message
    assert blocking.evidence
    assert "<html" in (tmp_path / "validation" / "page.html").read_text()


def test_warnings_do_not_block(tmp_path):
    early = with_row(ITEMS, 1, event_time=at(3))
    decision = validate(tmp_path, items=early, as_of=at(4), card=make_card(calendar={"closed_weekdays": ["friday"]}))
    warned = {reason.check for reason in decision.reasons if not reason.held}
    assert decision.passed and warned == {"later_events", "closed_days", "item known by then"} | CONSTANT


def test_events_that_were_known_only_later_are_left_out_and_said(tmp_path):
    shopping = with_row(SHOPPING, 0, created_time=at(30))
    found = reason(validate(tmp_path, shopping=shopping), "later_events")
    assert (found.held, found.level, found.found) == (False, "warn", 1)


def test_missing_days_are_counted_in_the_shops_own_time_zone(tmp_path):
    # 02:00 UTC is the evening before in New York.
    shopping = [event("u", "i0", at(day + 2 / 24)) for day in range(3)]
    source = {**make_card().source.model_dump(), "timezone": "America/New_York"}
    decision = validate(tmp_path, shopping=shopping, card=make_card(source=source), as_of=at(2.5))
    assert reason(decision, "missing_days").held
    days = json.loads((tmp_path / "validation" / "profile.json").read_text())["days"]
    assert list(days) == ["2025-12-31", "2026-01-01", "2026-01-02"]


def test_drift_against_the_last_profile_warns(tmp_path):
    validate(tmp_path, out="last")
    same = validate(tmp_path, reference=tmp_path / "last", out="same")
    assert all(reason.held and reason.found == 0 for reason in same.reasons if reason.check.endswith("drift"))


def counts(*bins: int, missing: int = 0):
    return {"counts": [*bins], "missing": missing}


def test_stability_index_follows_its_definition():
    before, now = counts(50, 50), counts(25, 75)
    assert stability_index(before, now) == pytest.approx(0.25 * 1.0986123, rel=1e-6)  # (p - q) ln(p / q), twice
    assert stability_index(before, before) == 0
    assert stability_index(before, counts(50, 0, missing=50)) > 1, "missing values are a bin"


def test_chance_covers_samples_of_one_distribution():
    rng = np.random.default_rng(0)
    for rows in (60, 600, 6000):
        pairs = [(rng.multinomial(5000, [0.1] * 10), rng.multinomial(rows, [0.1] * 10)) for _ in range(300)]
        found = [(counts(*a.tolist()), counts(*b.tolist())) for a, b in pairs]
        assert all(stability_index(*pair) <= chance(*pair) for pair in found)
        # A third of the rows in another bin is seen in all but the smallest samples.
        other = counts(*(rng.multinomial(rows, [0.4, *[0.6 / 9] * 9]).tolist()))
        assert rows == 60 or stability_index(found[0][0], other) > chance(found[0][0], other)


def test_the_page_escapes_what_comes_from_the_data(tmp_path):
    nasty = "<script>alert('x')</script>"
    validate(tmp_path, items=with_row(ITEMS, 2, brand=nasty, weight=-1.0), report={"notes": [nasty]})
    page = (tmp_path / "validation" / "page.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "http://" not in page and "https://" not in page and "src=" not in page
