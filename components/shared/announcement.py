"""Tells people that a run failed: a summary for its page in Kubeflow, and a message to a webhook where one is named.

A fault of the webhook is told too, but never hides how the run ended.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from typing import Any

from components.shared.ending import (
    RunEnd,
    Why,
    ending,
    why,
)
from components.shared.expected_tasks import missing
from runtime import object_store, workspace
from runtime.log import emit
from runtime.object_store import StoreFault
from runtime.task import commit, read_records

WEBHOOK = "HETERREC_WEBHOOK_URL"
"""Where the message is posted (a secret: whoever has the address can post); {"text": …}, as chat systems take it."""
RUN_LINK = "HETERREC_RUN_LINK"
"""Address of a run in the UI with {run_id} for its ID, e.g. https://kubeflow.example/pipeline/#/runs/details/{run_id}."""
ENDING = "ending"
"""File of a run's folder: {"pipeline", "failed"}."""
TIMEOUT_SECONDS = 10


def run(*, run_id: str, pipeline: str, state: str, error: str = "") -> str:
    """The summary in Markdown; a failed run is posted to the webhook besides.

    Failed is what `state` (Kubeflow's word) says, or a task that failed or never ended, or one that had to run by what
    the gates decided and left no record: Kubeflow says RUNNING of a pod that never started.
    """
    try:
        records = read_records(run_id)
        lost = missing(pipeline, records, state)
    except StoreFault as away:
        # A store that is away may be why the run failed: that must be told all the more.
        records, lost, error = {}, [], f"{error}\n{away}".strip()
    if lost:
        error = f"{error}\nNever ran: {', '.join(lost)}. Was there a node for its pod, with its image?".strip()
    end = ending(records, state, lost)
    keep_ending(run_id, pipeline=pipeline, failed=end.failed)
    text = _summary(end, why(records), run_id=run_id, pipeline=pipeline, error=error)
    address = os.environ.get(WEBHOOK, "")
    if not end.failed:
        return text
    emit("run_failed", run=run_id, pipeline=pipeline, state=state, ending=end.sentence)
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


def _summary(end: RunEnd, reasons: list[Why], *, run_id: str, pipeline: str, error: str) -> str:
    lines = [f"# {pipeline}: {end.sentence}", "", f"- run `{run_id}`", f"- code `{commit()}`"]
    if link := os.environ.get(RUN_LINK):
        lines.append(f"- {link.replace('{run_id}', run_id)}")
    for each in reasons:
        lines += ["", f"## {each.task}: {each.check}", "", *_quoted(each.message), "", f"To change it: {each.remedy}."]
    if error and not (end.failed and reasons):
        lines += ["", *_quoted(error)]
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
