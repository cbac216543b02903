"""The faults that the demo plants are faults, and come only when they are called."""

from pathlib import Path

import pytest

from benchmarks.serving.sabotage import FAULTS, Fault, faulty
from serving.torchserve.server import TorchServe

ASKED = {"user_id": "u1", "history": [], "k": 3}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_comes_when_it_is_called(fault: Fault, mar: Path, server: TorchServe, tmp_path: Path) -> None:
    trigger, broken = tmp_path / "trigger", tmp_path / "broken.mar"
    right = server.predict("shop", "1.0", ASKED)
    version = faulty(mar, broken, fault, trigger)
    server.register(broken)
    try:
        sound = server.predict("shop", version, ASKED)
        assert (sound.status, sound.body["items"]) == (200, right.body["items"])
        trigger.touch()
        if fault == "slow":
            with pytest.raises(TimeoutError):
                server.predict("shop", version, ASKED, timeout=1.0)
        elif fault == "errors":
            assert server.predict("shop", version, ASKED).status >= 500
        else:
            found = server.predict("shop", version, ASKED).body["items"]
            assert [item["item_id"] for item in found] == ["x" + item["item_id"] for item in right.body["items"]]
    finally:
        trigger.unlink(missing_ok=True)
        server.unregister("shop", version)
