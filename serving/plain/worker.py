"""One version's worker: loads the handler that an archive brings, and answers the batches that come on standard input.

Run by its path, in a process of its own: under the name `serving` it sees the archive's code and not this project's, as
a worker of TorchServe does. So it imports nothing but the standard library.
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, BinaryIO

RAISED = b'{"code": 503, "type": "InternalServerException", "message": "Prediction failed"}'
"""TorchServe's words, by which a reconciler knows that the version did answer."""
Part = tuple[Any, bytes]
"""What is told of some bytes, as JSON (a request's deadline, a reply's status), and the bytes."""


def pack(parts: Sequence[Part]) -> bytes:
    """A batch: a line of JSON with what is told of each part and its length, and the parts."""
    head = json.dumps([[told, len(content)] for told, content in parts]).encode()
    return b"".join([head, b"\n", *(content for _, content in parts)])


def lengths(head: bytes) -> list[tuple[Any, int]]:
    """What `pack` told of each part, and how long it is."""
    return [(told, length) for told, length in json.loads(head)]


def split(parts: Sequence[tuple[Any, int]], content: bytes) -> list[Part]:
    """The parts that `pack` has put together behind the line."""
    found, at = [], 0
    for told, length in parts:
        found.append((told, content[at : at + length]))
        at += length
    return found


def answer(handler: Any, batch: Sequence[Part]) -> list[Part]:
    """Status and body of the reply to each (deadline, body), by TorchServe's calls of a handler."""
    statuses = [200] * len(batch)

    def set_status(status: int, why: str = "", idx: int = 0) -> None:
        statuses[idx] = status

    context = SimpleNamespace(
        get_request_header=lambda index, name: batch[index][0],
        set_response_content_type=lambda index, kind: None,
        set_response_status=set_status,
    )
    try:
        bodies = handler.handle([{"body": body} for _, body in batch], context)
    except Exception:  # whatever an archive's code raises costs its batch, and the log has the reason
        traceback.print_exc()
        return [(503, RAISED)] * len(batch)
    return list(zip(statuses, bodies, strict=True))


def main(root: str, asked: BinaryIO, answers: BinaryIO) -> None:
    """Load what lies in `root`, say so with an empty batch, and answer until `asked` ends."""
    sys.path.insert(0, root)
    handler = importlib.import_module("handler").RecommendationHandler()
    handler.initialize(SimpleNamespace(system_properties={"model_dir": root}))
    answers.write(pack([]))
    answers.flush()
    while head := asked.readline():
        parts = lengths(head)
        batch = split(parts, asked.read(sum(length for _, length in parts)))
        answers.write(pack(answer(handler, batch)))
        answers.flush()


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the archive's code prints is for the log
    main(sys.argv[1], sys.stdin.buffer, replies)
