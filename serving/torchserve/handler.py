"""TorchServe's handler: a shim over the scorer, which the archive brings.

Derives from none of TorchServe's base handlers, which load with a plain `torch.load`.
"""

import sys
from pathlib import Path
from typing import Any

import orjson


class RecommendationHandler:
    """One worker's model. TorchServe calls `initialize` once, then `handle` with a batch of requests."""

    def initialize(self, context: Any) -> None:
        """Load the archive's content from where TorchServe has unpacked it."""
        root = context.system_properties["model_dir"]
        sys.path.insert(0, root)  # the archive's own code, whatever else the image holds under that name
        from serving.scoring.scorer import Scorer

        self._scorer = Scorer.load(Path(root))

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch; a bad request is answered with status 400 and fails none of its batch-mates."""
        answers = self._scorer.score([_request(row) for row in data])
        for index, answer in enumerate(answers):
            context.set_response_content_type(index, "application/json")
            if "error" in answer:
                context.set_response_status(400, "Bad Request", idx=index)
        return [orjson.dumps(answer) for answer in answers]


def _request(row: dict[str, Any]) -> Any:
    """The JSON of one request; text that is no JSON stays text, which the scorer refuses."""
    body = row.get("body", row.get("data"))
    if not isinstance(body, (str, bytes, bytearray)):
        return body
    try:
        return orjson.loads(body)
    except ValueError:
        return body.decode(errors="replace") if isinstance(body, (bytes, bytearray)) else body
