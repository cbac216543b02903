"""Tells people that a run failed: a summary for its page in Kubeflow, and a message to a webhook where one is named.

A fault of the webhook is told too, but never hides how the run ended.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from typing import Any

from components.shared.choice import told
from components.shared.expected_tasks import missing
from runtime import object_store, workspace
from runtime.log import emit
from runtime.object_store import StoreFault
from runtime.task import Record, commit, read_records

WEBHOOK = "HETERREC_WEBHOOK_URL"
"""Where the message is posted (a secret: whoever has the address can post); {"text": …}, as chat systems take it."""
RUN_LINK = "HETERREC_RUN_LINK"
"""Address of a run in the UI with {run_id} for its ID, e.g. https://kubeflow.example/pipeline/#/runs/details/{run_id}."""
ENDING = "ending"
"""File of a run's folder: {"pipeline", "failed"}."""
TIMEOUT_SECONDS = 10
FAILED = ("FAILED", "CANCELED", "CANCELLED")


def run(*, run_id: str, pipeline: str, state: str, error: str = "") -> str:
    """The summary in Markdown; a failed run is posted to the webhook besides.

    Failed is what `state` (Kubeflow's word) says, or a task that failed or never ended, or one that had to run by what
    the gates decided and left no record: Kubeflow says RUNNING of a pod that never started.
    """
    try:
        records = read_records(run_id)
        broken = [record for record in records.values() if record.status in ("failed", "running")]
        lost = missing(pipeline, records, state) if not broken else []
    except StoreFault as away:
        # A store that is away may be why the run failed: that must be told all the more.
        records, broken, lost, error = {}, [], [], f"{error}\n{away}".strip()
    if lost:
        error = f"{error}\nNever ran: {', '.join(lost)}. Was there a node for its pod, with its image?".strip()
    failed = state.upper() in FAILED or bool(broken or lost)
    keep_ending(run_id, pipeline=pipeline, failed=failed)
    text = _summary(
        broken,
        released=_released(records),
        run_id=run_id,
        pipeline=pipeline,
        state="failed" if failed else state,
        error=error,
    )
    address = os.environ.get(WEBHOOK, "")
    if not failed:
        return text
    emit("run_failed", run=run_id, pipeline=pipeline, state=state)
    if not address:
        return f"{text}\nNobody was told: `{WEBHOOK}` is not set.\n"
    refused = post(address, {"text": text, "run_id": run_id, "pipeline": pipeline, "state": state})
    if refused is None:
        return f"{text}\nThe webhook was told.\n"
    emit("webhook_failed", run=run_id, error=refused)
    return f"{text}\nThe webhook could not be told: {refused}\n"


def keep_ending(run_id: str, *, pipeline: str, failed: bool) -> None:
    """Write down beside a run's records of which pipeline it was and whether it failed: by this the exporter tells
    nights of failed training from the hours of a catalogue that went well. A run without records keeps nothing."""
    folder = workspace.runs() / run_id
    if folder.is_dir():
        (folder / ENDING).write_text(json.dumps({"pipeline": pipeline, "failed": failed}))
        try:
            if shared := object_store.shared():
                shared.keep_file(folder / ENDING)
        except StoreFault as away:
            emit("ending_not_kept", run=run_id, error=str(away))


def _released(records: dict[str, Record]) -> str:
    """What this run released, in a sentence; nothing where it released nothing."""
    if "push" not in records or records["push"].status != "done":
        return ""
    report = records["push"].report
    instead = told(records["evaluate"].report.get("release")) if "evaluate" in records else ""
    return f"version {report.get('version')} ({report.get('status')})" + (f": {instead}" if instead else "")


def _summary(records: list[Record], *, run_id: str, pipeline: str, state: str, error: str, released: str = "") -> str:
    lines = [f"# {pipeline}: {state.lower()}", "", f"- run `{run_id}`", f"- code `{commit()}`"]
    if released:
        lines.append(f"- released {released}")
    if link := os.environ.get(RUN_LINK):
        lines.append(f"- {link.replace('{run_id}', run_id)}")
    for record in records:
        what = "its input is at fault" if record.input_fault else "a fault of the system"
        told = record.error or "it was killed, or still ran when the run ended"
        lines += ["", f"## {record.task}: {what if record.error else 'no end'}", "", *_quoted(told)]
    if error and not records:
        lines += ["", *_quoted(error)]
    if records:
        lines += ["", "Started again, the run reuses what was finished."]
    return "\n".join(lines) + "\n"


def post(address: str, message: dict[str, Any]) -> str | None:
    """POST `message` as JSON; what went wrong (never the address, which is a secret), or None."""
    if not address.startswith(("http://", "https://")):
        return f"{WEBHOOK} must begin with http:// or https://"
    body = json.dumps(message).encode()
    request = urllib.request.Request(address, data=body, headers={"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return f"it answered {error.code}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        # Not its own words, which may quote the address.
        return type(getattr(error, "reason", error)).__name__


def _quoted(text: str) -> list[str]:
    return [f"> {line}" for line in text.splitlines()]
