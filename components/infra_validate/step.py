"""Infrastructure validation: serve the archive for real, and compare what it answers with the trained model."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from components.decision import Decision, Reason
from components.package.artifact import find
from serving.torchserve import archive as archives
from serving.torchserve.client import Reply, ServerFault
from serving.torchserve.goldens import TOLERANCE, Golden, differences
from serving.torchserve.server import TorchServe

WARM_UP, REQUESTS = 10, 120
MALFORMED: tuple[Any, ...] = (
    b"{no json",
    b"",
    [],
    {"history": "i1"},
    {"history": [{"item_id": 1, "event_time": "2026-01-05T10:00:00Z"}]},
    {"history": [{"item_id": "i1", "event_time": "yesterday"}]},
    {"history": [], "k": 0},
    {"history": [], "filters": {"no feature of any card": ["x"]}},
    {"history": [], "filters": ["x"]},
    {"history": [], "exclude": "i1"},
)
_EXAMPLES = 5


def run(*, archive: Path, validation: Path, max_p99_ms: float = 500.0) -> Decision:
    """Start TorchServe, load the archive, replay its golden requests, and write decision.json and logs/.

    Blocks where the archive does not load, an item or score differs from the trained model's (scores by more than
    1e-4; items of equal score may change places), a malformed request is not refused with status 4xx, or the
    99th percentile of the latency, one request at a time, is above `max_p99_ms` milliseconds. The server is stopped
    in any case. Raises `InputError` where `archive` holds no archive, `ServerFault` where TorchServe does not start.
    """
    packaged = find(archive)
    goldens = [json.loads(line) for line in archives.read(packaged.mar, "goldens.jsonl").splitlines()]
    with TorchServe(validation / "logs") as server:
        try:
            model, version = server.register(packaged.mar, digest=packaged.digest)
        except ServerFault as error:
            decision = Decision(gate="infra_validate", reasons=[_loads(str(error))])
        else:
            replies = [server.predict(model, version, golden["request"]) for golden in goldens]
            reasons = [
                _loads(None),
                *same_answers(goldens, replies, model, version),
                _refuses([server.predict(model, version, request) for request in MALFORMED]),
                *_latency(_measure(server, model, version, goldens), max_p99_ms),
            ]
            decision = Decision(gate="infra_validate", reasons=reasons)
    decision.write(validation)
    return decision


def same_answers(goldens: list[Golden], replies: list[Reply], model: str, version: str) -> list[Reason]:
    """Whether every reply is its golden's answer, with the requests that differ, and names what was asked."""
    wrong = {number: found for number, pair in enumerate(zip(goldens, replies, strict=True))
             if (found := differences(*pair))}  # fmt: skip
    evidence = [{"request": goldens[n]["request"], "differences": wrong[n]} for n in list(wrong)[:_EXAMPLES]]
    gaps = [
        abs(theirs["score"] - mine["score"])
        for golden, reply in zip(goldens, replies, strict=True)
        if reply.status == 200
        for mine, theirs in zip(golden["answer"]["items"], reply.body["items"], strict=False)
    ]
    named = [reply.body for reply in replies if reply.status == 200]
    strange = [body for body in named if (body["model"], body["version"]) != (model, version)]
    return [
        Reason(
            check="golden_answers_wrong",
            held=not wrong,
            found=len(wrong),
            allowed=0,
            message=f"{len(goldens) - len(wrong)} of {len(goldens)} golden requests are answered as the trained model "
            f"answers them (scores within {TOLERANCE})",
            evidence=evidence,
        ),
        Reason(
            check="largest_score_difference",
            held=True,
            found=max(gaps, default=0.0),
            allowed=TOLERANCE,
            message=f"served scores differ from the trained model's by {max(gaps, default=0.0):.2g} at most",
            level="info",
        ),
        Reason(
            check="answers_naming_another_version",
            held=not strange,
            found=len(strange),
            allowed=0,
            message=f"{len(strange)} answers name another model than {model} {version}",
        ),
    ]


def _loads(error: str | None) -> Reason:
    message = "TorchServe loads the archive" if error is None else f"TorchServe cannot load the archive: {error}"
    return Reason(check="loads", held=error is None, found=error is None, allowed=True, message=message)


def _refuses(replies: list[Reply]) -> Reason:
    accepted = [reply for reply in replies if not 400 <= reply.status < 500]
    return Reason(
        check="malformed_requests_not_refused",
        held=not accepted,
        found=len(accepted),
        allowed=0,
        message=f"{len(replies) - len(accepted)} of {len(replies)} malformed requests are refused with status 4xx",
        evidence=[{"status": reply.status, "body": reply.body} for reply in accepted],
    )


def _measure(server: TorchServe, model: str, version: str, goldens: list[Golden]) -> list[float]:
    """Milliseconds of each of `REQUESTS` requests, one after the other, connection included."""
    taken = []
    for number in range(WARM_UP + REQUESTS):
        request = goldens[number % len(goldens)]["request"]
        started = time.perf_counter()
        server.predict(model, version, request)
        taken.append((time.perf_counter() - started) * 1000)
    return taken[WARM_UP:]


def _latency(milliseconds: list[float], max_p99_ms: float) -> list[Reason]:
    p50, p99 = np.percentile(milliseconds, [50, 99]).round(2).tolist()
    message = f"{p99:.1f} ms at the 99th percentile of {len(milliseconds)} requests, {max_p99_ms:.0f} ms allowed"
    half = f"half of the requests are answered within {p50:.1f} ms"
    return [
        Reason(check="latency_p50_ms", held=True, found=p50, allowed=max_p99_ms, message=half, level="info"),
        Reason(check="latency_p99_ms", held=p99 <= max_p99_ms, found=p99, allowed=max_p99_ms, message=message),
    ]
