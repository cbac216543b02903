"""TorchServe's handler: a shim over the scorer, which the archive brings.

Derives from none of TorchServe's base handlers, which load with a plain `torch.load`.
"""

import sys
import time
from pathlib import Path
from typing import Any

DEADLINE = "x-deadline"
"""Header: until when (seconds since 1970) somebody waits for the answer."""
OTHER_CLOCK = 60.0


class RecommendationHandler:
    """One worker's model. TorchServe calls `initialize` once, then `handle` with a batch of requests."""

    def initialize(self, context: Any) -> None:
        """Load the archive's content from where TorchServe has unpacked it."""
        root = context.system_properties["model_dir"]
        sys.path.insert(0, root)  # the archive's own code, whatever else the image holds under that name
        from serving.scoring import wire
        from serving.scoring.scorer import Scorer

        self._scorer, self._replies = Scorer.load(Path(root)), wire.replies

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch; a bad request is answered with status 400 and fails none of its batch-mates.

        Who asked with a deadline that has passed waits no more: such a request is not scored, so that a queue that has
        grown long is gone at once.
        """
        now = time.time()
        alive = [index for index in range(len(data)) if not late(context.get_request_header(index, DEADLINE), now)]
        bodies = [data[index].get("body", data[index].get("data")) for index in alive]
        replies = dict(zip(alive, self._replies(self._scorer, bodies), strict=True)) if alive else {}
        answers = []
        for index in range(len(data)):
            context.set_response_content_type(index, "application/json")
            reply = replies.get(index)
            if reply is None:
                context.set_response_status(408, "Request Timeout", idx=index)
            elif reply.status != 200:
                context.set_response_status(reply.status, "Bad Request", idx=index)
            answers.append(reply.body if reply is not None else b'{"error": "its deadline has passed"}')
        return answers


def late(deadline: Any, now: float) -> bool:
    """Whether the moment (seconds since 1970) is over. One that lies far back is of another clock, and says nothing."""
    try:
        over = now - float(deadline)
    except (TypeError, ValueError):
        return False
    return 0 < over < OTHER_CLOCK
