"""Infrastructure validation: serve the archive for real, and compare what it answers with the trained model."""

import json
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from components.infra_validate import before_canary
from components.shared.archive_artifact import find
from experiments.policy import Policy
from runtime.decision import Decision, Level, Reason
from serving.off_policy import SlotEvidence
from serving.torchserve import archive as archives
from serving.torchserve.client import HttpReply, TorchServeFault
from serving.torchserve.goldens import TOLERANCE, Golden, differences
from serving.torchserve.server import TorchServe

GATE, ARCHIVE = "infra_validate", "archive"
REWARD = Policy().outcome
"""By this a canary is judged, too."""
WARM_UP, REQUESTS = 10, 120
LOGS = "what TorchServe said is in logs/ of this check's artifact"
SKEWED = f"training and serving compute differently here, which no setting brings about: {LOGS}; please report it"
RATIO = 2.0
"""How many times as long as what serves the new archive may take, at the median and at the 90th percentile alike: one
of the two alone also jumps where somebody else had the machine."""
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


def run(
    *,
    archive: Path,
    validation: Path,
    serving: Path | None = None,
    max_p99_ms: float | None = None,
    logged: SlotEvidence | None = None,
) -> Decision:
    """Start TorchServe, load the archive, replay its golden requests, and write decision.json and logs/.

    Blocks where the archive does not load, an item or score differs from the trained model's (scores by more than
    1e-4; items of equal score may change places), a malformed request is not refused with status 4xx, or it takes
    more than `RATIO` times as long as `serving`, the archive that serves now, asked in turn with it: a machine that
    is busy is so for both; where one of the two is neighbour tables alone, which no network can keep pace with, the
    ratio is told and blocks nothing. `max_p99_ms` bounds the 99th percentile besides, where a card asks for it.
    `logged` tells what the archive would earn, which may warn. The server is stopped in any case. Raises
    `InputError` where `archive` holds no archive, `TorchServeFault` where TorchServe does not start.
    """
    packaged = find(archive)
    goldens = [json.loads(line) for line in archives.read(packaged.mar, "goldens.jsonl").splitlines()]
    with TorchServe(validation / "logs") as server:
        try:
            model, version = server.register(packaged.mar, digest=packaged.digest)
        except TorchServeFault as error:
            reasons = [_loads(str(error))]
        else:
            replies = [server.predict(model, version, golden["request"]) for golden in goldens]
            reasons = [
                _loads(None),
                *same_answers(goldens, replies, model, version),
                _refuses([server.predict(model, version, request) for request in MALFORMED]),
                *_latency(
                    *_measure(server, [version, _peer(server, serving, version)], model, goldens),
                    max_p99_ms,
                    alike=serving is None or _network(serving) == _network(packaged.mar),
                ),
            ]
    if logged is not None and reasons[0].held:
        reasons.append(before_canary.reason(packaged.mar, packaged.digest, logged, reward=REWARD))
    decision = Decision(gate=GATE, reasons=[_proven(packaged.digest), *reasons])
    decision.write(validation)
    return decision


def same_answers(goldens: list[Golden], replies: list[HttpReply], model: str, version: str) -> list[Reason]:
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
            remedy=SKEWED,
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
            remedy=SKEWED,
        ),
    ]


def _loads(error: str | None) -> Reason:
    message = "TorchServe loads the archive" if error is None else f"TorchServe cannot load the archive: {error}"
    return Reason(check="loads", held=error is None, found=error is None, allowed=True, message=message, remedy=LOGS)


def _refuses(replies: list[HttpReply]) -> Reason:
    accepted = [reply for reply in replies if not 400 <= reply.status < 500]
    return Reason(
        check="malformed_requests_not_refused",
        held=not accepted,
        found=len(accepted),
        allowed=0,
        message=f"{len(replies) - len(accepted)} of {len(replies)} malformed requests are refused with status 4xx",
        remedy=f"serving/scoring/requests.py is what refuses them; {LOGS}",
        evidence=[{"status": reply.status, "body": reply.body} for reply in accepted],
    )


def _proven(digest: str) -> Reason:
    """By this whoever releases an archive knows that the decision is about that very one."""
    message = f"the archive {digest[:12]} was served"
    return Reason(check=ARCHIVE, held=True, found=digest, allowed="any", message=message, level="info")


def _peer(server: TorchServe, serving: Path | None, version: str) -> str | None:
    """The version of the archive that serves, loaded beside the new one; None where it cannot be compared with."""
    if serving is None or archives.identity(serving)[1] == version:
        return None
    try:
        return server.register(serving)[1]
    except TorchServeFault:
        # What serves elsewhere and does not load here is no fault of the new archive.
        return None


def _network(mar: Path) -> bool:
    """Whether the archive has more than neighbour tables."""
    return bool(json.loads(archives.read(mar, "serving.json")).get("network", True))


def _measure(
    server: TorchServe, versions: list[str | None], model: str, goldens: list[Golden]
) -> tuple[list[float], list[float]]:
    """Milliseconds of `REQUESTS` requests to each version, in turn, connection included; none for a version None.

    Requests that a version does not answer take no time that could be compared: so nothing is asked that an archive of
    before placements would refuse.
    """
    goldens = [golden for golden in goldens if "placement" not in golden["request"]]
    taken: dict[str | None, list[float]] = {version: [] for version in versions}
    for number in range(WARM_UP + REQUESTS):
        request = goldens[number % len(goldens)]["request"]
        for version in versions if number % 2 else reversed(versions):
            if version is not None:
                started = time.perf_counter()
                reply = server.predict(model, version, request)
                if reply.status == 200 and number >= WARM_UP:
                    taken[version].append((time.perf_counter() - started) * 1000)
    ours, theirs = (taken[version] for version in versions)
    return ours, theirs


def _latency(ours: list[float], theirs: list[float], max_p99_ms: float | None, *, alike: bool = True) -> list[Reason]:
    """What is found in milliseconds is told; what blocks is the ratio, and the bound of the card where it has one."""
    if not ours:
        return []  # the goldens have blocked it already
    p50, p90, p99 = np.percentile(ours, [50, 90, 99]).round(2).tolist()
    half = f"half of the requests are answered within {p50:.1f} ms, nine of ten within {p90:.1f}"
    reasons = [Reason(check="latency_p50_ms", held=True, found=p50, allowed="any", message=half, level="info")]
    bound = "no bound" if max_p99_ms is None else f"{max_p99_ms:g} ms allowed by the card (serving.max_p99_ms)"
    message = f"{p99:.1f} ms at the 99th percentile of {len(ours)} requests, {bound}"
    held, level = max_p99_ms is None or p99 <= max_p99_ms, "info" if max_p99_ms is None else "block"
    allowed = "any" if max_p99_ms is None else max_p99_ms
    reasons.append(
        Reason(
            check="latency_p99_ms",
            held=held,
            found=p99,
            allowed=allowed,
            message=message,
            remedy="raise serving.max_p99_ms in the card, or run again where the machine was busy",
            level=cast(Level, level),
        )
    )
    if len(theirs) < REQUESTS // 2:
        message = "nothing serves yet that could be asked in turn with it: no ratio of latencies"
        return [
            *reasons,
            Reason(check="latency_ratio", held=True, found=None, allowed=RATIO, message=message, level="info"),
        ]
    ratios = [round(float(np.percentile(ours, q) / np.percentile(theirs, q)), 2) for q in (50, 90)]
    message = (
        f"asked in turn with what serves, it takes {ratios[0]:g} times as long for half of the requests and "
        f"{ratios[1]:g} times for nine of ten; {f'{RATIO:g} times allowed' if alike else 'one is tables alone'}"
    )
    held, level = not alike or min(ratios) <= RATIO, "block" if alike else "info"
    ratio = Reason(
        check="latency_ratio",
        held=held,
        found=max(ratios),
        allowed=RATIO,
        message=message,
        remedy="run again where the machine was busy; a smaller recipe or catalogue serves faster",
        level=cast(Level, level),
    )
    return [*reasons, ratio]
