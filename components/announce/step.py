"""Tells people that a run failed: a summary for its page in Kubeflow, and a message to a webhook where one is named.

A fault of the webhook is told too, but never hides how the run ended.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from typing import Any

from components.console import emit
from components.task import commit, read_records

WEBHOOK = "HETERREC_WEBHOOK_URL"
"""Where the message is posted (a secret: whoever has the address can post); {"text": …}, as chat systems take it."""
RUN_LINK = "HETERREC_RUN_LINK"
"""Address of a run in the UI with {run_id} for its ID, e.g. https://kubeflow.example/pipeline/#/runs/details/{run_id}."""
TIMEOUT_SECONDS = 10
FAILED = ("FAILED", "CANCELED", "CANCELLED")


def run(*, run_id: str, pipeline: str, state: str, error: str = "") -> str:
    """The summary in Markdown; a run that `state` (Kubeflow's word) calls failed is posted to the webhook besides."""
    text = summary(run_id=run_id, pipeline=pipeline, state=state, error=error)
    address = os.environ.get(WEBHOOK, "")
    if state.upper() not in FAILED:
        return text
    emit("run_failed", run=run_id, pipeline=pipeline, state=state)
    if not address:
        return f"{text}\nNobody was told: `{WEBHOOK}` is not set.\n"
    fault = post(address, {"text": text, "run_id": run_id, "pipeline": pipeline, "state": state})
    if fault is None:
        return f"{text}\nThe webhook was told.\n"
    emit("webhook_failed", run=run_id, error=fault)
    return f"{text}\nThe webhook could not be told: {fault}\n"


def summary(*, run_id: str, pipeline: str, state: str, error: str) -> str:
    """What became of a run: each task that failed or never ended with its fault, else Kubeflow's own words."""
    lines = [f"# {pipeline}: {state.lower()}", "", f"- run `{run_id}`", f"- code `{commit()}`"]
    if link := os.environ.get(RUN_LINK):
        lines.append(f"- {link.replace('{run_id}', run_id)}")
    records = [record for record in read_records(run_id).values() if record.status in ("failed", "running")]
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
