"""The shop's rules, through the gateway and by the command: whoever answers keeps them, and the log says which."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from events.logged import latest
from experiments.database import Database
from experiments.document import DocumentChange, ModelVersion, Rollout
from experiments.rules import Rules
from experiments.rules_table import RulesTable, StaleRules
from experiments.table import RolloutTable
from serving import __main__ as serving
from serving.gateway.after.showing import draw
from serving.replay import replay
from tests.serving.open_gateway import OpenGateway, ask, rows
from tests.serving.test_availability import NOBODY, shown
from tests.serving.test_server import within
from tests.serving.tiny_archive import ITEMS

RULES: dict[str, Any] = {
    "blocks": [{"items": ["i7"]}, {"where": {"price": {"min": 11}}}],
    "pins": [{"item": "i6", "slot": 2}],
    "boosts": [{"where": {"shelf": {"not": ["low"]}}, "share": 0.5}],
    "diversity": {"caps": {"shelf": 3}},
}


@pytest.fixture
def table(tmp_path: Path) -> Iterator[RulesTable]:
    """The rules that `open_gateway` follows."""
    database = Database(f"sqlite:///{tmp_path}/news.db")
    yield RulesTable(database, "shop")
    database.close()


def hold(client: TestClient, table: RulesTable, rules: dict[str, Any]) -> int:
    number = table.propose(Rules.of(rules), who="anna", why="a sale", expected=table.read().number).number
    assert within(20, lambda: f"gateway_rules_version {number}.0" in client.get("/metrics").text)
    return number


@pytest.mark.parametrize(("weight", "options"), [(0.0, {}), (1.0, {}), (0.5, {"torchserve": NOBODY})],
                         ids=["champion", "challenger", "popular"])  # fmt: skip
def test_who_ever_answers_keeps_the_rules_and_the_log_says_which(
    open_gateway: OpenGateway,
    rollout: Rollout,
    arms: dict[str, ModelVersion],
    table: RulesTable,
    tmp_path: Path,
    weight: float,
    options: dict[str, Any],
) -> None:
    row = replace(rollout, weight=weight) if weight else replace(rollout, challenger=None, stage=None, weight=0.0)
    client = open_gateway(row, **options)
    before = shown(client, k=6, exclude_seen=False)
    number = hold(client, table, RULES)
    answer = ask(client, k=6, exclude_seen=False)
    items = [item["item_id"] for item in answer["items"]]
    assert not {"i7", "i10"} & set(items) and items != before
    assert items.index("i6") == (1 if len(items) > 1 else 0)
    shelf = [{"i11": None}.get(item, int(item[1:]) % 2) for item in items]
    assert max(shelf.count(0), shelf.count(1)) <= 3
    logged = {row["request_id"]: row for row in rows(tmp_path / "log", "exposures")}[answer["request_id"]]
    assert (logged["rules"], logged["placement"], logged["items"]) == (number, "for_you", items)
    assert logged["origins"] == ["pinned" if item == "i6" else "ranked" for item in items]
    assert logged["propensities"] == [1.0] * len(items)
    if "torchserve" not in options:
        assert len(items) == 6 and all(item["score"] is not None for item in answer["items"] if item["item_id"] != "i6")
        done = replay(latest(tmp_path / "log", 10), arms)
        assert done.same == 2 and not done.differing, "what the rules left of a ranking is of that ranking"
        logged_now = latest(tmp_path / "log", 10)
        logged_now[0]["scores"] = [None if score is None else score + 1e-3 for score in logged_now[0]["scores"]]
        assert replay(logged_now, arms).differing


def test_a_request_is_not_overruled_by_a_pin(open_gateway: OpenGateway, rollout: Rollout, table: RulesTable) -> None:
    client = open_gateway(rollout)
    hold(client, table, {"pins": [{"item": "i4", "slot": 1}, {"item": "i6", "slot": 1}]})
    assert shown(client)[0] == "i4"
    assert shown(client, exclude=["i4"])[0] == "i6", "the next pin of that slot"
    assert not {"i4", "i6"} & set(shown(client, filters={"price": {"max": 4}}))
    client.put("/v1/availability", json={"withdrawn": ["i4"]})
    assert shown(client)[0] == "i6"


def test_what_explores_is_logged_with_slot_draw_and_chance(
    open_gateway: OpenGateway, rollout: Rollout, table: RulesTable, tmp_path: Path
) -> None:
    client = open_gateway(rollout)
    number = hold(client, table, {"exploration": {"share": 0.5, "slots": [2], "most_events": 0}})
    new = [item for item in ITEMS if item not in ("i2", "i7", "i3")]  # with events, with events, seen
    answers = [ask(client, f"u{n}", k=3) for n in range(30)]
    logged = {row["request_id"]: row for row in rows(tmp_path / "log", "exposures")}
    origins = set()
    for answer in answers:
        row = logged[answer["request_id"]]
        first, drawn = row["items"][0], row["draws"][1]
        allowed = [item for item in new if item != first]
        assert row["rules"] == number and drawn == draw(answer["request_id"], 2) and row["draws"][::2] == [None, None]
        assert row["explorable"] == [None, len(allowed), None]
        origins.add((row["variant"], row["origins"][1]))
        if drawn < 0.5:
            assert row["items"][1] == allowed[int(drawn / 0.5 * len(allowed))]
            assert row["propensities"][1] in (0.5 / len(allowed), 0.5 + 0.5 / len(allowed))
        else:
            assert row["propensities"][1] == 0.5 + 0.5 / len(allowed) * (row["items"][1] in allowed)
    assert origins == {(arm, origin) for arm in ("champion", "challenger") for origin in ("ranked", "explored")}


def test_a_rule_that_what_serves_cannot_follow_is_told_and_the_others_hold(
    open_gateway: OpenGateway, rollout: Rollout, table: RulesTable
) -> None:
    client = open_gateway(rollout)
    best = shown(client)[0]
    hold(client, table, {"blocks": [{"where": {"colour": ["red"]}}, {"items": [best]}]})
    assert best not in shown(client)
    (problem,) = client.get("/ready").json()["problems"]
    assert problem.startswith("rules 1, blocks.0: ") and "colour" in problem


def test_who_does_not_want_to_be_known_gets_popular_items_and_is_not_judged(
    open_gateway: OpenGateway, rollout: Rollout, tmp_path: Path
) -> None:
    def history(user: str) -> list[dict[str, Any]]:
        raise AssertionError("the history was read")

    client = open_gateway(rollout, history=history)
    answer = ask(client, personalise=False)
    assert (answer["version"], answer["status"]) == ("popular", "ok")
    assert [item["item_id"] for item in answer["items"]] == ["i7", "i2"]
    (row,) = rows(tmp_path / "log", "exposures")
    assert (row["salt"], row["stage"], row["override"], row["cause"]) == ("", None, False, None)
    assert json.loads(row["request"])["history"] == []
    reply = client.post("/v1/recommendations", json={"user_id": "u", "personalise": "perhaps"})
    assert reply.status_code == 422 and reply.json()["errors"][0]["field"] == "personalise"


def test_items_that_must_not_have_a_value_are_left_out_by_whoever_answers(
    open_gateway: OpenGateway, rollout: Rollout
) -> None:
    for options in ({}, {"torchserve": NOBODY}):
        client = open_gateway(rollout, **options)
        found = shown(client, k=10, exclude_seen=False, filters={"shelf": {"not": ["top"]}})
        assert found and {"i7"} <= set(found) and all(int(item[1:]) % 2 for item in found)
    assert "i11" in shown(open_gateway(rollout), k=10, exclude_seen=False, filters={"shelf": {"not": ["top"]}}), (
        "an item without a shelf is not on that one"
    )
    reply = client.post("/v1/recommendations", json={"user_id": "u", "filters": {"price": {"not": ["x"]}}})
    assert reply.status_code == 422 and "is numeric: give min and max" in reply.text


def test_rules_change_only_from_the_version_that_was_read(table: RulesTable) -> None:
    first = table.propose(Rules.of(RULES), who="anna", why="a sale", expected=0)
    with pytest.raises(StaleRules, match="no longer at version 0"):
        table.propose(Rules(), who="ben", why="too late", expected=0)
    assert table.read() == first and table.read(first) is first
    table.propose(Rules(), who="ben", why="over", expected=1)
    assert [(each.number, each.who, each.why) for each in table.history()] == [
        (1, "anna", "a sale"),
        (2, "ben", "over"),
    ]
    assert table.read(first).rules == Rules()


def test_one_command_shows_sets_restores_and_says_who_and_why(
    arms: dict[str, ModelVersion],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HETERREC_ROLLOUT_URL", raising=False)

    def rules(*arguments: str) -> tuple[int, str, str]:
        status = serving.main(["rules", *arguments, "--dataset", "shop"])
        told = capsys.readouterr()
        return status, told.out, told.err

    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps(RULES))
    assert "nothing was released" in rules("set", str(file), "--why", "early")[2]
    with RolloutTable(f"sqlite:///{tmp_path}/home/rollout.db") as rows_:
        rows_.propose(DocumentChange(Rollout(model="shop", champion=arms["1.0"]), "push", "first"), 0)
    status, out, _ = rules("set", str(file), "--why", "a sale", "--who", "anna")
    assert status == 0 and "version 1 of the rules holds" in out
    assert json.loads(rules("show")[1]) == Rules.of(RULES).to_json()
    file.write_text("blocks:\n  - where: {colour: [red]}\n")
    status, _, error = rules("set", str(file), "--why", "wrong")
    assert status == 2 and "1.0 of shop cannot follow these rules: blocks.0.where" in error and "price" in error
    stale = ("--expected-version", "0")
    status, _, error = rules("set", str(file), "--why", "before its release", "--unchecked", *stale)
    assert status == 2 and "cannot follow" not in error, "only its version was in the way"
    file.write_text("block: []\n")
    assert "block: Extra inputs" in rules("set", str(file), "--why", "wrong")[2]
    file.write_text("{")
    assert "neither YAML nor JSON" in rules("set", str(file), "--why", "wrong")[2]
    file.write_text("{}")
    assert rules("set", str(file), "--why", "stale", "--expected-version", "0")[0] == 2
    assert rules("set", str(file), "--why", "over", "--who", "ben")[0] == 0
    assert rules("restore", "1", "--why", "again", "--who", "ben")[0] == 0
    assert "has no version 9" in rules("restore", "9", "--why", "never")[2]
    lines = rules("history")[1].splitlines()
    assert [line.split("UTC  ")[1] for line in lines] == [
        "anna: set: a sale (2 blocks, 1 pins, 1 boosts)",
        "ben: set: over (0 blocks, 0 pins, 0 boosts)",
        "ben: restore: again (2 blocks, 1 pins, 1 boosts)",
    ]
