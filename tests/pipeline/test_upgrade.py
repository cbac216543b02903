"""A card of before, and a workspace of before, are brought to the present version or told what they need."""

import json
import shutil

import pytest

from components.ingest.increment import NAME
from feature_repo.card import VERSION, CardError, load_card
from pipelines.__main__ import main
from pipelines.upgrade import of_workspace, upgrade
from runtime import workspace
from tests.component.ingest_cards import (
    INTERACTIONS,
    ingest,
    make_card,
    write_csv,
)

OLD = """# The shop of before.
name: tiny
description: A few rows.
source: {adapter: files, interactions: interactions.csv, items: items.csv}
columns:
  event_time: event_time
  event_type: kind  # view or purchase
features:
  - {name: title, kind: text}
split: {by: time}
"""


def test_a_card_of_before_keeps_its_words_and_its_meaning(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "home"))
    make_card(tmp_path)
    write_csv(tmp_path / "interactions.csv", {**INTERACTIONS, "kind": ["view", "dislike", "view"]})
    (path := tmp_path / "tiny.yaml").write_text(OLD)
    with pytest.raises(CardError, match="pipelines upgrade"):
        load_card(str(path))
    assert main(["upgrade", str(path)]) == 0
    card = load_card(str(path))
    assert (card.version, card.predicted_types) == (VERSION, ["view", "dislike"])
    text = path.read_text()
    assert "# The shop of before." in text and "event_type: kind  # view or purchase\n" in text
    assert "Leave out those that are no interaction" in capsys.readouterr().out
    assert upgrade(path) == [f"{path} is of version {VERSION} already."] and path.read_text() == text


@pytest.mark.parametrize(
    "said", ["  event_types: [buy, cart]  # what counts\n", "  event_types:\n    - buy\n    - cart\n"]
)
def test_types_that_counted_are_predicted(tmp_path, monkeypatch, said):
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "home"))
    make_card(tmp_path)
    line = "  event_type: kind  # view or purchase\n"
    (path := tmp_path / "tiny.yaml").write_text(
        OLD.replace("name: tiny", "name: tiny\nversion: 2").replace(line, line + said)
    )
    with pytest.raises(CardError, match="pipelines upgrade"):
        load_card(str(path))
    upgrade(path)
    card = load_card(str(path))
    assert card.predicted_types == card.history_types == ["buy", "cart"]
    assert (card.columns.event_type, card.split.by) == ("kind", "time") and "version: 3" in path.read_text()


def test_what_a_person_has_to_say_is_told_and_the_card_stays(tmp_path):
    (path := tmp_path / "tiny.yaml").write_text(
        OLD.replace("  event_type: kind  # view or purchase\n", "  colour: red\n")
    )
    before = path.read_text()
    with pytest.raises(CardError, match=r"tiny\.yaml: columns\.colour: no such field"):
        upgrade(path)
    assert path.read_text() == before and [each.name for each in tmp_path.iterdir()] == ["tiny.yaml"]
    path.write_text(f"version: {VERSION + 1}\n{before}")
    with pytest.raises(CardError, match="Update the program"):
        load_card(str(path))
    with pytest.raises(CardError, match="Update the program"):
        upgrade(path)
    assert path.read_text() == f"version: {VERSION + 1}\n{before}"
    path.write_text("name: [tiny")
    with pytest.raises(CardError, match="is not valid YAML"):
        upgrade(path)


def test_a_workspace_of_before_is_told_with_the_command_to_run(tmp_path, monkeypatch):
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "home"))
    card = make_card(tmp_path, {**INTERACTIONS, "user_id": ["17.0", "b", "c"]})
    _, events = ingest(card, tmp_path)
    pointer = workspace.latest_events(card.name)
    pointer.parent.mkdir(parents=True)
    pointer.write_text(json.dumps({"artifact": str(events)}))
    assert of_workspace(card, "tiny.yaml") == []
    increment = json.loads((events / NAME).read_text())
    (events / NAME).write_text(json.dumps({**increment, "schema": 1}))
    told = of_workspace(card, "tiny.yaml")
    assert "1 of 3 shoppers" in told[0]
    assert "python -m pipelines run --dataset tiny.yaml --new-reference" in told[1]
    shutil.rmtree(events)
    assert of_workspace(card, "tiny.yaml") == []
