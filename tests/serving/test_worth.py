"""Shoppers whom no model serves: who they are, what they get, and what the others are worth beside them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from events.partitions import write_days
from events.schema import TABLES
from experiments.document import DocumentChange, ModelVersion, Rollout
from experiments.log import ExposureLog
from experiments.policy import Policy
from experiments.rules import Holdout, Rules
from experiments.rules_table import RulesTable
from experiments.table import RolloutTable
from experiments.worth import difference, shoppers
from serving import __main__ as serving
from serving.gateway.wish import Wish
from tests.serving.open_gateway import HISTORY, OpenGateway, rows
from tests.serving.test_availability import NOBODY
from tests.serving.test_rules import hold, table  # noqa: F401  (fixture)

NOW = datetime(2026, 1, 5, tzinfo=UTC)
HALF = Holdout(share=0.5, salt="x")
KNOWN: dict[str, dict[str, Any]] = {
    "/v1/recommendations": {},
    "/v1/similar-items": {"items": ["i3"]},
    "/v1/rankings": {"items": ["i1", "i2", "i7"]},
}
"""Placements at which a model knows shoppers."""


@pytest.mark.parametrize("torchserve", [None, NOBODY], ids=["model", "memory"])
def test_who_is_held_out_gets_popular_items_and_is_in_no_experiment(
    open_gateway: OpenGateway,
    rollout: Rollout,
    table: RulesTable,  # noqa: F811
    tmp_path: Path,
    torchserve: str | None,
) -> None:
    of_top = [{**HISTORY[0], "item_id": "i4"}]  # whose best one is i2
    more_options: dict[str, Any] = {"torchserve": torchserve} if torchserve else {}
    client = open_gateway(rollout, history=lambda user: of_top, **more_options)
    hold(client, table, {"holdout": {"share": 0.5, "salt": "x"}})
    users = [f"u{n}" for n in range(8)]
    assert 0 < sum(map(HALF.has, users)) < 8
    for path, more in KNOWN.items():
        for user in users:
            answer = client.post(path, json={"user_id": user, "k": 2, **more}).json()
            (row,) = [
                each for each in rows(tmp_path / "log", "exposures") if each["request_id"] == answer["request_id"]
            ]
            assert row["holdout"] == HALF.has(user) == (answer["variant"] == "holdout")
            if row["holdout"]:
                assert (answer["version"], answer["status"], row["salt"], row["stage"]) == ("popular", "ok", "", None)
                assert [item["item_id"] for item in answer["items"]][:2] == ["i7", "i2"], "most events first"
            else:
                assert row["salt"] == "s" and (torchserve is not None or answer["version"] in ("1.0", "2.0"))


def test_nobody_is_held_out_who_is_not_asked_about(
    open_gateway: OpenGateway,
    rollout: Rollout,
    table: RulesTable,  # noqa: F811
    tmp_path: Path,
) -> None:
    client = open_gateway(rollout)
    hold(client, table, {"holdout": {"share": 0.5, "salt": "x"}})
    held = next(f"u{n}" for n in range(99) if HALF.has(f"u{n}"))
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/v1/recommendations", {"user_id": held, "personalise": False}),
        ("/v1/similar-items", {"user_id": held, "items": ["i3"], "personalise": False}),
        ("/v1/similar-items", {"items": ["i3"]}),
        ("/v1/popular", {"user_id": held}),
        ("/v1/bought-together", {"user_id": held, "items": ["i3"]}),
    ]
    for path, body in asked:
        assert client.post(path, json=body).json()["variant"] != "holdout"
    assert Wish(user_id=held, arm="champion").drawn(HALF).held is None, "people who test see the arm that they ask for"
    assert {row["holdout"] for row in rows(tmp_path / "log", "exposures")} == {None}
    hold(client, table, {})
    client.post("/v1/recommendations", json={"user_id": held})
    assert rows(tmp_path / "log", "exposures")[-1]["holdout"] is None


def test_a_higher_share_only_adds_shoppers() -> None:
    users = [f"u{n}" for n in range(4000)]
    shares = (0.02, 0.1, 0.5)
    held = [{user for user in users if Holdout(share=share).has(user)} for share in shares]
    assert held[0] < held[1] < held[2]
    for share, found in zip(shares, held, strict=True):
        assert abs(len(found) / len(users) - share) < 5 * (share * (1 - share) / len(users)) ** 0.5
    other = {user for user in users if Holdout(share=0.1, salt="y").has(user)}
    assert len(other & held[1]) < 100, "drawn anew"


def test_the_interval_covers_what_models_are_worth() -> None:
    """Of 95 %, of shoppers as they are: most come rarely and take nothing, some very often."""
    rng, covered, told = np.random.default_rng(0), 0, 0
    for _ in range(200):
        held_N = rng.random(4000) < 0.1
        visits_N = 1 + rng.geometric(0.3, 4000) * rng.choice([1, 1, 1, 10], 4000)
        taken_N = rng.binomial(visits_N, np.where(held_N, 0.05, 0.08)).astype(float)
        truth = float((1 + (1 / 0.3) * 13 / 4) * 0.03)
        found = difference(held_N, taken_N)
        covered += found.low <= truth <= found.high
        told += found.low > 0
        assert found.supported
    assert covered >= 184 and told >= 160


def exposed(request: str, user: str, held: bool | None, time: datetime = NOW) -> tuple[datetime, dict[str, Any]]:
    return time, {
        "schema": 5, "request_id": request, "user_id": user, "variant": "holdout" if held else "champion",
        "model_version": "a", "stage": None, "weight": 0.0, "salt": "", "time": time, "latency_ms": 1.0,
        "status": "ok", "n_items": 1, "items": ["i1"], "holdout": held, "override": False,
    }  # fmt: skip


def took(request: str, event: str, item: str | None, hours: float = 1.0) -> tuple[datetime, dict[str, Any]]:
    time = NOW + timedelta(hours=hours)
    return time, {"schema": 5, "request_id": request, "event_type": event, "item_id": item, "time": time}


def write(log: Path, exposures: list[Any], outcomes: list[Any], name: str = "x", old: bool = False) -> None:
    schema = TABLES["exposures"]
    if old:
        schema = pa.schema([field for field in schema if field.name not in ("holdout", "tired")])
        exposures = [(time, {name: row[name] for name in row if name != "holdout"}) for time, row in exposures]
    write_days(log / "exposures", name, schema, exposures)
    write_days(log / "outcomes", name, TABLES["outcomes"], outcomes)


def test_every_shopper_counts_once_and_every_outcome_once(tmp_path: Path) -> None:
    shown = [("r1", "a", False), ("r2", "a", False), ("r3", "b", True), ("r4", "c", None), ("r5", "d", True)]
    early = exposed("r7", "e", True, NOW - timedelta(days=1))
    taken = [("r1", "click", "i1"), ("r1", "click", "i1", 2), ("r2", "buy", "i1"), ("r2", "buy", "i2", 3)]
    taken += [("r3", "buy", "i9"), ("r3", "click", "i1", 24 * 8), ("r4", "buy", "i1"), ("r5", "buy", "i1")]
    both = exposed("r6", "d", False)
    write(tmp_path, [*(exposed(*each) for each in shown), both, early], [took(*each) for each in taken])
    write(tmp_path, [exposed("r3", "b", True)], [took("r1", "click", "i1")], "repeated")
    write(tmp_path, [exposed("r8", "f", None)], [], "old", old=True)
    worth = {"i1": 2.5, "i2": 4.0}
    found = shoppers(tmp_path, since=NOW, until=NOW + timedelta(days=30), events=["click", "buy"], value=worth)
    assert (found.held_N.tolist(), found.shown_N.tolist()) == ([False, True], [2, 1])
    assert {name: each.tolist() for name, each in found.outcomes.items()} == {
        "click": [1, 0], "buy": [2, 1], "value": [6.5, 0],
    }  # fmt: skip
    with pytest.raises(ValueError, match="nobody is held out"):
        difference(found.held_N[:1], found.shown_N[:1])
    with ExposureLog(tmp_path, salt="s", opened=NOW, now=NOW + timedelta(days=9), policy=Policy()) as log:
        assert log.traffic(0).exposures == 0, "the judge of a canary sees none of it"


def test_the_command_tells_it_since_the_holdout_is_the_same(
    arms: dict[str, ModelVersion],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    monkeypatch.delenv("HETERREC_ROLLOUT_URL", raising=False)

    def worth(*more: str) -> tuple[int, str]:
        status = serving.main(["worth", "--dataset", "shop", *more])
        told = capsys.readouterr()
        return status, told.out + told.err

    with RolloutTable(f"sqlite:///{tmp_path}/rollout.db") as rollouts:
        rollouts.propose(DocumentChange(Rollout(model="shop", champion=arms["1.0"]), "push", "first"), 0)
        moments = iter([NOW - timedelta(days=9), NOW - timedelta(days=2), NOW - timedelta(days=1)])
        kept = RulesTable(rollouts.database, "shop", clock=lambda: next(moments))
        assert worth()[0] == 2 and "the rules hold nobody out" in worth()[1]
        for number, salt in enumerate(("old", "x", "x")):
            pins = [{"item": "i1", "slot": number + 1}]
            rules = Rules.of({"holdout": {"share": 0.5, "salt": salt}, "pins": pins})
            kept.propose(rules, who="anna", why="worth", expected=number)
    assert "nobody is held out" in worth()[1]
    users = [f"u{n}" for n in range(400)]
    exposures = [exposed(user, user, HALF.has(user)) for user in users]
    outcomes = [took(user, "purchase", "i3") for n, user in enumerate(users) if n % (10 if HALF.has(user) else 2) == 0]
    before = [exposed(f"b{user}", user, not HALF.has(user), NOW - timedelta(days=5)) for user in users]
    write(tmp_path / "log" / "shop", [*exposures, *before], outcomes)
    status, out = worth("--value", "price")
    assert status == 0 and out.startswith("shop since 2026-01-03 00:00 UTC: "), out
    lines = {line.split()[0]: line.split() for line in out.splitlines()[2:]}
    assert 0.3 < float(lines["purchase"][3]) < 0.5 and float(lines["value"][3]) == 4 * float(lines["purchase"][3])
    assert float(lines["purchase"][4].strip("[,")) > 0.2 and lines["click"][1] == "0.0000"
    status, out = worth("--value", "shelf")
    assert status == 2 and "--value: 'shelf' is no number" in out
