"""The page about a rollout: what happened, why, and what a person can do, in ten seconds; then the evidence."""

import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from components.rollout import pictures
from experiments.decision import WITHHELD
from experiments.document import Rollout
from experiments.policy import Policy
from experiments.table import Entry, InterimAnalysis, RolloutTable
from runtime.page import render

TEMPLATE = Path(__file__).parent / "template.html"


def page(table: RolloutTable, model: str, policy: Policy, *, salt: str, at: datetime) -> str:
    """The experiment `salt` of `model` as of `at`; the latest one where `salt` is "" because none runs."""
    history = table.history(model)
    salt = salt or next((entry.rollout.salt for entry in reversed(history) if entry.rollout.salt), "")
    row = table.read(model)
    # The change that ended the experiment no longer bears its salt, and belongs to it.
    mine = [number for number, entry in enumerate(history) if salt and entry.rollout.salt == salt]
    changes = history[mine[0] : mine[-1] + 2] if mine else []
    looks = table.decisions(model, salt)
    headline = standing(changes, looks, salt)
    return render(
        TEMPLATE.read_text(),
        title=f"Rollout of {model}",
        model=model,
        row=row,
        at=at,
        headline=headline,
        arms=arms(changes),
        stages=stages(policy, changes, salt),
        commands=commands(row, salt),
        pictures=pictures.pictures(changes, looks, policy) if looks else [],
        guardrails=pictures.guardrails(looks),
        arms_key=pictures.ARMS,
        last=looks[-1].evidence if looks else None,
        policy=policy,
        ratio=ratio(looks, policy),
        changes=[entry for entry in reversed(changes)],
        looks=folded(looks),
    )


def standing(changes: Sequence[Entry], looks: Sequence[InterimAnalysis], salt: str) -> dict[str, str]:
    """Badge, its colour, and the reason of where the experiment stands."""
    if not changes:
        return {"word": "no experiment", "colour": "quiet", "why": "no challenger was released since the first model"}
    last, promotion = changes[-1], next((entry for entry in changes if entry.rollout.former is not None), None)
    running, held = last.rollout.salt == salt, looks[-1].why if looks else "just opened, not looked at yet"
    share = pictures.new_model_share(last.rollout, changes[0].rollout)
    if promotion is not None and share == 1:
        after = held if running else _reason(last)
        return {"word": "promoted", "colour": "good", "why": f"{_reason(promotion)}. {after[:1].upper()}{after[1:]}."}
    if not running:
        return {"word": "rolled back", "colour": "bad", "why": _reason(last)}
    if held.startswith(WITHHELD):
        return {"word": f"withheld at {share:.0%}", "colour": "bad", "why": held}
    word = "paused" if last.rollout.paused else "running"
    return {"word": f"{word} at {share:.0%}", "colour": "warn", "why": held}


def _reason(entry: Entry) -> str:
    """Why the change was made, without the name of the move, which the badge tells."""
    return entry.why.split(": ", 1)[-1]


def arms(changes: Sequence[Entry]) -> dict[str, str]:
    """Versions of the two arms, the latest of each where an arm was refreshed."""
    running = [entry.rollout for entry in changes if entry.rollout.challenger is not None]
    if not running:
        return {}
    assert running[-1].champion is not None and running[-1].challenger is not None
    return {"champion": running[-1].champion.version, "challenger": running[-1].challenger.version}


def stages(policy: Policy, changes: Sequence[Entry], salt: str) -> list[dict[str, Any]]:
    """The stages with what became of each: done, here, or open."""
    mine = [entry.rollout for entry in changes if entry.rollout.salt == salt]
    if not mine:
        return []
    reached = max(pictures.new_model_share(rollout, mine[0]) for rollout in mine)
    over = mine[-1].former is not None or changes[-1].rollout.salt != salt
    return [
        {
            "share": f"{stage:.0%}",
            "state": "here" if stage == reached and not over else "done" if stage <= reached else "",
        }
        for stage in policy.stages
    ]


def commands(row: Rollout, salt: str) -> list[tuple[str, str]]:
    """What a person can do now, as command lines."""
    if row.salt != salt or not salt:
        return []
    command = "python -m serving rollout {} --dataset " + row.model + ' --why "..."'
    back = "take the challenger out" if row.challenger is not None else "bring the former champion back"
    held = ("resume", "let it go on") if row.paused else ("pause", "hold it where it is")
    offered = [("rollback", back), held]
    if row.challenger is not None:
        offered.append(("promote", "champion now, whatever the evidence"))
    return [(command.format(name), meaning) for name, meaning in offered]


def ratio(looks: Sequence[InterimAnalysis], policy: Policy) -> dict[str, Any] | None:
    if not looks:
        return None
    found, traffic = looks[-1].evidence["ratio"] / math.log(10), looks[-1].evidence["traffic"]
    return {
        "held": found <= -math.log10(policy.ratio_alpha),
        "found": found,
        "allowed": -math.log10(policy.ratio_alpha),
        "misdrawn": traffic["misdrawn"],
        "exposures": traffic["exposures"],
    }


def folded(looks: Sequence[InterimAnalysis]) -> list[dict[str, Any]]:
    """Looks, newest first; a row for each run of equal reasons (numbers aside), with how many there were."""
    rows: list[dict[str, Any]] = []
    for look in reversed(looks):
        kind = (look.action, look.why.split(":")[0])
        if rows and rows[-1]["kind"] == kind:
            rows[-1] |= {"since": look.at, "times": rows[-1]["times"] + 1}
        else:
            rows.append(
                {"kind": kind, "action": look.action, "why": look.why, "at": look.at, "since": look.at, "times": 1}
            )
    return rows
