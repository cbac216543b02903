"""What was served is what the archive gives when it is asked the same offline."""

import json
import random
from pathlib import Path

import pytest

from events.logged import exposure, latest
from events.segments import segments
from experiments.document import ModelVersion, Rollout
from runtime.errors import InputError
from serving.replay import replay
from tests.serving.live_shop import Transport, fill
from tests.serving.open_gateway import OpenGateway, ask


def test_served_scores_come_again_from_the_archive(
    open_gateway: OpenGateway, rollout: Rollout, arms: dict[str, ModelVersion], tmp_path: Path
) -> None:
    rng = random.Random(0)

    def history(user: str) -> list[dict[str, object]]:
        return [
            {
                "item_id": f"i{rng.randrange(12)}",
                "event_time": f"2026-01-{day:02d}T10:00:00.000001+00:00",
                "features": {"price": rng.choice([None, 3.25, 1e-3]), "shelf": rng.choice([None, "top", "new"])},
            }
            for day in range(1, rng.randrange(1, 20))
        ]

    client = open_gateway(rollout, history=history)
    wishes = [{}, {"exclude": ["i1"]}, {"filters": {"price": {"max": 8}}}, {"exclude_seen": False, "k": 5}]
    for number in range(40):
        ask(client, f"u{number}", **wishes[number % 4])
    shown = latest(tmp_path / "log", 100)
    assert len(shown) == 40 and len({row["model_version"] for row in shown}) == 2
    done = replay(shown, arms)
    assert done.same == 40 and not done.differing and not done.left_out
    shown[0]["scores"] = [score + 2e-4 for score in shown[0]["scores"]]
    shown[1]["model_version"] = "popular"
    shown[2]["model_version"] = "8.8"
    shown[3]["model_version"] = "tables"
    again = replay(shown, arms)
    assert again.same == 36 and shown[0]["request_id"] in again.differing[0]
    assert again.left_out == {"no model answered": 2, "no release 8.8": 1}
    forged = {**arms, "1.0": arms["1.0"].__class__(**{**_fields(arms["1.0"]), "archive_digest": "0" * 64})}
    with pytest.raises(InputError, match="is not the archive that was released"):
        replay(shown, forged)


def _fields(arm: ModelVersion) -> dict[str, object]:
    return {name: getattr(arm, name) for name in arm.__dataclass_fields__}


def test_a_request_is_found_in_segments_and_in_partitions_alike(
    open_gateway: OpenGateway, rollout: Rollout, tmp_path: Path
) -> None:
    fill(tmp_path, name="shop")
    transport = Transport(tmp_path, name="shop")
    transport.log = tmp_path / "log"
    client = open_gateway(rollout)
    answer = ask(client)
    found = exposure(transport.log, answer["request_id"])
    client.__exit__()
    with transport.consumer() as consumer:
        transport.settle(consumer)
    assert not segments(transport.log)
    again = exposure(transport.log, answer["request_id"])
    assert found is not None and again is not None
    assert again["items"] == found["items"] and json.loads(again["request"]) == json.loads(found["request"])
    assert again["time"] == found["time"] and again["scores"] == found["scores"]
    assert exposure(transport.log, "f" * 32) is None
