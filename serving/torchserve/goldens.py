"""How a served answer compares with its golden, the trained model's own."""

from typing import Any

from serving.torchserve.client import HttpReply

TOLERANCE = 1e-4
_RAISED = ("Prediction failed", "Invalid model predict output", "number of batch response mismatched")
"""What TorchServe answers, with status 503, for a handler that raised or returned what is no answer."""
_REFUSED = (401, 403, 404, 408, 429)
Golden = dict[str, Any]


def is_answer(reply: HttpReply) -> bool:
    """Whether the version itself answered, rightly or wrongly.

    A full queue, a worker that starts anew and a server that gives up say nothing about it. A handler that raised does.
    """
    body = reply.body if isinstance(reply.body, dict) else {}
    if body.get("message") in _RAISED:
        return True
    return reply.status < 500 and reply.status not in _REFUSED and body.get("type") != "InvalidKeyException"


def differences(golden: Golden, reply: HttpReply) -> list[str]:
    """What of a reply is not the golden answer, in sentences; empty where it agrees.

    Scores may differ by 1e-4; items of equal score may change places.
    """
    if reply.status != 200:
        return [f"status {reply.status}: {reply.body}"]
    expected, found = golden["answer"]["items"], reply.body["items"]
    if len(expected) != len(found):
        return [f"{len(found)} items, expected {len(expected)}"]
    out = []
    if reply.body["unknown_items"] != golden["answer"]["unknown_items"]:
        out.append(f"unknown_items {reply.body['unknown_items']}, expected {golden['answer']['unknown_items']}")
    if len({item["item_id"] for item in found}) != len(found):
        out.append("an item twice")
    score = {item["item_id"]: item["score"] for item in expected}
    for place, (mine, theirs) in enumerate(zip(expected, found, strict=True), start=1):
        # An item that is not expected at all may only be one that ties with the last place.
        own = score.get(theirs["item_id"], expected[-1]["score"])
        if not max(abs(theirs["score"] - mine["score"]), abs(theirs["score"] - own)) <= TOLERANCE:  # NaN differs too
            out.append(f"place {place}: {_shown(theirs)}, expected {_shown(mine)}")
    return out


def _shown(item: dict[str, Any]) -> str:
    return f"{item['item_id']} ({item['score']:.6g})"
