"""TorchServe's handler: a shim over the scorer, which the archive brings.

Derives from none of TorchServe's base handlers, which load with a plain `torch.load`.
"""

import sys
from pathlib import Path
from typing import Any


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
        """Answer a batch; a bad request is answered with status 400 and fails none of its batch-mates."""
        replies = self._replies(self._scorer, [row.get("body", row.get("data")) for row in data])
        for index, reply in enumerate(replies):
            context.set_response_content_type(index, "application/json")
            if reply.status != 200:
                context.set_response_status(reply.status, "Bad Request", idx=index)
        return [reply.body for reply in replies]
