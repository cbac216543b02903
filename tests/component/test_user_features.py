"""What is known of the users, from a shop's table to an answer: as of its moment, and gone with who is deleted."""

import json
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from components.features import step as features
from components.ingest import step
from components.materialise import step as materialise
from components.materialise.parity import ParityError, check_user_features
from components.validate import step as validate
from feature_repo.card import DatasetCard
from feature_repo.forgotten import Forgotten
from runtime.errors import InputError
from tests.component.ingest_cards import (
    ingest,
    make_card,
    rows,
    write_csv,
)
from tests.component.make_events import write_facts

START = datetime(2025, 3, 1, tzinfo=UTC)
GROUP = {"name": "group", "kind": "categorical"}
FEATURES = [
    GROUP,
    {"name": "age", "kind": "numeric", "min": 0, "max": 120},
    {"name": "likes", "kind": "multi_categorical"},
]
PLAIN = {"user_id": ["a", "b"], "group": ["red", "blue"]}


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def shop(folder: Path, users: dict[str, list], *, user_features=(GROUP,), columns=None, **more) -> DatasetCard:
    """The card of a few events of a, b and c and a table of users."""
    folder.mkdir(exist_ok=True)
    moments = [at(7 * n) for n in range(24)]
    events = {
        "user_id": ["abc"[n % 3] for n in range(24)],
        "item_id": ["xy"[n % 2] for n in range(24)],
        "event_time": [moment.isoformat() for moment in moments],
    }
    source = {"users": write_csv(folder / "users.csv", users)}
    columns = {"event_time": "event_time", **(columns or {})}
    split = {"by": "time", "validation_days": 1, "test_days": 1}
    return make_card(
        folder, events, columns=columns, source=source, user_features=list(user_features), split=split, **more
    )


def joined(card: DatasetCard, events: Path, root: Path, as_of: datetime) -> list[dict]:
    facts, sequences = write_facts(root / "facts", as_of), root / "sequences"
    features.run(card=card, events=events, facts=facts, feast_root=root / "feast", sequences=sequences)
    return pq.read_table(sequences / "events.parquet").to_pylist()


def test_each_event_is_asked_by_the_user_as_known_then_and_the_store_has_the_user_as_known_now(tmp_path):
    from events.consumer.histories import HistoryWriter
    from feature_repo.online import user_features
    from feature_repo.store import connect

    rng, told = random.Random(1), {}
    for user in "abd":
        for hour in rng.sample(range(170), 6):
            told[user, at(hour)] = (
                rng.choice(["red", "blue", None]),
                rng.choice([30.0, None, 60.5]),
                rng.choice([["q"], ["q", "r"], None]),
            )
    columns = {"who": [u for u, _ in told], "since": [t.isoformat() for _, t in told]}
    columns |= {"team": [v[0] for v in told.values()], "age": [v[1] for v in told.values()]}
    columns["likes"] = ["|".join(v[2]) if v[2] else None for v in told.values()]
    named = [{**GROUP, "column": "team"}, *FEATURES[1:]]
    card = shop(tmp_path, columns, user_features=named, columns={"user_key": "who", "user_available_at": "since"})
    report, events = ingest(card, tmp_path)
    assert (report["user_rows"], report["user_rejected"]) == (18, 0)
    as_of = at(7 * 23)

    def known(user: str, moment: datetime) -> tuple:
        before = [when for who, when in told if who == user and when <= moment]
        return told[user, max(before)] if before else (None, None, None)

    found = joined(card, events, tmp_path, as_of)
    assert len(found) == 24 and {known(row["user_id"], row["event_time"]) != (None,) * 3 for row in found} == {
        True,
        False,
    }
    for row in found:
        assert (row["group"], row["age"], row["likes"]) == known(row["user_id"], row["event_time"])
    about = json.loads((tmp_path / "sequences" / "features.json").read_text())
    assert about["asking"] == [{"name": f["name"], "kind": f["kind"], "of": "user"} for f in FEATURES]
    places = {"card": card, "events": events, "facts": tmp_path / "facts", "sequences": tmp_path / "sequences"}
    forgotten = Forgotten(tmp_path / "forgotten.txt")
    asked = {**places, "feast_root": tmp_path / "feast", "materialised": tmp_path / "out"}
    assert materialise.run(**asked)["checked_user_features"] == 4
    store = connect("tiny", tmp_path / "feast")
    for user in "abcd":
        values = dict(zip(("group", "age", "likes"), known(user, as_of), strict=True))
        assert user_features(store, user) == {name: value for name, value in values.items() if value is not None}
    assert user_features(store, "stranger") == {}
    HistoryWriter(store).forget(["a"])
    assert user_features(store, "a") == {} != user_features(store, "b")
    with pytest.raises(ParityError, match="user_id 'a' has"):
        check_user_features(card, store, tmp_path / "sequences")
    forgotten.add(["a"], datetime.now(UTC))  # and a run that had begun before does not bring the user back
    with pytest.raises(ParityError, match="user_id 'a' has"):
        materialise.run(**asked, forgotten=forgotten)
    assert user_features(store, "a") == {}


def test_a_table_without_dates_is_one_row_a_user_and_says_that_it_is_as_of_the_run(tmp_path):
    report, events = ingest(shop(tmp_path, PLAIN), tmp_path)
    assert any("columns.user_available_at" in note for note in report["notes"])
    first = START - timedelta(days=1)
    assert [(r["user_id"], r["event_time"], r["group"]) for r in rows(events, "users/*.parquet")] == [
        ("a", first, "red"), ("b", first, "blue")
    ]  # fmt: skip
    twice = {name: [*values, values[0]] for name, values in PLAIN.items()}
    again = tmp_path / "again"
    report, _ = ingest(shop(again, twice), again)
    assert report["user_reasons"] == {"duplicate_row": 1}
    other = tmp_path / "other"
    with pytest.raises(InputError, match=r"1 rows are of users with a row before .* e.g. of 'a'.*user_available_at"):
        ingest(shop(other, {"user_id": ["a", "b", "a"], "group": ["red", "blue", "green"]}), other)
    with pytest.raises(InputError, match=r"users of card 'tiny': no column 'group' \(user feature group\)"):
        ingest(shop(tmp_path / "lacks", {"user_id": ["a"], "team": ["red"]}), tmp_path / "lacks")


def test_what_a_later_ingest_finds_changed_moves_no_event_of_before_and_a_deleted_user_is_gone(tmp_path):
    card = shop(tmp_path, PLAIN)
    _, before = ingest(card, tmp_path)
    write_csv(tmp_path / "users.csv", {"user_id": ["a", "b", "c"], "group": ["green", "blue", "red"]})
    after = tmp_path / "after"
    step.run(card=card, events=after, previous=before)
    found = joined(card, after, tmp_path / "one", at(7 * 23))
    assert {row["group"] for row in found if row["user_id"] == "a"} == {"red"}, "green is known since this ingest"
    assert {row["group"] for row in found if row["user_id"] == "c"} == {None}
    values = [r["group"] for r in rows(after, "users/*.parquet") if r["user_id"] == "a"]
    assert sorted(values) == ["green", "red"]
    forgotten, gone = Forgotten(tmp_path / "forgotten.txt"), tmp_path / "gone"
    forgotten.add(["a"], datetime.now(UTC))
    step.run(card=card, events=gone, previous=after, forgotten=forgotten)
    assert {row["user_id"] for row in rows(gone, "users/*.parquet")} == {"b", "c"}
    assert all(b"green" not in path.read_bytes() for path in gone.rglob("*.parquet"))


def judged(card: DatasetCard, folder: Path, reference: Path | None = None) -> dict[str, str]:
    _, events = ingest(card, folder)
    facts = write_facts(folder / "facts", at(7 * 23))
    asked = {"facts": facts, "reference": reference, "validation": folder / "validation", "data_docs": False}
    decision = validate.run(card=card, events=events, **asked)
    return {each.check: each.level for each in decision.reasons if not each.held}


def test_the_gate_holds_missing_values_bounds_drift_and_new_values(tmp_path):
    many = [f"u{n}" for n in range(200)]
    good = {"user_id": many, "group": ["red", "blue"] * 100, "age": [20 + n % 40 for n in range(200)]}
    read = [GROUP, FEATURES[1]]
    first = judged(shop(tmp_path / "good", good, user_features=read), tmp_path / "good")
    assert not {check for check in first if check.startswith(("group", "age", "user"))}
    bad = {**good, "group": [None] * 150 + ["red"] * 50, "age": [500, *good["age"][1:]]}
    found = judged(shop(tmp_path / "bad", bad, user_features=read), tmp_path / "bad")
    assert found["group missing"] == found["age range"] == "block"
    new = {**good, "group": [f"g{n}" for n in range(200)], "age": [80 + n % 40 for n in range(200)]}
    reference = tmp_path / "good" / "validation"
    found = judged(shop(tmp_path / "new", new, user_features=read), tmp_path / "new", reference)
    assert found["group drift"] == found["age drift"] == found["group vocabulary"] == "block"
    spoiled = {**good, "age": ["old", "?"] * 20 + good["age"][40:]}
    found = judged(shop(tmp_path / "spoiled", spoiled, user_features=read), tmp_path / "spoiled")
    assert found["user_rejected_rate"] == "block"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"user_features": [{"name": "bio", "kind": "text"}]}, "user feature 'bio': found kind text, expected one of"),
        ({"user_features": [{**GROUP, "name": "title"}]}, "features: title declared twice"),
        ({"user_features": [{**GROUP, "name": "user_id"}]}, "feature name 'user_id' is taken"),
        ({"user_features": []}, "user_features and source.users .* go together"),
        ({"user_features": [{**GROUP, "min": 3}]}, "without effect: feature 'group': min and max"),
        ({"source": {}}, "user_features and source.users .* go together"),
        ({"user_features": [], "source": {}, "columns": {"event_time": "t", "user_key": "k"}}, "columns.user_key"),
        ({"source": {"users": "u", "csv": {"users": {"names": ["a", "a"]}}}}, "names: a twice"),
    ],
)
def test_a_card_says_what_is_wrong_about_users(tmp_path, changed, told):
    asked = {"source": {"users": "users.csv"}, "user_features": [GROUP], **changed}
    with pytest.raises(ValidationError, match=told):
        make_card(tmp_path, **asked)
