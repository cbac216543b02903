"""One id with most of the traffic decides no experiment: nobody counts for more than a shopper does."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from experiments.decision import judge, look
from experiments.document import ModelVersion, Rollout
from experiments.policy import Policy
from tests.serving.canary_shop import CanaryShop

NOW = datetime(2026, 1, 5, tzinfo=UTC)
POLICY = Policy(novelty_hours=0, planned_exposures=2_000)
ARMS = [
    ModelVersion(version=name, archive=name, archive_digest=name, recipe_digest=name, registered=NOW)
    for name in ("a", "b")
]


@pytest.mark.parametrize("users", [60, 1_500])
@pytest.mark.parametrize("seed", range(4))
def test_with_most_of_the_traffic_on_one_id_no_comparison_of_equals_is_decided(
    tmp_path: Path, seed: int, users: int
) -> None:
    shop = CanaryShop(tmp_path, seed=seed, users=users)
    shop.activity[0], shop.taste[0] = 7 / 3 * shop.activity[1:].sum(), 5.0
    rollout = Rollout(
        model="shop", champion=ARMS[0], challenger=ARMS[1], stage=3, weight=0.5, salt=f"{seed}", since=NOW
    )
    for day in range(4):
        shop.serve(rollout, NOW + timedelta(days=day), hours=23)
    found = look(tmp_path, rollout, POLICY, opened=NOW, now=NOW + timedelta(days=4))
    assert found.traffic.exposures > 3 * users
    verdict = judge(rollout, found, POLICY, opened=NOW, salt=lambda: "next")
    assert verdict.action == "hold"
    assert ("one user has" in verdict.why) == (users == 60), verdict.why
