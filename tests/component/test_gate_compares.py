"""The gate against what was accepted and what was served: skew, and faults of the reference itself."""

import json
import struct
from pathlib import Path

import duckdb
import pytest

from components.shared.reference_files import PROFILE, SCHEMA
from components.shared.tables import _ARROW, tables
from components.validate import step
from feature_repo.definitions import definitions
from runtime.errors import InputError
from tests.component.make_events import (
    at,
    change,
    event,
    item,
    make_card,
    write_events,
    write_facts,
)

DAYS = range(12)
SHOPPING = [
    event(f"u{n}", f"i{(n + day) % 6}", at(day + n / 100 + day / 1000), event_id=f"e{20 * day + n:04d}")
    for day in DAYS
    for n in range(20)
]
ITEMS = [item(f"i{n}", brand=f"b{n}", weight=float(n), image=[1.0, 0.1 * n, 0.0]) for n in range(6)]
END = at(12)
PRICES = [change(f"i{n}", at(day), 1.0 + n + day / 10, label="new") for n in range(6) for day in DAYS]


def validate(tmp_path: Path, out: str, *, card=None, shopping=SHOPPING, as_of=END, reference=None, items=ITEMS):
    card = card or make_card()
    events = write_events(tmp_path / f"events-{out}", card, shopping, items, PRICES if card.varying else [])
    facts = write_facts(tmp_path / f"facts-{out}", as_of)
    return step.run(
        card=card, events=events, facts=facts, reference=reference, validation=tmp_path / out, data_docs=False
    )


def reason(decision, check):
    (found,) = [reason for reason in decision.reasons if reason.check == check]
    return found


def exposures(folder: Path, columns: str) -> Path:
    """A reference with one exposure of each item on the fifth day; `columns` in SQL over the item's number n."""
    folder.mkdir()
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        db.sql(
            f"SELECT 'r' AS request_id, 'i' || n AS item_id, TIMESTAMPTZ '{at(4.5)}' AS event_time, {columns} "
            "FROM range(6) numbers(n)"
        ).write_parquet(str(folder / "exposures.parquet"))
    return folder


def single(number: float) -> float:
    return struct.unpack("f", struct.pack("f", number))[0]


def test_features_served_as_trained_show_no_skew(tmp_path):
    columns = "(1.0 + n + 0.4)::FLOAT AS price, 'b' || n AS brand, [1.0, 0.1 * n, 0.0]::FLOAT[] AS image"
    decision = validate(tmp_path, "out", reference=exposures(tmp_path / "reference", columns))
    assert single(1.4) != 1.4, "a price served in single precision is the same price"
    assert {r.check: r.found for r in decision.reasons if r.check.endswith("skew")} == {
        "price skew": 0.0,
        "brand skew": 0.0,
        "image skew": 0.0,
    }


@pytest.mark.parametrize(
    ("columns", "check", "found"),
    [
        # Yesterday's price, which only a stale online store still has.
        ("1.0 + n + 0.3 AS price", "price skew", 1.0),
        ("CASE WHEN n > 0 THEN 'b' || n END AS brand", "brand skew", 1 / 6),
        ("[1.0, 0.1 * n, n // 3]::FLOAT[] AS image", "image skew", 0.5),
        ("[1.0, 0.1 * n]::FLOAT[] AS image", "image skew", 1.0),
    ],
)
def test_another_value_served_than_trained_on_is_skew_with_its_rows(tmp_path, columns, check, found):
    decision = validate(tmp_path, "out", reference=exposures(tmp_path / "reference", columns))
    skew = reason(decision, check)
    assert not skew.held and skew.found == pytest.approx(found, abs=1e-6)
    assert skew.level == ("block" if found > 0.25 else "warn")
    assert set(skew.evidence[0]) == {"item_id", "event_time", "served", "trained"}
    assert len(skew.evidence) == round(found * 6)


def test_exposures_that_could_not_be_read_warn(tmp_path):
    (tmp_path / "reference").mkdir()
    said = {"accepted": None, "notes": [], "exposures": 0, "served": "log: cannot be read", "served_fault": True}
    (tmp_path / "reference" / "reference.json").write_text(json.dumps(said))
    decision = validate(tmp_path, "out", reference=tmp_path / "reference")
    assert decision.passed and reason(decision, "exposures").level == "warn"


def test_without_a_reference_the_gate_says_what_it_could_not_compare(tmp_path):
    decision = validate(tmp_path, "out")
    assert decision.passed
    assert reason(decision, "last accepted run").found == "none" and reason(decision, "exposures").level == "info"
    assert not [r for r in decision.reasons if "drift" in r.check or "lost" in r.check]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{half", r"profile\.json: is no JSON"),
        ("[]", rf"schema None, expected {SCHEMA}"),
        ('{"schema": 1}', rf"schema 1, expected {SCHEMA}"),
        (f'{{"schema": {SCHEMA}, "days": {{}}}}', "lacks as_of"),
    ],
)
def test_a_reference_that_cannot_be_used_is_told(tmp_path, content, told):
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / PROFILE).write_text(content)
    with pytest.raises(InputError, match=told):
        validate(tmp_path, "out", reference=tmp_path / "reference")


def test_a_card_without_features_is_judged_by_its_events(tmp_path):
    card = make_card(features=[], title=None)
    first = validate(tmp_path, "first", card=card, as_of=at(11))
    second = validate(tmp_path, "second", card=card, reference=tmp_path / "first")
    assert first.passed and second.passed
    assert reason(second, "lost events").held and reason(second, "events a day").found == 1.0
    assert "<html" in (tmp_path / "second" / "page.html").read_text()


def test_a_day_without_events_is_missing_where_the_shop_was_open(tmp_path):
    validate(tmp_path, "before")
    nothing_new = validate(tmp_path, "open", as_of=at(13), reference=tmp_path / "before")
    assert [r.check for r in nothing_new.blocking] == ["missing_days"]
    assert reason(nothing_new, "missing_days").evidence == [{"day": "Tue 2026-01-13"}]
    closed = make_card(calendar={"closed_days": ["2026-01-13"]})
    assert validate(tmp_path, "closed", card=closed, as_of=at(13), reference=tmp_path / "before").passed


def test_a_day_that_is_known_to_be_unusual_is_not_held_against_usual_ones(tmp_path):
    validate(tmp_path, "before", as_of=at(11))
    few = [row for row in SHOPPING if row["event_time"] < at(11) or row["user_id"] in ("u1", "u2")]
    decision = validate(tmp_path, "few", shopping=few, reference=tmp_path / "before")
    assert {"events a day", "users a day"} <= {r.check for r in decision.blocking}
    card = make_card(calendar={"unusual_days": ["2026-01-12"]})
    assert validate(tmp_path, "known", card=card, shopping=few, reference=tmp_path / "before").passed


def test_a_feature_of_another_kind_than_accepted_is_not_compared(tmp_path):
    validate(tmp_path, "before", as_of=at(11))
    features = [f.model_dump() for f in make_card().features if f.name != "brand"]
    card = make_card(features=[{"name": "brand", "kind": "text"}, *features])
    decision = validate(tmp_path, "after", card=card, reference=tmp_path / "before")
    checks = {r.check for r in decision.reasons}
    assert "brand drift" not in checks and "weight drift" in checks


def test_kinds_of_events_that_come_in_other_shares_are_seen(tmp_path):
    card = make_card(
        columns={"event_time": "event_time", "event_type": "kind"},
        events={"view": {}, "purchase": {"predict": True}, "dismissed": {"negative": True}},
    )

    def shopping(of_last_day):
        """Two views for a purchase; of the day after the first run each kind as `of_last_day` has it."""
        usual = ("view", "purchase", "view")
        kinds = [of_last_day if row["event_time"] >= at(11) else usual for row in SHOPPING]
        return [
            {**row, "event_type": kind[n % len(kind)]}
            for n, (row, kind) in enumerate(zip(SHOPPING, kinds, strict=True))
        ]

    more = [{**row, "event_id": f"m{n:04d}{k}", "user_id": f"{row['user_id']}-{k}"}
            for k in range(3) for n, row in enumerate(SHOPPING) if row["event_time"] >= at(11)]  # fmt: skip
    validate(tmp_path, "before", card=card, shopping=shopping(("view",)), as_of=at(11))
    found = {}
    for name, kinds in {"same": ("view", "purchase", "view"), "broken": ("seen",), "cut": ("purchase",)}.items():
        extra = [{**row, "event_type": kinds[n % len(kinds)]} for n, row in enumerate(more)]
        decision = validate(
            tmp_path, name, card=card, shopping=[*shopping(kinds), *extra], reference=tmp_path / "before"
        )
        found[name] = reason(decision, "event types drift of new events")
    assert found["same"].held and found["broken"].level == "block" and not found["cut"].held
    assert {row["bin"] for row in found["broken"].evidence} >= {"view", "purchase", "all other values"}
    assert "tolerances.event_types" in found["broken"].remedy


def test_history_that_changed_under_the_same_counts_is_seen(tmp_path):
    validate(tmp_path, "before", as_of=at(11))
    # Ids are digests of shopper, item and time: other shoppers make other events.
    other = [{**row, "event_id": f"x{n:04d}"} for n, row in enumerate(SHOPPING)]
    decision = validate(tmp_path, "after", shopping=other, reference=tmp_path / "before")
    assert reason(decision, "accepted events").evidence[0] == {"event_id": "e0000", "day": "2026-01-01"}
    assert [r.check for r in decision.blocking] == ["accepted events"]
    assert reason(decision, "lost events").found == 0


def test_a_source_that_keeps_the_last_days_only_has_lost_nothing(tmp_path):
    validate(
        tmp_path, "before", shopping=[row for row in SHOPPING if at(0) <= row["event_time"] < at(10)], as_of=at(10)
    )
    for days, lost in ((1, []), (2, []), (4, ["lost events", "accepted events"])):
        # Two days have come since.
        kept = [row for row in SHOPPING if row["event_time"] >= at(days)]
        decision = validate(tmp_path, f"after-{days}", shopping=kept, reference=tmp_path / "before")
        assert [r.check for r in decision.blocking] == lost


def test_the_types_that_the_gate_expects_are_those_that_feast_registers(tmp_path):
    card = make_card()
    views = definitions(card, events=tmp_path, histories=tmp_path / "h.parquet").views
    registered = {f.name: str(f.dtype) for view in views for f in view.features if view.name != "user_history"}
    names = {"string": "String", "double": "Float64", "list<item: string>": "Array(String)",
             "list<item: float>": "Array(Float32)"}  # fmt: skip
    expected = {
        name: names[str(kind)]
        for table in tables(card)
        for name, kind in table.columns.items()
        if name in {feature.name for feature in card.features}
    }
    assert registered == expected and set(map(str, _ARROW.values())) == set(names)
