"""A feature may have any name that is not one of the files' own columns: all the way to what training reads."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from components.features import step as features
from components.resolve import step as resolve
from components.shared.tables import tables
from components.validate import step as validate
from feature_repo import kinds
from feature_repo.card_features import RESERVED, Feature
from heterrec.data import encoder
from heterrec.data.sequences import NOW, read_sequences
from runtime.manifest import Manifest
from tests.component.ingest_cards import ingest, make_card

ROOT = Path(__file__).parents[2]
SQL_NAME = re.compile(r'\bAS "?([a-z][a-z0-9_]*)\b')
FOLDERS = ("components/ingest", "components/validate", "components/features", "components/shared", "feature_repo")


def words_of_the_program() -> list[str]:
    """What its SQL calls things, the names of Python's objects that it finds by name, and words of SQL."""
    sources = [path.read_text() for folder in FOLDERS for path in (ROOT / folder).glob("*.py")]
    found = {name for source in sources for name in SQL_NAME.findall(source)}
    found |= {"row", "reasons", "found", "quantity", "number", "line", "x", "select", "order", "life", "db", "events"}
    return sorted(name for name in found if name not in RESERVED and not name.endswith("_y"))


@pytest.mark.parametrize("turn", [0, 1])
def test_no_feature_s_name_is_taken_for_one_of_the_program_s(tmp_path, turn):
    names = words_of_the_program()
    assert {"since", "moment", "first", "happened", "value"} <= set(names)
    observed, listed = names[turn::2], names[1 - turn :: 2]
    values = {name: n + 1 for n, name in enumerate(names)}
    interactions = {"user_id": list("abcab"), "item_id": list("xyxyx"), "amount": ["2"] * 5,
                    "event_time": [f"2025-03-0{n}T10:00:00Z" for n in range(1, 6)],
                    **{f"col {name}": [values[name]] * 5 for name in observed}}  # fmt: skip
    items = {"item_id": ["x", "y"], **{f"col {name}": [values[name], 0] for name in listed}}
    declared = [{"name": name, "column": f"col {name}", "kind": "numeric"} for name in names]
    declared = [{**spec, "table": "interactions", "varies_in_time": True} if spec["name"] in observed else spec
                for spec in declared]  # fmt: skip
    columns = {"event_time": "event_time", "quantity": "amount"}
    card = make_card(tmp_path, interactions, items, columns=columns, features=declared)
    report, events = ingest(card, tmp_path)
    assert report["accepted"] == 5
    Manifest.seal(events, kind="events")
    resolve.run(card=card, events=events, as_of=datetime(2025, 3, 6, tzinfo=UTC), facts=tmp_path / "facts")
    places = {"card": card, "events": events, "facts": tmp_path / "facts"}
    decision = validate.run(**places, reference=None, validation=tmp_path / "validation", data_docs=False)
    assert decision.passed, [reason.message for reason in decision.blocking]
    features.run(**places, feast_root=tmp_path / "feast", sequences=tmp_path / "sequences")
    read = read_sequences(tmp_path / "sequences")
    assert {name: read.varying[name] for name in observed} == {name: [values[name]] * 5 for name in observed}
    assert {name: read.catalogue.columns(NOW)[name] for name in listed} == {name: [values[name], 0] for name in listed}


def test_a_kind_that_the_two_tables_say_goes_from_the_source_to_the_encoder(tmp_path, monkeypatch):
    """Two made-up kinds, a line in each table: a list and a number of which requests can say nothing."""
    monkeypatch.setitem(
        kinds.KINDS,
        "path",
        kinds.FeatureKind(storage=kinds.Storage.TEXTS, says="list_transform({x}, lambda word: upper(word))"),
    )
    monkeypatch.setitem(kinds.KINDS, "grade", replace(kinds.KINDS["numeric"], request=None))
    monkeypatch.setitem(encoder.KINDS, "path", encoder.KINDS["multi_categorical"])
    monkeypatch.setitem(encoder.KINDS, "grade", encoder.KINDS["numeric"])
    items = {
        "item_id": ["x", "y", "z", "zz"],
        "aisle": ["food/tea", "food", None, "tea/oil"],
        "stars": ["3.5", "1", "2", "3"],
    }
    declared = [{"name": "aisle", "kind": "multi_categorical", "separator": "/"}, {"name": "stars", "kind": "numeric"}]
    card = make_card(tmp_path, items=items, features=declared)
    made_up = [f.model_copy(update={"kind": kind}) for f, kind in zip(card.features, ("path", "grade"), strict=True)]
    card = card.model_copy(update={"features": made_up})
    _, events = ingest(card, tmp_path)
    Manifest.seal(events, kind="events")
    resolve.run(card=card, events=events, as_of=datetime(2025, 3, 3, tzinfo=UTC), facts=tmp_path / "facts")
    places = {"card": card, "events": events, "facts": tmp_path / "facts"}
    decision = validate.run(**places, reference=None, validation=tmp_path / "validation", data_docs=False)
    assert decision.passed, [reason.message for reason in decision.blocking]
    profile = json.loads((tmp_path / "validation" / "profile.json").read_text())
    assert profile["features"]["stars"]["max"] == 3.5
    assert profile["features"]["aisle"]["values"] == ["FOOD", "TEA", "OIL"], "what the kind says, not what is stored"
    assert profile["vocabularies"]["aisle"]["size"] == 3
    features.run(**places, feast_root=tmp_path / "feast", sequences=tmp_path / "sequences")
    catalogue = read_sequences(tmp_path / "sequences").catalogue
    columns = catalogue.columns(NOW)
    fitted = encoder.FeatureEncoder.fit(catalogue.features, columns, catalogue.item_ids, np.ones(4, int), min_items=1)
    told = encoder.FeatureEncoder.from_json(fitted.to_json()).encode(columns)
    assert [field.vocabulary for field in fitted.fields] == [("food", "oil", "tea"), ()]
    assert told["aisle"][0].tolist() == [[2, 4], [2, 0], [0, 0], [4, 3]]
    assert np.argsort(told["stars"][0]).tolist() == [1, 2, 3, 0]


def test_the_names_that_are_taken_are_those_of_the_files(tmp_path):
    own = {name for table in tables(make_card(tmp_path, features=[])) for name in table.columns}
    assert own <= RESERVED
    for name in sorted(RESERVED | {"price_y"}):
        with pytest.raises(ValueError, match=f"feature name '{name}' is taken"):
            Feature.model_validate({"name": name, "kind": "text"})
