"""Full traffic and the watch beside a holdout of the former champion: what everybody meets sends nothing back."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from events.partitions import write_days
from events.schema import TABLES
from experiments import guardrails
from experiments.assignment import HOLDOUT, drawn
from experiments.document import ModelVersion, Rollout
from experiments.log import ExposureLog
from experiments.policy import Policy
from runtime.clocks import TOLERANCE

NOW = datetime(2026, 1, 5, tzinfo=UTC)
POLICY = Policy()
ARMS = [
    ModelVersion(version=name, archive=name, archive_digest=name, recipe_digest=name, registered=NOW)
    for name in ("a", "b")
]

FULL = Rollout(model="shop", champion=ARMS[0], challenger=ARMS[1], stage=4, weight=1.0, salt="s", since=NOW)
WATCH = Rollout(model="shop", champion=ARMS[1], former=ARMS[0], salt="s", since=NOW)


def serve(
    root: Path, rollout: Rollout, day: int, rng: np.random.Generator, *, slow: float = 1.0, failing: dict[str, float]
) -> None:
    """A day's exposures; `failing` is the share of errors of each version, `slow` the factor of everybody's time."""
    rows = []
    for number, user in enumerate(rng.integers(0, 3_000, 6_000)):
        arm, weight = drawn(rollout, f"u{user}")
        version = {"champion": rollout.champion, "challenger": rollout.challenger, "former": rollout.former}[arm]
        assert version is not None
        time = NOW + timedelta(days=day, seconds=10 * number)
        failed = rng.random() < failing[version.version]
        row = {
            "schema": 3, "request_id": f"{day}-{number}", "user_id": f"u{user}", "variant": arm, "salt": "s",
            "model_version": version.version, "stage": rollout.stage, "weight": weight, "time": time,
            "latency_ms": float(rng.lognormal(2.5, 0.4) * slow), "status": "fallback" if failed else "ok",
            "cause": "model" if failed else None, "n_items": 5, "items": [f"i{(user + k) % 200}" for k in range(5)],
        }  # fmt: skip
        rows.append((time, row))
    write_days(root / "exposures", f"{day}", TABLES["exposures"], rows)


def breached(root: Path) -> list[str]:
    now = NOW + timedelta(days=9)
    with ExposureLog(root, salt="s", opened=NOW, now=now, policy=POLICY) as log:
        return [each.name for each in guardrails.judge(log.technical(full=True), POLICY) if each.breached]


@pytest.mark.parametrize("seed", range(4))
def test_an_incident_that_both_meet_sends_no_good_model_back(tmp_path: Path, seed: int) -> None:
    rng, well = np.random.default_rng(seed), {"a": 0.002, "b": 0.002}
    serve(tmp_path, FULL, 0, rng, failing=well)
    serve(tmp_path, FULL, 1, rng, slow=1.6, failing=well)  # a slower machine
    serve(tmp_path, WATCH, 2, rng, failing={"a": 0.2, "b": 0.2})  # the store, a network
    serve(tmp_path, WATCH, 3, rng, slow=3.0, failing=well)
    assert not breached(tmp_path)


@pytest.mark.parametrize("rollout", [FULL, WATCH])
def test_a_model_that_fails_when_it_serves_everybody_is_found_by_its_holdout(tmp_path: Path, rollout: Rollout) -> None:
    rng = np.random.default_rng(0)
    for day in range(3):
        serve(tmp_path, rollout, day, rng, failing={"a": 0.002, "b": 0.3})
    assert breached(tmp_path) == ["errors"]


def test_the_holdout_is_the_same_shoppers_from_full_traffic_to_the_end_of_the_watch() -> None:
    users = [f"u{number}" for number in range(5_000)]
    held = {user for user in users if drawn(FULL, user) == ("champion", 1 - HOLDOUT)}
    assert held == {user for user in users if drawn(WATCH, user).variant == "former"}
    assert 0.5 * HOLDOUT < len(held) / len(users) < 1.5 * HOLDOUT
    alone = Rollout(model="shop", champion=ARMS[1])
    assert {drawn(alone, user).variant for user in users} == {"champion"}


def test_what_the_store_or_the_load_kept_from_a_model_is_no_fault_of_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    serve(tmp_path, FULL, 0, rng, failing={"a": 0.0, "b": 0.0})
    rows = []
    for number in range(3_000):
        time = NOW + timedelta(days=1, seconds=number)
        row = {
            "schema": 3, "request_id": f"x{number}", "user_id": f"u{number}", "salt": "s", "model_version": "popular",
            "variant": drawn(FULL, f"u{number}").variant, "stage": 4, "weight": 1 - HOLDOUT, "time": time,
            "latency_ms": 400.0,
            "status": "fallback", "cause": ("history", "overload")[number % 2], "n_items": 5, "items": ["i1"],
        }  # fmt: skip
        rows.append((time, row))
    write_days(tmp_path / "exposures", "x", TABLES["exposures"], rows)
    now = NOW + timedelta(days=9)
    with ExposureLog(tmp_path, salt="s", opened=NOW, now=now, policy=POLICY) as log:
        assert log.technical(full=True).outcomes["errors"].sum() == 0
        assert log.traffic(4).misdrawn == 0


def test_a_slow_shops_clicks_count_once_for_an_exposure(tmp_path: Path) -> None:
    rows = [
        (NOW + timedelta(days=1), {
            "schema": 3, "request_id": f"r{number}", "user_id": f"u{number}", "variant": "champion", "salt": "s",
            "model_version": "a", "stage": 3, "weight": 0.0, "time": NOW + timedelta(days=1), "latency_ms": 1.0,
            "status": "ok", "n_items": 1, "items": ["i"],
        })
        for number in range(3)
    ]  # fmt: skip
    write_days(tmp_path / "exposures", "x", TABLES["exposures"], rows)
    early = NOW + timedelta(days=1, seconds=-10)
    clicks = [(early, {"schema": 3, "request_id": "r0", "event_type": "click", "time": early}) for _ in range(5)]
    late = NOW + timedelta(days=1) - 2 * TOLERANCE
    clicks.append((late, {"schema": 3, "request_id": "r1", "event_type": "click", "time": late}))
    write_days(tmp_path / "outcomes", "x", TABLES["outcomes"], clicks)
    policy = Policy(novelty_hours=0)
    with ExposureLog(tmp_path, salt="s", opened=NOW, now=NOW + timedelta(days=3), policy=policy) as log:
        assert log.successes().outcomes["success"].sum() == 1
