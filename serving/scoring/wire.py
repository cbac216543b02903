"""Requests and answers as bytes of JSON: all that a server's shim has to pass on."""

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from serving.scoring.scorer import Scorer


class ScoredReply(NamedTuple):
    """HTTP status and JSON of one answer."""

    status: int
    body: bytes


def replies(scorer: Scorer, bodies: Sequence[object]) -> list[ScoredReply]:
    """Answer a batch of bodies; a bad one is answered with 400 and fails none of its batch-mates."""
    answers = scorer.score([_read(body) for body in bodies])
    return [ScoredReply(400 if "error" in answer else 200, orjson.dumps(answer)) for answer in answers]


def _read(body: object) -> object:
    """The JSON of one request; what is no JSON stays text, and what a server has read already stays as it is: the
    scorer refuses both where they are no request.
    """
    if not isinstance(body, (str, bytes, bytearray)):
        return body
    try:
        return orjson.loads(body)
    except ValueError:
        return body if isinstance(body, str) else body.decode(errors="replace")
