"""`python -m serving replay`: are logged answers what their archives give, asked the same offline?"""

import argparse
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from events.logged import Exposure, latest
from events.schema import WITHOUT_A_MODEL
from experiments.document import ModelVersion
from experiments.table import RolloutTable
from runtime import workspace
from runtime.errors import InputError
from serving import operate
from serving.releases import Releases
from serving.scoring.placed import RANKING
from serving.torchserve import archive
from serving.torchserve.client import HttpReply
from serving.torchserve.goldens import differences

if TYPE_CHECKING:
    from serving.scoring.scorer import Scorer

_AT_ONCE = 64
_SHOWN = 10


@dataclass(kw_only=True)
class Replayed:
    """What came of it."""

    same: int = 0
    differing: list[str] = field(default_factory=list)
    """A sentence each: the request, and what of its answer is another one."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Reason to exposures that cannot be replayed."""


def replay(
    exposures: Iterable[Exposure],
    arms: Mapping[str, ModelVersion],
    archive_of: Callable[[ModelVersion], Path] = lambda arm: Path(arm.archive),
) -> Replayed:
    """Ask the archives of `arms` (by version) what was asked, and compare items and scores, these within 1e-4.

    `archive_of` says where the archive of a version lies on this machine.
    """
    done = Replayed()
    by_version: dict[str, list[Exposure]] = {}
    for row in exposures:
        version = row["model_version"]
        if version in arms and row["status"] in ("ok", "fallback"):
            by_version.setdefault(version, []).append(row)
        else:
            why = "no model answered" if version not in arms and version in WITHOUT_A_MODEL else f"no release {version}"
            done.left_out[why] = done.left_out.get(why, 0) + 1
    for version, rows in by_version.items():
        with tempfile.TemporaryDirectory(prefix="replay-") as folder:
            scorer = load(archive_of(arms[version]), arms[version].archive_digest, Path(folder), version)
            for start in range(0, len(rows), _AT_ONCE):
                _compare(scorer, rows[start : start + _AT_ONCE], done)
    return done


def load(mar: Path, digest: str, folder: Path, version: str) -> "Scorer":
    """The scorer of an archive, unpacked into `folder`. Raises `InputError` where its digest is another one."""
    from serving.scoring.scorer import Scorer  # torch, which the image of a gateway does not have

    if not mar.is_file() or archive.digest(mar) != digest:  # an archive is code
        raise InputError(f"{mar}: is not the archive that was released as {version}. Restore the release folder.")
    with zipfile.ZipFile(mar) as content:
        content.extractall(folder)
    return Scorer.load(folder)


def _compare(scorer: "Scorer", rows: list[Exposure], done: Replayed) -> None:
    answers = scorer.score([json.loads(row["request"]) for row in rows])
    for row, answer in zip(rows, answers, strict=True):
        if row.get("placement") == RANKING and row.get("origins") is None and "items" in answer:
            answer["items"] = answer["items"][: len(row["items"])]  # the best of them were shown
        served = _ranked(row)
        golden = {"answer": {"items": served, "unknown_items": answer.get("unknown_items")}}
        if row.get("origins") is not None and "error" not in answer:
            answer = {**answer, "items": _of(answer["items"], served)}
        found = differences(golden, HttpReply(400 if "error" in answer else 200, answer))
        if found:
            done.differing.append(f"{row['request_id']} ({row['model_version']}): {'; '.join(found)}")
        else:
            done.same += 1


def _ranked(row: Exposure) -> list[dict[str, Any]]:
    """What was shown because it was ranked, in the order of the ranking: rules may have shown it in another."""
    origins = row.get("origins") or ["ranked"] * len(row["items"])
    shown = zip(row["items"], row["scores"], origins, strict=True)
    ranked = [{"item_id": item, "score": score} for item, score, origin in shown if origin == "ranked"]
    return ranked if row.get("origins") is None else sorted(ranked, key=lambda item: -item["score"])


def _of(items: list[dict[str, Any]], served: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of what is ranked, which may be more than was shown, what was served."""
    wanted = {item["item_id"] for item in served}
    return [item for item in items if item["item_id"] in wanted]


def run(options: argparse.Namespace) -> int:
    """Replay the latest exposures of a log; 1 where an answer is another one."""
    name = operate.model_name(options.dataset)
    with RolloutTable(workspace.rollout_url()) as table:
        arms = {arm.version: arm for entry in table.history(name) for arm in entry.rollout.known}
        row = table.read(name)
    exposures = latest(workspace.event_log(name), options.last)
    if not exposures:
        raise InputError(f"{workspace.event_log(name)}: no exposure was logged. Start `python -m serving gateway`.")
    releases = Releases(name, workspace.archives())
    releases.keep(row)
    done = replay(exposures, arms, releases.fetched)
    print(f"{done.same} of {done.same + len(done.differing)} logged answers are given again, scores within 1e-4")
    for why, count in done.left_out.items():
        print(f"  {count} left out: {why}")
    for sentence in done.differing[:_SHOWN]:
        print(f"  {sentence}")
    return 1 if done.differing else 0


def add_to(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `replay` to a command line."""
    again = commands.add_parser("replay", help="ask the archives what was asked, and compare with what was served")
    again.add_argument("--dataset", default="marketplace", help="name of the data set, or path of its card")
    again.add_argument("--last", type=int, default=1000, help="how many exposures (default: %(default)s)")
    again.set_defaults(command=run)
