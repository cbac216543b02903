"""Lists for all shoppers keep the shop's rules: they are what the gateway shows each of them at the same moment."""

import json
import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from components.recommend.parts import PARTS
from components.recommend.shown import Wanted
from components.recommend.step import REPORT, recommend
from experiments.document import Rollout
from experiments.rules import Rules
from experiments.rules_table import RulesTable, RulesVersion
from feature_repo.impressions import Impressions
from runtime.errors import InputError
from tests.pipeline.test_batch import Made
from tests.serving.open_gateway import OpenGateway, ask
from tests.serving.test_rules import hold, table  # noqa: F401  (fixture)
from tests.serving.tiny_archive import ITEMS

NOW = datetime(2026, 1, 6, 12, 0, 30, tzinfo=UTC)
SHOPPERS = [f"u{number:03}" for number in range(15)]
WHERE = [{"shelf": ["low"]}, {"shelf": {"not": ["low"]}}, {"price": {"min": 5}}, {"tags": ["even"]},
         {"released": {"min": "2026-01-05"}}, {"released": {"within_days": 3}}]  # fmt: skip


@dataclass(frozen=True)
class Shown(Made):
    """Each shopper was shown some items twice lately, and others twice long ago."""

    def impressions(self, users: Any) -> list[Impressions]:
        return [shown_to(user) for user in users]


def shown_to(user: str) -> Impressions:
    rng = random.Random(user)
    now = int(NOW.timestamp())
    return {item: [now - rng.choice([50, 86_400 * 3]), now - 40] for item in rng.sample(ITEMS, 6)}


def some_rules(rng: random.Random) -> dict[str, Any]:
    """A document at random, of every kind of rule."""

    def chosen() -> dict[str, Any]:
        return {"items": rng.sample(ITEMS, 2)} if rng.random() < 0.5 else {"where": rng.choice(WHERE)}

    late = (NOW + timedelta(seconds=rng.choice([-30, 30]))).isoformat()
    every: dict[str, Any] = {
        "fatigue": {"after": 2, "days": rng.choice([1, 7]), "then": rng.choice(["demote", "hide"])},
        "blocks": [{**chosen(), "from": late} for _ in range(2)],
        "pins": [{"item": rng.choice(ITEMS), "slot": slot} for slot in (1, 3)],
        "boosts": [{**chosen(), **rng.choice([{"factor": 5.0}, {"share": 0.5}])}],
        "value": {"by": "price"},
        "diversity": {"caps": {"shelf": 2}},
        "holdout": {"share": 0.4},
        "exploration": {"share": 0.5, "until": NOW.isoformat()},  # over: nothing is explored
    }
    return {name: every[name] for name in rng.sample(sorted(every), 4)}


def made(content: Path, out: Path, rules: dict[str, Any], **changes: Any) -> dict[str, list[tuple[str, float | None]]]:
    withdrawn = frozenset(changes.pop("withdrawn", ()))
    wanted = Wanted(now=NOW, rules=RulesVersion(number=1, rules=Rules.of(rules)), withdrawn=withdrawn)
    asked = {"version": "1.0", "archive_digest": "d", "users": SHOPPERS, "k": 4, "part": 4, "histories": Shown()}
    recommend(content=content, model="shop", out=out, wanted=wanted, **{**asked, **changes})  # type: ignore[arg-type]
    found: dict[str, list[tuple[str, float | None]]] = {user: [] for user in SHOPPERS}
    for row in ds.dataset(out / PARTS, format="parquet").to_table().to_pylist():
        found[row["user_id"]].append((row["item_id"], row["score"]))
    return found


def test_a_list_is_what_the_gateway_shows_at_the_same_moment_whatever_the_rules(
    open_gateway: OpenGateway,
    rollout: Rollout,
    content: Path,
    table: RulesTable,  # noqa: F811
    tmp_path: Path,
) -> None:
    client = open_gateway(
        replace(rollout, challenger=None, stage=None, weight=0.0),
        history=lambda user: Made()([user])[user],
        impressions=shown_to,
        clock=lambda: NOW,
    )
    plain = made(content, tmp_path / "plain", {})
    for seed in range(10):
        rng = random.Random(seed)
        rules, filters = some_rules(rng), rng.choice([{}, {}, rng.choice(WHERE)])
        gone = rng.sample(ITEMS, 2)
        hold(client, table, rules)
        assert client.put("/v1/availability", json={"withdrawn": gone}).status_code == 200
        lists = made(content, tmp_path / str(seed), rules, withdrawn=gone, filters=filters)
        for user in SHOPPERS:
            shown = [(item["item_id"], item["score"]) for item in ask(client, user, k=4, filters=filters)["items"]]
            assert [item for item, _ in lists[user]] == [item for item, _ in shown], (seed, user, rules, filters)
            assert [score for _, score in lists[user]] == pytest.approx([score for _, score in shown], abs=1e-4)
        assert lists != plain
        assert client.put("/v1/availability", json={"available": gone}).status_code == 200


def test_a_run_that_goes_on_makes_lists_of_the_moment_at_which_it_was_begun(content: Path, tmp_path: Path) -> None:
    rules = {"fatigue": {"after": 2, "days": 1, "then": "hide"}, "blocks": [{"items": ["i3"]}]}
    whole = made(content, tmp_path / "out", rules)
    (tmp_path / "out" / PARTS / "part-00001.parquet").unlink()
    (tmp_path / "out" / REPORT).unlink()
    assert made(content, tmp_path / "out", {"blocks": [{"items": ["i1", "i5"]}]}) == whole


def test_nothing_is_explored_a_rule_that_cannot_be_followed_is_told_and_a_filter_that_cannot_is_refused(
    content: Path, tmp_path: Path
) -> None:
    plain = made(content, tmp_path / "plain", {})
    assert made(content, tmp_path / "explored", {"exploration": {"share": 0.5}}) == plain, "nothing is drawn"
    assert made(content, tmp_path / "strange", {"blocks": [{"where": {"colour": ["red"]}}]}) == plain
    (problem,) = json.loads((tmp_path / "strange" / REPORT).read_text())["problems"]
    assert problem.startswith("rules 1, blocks.0: ") and "colour" in problem
    with pytest.raises(InputError, match=r"filters.colour: no such filter; there are price"):
        made(content, tmp_path / "none", {}, filters={"colour": ["red"]})
    assert not (tmp_path / "none").exists()
    made(content, tmp_path / "low", {}, filters={"shelf": ["low"]})
    with pytest.raises(InputError, match="was begun with filters"):
        made(content, tmp_path / "low", {})
