"""The recurring look at a rollout, compiled for Kubeflow and run by its local runner as a cluster would."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from kfp import local

from experiments.document import (
    DocumentChange,
    ModelVersion,
    Rollout,
    release,
)
from experiments.table import RolloutTable
from pipelines import local as pipelines_local
from pipelines.rollout import build
from runtime import workspace
from runtime.manifest import Manifest
from tests.serving.canary_shop import CanaryShop


def test_a_run_of_the_pipeline_rolls_a_faulty_challenger_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    pipelines_local.set_environment()
    began = datetime.now(UTC) - timedelta(hours=5)
    row = Rollout(model="shop")
    with RolloutTable(workspace.rollout_url(), clock=lambda: began) as table:
        for name in ("a", "b"):
            model = ModelVersion(version=name, archive=name, archive_digest=name, recipe_digest=name, registered=began)
            made = release(row, model, now=began, salt=lambda: "salt")
            row = table.propose(DocumentChange(made.rollout, "push", made.why), row.version)
    CanaryShop(workspace.event_log("shop"), users=6000, a_day=20, errors=0.9).serve(row, began, hours=4)
    root = tmp_path / "kfp"
    local.init(
        runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root), workspace_root=str(tmp_path / "w")
    )
    build()(run_id="look", model="shop", policy=json.dumps({"guardrail_users": 20}))
    with RolloutTable(workspace.rollout_url()) as table:
        assert [arm.version for arm in table.read("shop").serving] == ["a"]
        assert table.history("shop")[-1].why.startswith("roll back: guardrail: errors and fallbacks")
    (manifest,) = root.rglob("manifest.json")
    assert Manifest.verify(manifest.parent, kind="rollout").facts["report"]["action"] == "roll back"
    (page,) = (path for path in root.rglob("*page*") if path.is_file() and path.parent != manifest.parent)
    assert "rolled back</span>" in page.read_text()


def test_a_look_that_fails_is_told_to_the_webhook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    posted: list[dict] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
        monkeypatch.setenv("HETERREC_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}/hook")
        pipelines_local.set_environment()
        root = tmp_path / "kfp"
        local.init(
            runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root), workspace_root=str(tmp_path / "w"),
            raise_on_error=False,
        )  # fmt: skip
        build()(run_id="look", model="shop", policy="{")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    (message,) = posted
    assert (message["run_id"], message["pipeline"], message["state"]) == ("look", "heterrec-rollout", "FAILED")
    assert "policy" in message["text"], "why it failed"
