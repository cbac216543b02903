"""What another archive would earn, from the log of a real gateway: its choices are those that it would serve."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from events.logged import latest, rewarded
from experiments.database import Database
from experiments.document import ModelVersion, Rollout
from experiments.rules import Rules
from experiments.rules_table import RulesTable
from experiments.table import Entry
from serving.gateway.archive import read_contents
from serving.off_policy import (
    ServingPast,
    Slot,
    estimate_rewards,
    slots,
    verdict,
)
from serving.replay import load
from tests.serving.open_gateway import NOW, OpenGateway, ask
from tests.serving.test_server import within

RULES = {
    "exploration": {"share": 0.5, "slots": [2, 3]},
    "pins": [{"item": "i5", "slot": 1}],
    "blocks": [{"items": ["i6"]}],
    "diversity": {"caps": {"shelf": 2}},
}
REASON = "something was withdrawn then, what was open is not known"


def history(user: str) -> list[dict[str, Any]]:
    rng = random.Random(user)
    return [
        {"item_id": f"i{rng.randrange(12)}", "event_time": f"2026-01-{day:02d}T10:00:00+00:00",
         "features": {"price": rng.choice([None, 3.25]), "shelf": rng.choice([None, "top"])}}
        for day in range(1, rng.randrange(2, 9))
    ]  # fmt: skip


def test_the_log_tells_a_better_archive_and_its_choices_are_what_it_would_show(
    open_gateway: OpenGateway, rollout: Rollout, arms: dict[str, ModelVersion], tmp_path: Path
) -> None:
    alone = replace(rollout, challenger=None, stage=None, weight=0.0)
    client = open_gateway(alone, history=history)
    database = Database(f"sqlite:///{tmp_path}/news.db")
    table = RulesTable(database, "shop")
    table.propose(Rules.of(RULES), who="anna", why="new items", expected=0)
    assert within(20, lambda: "gateway_rules_version 1.0" in client.get("/metrics").text)
    for number in range(260):
        ask(client, f"u{number}", k=4)
    client.put("/v1/availability", json={"withdrawn": ["i9"]})
    for number in range(10):
        ask(client, f"late{number}", k=4)
    world = ServingPast(table.history(), [Entry(at=NOW, who="push", why="", rollout=alone)], _contents)
    database.close()
    shown = latest(tmp_path / "log", 1000)

    def of(version: str, rewards: set[tuple[str, str]]) -> tuple[list[Slot], dict[str, int]]:
        arm, folder = arms[version], tmp_path / f"of{len(rewards)}{version}"
        return slots(shown, world, load(Path(arm.archive), arm.archive_digest, folder, version), rewards)

    own, left_out = of("1.0", set())
    assert set(left_out) == {REASON} and left_out[REASON] <= 20, "where i9 was seen it was not open anyway"
    ranked = [slot for slot in own if slot.propensity > 0.4]
    assert ranked and all(slot.shown == slot.choice for slot in ranked), "the champion would show what it showed"
    assert len(own) + left_out[REASON] == sum(each is not None for row in shown for each in row["draws"])

    other, _ = of("2.0", set())
    differing = sum(a.choice != b.choice for a, b in zip(own, other, strict=True))
    assert len(other) == len(own) < 5 * differing
    liked = {(row["request_id"], item) for row in shown for item in row["items"]} & _choices(shown, other)
    for request_id, item in sorted(liked):
        event = {"request_id": request_id, "event_type": "click", "item_id": item}
        assert client.post("/v1/events", json=event).status_code == 202
    client.post("/v1/events", json={"request_id": shown[0]["request_id"], "event_type": "view", "item_id": "i1"})
    rewards = rewarded(tmp_path / "log", "click", [row["request_id"] for row in shown])
    assert rewards == liked
    better = estimate_rewards(of("2.0", rewards)[0])
    assert better["doubly robust"].value == pytest.approx(1, abs=0.1) and better["served"].high < 0.9
    assert better["difference"].low > 0 and "surely better" in verdict(better["difference"])
    same = estimate_rewards(of("1.0", rewards)[0])
    assert same["difference"].low < 0.1 and same["doubly robust"].value < 0.9


def _choices(shown: list[dict[str, Any]], found: list[Slot]) -> set[tuple[str, str]]:
    of_user = {row["user_id"]: row["request_id"] for row in shown}
    return {(of_user[slot.shopper], slot.choice) for slot in found if slot.shown == slot.choice}


def _contents(arm: ModelVersion) -> Any:
    return read_contents(Path(arm.archive), arm.archive_digest)


def test_what_cannot_be_had_any_more_is_left_out_and_counted(
    arms: dict[str, ModelVersion], rollout: Rollout, tmp_path: Path
) -> None:
    row = {
        "request_id": "r", "user_id": "u", "time": NOW, "rules": 4, "override": False, "items": ["i1"], "n_items": 1,
        "origins": ["ranked"], "draws": [0.9], "propensities": [0.5], "explorable": [3], "placement": "for_you",
        "request": '{"user_id": "u", "k": 5, "history": []}',
    }  # fmt: skip
    scorer = load(Path(arms["1.0"].archive), arms["1.0"].archive_digest, tmp_path / "one", "1.0")
    entries = [Entry(at=NOW, who="push", why="", rollout=rollout)]
    for world in (ServingPast([], entries, _contents), ServingPast([], [], _contents), ServingPast([], entries, _gone)):
        found, left_out = slots([row], world, scorer, set())
        assert not found and sum(left_out.values()) == 1 and "cannot be had" in next(iter(left_out))


def _gone(arm: ModelVersion) -> Any:
    raise FileNotFoundError(arm.archive)
