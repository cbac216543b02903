"""Refit: the blessed model goes on over the held-out days too, and serves, if it still is what was blessed."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.refit import check
from components.train import step as training
from runtime.decision import Decision, Reason
from runtime.files import digest_file
from runtime.manifest import NAME

if TYPE_CHECKING:
    from heterrec.recipes import TrainConfig
    from heterrec.training.trained import Progress


def run(
    *, sequences: Path, model: Path, served: Path, scratch: Path, progress: "Progress | None" = None
) -> dict[str, Any]:
    """Write the model folder that serves into `served`, with `decision.json` of the check and `refit.json`.

    `model` is the folder that evaluate blessed. Where its recipe has no refit, or the check does not hold, `served` is
    a copy of it, and the report says why. Goes on from the checkpoint in `scratch` where an attempt before was killed.
    """
    from heterrec.data.sequences import read_sequences
    from heterrec.recipes import TrainConfig

    recipe = TrainConfig.from_json((model / "recipe.json").read_text())
    attempt, trained = scratch / "attempt", {}
    if why := _unasked(recipe):
        reasons = [Reason(check="refit", held=True, found="none", allowed="any", message=why, level="info")]
    else:
        shutil.rmtree(attempt, ignore_errors=True)
        attempt.mkdir(parents=True)
        trained = training.run(
            config=recipe, sequences=sequences, model=attempt, scratch=scratch, blessed=model, progress=progress
        )
        reasons = check.reasons(model, attempt, read_sequences(sequences))
    refitted = not why and all(reason.held for reason in reasons)
    shutil.copytree(attempt if refitted else model, served, dirs_exist_ok=True, ignore=shutil.ignore_patterns(NAME))
    judged, serves = weights(model), weights(served)
    _leave_pairs(served)
    decision = Decision(gate="refit", reasons=reasons)
    decision.write(served)
    report = {
        "refitted": refitted,
        "judged": judged,
        "serves": serves,
        "sentence": _sentence(refitted, judged, serves, decision, why),
        "seconds": trained.get("training_seconds"),
        "share_of_training": _part_of(trained, model),
    }
    (served / "refit.json").write_text(json.dumps(report, indent=1))
    return {**decision.summary(), **report}


def weights(model: Path) -> str:
    """What tells the weights of two model folders apart; of tables alone, those."""
    path = next(model / name for name in ("weights.pt", "memory.npz") if (model / name).is_file())
    return digest_file(path)[:12]


def _leave_pairs(served: Path) -> None:
    """Releases keep this folder; what users bought together is counted anew into each archive."""
    from heterrec.memory.neighbours import Memory
    from heterrec.training.refit import without_pairs

    path = served / "memory.npz"
    if path.is_file():
        without_pairs(Memory.load(path)).save(path)


def _unasked(recipe: "TrainConfig") -> str:
    """Why there is no refit; empty where there is one."""
    if not recipe.network:
        return "nothing is trained: its tables are counted anew over all events at every packaging"
    return "" if recipe.refit else "its recipe says refit: false"


def _sentence(refitted: bool, judged: str, serves: str, decision: Decision, why: str) -> str:
    if refitted:
        return f"Weights {judged} were judged; what serves is {serves}, the same gone on over all events."
    because = why or "the refit is set aside: " + " ".join(r.message for r in decision.reasons if not r.held)
    return f"Weights {judged} were judged, and serve as they are; {because}"


def _part_of(trained: dict[str, Any], model: Path) -> float | None:
    """Time of the refit against that of the training; None where there was none, as of tables alone."""
    if "training_seconds" not in trained:
        return None
    before = json.loads((model / "report.json").read_text()).get("training_seconds")
    return round(trained["training_seconds"] / before, 3) if before else None
