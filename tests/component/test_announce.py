"""A failed run is told: on its page in Kubeflow always, to a webhook where one is named."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from components.shared import announcement
from components.shared.expected_tasks import ALWAYS, EXPECTED
from pipelines import catalogue_run, recommend_run, training
from pipelines.local import RunOutcome
from runtime.task import TaskRecord, read_records

TRAINED = ["features", "materialise", "train", "train-baseline", "tables", "evaluate"]


class Hook(HTTPServer):
    """Keeps what was posted; answers with `status`."""

    status = 200

    def __init__(self) -> None:
        self.posted: list[dict] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.posted.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                self.send_response(outer.status)
                self.end_headers()

            def log_message(self, *_) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    server = Hook()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setenv(announcement.WEBHOOK, f"http://127.0.0.1:{server.server_port}/hooks/very-secret")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def run_with_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path))
    monkeypatch.setenv(announcement.RUN_LINK, "https://kubeflow.example/#/runs/details/{run_id}")
    TaskRecord(task="ingest", status="done", started="1").write("r1")
    TaskRecord(
        task="train", status="failed", started="2", error="sequences: no events\nat all", input_fault=True
    ).write("r1")
    TaskRecord(task="train-baseline", status="running", started="3").write("r1")


def told(state: str = "FAILED", error: str = "") -> str:
    return announcement.run(run_id="r1", pipeline="heterrec-training", state=state, error=error)


def test_a_failure_is_posted_with_its_reasons_and_a_link(hook: Hook) -> None:
    text = told()
    (message,) = hook.posted
    assert (message["run_id"], message["pipeline"], message["state"]) == ("r1", "heterrec-training", "FAILED")
    assert (
        "## train: its input\n\n> sequences: no events\n> at all\n\nTo change it: correct what the message names"
        in message["text"]
    )
    assert "## train-baseline: killed" in message["text"]
    assert "https://kubeflow.example/#/runs/details/r1" in message["text"]
    assert text.startswith(message["text"])
    assert "The webhook was told." in text


def ran(*tasks: str, run: str = "r1", **reports: dict) -> None:
    for task in tasks:
        TaskRecord(task=task, status="done", started="2", report=reports.get(task, {})).write(run)


PASSED, BLOCKED = {"passed": True}, {"passed": False}
GRAPHS = [
    # What the gates said, and what had to run by it.
    ("heterrec-training", [*ALWAYS], {"validate": BLOCKED}),
    ("heterrec-training", [*ALWAYS, *TRAINED], {"validate": PASSED, "evaluate": BLOCKED}),
    (
        "heterrec-training",
        [*ALWAYS, *TRAINED, "refit", "package", "infra_validate"],
        {"validate": PASSED, "evaluate": PASSED, "infra_validate": BLOCKED},
    ),
    (
        "heterrec-training",
        [*ALWAYS, *TRAINED, "refit", "package", "infra_validate", "push"],
        {"validate": PASSED, "evaluate": PASSED, "infra_validate": PASSED},
    ),
    ("heterrec-catalogue", [*ALWAYS], {"validate": BLOCKED}),
    (
        "heterrec-catalogue",
        [*ALWAYS, "features", "materialise", "refresh-champion"],
        {"validate": PASSED, "refresh-champion": {"changed": False}},
    ),
    (
        "heterrec-catalogue",
        [*ALWAYS, "features", "materialise", "refresh-champion", "proof-champion", "release-champion"],
        {"validate": PASSED, "refresh-champion": {"changed": True}, "proof-champion": PASSED},
    ),
]


@pytest.mark.parametrize("state", ["SUCCEEDED", "RUNNING"])
@pytest.mark.parametrize(("pipeline", "tasks", "reports"), GRAPHS)
def test_a_branch_rightly_not_taken_is_no_failure_and_a_pod_that_never_started_is_one(
    hook: Hook, pipeline: str, tasks: list[str], reports: dict, state: str
) -> None:
    """Kubeflow says RUNNING of both, and the local runner SUCCEEDED where it could not evaluate a condition."""
    ran(*tasks, run="whole", **reports)
    text = announcement.run(run_id="whole", pipeline=pipeline, state=state)
    assert hook.posted == [] and f"{pipeline}: failed" not in text, text
    for task in tasks:
        run = f"without-{task}"
        ran(*(each for each in tasks if each != task), run=run, **reports)
        text = announcement.run(run_id=run, pipeline=pipeline, state=state)
        assert text.startswith(f"# {pipeline}: failed") and f"Never ran: {task}" in text
    assert len(hook.posted) == len(tasks)


def test_what_was_released_in_place_of_the_model_is_told(hook: Hook) -> None:
    release = {"judged": "HeterRec", "released": "neighbour tables", "why": "not surely above"}
    reports = {
        "validate": PASSED, "evaluate": {**PASSED, "release": release}, "infra_validate": PASSED,
        "push": {"version": "v1", "status": "champion"},
    }  # fmt: skip
    ran(*ALWAYS, *TRAINED, "refit", "package", "infra_validate", "push", run="tables", **reports)
    text = announcement.run(run_id="tables", pipeline="heterrec-training", state="SUCCEEDED")
    outcome = RunOutcome(run_id="tables", records=read_records("tables"), page=Path("page.html"))
    assert outcome.ending == "pushed: version v1 (champion), the neighbour tables, not HeterRec"
    assert text.startswith(f"# heterrec-training: {outcome.ending}\n")
    assert outcome.last_lines("shop")[0] == "evaluate: HeterRec is not released: not surely above"


def test_a_run_that_could_decide_nothing_need_not_train() -> None:
    records = {"validate": TaskRecord(task="validate", status="done", started="1", report=PASSED)}
    assert "train" in EXPECTED["heterrec-training"](records)
    for goes_on in (True, False):
        features = TaskRecord(task="features", status="done", started="1", notes={"goes_on": goes_on})
        assert ("train" in EXPECTED["heterrec-training"]({**records, "features": features})) == goes_on


def test_a_pipeline_without_records_of_its_own_is_told_by_kubeflows_word(hook: Hook) -> None:
    for state, posted in (("SUCCEEDED", 0), ("RUNNING", 1), ("FAILED", 2)):
        announcement.run(run_id="look", pipeline="heterrec-rollout", state=state)
        assert len(hook.posted) == posted, state


def test_the_pipelines_are_called_what_is_expected_of_them() -> None:
    assert set(EXPECTED) == {training.NAME, catalogue_run.NAME, recommend_run.NAME}


def test_a_task_that_failed_is_told_whatever_word_kubeflow_has_for_the_run(hook: Hook) -> None:
    assert told("RUNNING").startswith("# heterrec-training: failed")
    assert len(hook.posted) == 1


def test_a_webhook_that_fails_is_told_without_its_address_and_stops_nothing(hook: Hook, monkeypatch, capsys) -> None:
    hook.status = 503
    assert "could not be told: it answered 503" in told()
    for address in ("http://127.0.0.1:9/hooks/very-secret", "ftp://very-secret", "http://very-secret: x"):
        monkeypatch.setenv(announcement.WEBHOOK, address)
        text = told()
        assert "could not be told" in text
        assert "very-secret" not in text + capsys.readouterr().out


def test_without_records_kubeflows_own_words_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HETERREC_HOME", str(tmp_path / "empty"))
    monkeypatch.delenv(announcement.WEBHOOK, raising=False)
    text = told(error="ImagePullBackOff")
    assert "> ImagePullBackOff" in text
    assert "Nobody was told" in text


def test_a_failure_is_told_also_where_the_object_store_is_away(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    away = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1", "AWS_ACCESS_KEY_ID": "x"}
    for name, value in {**away, "AWS_SECRET_ACCESS_KEY": "x", "HETERREC_STORE": "s3://gone/x"}.items():
        monkeypatch.setenv(name, value)
    told(error="the task failed")
    assert "> the task failed\n> s3://gone/x: the object store is away" in hook.posted[0]["text"]
