"""The judge where something misleads whoever looks: nothing differs between the arms, and nothing may be decided."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import binom

from benchmarks.decisions.worlds import PLAIN, RARE, decided
from experiments.document import STAGES
from experiments.guardrails import rates
from experiments.log import ExposureLog
from experiments.policy import Policy
from tests.serving.canary_shop import EXPOSURE, OUTCOME

CANARIES = 120
MOST = binom.ppf(0.999, CANARIES, 0.05) / CANARIES
SMALL = replace(PLAIN, users=400)


@pytest.mark.parametrize(
    "world",
    [
        replace(SMALL, week=0.5),
        replace(SMALL, bots=4),
        replace(SMALL, eager=4),
        replace(SMALL, carried=0.6),
        replace(SMALL, novelty=0.3),
        replace(RARE, users=400, value=2.5, cap=5.0),
    ],
    ids=["weekdays under a ramp", "bots", "users of 10,000 exposures", "a salt before", "novelty", "revenue, capped"],
)
def test_nothing_that_misleads_is_taken_for_a_difference(world) -> None:
    assert decided(world, CANARIES, seed=1)["wrong"] <= MOST


@pytest.mark.parametrize(
    "world",
    [replace(SMALL, bots=4, most=10**9), replace(SMALL, carried=0.6, fresh_salt=False)],
    ids=["every exposure of a bot counts", "drawn by the salt of before"],
)
def test_without_its_rule_the_judge_would_be_wrong_there(world) -> None:
    assert decided(world, CANARIES, seed=1)["wrong"] > 2 * MOST


@pytest.mark.parametrize("hours", [3.0, 7.5, 24.0])
def test_a_success_that_comes_late_in_one_arm_is_waited_for_in_both(tmp_path: Path, hours: float) -> None:
    """Every fourth exposure succeeds; the challenger's shoppers take 55 minutes to decide, the champion's one. Counted
    as they come, the challenger would be behind at every look."""
    begin, policy = datetime(2026, 3, 2, tzinfo=UTC), Policy(novelty_hours=0, attribution_hours=1)
    users = 600
    times = [begin + timedelta(seconds=86400 * number / users) for number in range(users)]
    treated = np.arange(users) // 4 % 2 == 1
    rows = {
        "request_id": [f"r{n}" for n in range(users)],
        "user_id": [f"u{n}" for n in range(users)],
        "variant": np.where(treated, "challenger", "champion").tolist(),
        "model_version": ["v"] * users,
        "stage": [3] * users,
        "weight": [STAGES[3]] * users,
        "salt": ["s"] * users,
        "time": times,
        "latency_ms": [10.0] * users,
        "status": ["ok"] * users,
        "n_items": [1] * users,
        "items": [["i"]] * users,
    }
    won = range(0, users, 4)
    delay = [timedelta(minutes=55 if treated[n] else 1) for n in won]
    late = {"request_id": [f"r{n}" for n in won], "event_type": ["click"] * len(won),
            "time": [times[n] + after for n, after in zip(won, delay, strict=True)]}  # fmt: skip
    for table, columns, schema in (("exposures", rows, EXPOSURE), ("outcomes", late, OUTCOME)):
        (tmp_path / table / "day=2026-03-02").mkdir(parents=True)
        pq.write_table(pa.table(columns, schema=schema), tmp_path / table / "day=2026-03-02" / "a.parquet")
    now = begin + timedelta(hours=hours)
    with ExposureLog(tmp_path, salt="s", opened=begin, now=now, policy=policy) as log:
        sums = log.successes()
    champion, challenger = rates(sums, sums.outcomes["success"])
    assert champion == pytest.approx(0.25, abs=0.02) and challenger == pytest.approx(0.25, abs=0.02)
    ripe = sum(at <= now - timedelta(hours=1) for at in times)
    assert sums.exposures.sum() == ripe
